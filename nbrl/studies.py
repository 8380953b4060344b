"""Studies: runs that differ in environment, settings and seed, side by side, each in a process of its own.

A study is a file of a few lines (TOML), or the same as a mapping:

    environment = ["CartPole-v1", "Acrobot-v1"]     # one, or several
    seeds = 5                                       # 1 to 5, or a list
    episodes = 100                                  # of the evaluation of each policy

    [settings]                                      # as for nbrl.configure, preset and frames among them
    method = ["a3c", "ppo"]                         # a list: all of its values
    steps = 300_000

What is a list is an axis of a grid; a table of layers is one value, given as JSON text or within a list. With `trials`
settings are drawn at random instead, so many times: one of a list, and a number from ``uniform(low, high)``,
``loguniform(low, high)`` or ``integer(low, high)``.

Each run has a folder, named by what it is, so a study goes on where it stopped, and one that has got more seeds, values
or environments makes what is new alone. A run that ends by `minutes` begins anew if it is cut short.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nbrl.agent import Agent
from nbrl.callbacks import Callback
from nbrl.checkpoint import newest, read_metadata, replace_file, shortened
from nbrl.config import SETTINGS, available_cores, configure
from nbrl.evaluation import evaluate
from nbrl.metrics import Report, RunDirectory, duration, read_metrics
from nbrl.nets.layers import layers_from_list, layers_to_list
from nbrl.plots import StudyCurve, study_picture
from nbrl.settings import unknown, whole
from nbrl.trainer import Trainer

KEYS = ("environment", "settings", "seeds", "trials", "episodes", "greedy")
RANGE = re.compile(r"(uniform|loguniform|integer)\(\s*([^,()]+),\s*([^,()]+)\)")
RESAMPLES = 5000
POLL = 0.1  # seconds between looks at the runs


@dataclass(frozen=True)
class Range:
    """Numbers that a setting is drawn from."""

    kind: str
    low: float
    high: float

    @classmethod
    def read(cls, name: str, text: str) -> "Range | None":
        """The range that a text is; None for any other text. ValueError where its bounds are none."""
        match = RANGE.fullmatch(text.strip())
        if match is None:
            return None
        try:
            low, high = float(match[2]), float(match[3])
        except ValueError:
            low = high = math.nan
        if not low < high < math.inf or (match[1] == "loguniform" and low <= 0) or low == -math.inf:
            raise ValueError(
                f"{name} is {text!r}: a range needs two numbers, the lower one first, as loguniform(1e-4, 1)"
            )
        return cls(match[1], low, high)

    def draw(self, rng: np.random.Generator) -> float | int:
        """A number of the range."""
        if self.kind == "integer":
            return int(rng.integers(math.ceil(self.low), math.floor(self.high), endpoint=True))
        if self.kind == "loguniform":
            return float(np.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    environment: str
    settings: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """Of its folder: the same for the same run, whatever study it is part of."""
        text = json.dumps([self.environment, self.settings], sort_keys=True, default=list)
        words = re.sub(r"[^A-Za-z0-9._-]+", "-", self.environment.removeprefix("ALE/")).strip("-.")
        return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-seed{self.seed}"


class Plan:
    """The runs of a study, from its file or mapping.

    Attributes
    ----------
    environments : list of str
    points : list of dict
        The settings of each point of the grid, or of each that was drawn.
    axes : list of str
        Settings in which points differ.
    seeds : list of int
    episodes : int
    greedy : bool
    threads : int
        The most that a run has.

    Raises
    ------
    ValueError
        A key, a setting or a value that cannot be, in one sentence.
    """

    def __init__(self, plan: str | os.PathLike | Mapping[str, Any]) -> None:
        values = _read(plan)
        for key in values:
            if key not in KEYS:
                raise ValueError(unknown("key of a study", key, KEYS))
        names = values.get("environment")
        listed = [names] if isinstance(names, str) else names if isinstance(names, list | tuple) else []
        if not listed or not all(isinstance(name, str) and name for name in listed):
            raise ValueError(f"environment is {names!r}: a study needs an id such as 'CartPole-v1', or a list of them")
        self.environments: list[str] = list(dict.fromkeys(listed))
        seeds = values.get("seeds", 3)
        wanted = seeds if isinstance(seeds, list | tuple) else range(1, (whole(seeds) or 0) + 1)
        if not wanted:
            raise ValueError(f"seeds is {seeds!r}: it must be how many seeds, at least 1, or a list of them")
        self.seeds: list[int] = list(dict.fromkeys(SETTINGS["seed"].checked("a seed", seed) for seed in wanted))
        if None in self.seeds:
            raise ValueError("a seed is none: each run of a study needs one")
        self.episodes = _count(values, "episodes", 30)
        self.greedy = values.get("greedy", False)
        if not isinstance(self.greedy, bool):
            raise ValueError(f"greedy is {self.greedy!r}: it must be true or false")
        settings = values.get("settings", {})
        if not isinstance(settings, Mapping):
            raise ValueError(f"settings is {settings!r}: it must be a table of settings and their values")
        axes = {name: _axis(name, value) for name, value in settings.items()}
        if "seed" in axes:
            raise ValueError("settings has a seed: a study has seeds, beside its environment")
        self.axes = [name for name, axis in axes.items() if isinstance(axis, Range) or len(axis) > 1]
        self.points = _points(axes, values)
        one_each = itertools.product(self.environments, self.points)
        self.threads: int = max(configured(Trial(one, point, self.seeds[0])).threads for one, point in one_each)

    def trials(self) -> list[Trial]:
        """Every run: seeds are the outer loop, so that each point soon has one."""
        return [
            Trial(environment, point, seed)
            for seed, environment, point in itertools.product(self.seeds, self.environments, self.points)
        ]


def _read(plan: str | os.PathLike | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(plan, Mapping):
        return plan
    try:
        return tomllib.loads(Path(plan).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{os.fspath(plan)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(shortened(f"{os.fspath(plan)} is no TOML: {error}")) from error


def _count(values: Mapping[str, Any], name: str, default: int) -> int:
    count = whole(values.get(name, default))
    if count is None or count < 1:
        raise ValueError(f"{name} is {values[name]!r}: it must be a whole number of at least 1")
    return count


def _axis(name: str, value: Any) -> "list[Any] | Range":
    """What a setting may be."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError(f"{name} is an empty list: an axis needs values")
    if name == "network":
        return [_network(each) for each in values]
    return (Range.read(name, value) if isinstance(value, str) else None) or values


