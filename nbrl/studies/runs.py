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
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from nbrl.agent import Agent
from nbrl.callbacks import Callback
from nbrl.checkpoint import newest, read_metadata, replace_file
from nbrl.evaluation import evaluate
from nbrl.metrics import Report, RunDirectory, duration, read_metrics
from nbrl.studies.plan import Plan, Trial, configured
from nbrl.trainer import Trainer

if TYPE_CHECKING:
    from nbrl.studies.search import Search

PROGRAM = "from nbrl.studies.runs import main; main()"
POLL = 0.1  # seconds between looks at the runs, ...
LOOK = 1.0  # ... and at what they report


class Process(Protocol):
    """A run that goes on somewhere: what `subprocess.Popen` has."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def wait(self) -> Any: ...


def make_runs(
    plan: Plan,
    folder: Path,
    jobs: int,
    on_progress: Callable[[str], None],
    search: "Search | None" = None,
    start: "Callable[[Trial, Plan, Path], Process] | None" = None,
) -> None:
    """Start what is to be made, so many at a time, until all has ended; a `search` proposes points where it is idle.

    `start` begins a run elsewhere than on this machine.
    """
    start = start or _start
    total = plan.wanted * len(plan.environments) * len(plan.seeds)
    waiting = [trial for trial in plan.trials() if read_result(folder / trial.name, plan) is None]
    before = len(plan.trials()) - len(waiting)
    running, began, looked = dict[str, tuple[Trial, Process]](), time.monotonic(), 0.0
    waiting.reverse()
    ended, told = 0, -1
    try:
        while waiting or running or len(plan.points) < plan.wanted:
            for name in [name for name, (_, process) in running.items() if process.poll() is not None]:
                del running[name]
                ended += 1
            while len(running) < jobs and (waiting or len(plan.points) < plan.wanted):
                if not waiting:
                    assert search is not None
                    point = search.ask()
                    waiting = [plan.trial(plan.environments[0], point, seed) for seed in reversed(plan.seeds)]
                trial = waiting.pop()
                if trial.name in running or read_result(folder / trial.name, plan) is not None:
                    ended += 1  # the same point was proposed before
                else:
                    running[trial.name] = trial, start(trial, plan, folder)
            if search is not None and time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                for trial in [trial for trial, _ in running.values() if search.gives_up(trial)]:
                    _give_up(*running.pop(trial.name), plan, folder)
                    ended += 1
            if ended != told:
                told, spent = ended, time.monotonic() - began
                left = (total - before - ended) * spent / ended if ended else None
                on_progress(
                    f"{before + ended} of {total} runs" + ("" if left is None else f", about {duration(left)} left")
                )
            time.sleep(POLL)
    finally:  # on Ctrl-C: they save, and go on another time
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _give_up(trial: Trial, process: Process, plan: Plan, folder: Path) -> None:
    """End a run before its time, and note the return that it had come to."""
    process.terminate()
    process.wait()
    own = folder / trial.name
    if read_result(own, plan) is not None:  # it was done in this very moment
        return
    last = read_metrics(RunDirectory(own / "run").metrics_file)[-1]
    result = {
        "environment": trial.environment, "mean_return": last.recent_return, "training_return": last.recent_return,
        "episodes": plan.episodes, "greedy": plan.greedy, "steps": last.steps, "minutes": last.seconds / 60,
        "pruned": True,
    }  # fmt: skip
    replace_file(own / "result.json", [json.dumps(result, allow_nan=False).encode()])


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
    replace_file(own / "trial.json", [trial_text(trial, plan)])
    with open(own / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(own), str(os.getpid())],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def trial_text(trial: Trial, plan: Plan) -> bytes:
    """What `run_trial` has to know, as the content of ``trial.json``."""
    text = {
        "environment": trial.environment, "settings": dict(trial.settings), "seed": trial.seed,
        "episodes": plan.episodes, "greedy": plan.greedy,
    }  # fmt: skip
    return json.dumps(text, default=list).encode()


class _WithParent(Callback):
    """Ends a run whose study has gone."""

    def __init__(self, study: int) -> None:
        self.study = study

    @property
    def is_there(self) -> bool:
        return os.getppid() == self.study

    def on_report(self, trainer: Trainer, report: Report) -> bool:
        return self.is_there


def run_trial(folder: Path, study: int) -> None:
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
        run_trial(parsed.folder, parsed.study)
    except KeyboardInterrupt:
        sys.exit(1)
