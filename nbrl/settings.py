"""One setting: its default, what it is, and what values it can have. Whoever reads a setting declares it."""

import difflib
import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "of at least": lambda number, bound: number >= bound,
    "above": lambda number, bound: number > bound,
    "at most": lambda number, bound: number <= bound,
    "below": lambda number, bound: number < bound,
}


@dataclass(frozen=True)
class Setting:
    """A setting, whose default is the paper's.

    Parameters
    ----------
    default
        A bool, int, float or str; or None, for what may be left out.
    description : str
        What it is, its unit and the paper's value: what ``--help`` prints.
    least, above, most, below : float, optional
        Bounds of a number.
    choices : tuple of str, optional
        What a str may be.
    type : type, optional
        Of what may be None; else that of the default.
    """

    default: Any
    description: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    type: Any = None

    @property
    def kind(self) -> Any:
        """The type of its values, None aside."""
        return self.type or type(self.default)

    @property
    def field(self) -> str | None:
        """The name of numba's type of it, as a field of a struct, where there is one."""
        return {int: "int64", float: "float64", bool: "boolean"}.get(self.kind)

    @property
    def optional(self) -> bool:
        """Whether it may be None."""
        return self.type is not None

    def checked(self, name: str, value: Any) -> Any:
        """A value in the setting's own type; ``ValueError`` with one sentence if it cannot be one."""
        if self.optional and value is None:
            return None
        if self.kind is str:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} is {value!r}: it must be a name")
            if self.choices and value not in self.choices:
                raise ValueError(unknown(name, value, self.choices))
            return value
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}: it must be {self.wanted}")
            return value
        number = whole(value) if self.kind is int else _real(value)
        if number is None or not all(_HOLDS[words](number, bound) for words, bound in self._bounds.items()):
            raise ValueError(f"{name} is {value!r}: it must be {self.wanted}")
        return number

    @property
    def _bounds(self) -> dict[str, float]:
        bounds = {"of at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return {words: bound for words, bound in bounds.items() if bound is not None}

    @property
    def wanted(self) -> str:
        """What it may be, in words."""
        if self.kind in (bool, str, dict):
            words = {bool: "true or false", str: f"one of {', '.join(self.choices)}" if self.choices else "a name"}
            wanted = words.get(self.kind, "keywords with values")
        else:
            bounds = " and".join(f" {words} {bound}" for words, bound in self._bounds.items())
            wanted = f"a {'whole' if self.kind is int else 'finite'} number{bounds}"
        return f"{wanted}{', or none' if self.optional else ''}"


# Schedules by name: points (share of the run, factor), between which they are straight.
SCHEDULES: dict[str, tuple[tuple[float, float], ...]] = {
    "linear": ((0.0, 1.0), (1.0, 0.0)),
    "constant": ((0.0, 1.0),),
    "cosine": tuple((i / 1000, (1 + math.cos(math.pi * i / 1000)) / 2) for i in range(1001)),
}
SHAPES = f"{', '.join(SCHEDULES)}, or points of a share of the run and a factor, as [[0, 1], [0.5, 0.1]]"


class Schedule(Setting):
    """A setting that says how another changes over the run: a name of `SCHEDULES`, or points, as JSON or a list."""

    wanted = "shares grow from 0 to 1, factors are at least 0"

    def checked(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and value in SCHEDULES:
            return value
        try:
            given = json.loads(value) if isinstance(value, str) else value
            pairs = tuple((_real(share), _real(factor)) for share, factor in given)
        except (TypeError, ValueError, RecursionError):
            pairs = ()
        right = bool(pairs) and all(share is not None and factor is not None for share, factor in pairs)
        table = np.array(pairs if right else [(-1.0, -1.0)], np.float64)
        if (table < 0).any() or (np.diff(table[:, 0]) <= 0).any() or table[-1, 0] > 1:
            raise ValueError(f"{name} is {value!r}: it must be {SHAPES}; {self.wanted}")
        return pairs


class Names(Setting):
    """A setting of one name or several, as a sum: ``"count+episodic"``."""

    def checked(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} is {value!r}: it must be a name, several with + between them, or none")
        names = value.split("+")
        for one in names:
            if one not in self.choices:
                raise ValueError(unknown(name, one, self.choices))
        if len(set(names)) < len(names):
            raise ValueError(f"{name} is {value!r}: it must have no name twice")
        return "+".join(one for one in self.choices if one in names)


class Arguments(Setting):
    """A setting of keywords and their values, as a mapping or as JSON."""

    def checked(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            given = json.loads(value) if isinstance(value, str) else dict(value)
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            given = None
        if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
            raise ValueError(f"{name} is {value!r}: it must be keywords with values that JSON can hold, or none")
        return given or None


def points(schedule: str | tuple[tuple[float, float], ...]) -> np.ndarray:
    """A schedule's points (share of the run, factor), float64 (n, 2)."""
    return np.array(SCHEDULES[schedule] if isinstance(schedule, str) else schedule, np.float64)


class Task(NamedTuple):
    """What a method's defaults depend on."""

    image: bool  # whether observations are images, else vectors
    numbers: int  # of an observation
    continuous: bool  # whether actions are continuous
    given: Mapping[str, Any]  # the settings that are given


# What others call our settings.
SYNONYMS = {
    "lr": "learning_rate", "alpha": "learning_rate", "gamma": "discount", "ent_coef": "entropy_weight",
    "entropy_coef": "entropy_weight", "beta": "entropy_weight", "vf_coef": "value_weight", "n_steps": "rollout_length",
    "num_steps": "rollout_length", "t_max": "rollout_length", "total_timesteps": "steps", "timesteps": "steps",
    "num_envs": "actors", "n_envs": "actors", "num_workers": "threads", "n_jobs": "threads", "lambda": "gae_lambda",
    "max_grad_norm": "gradient_clip", "clip_rewards": "reward_clip", "normalize_rewards": "normalise_rewards",
    "normalize_observations": "normalise_observations", "norm_obs": "normalise_observations",
    "optimizer": "optimiser", "net_arch": "network", "policy_kwargs": "network", "algorithm": "method",
    "algo": "method", "time_limit": "max_episode_steps", "target_update_interval": "target_interval",
    "n_epochs": "epochs", "update_epochs": "epochs", "num_epochs": "epochs", "num_minibatches": "minibatches",
    "n_minibatches": "minibatches", "clip_coef": "clip_range", "clip_range_vf": "value_clip",
    "normalize_advantage": "normalise_advantages", "norm_adv": "normalise_advantages",
    "exploration_final_eps": "final_epsilon", "eval_freq": "eval_interval", "initialization": "initialisation",
}  # fmt: skip


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that is not in a list.

    >>> unknown("setting", "learning_rat", ["steps", "learning_rate"])
    "unknown setting 'learning_rat': did you mean 'learning_rate'?"
    >>> unknown("optimiser", "sgd", ["shared_rmsprop", "shared_adam"])
    "unknown optimiser 'sgd': it must be one of shared_rmsprop, shared_adam"
    """
    known = list(known)
    if what == "setting" and SYNONYMS.get(str(name).lower()) in known:
        return f"unknown setting {name!r}: here it is {SYNONYMS[str(name).lower()]!r}"
    close = [word for word in known if word.lower() == str(name).lower()]
    close = close or difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"unknown {what} {name!r}: did you mean {close[0]!r}?"
    if what == "setting":  # too many to be named
        return (
            f"unknown setting {name!r}: the command nbrl settings lists them, and keywords of an environment are "
            "environment_arguments, --env-arg on the command line"
        )
    return f"unknown {what} {name!r}: it must be one of {', '.join(known)}"


def whole(value: object) -> int | None:
    """A value as an ``int`` if it is a whole number, such as 1e4, else None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value // 1:
        return None
    return int(value)  # type: ignore[call-overload]


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
