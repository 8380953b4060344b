"""What a study is to do: its file, the points of its grid or those that are drawn, its runs by name."""

import hashlib
import itertools
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbrl.checkpoint import shortened
from nbrl.config import SETTINGS, configure
from nbrl.metrics import folder_word
from nbrl.nets.layers import layers_from_list, layers_to_list, read_text
from nbrl.settings import Setting, unknown, whole

TRIALS = Setting(None, "points to be drawn, none for a whole grid", least=1, type=int)
EPISODES = Setting(30, "episodes that each policy plays at the end", least=1)
GREEDY = Setting(False, "whether it plays its most likely actions")
SAMPLER = Setting("random", "how points are drawn", choices=("random", "tpe"))
PRUNER = Setting(None, "what gives up runs that do worse than others", choices=("median",), type=str)
MEASURE = Setting(
    "return", "what is a run's score: a mean return, or what it took", choices=("return", "steps", "minutes")
)
KEYS = ("environment", "settings", "points", "seeds", "trials", "sampler", "pruner", "measure", "episodes", "greedy")
RANGE = re.compile(r"(uniform|loguniform|integer)\(\s*([^,()]+),\s*([^,()]+)\)")


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

    def ends(self) -> list[Any]:
        """The least and the largest value."""
        return [math.ceil(self.low), math.floor(self.high)] if self.kind == "integer" else [self.low, self.high]

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
        return f"{folder_word(self.environment)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-seed{self.seed}"


class Plan:
    """The runs of a study, from its file or mapping.

    Attributes
    ----------
    environments : list of str
    points : list of dict
        The settings of each point of the grid, or of each that was drawn; of a search those that were proposed so far.
    wanted : int
        How many points there are in the end.
    values : dict
        What each setting may be: a list, or a `Range`.
    axes : list of str
        Settings in which points differ.
    drawn : bool
        Whether points are drawn, or proposed, instead of all of a grid.
    searches : bool
        Whether points are proposed one by one, from what those before showed: see `nbrl.studies.search`.
    pruner : str or None
    seeds : list of int
    episodes : int
    greedy : bool
    measure : str
        What a score is: ``"return"`` of the policy in the end, or the ``"steps"`` or ``"minutes"`` to `target_return`.
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
        self._own = _environments(values.get("environment"))
        self.environments = list(self._own)
        seeds = values.get("seeds", 3)
        wanted = seeds if isinstance(seeds, list | tuple) else range(1, (whole(seeds) or 0) + 1)
        if not wanted:
            raise ValueError(f"seeds is {seeds!r}: it must be how many seeds, at least 1, or a list of them")
        self.seeds: list[int] = list(dict.fromkeys(SETTINGS["seed"].checked("a seed", seed) for seed in wanted))
        if None in self.seeds:
            raise ValueError("a seed is none: each run of a study needs one")
        self.episodes: int = EPISODES.checked("episodes", values.get("episodes", EPISODES.default))
        self.greedy: bool = GREEDY.checked("greedy", values.get("greedy", GREEDY.default))
        settings = values.get("settings", {})
        if not isinstance(settings, Mapping):
            raise ValueError(f"settings is {settings!r}: it must be a table of settings and their values")
        for name in settings:
            if name in KEYS and name not in SETTINGS:
                raise ValueError(f"settings has {name}, which is of the study itself: give it above [settings]")
        axes = {name: _axis(name, value) for name, value in settings.items()}
        together = _together(values.get("points", []), axes)
        axes |= {name: [point[name] for point in together] for name in together[0]} if together else {}
        if "seed" in axes:
            raise ValueError("settings has a seed: a study has seeds, beside its environment")
        self.axes = [name for name, axis in axes.items() if isinstance(axis, Range) or len(axis) > 1]
        self.values, trials = axes, TRIALS.checked("trials", values.get("trials"))
        self.searches = SAMPLER.checked("sampler", values.get("sampler", SAMPLER.default)) != SAMPLER.default
        self.pruner: str | None = PRUNER.checked("pruner", values.get("pruner"))
        self.measure: str = MEASURE.checked("measure", values.get("measure", MEASURE.default))
        if self.pruner and not (self.searches and self.measure == "return"):
            raise ValueError('a pruner goes with the sampler "tpe", and with returns as the measure')
        if together and trials is not None:
            raise ValueError("points and trials are both given: points are all made, none is drawn")
        if self.searches and (trials is None or not self.axes or len(self.environments) > 1):
            raise ValueError("the sampler tpe needs trials, a setting with several values, and one environment alone")
        points = self._corners() if self.searches else _points(axes, trials, together)
        for name, own in self._own.items():
            for setting in own:
                if setting == "seed" or setting in self.axes:
                    raise ValueError(f"environment {name} has a {setting} of its own: the study varies it")
        one_each = itertools.product(self.environments, points)
        configs = [configured(self.trial(one, point, self.seeds[0])) for one, point in one_each]
        if self.measure != "return" and any(config.target_return is None for config in configs):
            raise ValueError(f"measure is {self.measure}: it is counted until a target_return, which a run lacks")
        self.threads: int = max(config.threads for config in configs)
        self.points: list[dict[str, Any]] = [] if self.searches else points
        self.drawn = trials is not None
        self.wanted: int = trials if self.searches and trials else len(points)

    def trial(self, environment: str, point: Mapping[str, Any], seed: int) -> Trial:
        """The run of a point in an environment, whose own settings go before the point's."""
        return Trial(environment, {**point, **self._own[environment]}, seed)

    def score(self, result: Mapping[str, Any]) -> float:
        """The measure of a run by its result."""
        return float(result["mean_return" if self.measure == "return" else self.measure])

    @property
    def direction(self) -> str:
        """Where better scores are, in Optuna's words."""
        return "maximize" if self.measure == "return" else "minimize"

    def trials(self) -> list[Trial]:
        """Every run: seeds are the outer loop, so that each point soon has one."""
        return [
            self.trial(environment, point, seed)
            for seed, environment, point in itertools.product(self.seeds, self.environments, self.points)
        ]

    def corners(self) -> list[Trial]:
        """Of a search, the runs of its corners with the first seed."""
        return [self.trial(self.environments[0], point, self.seeds[0]) for point in self._corners()]

    def _corners(self) -> list[dict[str, Any]]:
        """Points in which each setting has each of its values or bounds once, to be checked before any run."""
        ends = {name: axis.ends() if isinstance(axis, Range) else axis for name, axis in self.values.items()}
        first = {name: values[0] for name, values in ends.items()}
        return [first | {name: value} for name, values in ends.items() for value in values]


