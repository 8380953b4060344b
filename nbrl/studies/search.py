"""Points of a study that Optuna proposes from what the finished ones showed, and runs that it gives up.

Nothing of Optuna's is kept between two proposals: a study in memory is made anew from the points and their results, and
its sampler is seeded by the point's number. So a study that was cut short goes on as if it had not been.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbrl.checkpoint import replace_file
from nbrl.metrics import RunDirectory, read_metrics
from nbrl.studies.plan import Plan, Range, Trial
from nbrl.studies.runs import read_result

PARTS = 10  # of a run, after each of which it may be given up
STARTUP, WARMUP = 5, 2  # points that are never given up, and parts of every run before it may be


class Search:
    """Fills a plan's points one by one, in a folder that keeps them.

    Raises
    ------
    ValueError
        Optuna is not installed, or the folder has points of another plan.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._optuna, self._plan, self._folder = load_optuna(), plan, folder
        self._file = folder / "points.json"
        self._axes = plan.values
        text = json.dumps({name: str(axis) for name, axis in self._axes.items()})
        if self._file.exists():
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if kept["axes"] != text:
                raise ValueError(f"{folder} has points of other settings: give this study another folder")
            plan.points[:] = kept["points"][: plan.wanted]
        self._text = text
        self._ended: dict[str, Any] = {}  # points as Optuna knows them, by the name of their first run

    def ask(self) -> dict[str, Any]:
        """Add a point, which is on disk before it is used."""
        number = len(self._plan.points)
        sampler = self._optuna.samplers.TPESampler(seed=number, constant_liar=True, n_startup_trials=STARTUP)
        study = self._optuna.create_study(direction=self._plan.direction, sampler=sampler)
        for point in self._plan.points:
            study.add_trial(self._told(point))
        proposed = study.ask({name: distribution(self._optuna, axis) for name, axis in self._axes.items()}).params
        point = {
            name: proposed[name] if isinstance(axis, Range) else axis[proposed[name]]
            for name, axis in self._axes.items()
        }
        self._plan.points.append(point)
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"axes": self._text, "points": self._plan.points}, indent=1)
        replace_file(self._file, [text.encode() + b"\n"])
        return point

    def gives_up(self, trial: Trial) -> bool:
        """Whether a run that goes on does worse than the median of the finished ones at the same part."""
        if self._plan.pruner is None:
            return False
        median = self._optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP)
        study = self._optuna.create_study(direction="maximize")
        for point in self._plan.points:
            told = self._told(point)
            if told.state == self._optuna.trial.TrialState.COMPLETE:
                study.add_trial(told)
        values = returns_by_part(self._folder / trial.name)
        running = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING, intermediate_values=values
        )
        return bool(values) and bool(median.prune(study, running))

    def _told(self, point: Mapping[str, Any]) -> Any:
        """A point as Optuna knows it: finished, given up, or still going on."""
        state = self._optuna.trial.TrialState
        trials = [self._plan.trial(self._plan.environments[0], point, seed) for seed in self._plan.seeds]
        if trials[0].name in self._ended:
            return self._ended[trials[0].name]
        results = [read_result(self._folder / trial.name, self._plan) for trial in trials]
        known = [result for result in results if result is not None]
        ended = len(known) == len(results)
        value = float(np.mean([self._plan.score(result) for result in known])) if ended else None
        pruned = any(result.get("pruned") for result in known)
        parts = [returns_by_part(self._folder / trial.name) for trial in trials] if ended else []
        common = set.intersection(*map(set, parts)) if parts else set()
        told = self._optuna.trial.create_trial(
            state=(state.PRUNED if pruned else state.COMPLETE) if ended else state.RUNNING,
            value=value,
            params={name: told_value(axis, point[name]) for name, axis in self._axes.items()},
            distributions={name: distribution(self._optuna, axis) for name, axis in self._axes.items()},
            intermediate_values={part: float(np.mean([values[part] for values in parts])) for part in common},
        )
        if ended:  # it will not change any more
            self._ended[trials[0].name] = told
        return told


def load_optuna() -> Any:
    """Optuna, which says less than it would; ``ValueError`` where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError('the sampler tpe needs Optuna: pip install "nbrl[study]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return optuna


def distribution(optuna: Any, axis: "list[Any] | Range") -> Any:
    """What a setting may be, as Optuna knows it."""
    known = optuna.distributions
    if not isinstance(axis, Range):
        return known.CategoricalDistribution(range(len(axis)))  # of places, since values may be tables
    if axis.kind == "integer":
        return known.IntDistribution(*axis.ends())
    return known.FloatDistribution(axis.low, axis.high, log=axis.kind == "loguniform")


def told_value(axis: "list[Any] | Range", value: Any) -> Any:
    """One value of it, as Optuna knows it."""
    return value if isinstance(axis, Range) else axis.index(value)


def returns_by_part(own: Path) -> dict[int, float]:
    """The mean return of the last 100 episodes of a run at the first report of each part, from 1 on."""
    run, found = RunDirectory(own / "run"), dict[int, float]()
    for report in read_metrics(run.metrics_file) if run.metrics_file.exists() else []:
        part = PARTS * report.steps // report.total_steps
        if part and part not in found and report.recent_return is not None:
            found[part] = report.recent_return
    return found
