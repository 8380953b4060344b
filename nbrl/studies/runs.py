"""The runs of a study: each in a process of its own, some at once; and what such a process does."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nbrl.agent import Agent
from nbrl.callbacks import Callback
from nbrl.checkpoint import newest, read_metadata, replace_file
from nbrl.evaluation import evaluate
from nbrl.metrics import Report, RunDirectory, duration, read_metrics
from nbrl.studies.plan import Plan, Trial, configured
from nbrl.trainer import Trainer

PROGRAM = "from nbrl.studies.runs import main; main()"
POLL = 0.1  # seconds between looks at the runs


def make_runs(plan: Plan, folder: Path, jobs: int, on_progress: Callable[[str], None]) -> None:
    """Start what is to be made, so many at a time, until all has ended."""
    trials = plan.trials()
    waiting = [trial for trial in trials if read_result(folder / trial.name, plan) is None]
    before, running, began = len(trials) - len(waiting), list[subprocess.Popen[bytes]](), time.monotonic()
    waiting.reverse()
    told = -1
    try:
        while waiting or running:
            running = [process for process in running if process.poll() is None]
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(), plan, folder))
            ended = len(trials) - before - len(waiting) - len(running)
            if ended != told:
                told, spent = ended, time.monotonic() - began
                left = (len(waiting) + len(running)) * spent / ended if ended else None
                on_progress(
                    f"{before + ended} of {len(trials)} runs"
                    + ("" if left is None else f", about {duration(left)} left")
                )
            time.sleep(POLL)
    finally:  # on Ctrl-C: they save, and go on another time
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def read_result(own: Path, plan: Plan) -> dict[str, Any] | None:
    """What a run showed, if it is made and was evaluated as the plan says."""
    try:
        result: dict[str, Any] = json.loads((own / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if (result["episodes"], result["greedy"]) == (plan.episodes, plan.greedy) else None


def _start(trial: Trial, plan: Plan, folder: Path) -> "subprocess.Popen[bytes]":
    """Begin a run in a process of its own, which is no member of this one's terminal group."""
    own = folder / trial.name
    own.mkdir(parents=True, exist_ok=True)
    text = {
        "environment": trial.environment, "settings": dict(trial.settings), "seed": trial.seed,
        "episodes": plan.episodes, "greedy": plan.greedy,
    }  # fmt: skip
    replace_file(own / "trial.json", [json.dumps(text, default=list).encode()])
    with open(own / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(own), str(os.getpid())],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class _WithParent(Callback):
    """Ends a run whose study has gone."""

    def __init__(self, study: int) -> None:
        self.study = study

    @property
    def is_there(self) -> bool:
        return os.getppid() == self.study

    def on_report(self, trainer: Trainer, report: Report) -> bool:
        return self.is_there


def _run_trial(folder: Path, study: int) -> None:
    """Make one run, or go on with it, evaluate its policy and write the result; `study` is the process it is for."""
    values = json.loads((folder / "trial.json").read_text())
    trial = Trial(values["environment"], values["settings"], values["seed"])
    run, over, parent = RunDirectory(folder / "run"), folder / "trained", _WithParent(study)
    if not over.exists():
        trainer = _trainer(trial, run, parent)
        if trainer is not None:
            try:
                trainer.start(wait=True)
            finally:
                trainer.stop()
                trainer.join()
            if not parent.is_there:
                return
        over.touch()
    named = trial.environment if ":" in trial.environment else None  # a file may not name code to be imported
    evaluation = evaluate(Agent.load(run.path), named, episodes=values["episodes"], greedy=values["greedy"], threads=1)
    last = read_metrics(run.metrics_file)[-1]
    result = evaluation.to_dict() | {
        "training_return": last.recent_return, "steps": last.steps, "minutes": last.seconds / 60,
    }  # fmt: skip
    replace_file(folder / "result.json", [json.dumps(result, allow_nan=False).encode()])


def _trainer(trial: Trial, run: RunDirectory, parent: Callback) -> Trainer | None:
    """One that goes on with a run that was cut short, else one that begins; None where all steps are taken."""
    config = configured(trial)
    if run.path.exists():
        run.hold()  # ValueError where somebody trains there
        run.release()
    checkpoint = newest(run.checkpoints) if run.checkpoints.is_dir() else None
    if checkpoint is not None and config.minutes is None:  # which would be given anew
        if int(read_metadata(checkpoint)["steps"]) >= config.steps:
            return None
        return Trainer.from_run(run.path, trial.environment, callbacks=[parent])
    shutil.rmtree(run.path, ignore_errors=True)
    return Trainer(config, trial.environment, directory=run.path, callbacks=[parent])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one run, in the process that `study` starts for it."""
    parser = argparse.ArgumentParser(description="Make one run of a study: nbrl study FILE starts it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("study", type=int)

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        parsed = parser.parse_args(arguments)
        _run_trial(parsed.folder, parsed.study)
    except KeyboardInterrupt:
        sys.exit(1)