def _read(plan: str | os.PathLike | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(plan, Mapping):
        return plan
    try:
        return tomllib.loads(Path(plan).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{os.fspath(plan)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(shortened(f"{os.fspath(plan)} is no TOML: {error}")) from error


def _environments(names: Any) -> dict[str, dict[str, Any]]:
    """The settings that each environment has of its own."""
    if isinstance(names, Mapping):
        found = dict(names)
    else:
        listed = [names] if isinstance(names, str) else names if isinstance(names, list | tuple) else []
        found = {name: {} for name in listed} if all(isinstance(name, str) for name in listed) else {}
    if not found or not all(found):
        raise ValueError(
            f"environment is {names!r}: a study needs an id such as 'CartPole-v1', a list of them, or a table of "
            "each one's own settings"
        )
    read: dict[str, dict[str, Any]] = {}
    for name, own in found.items():
        if not isinstance(own, Mapping):
            raise ValueError(f"environment {name} is {own!r}: it must be a table of the settings that it has alone")
        read[name] = {setting: _value(setting, value) for setting, value in own.items()}
    return read


def _value(name: str, value: Any) -> Any:
    """One value of a setting: a network by its name, or as JSON holds it."""
    if name != "network":
        return value
    network = read_text(value) if isinstance(value, str) else value
    return network if isinstance(network, str) else layers_to_list(layers_from_list(network))


def _axis(name: str, value: Any) -> "list[Any] | Range":
    """What a setting may be."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError(f"{name} is an empty list: an axis needs values")
    return (Range.read(name, value) if isinstance(value, str) else None) or [_value(name, each) for each in values]


def _together(points: Any, axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of settings that go together."""
    if not isinstance(points, list | tuple) or not all(isinstance(point, Mapping) and point for point in points):
        raise ValueError(f"points is {points!r}: it must be a list of tables of settings, each {{name = value, ...}}")
    for point in points:
        if set(point) != set(points[0]):
            raise ValueError(f"points has {dict(point)} beside {dict(points[0])}: all must have the same settings")
        for name in point:
            if name in axes:
                raise ValueError(f"{name} is in settings and in points: give it in one of them")
    return [{name: _value(name, value) for name, value in point.items()} for point in points]


def _points(
    axes: Mapping[str, "list[Any] | Range"], trials: int | None, together: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The settings of each point: all of a grid, or so many drawn, always the same."""
    ranges = [name for name, axis in axes.items() if isinstance(axis, Range)]
    if trials is None:
        if ranges:
            raise ValueError(f"{ranges[0]} is a range: say with trials how many points are to be drawn")
        joined = together or [{}]
        grids = {name: axis for name, axis in axes.items() if isinstance(axis, list) and name not in joined[0]}
        points = [
            dict(zip(grids, point, strict=True)) | one for *point, one in itertools.product(*grids.values(), joined)
        ]
    else:
        rng = np.random.default_rng(0)
        points = [
            {
                name: axis.draw(rng) if isinstance(axis, Range) else axis[int(rng.integers(len(axis)))]
                for name, axis in axes.items()
            }
            for _ in range(trials)
        ]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def configured(trial: Trial) -> Any:
    """The settings of a run: one thread, unless they say otherwise."""
    return configure(trial.environment, **{"threads": 1} | dict(trial.settings) | {"seed": trial.seed})