def _network(value: Any) -> Any:
    """A name, or a table of layers as JSON holds it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(shortened(f"network is {value!r}, which is no JSON: {error}")) from error
    return value if isinstance(value, str) else layers_to_list(layers_from_list(value))


def _points(axes: Mapping[str, "list[Any] | Range"], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of each point: all of a grid, or so many drawn, always the same."""
    ranges = [name for name, axis in axes.items() if isinstance(axis, Range)]
    if "trials" not in values:
        if ranges:
            raise ValueError(f"{ranges[0]} is a range: say with trials how many points are to be drawn")
        grids = [axis for axis in axes.values() if isinstance(axis, list)]
        points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*grids)]
    else:
        rng = np.random.default_rng(0)
        points = [
            {
                name: axis.draw(rng) if isinstance(axis, Range) else axis[int(rng.integers(len(axis)))]
                for name, axis in axes.items()
            }
            for _ in range(_count(values, "trials", 1))
        ]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def configured(trial: Trial) -> Any:
    """The settings of a run: one thread, unless they say otherwise."""
    return configure(trial.environment, **{"threads": 1} | dict(trial.settings) | {"seed": trial.seed})


def study(
    plan: str | os.PathLike | Mapping[str, Any],
    out: str | os.PathLike,
    *,
    jobs: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> "Results":
    """Make the runs of a study that are not made yet, side by side, and return what all of them show.

    Parameters
    ----------
    plan : path or mapping
        The study's file, or what such a file holds.
    out : path
        Its folder, which keeps everything.
    jobs : int, optional
        Runs at once. By default as many as the cores can serve.
    on_progress : callable, optional
        Called now and then with a line of how far it is.

    Returns
    -------
    Results

    Raises
    ------
    ValueError
        A plan that cannot be, in one sentence.
    """
    planned = Plan(plan)
    if jobs is None:
        jobs = max(1, available_cores() // planned.threads)
    elif whole(jobs) is None or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}: it must be a whole number of at least 1")
    folder = Path(out)
    _make(planned, folder, jobs, on_progress or (lambda line: None))
    results = Results(planned, folder)
    results.write()
    return results


def _make(plan: Plan, folder: Path, jobs: int, on_progress: Callable[[str], None]) -> None:
    """Start what is to be made, so many at a time, until all has ended."""
    trials = plan.trials()
    waiting = [trial for trial in trials if _result(folder / trial.name, plan) is None]
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


def _result(own: Path, plan: Plan) -> dict[str, Any] | None:
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
            [sys.executable, "-m", "nbrl.studies", str(own), str(os.getpid())],
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
    evaluation = evaluate(
        Agent.load(run.policy_file), named, episodes=values["episodes"], greedy=values["greedy"], threads=1
    )
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
        if int(read_metadata(checkpoint)["steps"]) >= config.steps and run.policy_file.exists():
            return None
        return Trainer.from_run(run.path, trial.environment, callbacks=[parent])
    shutil.rmtree(run.path, ignore_errors=True)
    return Trainer(config, trial.environment, directory=run.path, callbacks=[parent])


def interquartile_mean(scores: np.ndarray) -> float:
    """The mean of the middle half, (n,): a quarter at each end, rounded down, is left out (Agarwal et al., 2021)."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())


def interval(
    groups: Sequence[np.ndarray], statistic: Callable[[np.ndarray], float], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95% interval of a statistic of all scores, by the percentile bootstrap, each group resampled in itself.

    Parameters
    ----------
    groups : sequence of numpy.ndarray
        The scores of each task, one a seed.
    statistic : callable
        Of all scores together, (n,).
    """
    rng = np.random.default_rng(0)
    found = [statistic(np.concatenate([rng.choice(group, len(group)) for group in groups])) for _ in range(resamples)]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


class Results:
    """What the runs of a study showed.

    Attributes
    ----------
    plan : Plan
    folder : pathlib.Path
    rows : list of dict
        One for each environment and point: environment, settings (those in which points differ), scores (one a seed),
        mean, interquartile_mean, low and high (the 95% interval of the mean), minutes (mean of a run).
    failed : list of pathlib.Path
        The folders of runs that ended with an error, which is in their file ``log``.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.rows: list[dict[str, Any]] = []
        self.failed: list[Path] = []
        for environment, point in itertools.product(plan.environments, plan.points):
            found = []
            for seed in plan.seeds:
                own = folder / Trial(environment, point, seed).name
                result = _result(own, plan)
                if result is None:
                    self.failed.append(own)
                else:
                    found.append(result)
            if found:
                self.rows.append(self._row(environment, point, found))

    def _row(self, environment: str, point: Mapping[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
        scores = np.array([one["mean_return"] for one in found])
        low, high = interval([scores], lambda drawn: float(drawn.mean())) if len(scores) > 1 else (math.nan, math.nan)
        row = {
            "environment": environment, "settings": {name: point[name] for name in self.plan.axes},
            "scores": scores.tolist(), "mean": float(scores.mean()), "interquartile_mean": interquartile_mean(scores),
            "low": low, "high": high, "minutes": float(np.mean([one["minutes"] for one in found])),
        }  # fmt: skip
        normalised = [one["human_normalised"] for one in found if "human_normalised" in one]
        return row | ({"human_normalised": normalised} if normalised else {})

    def aggregate(self) -> list[dict[str, Any]]:
        """Over all environments, for each point: the interquartile mean of human-normalised scores and its interval.

        Empty where an environment has no such score, or where there is one environment alone.
        """
        found = []
        for point in self.plan.points:
            settings = {name: point[name] for name in self.plan.axes}
            groups = [np.array(row.get("human_normalised", [])) for row in self.rows if row["settings"] == settings]
            if len(groups) == len(self.plan.environments) > 1 and all(len(group) for group in groups):
                low, high = interval(groups, interquartile_mean)
                mean = interquartile_mean(np.concatenate(groups))
                found.append({"settings": settings, "interquartile_mean": mean, "low": low, "high": high})
        return found

    def table(self) -> str:
        """The rows as text, the best first within each environment."""
        names = [describe_point(row["settings"]) for row in self.rows]
        wide = max(map(len, names), default=0) + 2
        lines = [f"{'environment':28}{'':{wide}}{'runs':>5}{'mean':>12}{'IQM':>12}{'95% interval':>26}{'minutes':>10}"]
        order = sorted(
            zip(self.rows, names, strict=True),
            key=lambda pair: (self.plan.environments.index(pair[0]["environment"]), -pair[0]["mean"]),
        )
        for row, name in order:
            between = "" if math.isnan(row["low"]) else f"{row['low']:,.4g} to {row['high']:,.4g}"
            lines.append(
                f"{row['environment']:28}{name:{wide}}{len(row['scores']):5}{row['mean']:12,.4g}"
                f"{row['interquartile_mean']:12,.4g}{between:>26}{row['minutes']:10.2f}"
            )
        for row in self.aggregate():
            between = f"{row['low']:,.4g} to {row['high']:,.4g}"
            lines.append(
                f"{'all, percent of a human':28}{describe_point(row['settings']):{wide}}{'':17}"
                f"{row['interquartile_mean']:12,.4g}{between:>26}"
            )
        if self.failed:
            lines.append(f"{len(self.failed)} runs failed: see {self.failed[0] / 'log'}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write results.json and, where matplotlib is there, study.png to the study's folder."""
        rows = [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            for row in self.rows
        ]
        text = json.dumps({"rows": rows, "all": self.aggregate()}, indent=1, default=list)
        replace_file(self.folder / "results.json", [text.encode() + b"\n"])

    def draw(self, path: str | os.PathLike | None = None) -> Path:
        """Draw the curves of each environment, and the scores by each setting that is a number: study.png, or a path.

        Raises
        ------
        ValueError
            matplotlib is not installed, or no run has ended.
        """
        picture = Path(path or self.folder / "study.png")
        curves = {
            environment: [
                StudyCurve(describe_point({name: point[name] for name in self.plan.axes}) or environment, reports)
                for point in self.plan.points
                if (reports := self._reports(environment, point))
            ]
            for environment in self.plan.environments
        }
        numbers = [
            name
            for name in self.plan.axes
            if all(
                isinstance(point[name], int | float) and not isinstance(point[name], bool) for point in self.plan.points
            )
        ]
        scores = {
            environment: {
                name: [(row["settings"][name], score) for row in rows for score in row["scores"]] for name in numbers
            }
            for environment in self.plan.environments
            if (rows := [row for row in self.rows if row["environment"] == environment])
        }
        study_picture(picture, curves, scores)
        return picture

    def _reports(self, environment: str, point: Mapping[str, Any]) -> list[list[Report]]:
        folders = [self.folder / Trial(environment, point, seed).name for seed in self.plan.seeds]
        found = [read_metrics(RunDirectory(own / "run").metrics_file) for own in folders if _result(own, self.plan)]
        return [reports for reports in found if any(report.episodes for report in reports)]


def describe_point(settings: Mapping[str, Any]) -> str:
    """The settings in which points differ, as few words."""
    return " ".join(
        f"{name}={f'{value:.3g}' if isinstance(value, float) else value}" for name, value in settings.items()
    )


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


if __name__ == "__main__":
    main()
