"""The settings of a run: one frozen dataclass, its defaults by kind of observation, and its presets."""

import dataclasses
import difflib
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nbrl.methods import METHODS
from nbrl.nets.layers import NETWORKS, Dense, Layer, Lstm, layers_from_list, layers_to_list

OPTIMISERS = ("momentum_sgd", "rmsprop", "shared_rmsprop", "shared_adam")
INITIALISATIONS = ("uniform", "orthogonal")
VARIANCES = ("softplus", "constant")


def _setting(
    default: Any, description: str, *, least: float | None = None, above: float | None = None,
    most: float | None = None, below: float | None = None, choices: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """A field with the sentence that ``--help`` prints and the bounds that ``Config`` checks."""
    bounds = {"of at least": least, "above": above, "at most": most, "below": below}
    metadata = {
        "description": description,
        "bounds": {words: bound for words, bound in bounds.items() if bound is not None},
        "choices": choices,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a run. The class's own defaults are the paper's (A3C feed-forward, its study network, one day).

    ``configure`` builds one with the defaults that suit an environment. A value that cannot work raises ``ValueError``
    with one sentence. ``describe()`` lists every field with its unit and the paper's value.
    """

    environment: str = dataclasses.field(metadata={"description": "id of the environment, such as ALE/Pong-v5"})
    method: str = _setting("a3c", "learning algorithm; paper: a3c does best", choices=tuple(METHODS))
    network: tuple[Layer, ...] = _setting(
        NETWORKS["paper"],
        f"layers before the heads: {', '.join(NETWORKS)}, or a table as JSON; "
        "paper: conv 16 8x8 stride 4, conv 32 4x4 stride 2, dense 256",
    )
    actors: int = _setting(16, "actor-learners, each with its own environment; paper: 16", least=1, most=10_000)
    threads: int = _setting(16, "system threads that serve the actors; paper: 16, one for each actor", least=1)
    lockstep: int = _setting(1, "actors of one thread that step as one batch; paper: 1", least=1)
    rollout_length: int = _setting(5, "t_max, steps of an actor between updates; paper: 5", least=1, most=1_000_000)
    steps: int = _setting(
        80_000_000, "length of the run in agent steps, all actors; paper: 80 million", least=1, most=10**15
    )
    discount: float = _setting(0.99, "gamma, weight of the next step's return; paper: 0.99", least=0, most=1)
    gae_lambda: float = _setting(
        1.0, "lambda of generalised advantage estimation; paper: 1, the whole rollout's return", least=0, most=1
    )
    separate_networks: bool = _setting(
        False, "whether policy and value share no layer; paper: false on Atari, true on MuJoCo"
    )
    policy_variance: str = _setting(
        "softplus",
        "variance of continuous actions: softplus of a layer's outputs, or constant, learnt; paper: softplus",
        choices=VARIANCES,
    )
    initial_deviation: float | None = _setting(
        None,
        "deviation of continuous actions at first, where their bounds are -1 and 1, none for what the first weights "
        "give, about 0.83; paper: none",
        above=0.01,
        most=10,
    )
    normalise_observations: bool = _setting(
        False,
        "whether observations are scaled by their running mean and deviation: each number of a vector, all pixels of "
        "an image alike; not in the paper",
    )
    normalise_rewards: bool = _setting(
        False,
        "whether rewards are divided by the running deviation of the return, where that is above 1; not in the paper",
    )
    initialisation: str = _setting(
        "uniform",
        "first weights: uniform within 1/sqrt(fan-in), or orthogonal; paper: uniform",
        choices=INITIALISATIONS,
    )
    learning_rate: float = _setting(7e-4, "first learning rate, annealed linearly to 0; paper: 7e-4", above=0)
    optimiser: str = _setting("shared_rmsprop", "update rule; paper: shared_rmsprop", choices=OPTIMISERS)
    momentum: float = _setting(
        0.9, "alpha of momentum_sgd, weight of the old mean gradient; paper: not reported", least=0, below=1
    )
    rmsprop_decay: float = _setting(0.99, "alpha, weight of the old mean square; paper: 0.99", least=0, below=1)
    rmsprop_epsilon: float = _setting(0.1, "added to the mean square inside the root; paper: 0.1", above=0)
    adam_beta1: float = _setting(0.9, "weight of the old mean gradient; not in the paper", least=0, below=1)
    adam_beta2: float = _setting(0.999, "weight of the old mean square; not in the paper", least=0, below=1)
    adam_epsilon: float = _setting(1e-8, "added to the root of the mean square; not in the paper", above=0)
    entropy_weight: float = _setting(0.01, "beta, weight of the policy's entropy; paper: 0.01 (MuJoCo: 1e-4)", least=0)
    value_weight: float = _setting(0.5, "weight of the value loss; paper: 0.5", least=0)
    target_interval: int = _setting(
        10_000,
        "steps between copies of the target network, of the value methods; paper: 10,000",
        least=1,
        most=10**15,
    )
    target_rate: float | None = _setting(
        None,
        "tau of dpg, how far the target network goes to the other at each update, none to go by the interval; not in "
        "the paper",
        above=0,
        most=1,
    )
    epsilon_steps: int = _setting(
        1_000_000,
        "steps over which the exploration of the value methods falls from 1 to 0.1, 0.01 or 0.5; paper: 1 million",
        least=1,
        most=10**15,
    )
    exploration: float = _setting(
        0.3,
        "deviation of dpg's noise for its first actor, where bounds of actions are -1 and 1; down to a tenth for the "
        "last; not in the paper",
        least=0,
    )
    replay_size: int = _setting(
        0, "steps that dpg's replay memories hold in all, 0 for none; paper: 0", least=0, most=10**12
    )
    batch_size: int = _setting(
        64, "samples of an update from a replay memory; not in the paper", least=1, most=1_000_000
    )
    updates_per_step: float = _setting(
        1.0, "updates from a replay memory for each step; not in the paper", above=0, most=1000
    )
    warm_up: int = _setting(
        1000,
        "steps at random that fill a replay memory before it is learnt from; not in the paper",
        least=1,
        most=10**12,
    )
    save_replay: bool = _setting(
        False, "whether checkpoints hold the replay memory, so that a run goes on without filling it anew"
    )
    gradient_clip: float = _setting(40.0, "largest norm of one rollout's gradient; paper: used, not reported", above=0)
    reward_clip: float | None = _setting(
        1.0, "largest absolute reward that learning sees, none for no limit; paper: 1 (Atari)", above=0
    )
    sticky_actions: float = _setting(
        0.0, "probability that Atari repeats the last action for one frame; paper: 0", least=0, below=1
    )
    cut_on_life_loss: bool = _setting(True, "whether a lost life ends the return in Atari training; paper: true")
    seed: int | None = _setting(None, "seed of everything random, none for a fresh one", least=0, most=2**63 - 1)
    minutes: float | None = _setting(
        None, "end after so many minutes of training, none for no limit; a run that goes on has them again", above=0
    )
    until_return: float | None = _setting(
        None, "end when the mean return of the last 100 episodes is as high as this, none for no such end"
    )
    report_interval: float = _setting(1.0, "seconds between reports", above=0)
    checkpoint_interval: float = _setting(300.0, "seconds between checkpoints", above=0)
    eval_interval: float | None = _setting(
        None, "seconds between evaluations beside training, which keep the best policy, none for none", above=0
    )
    eval_episodes: int = _setting(10, "episodes of an evaluation beside training", least=1, most=1_000_000)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.actors % self.lockstep:
            raise ValueError(f"lockstep is {self.lockstep}: it must divide the number of actors, {self.actors}")
        if self.threads > self.actors // self.lockstep:
            raise ValueError(
                f"threads is {self.threads}: it must be at most {self.actors // self.lockstep}, "
                "the number of actors divided by lockstep"
            )
        if self.method == "dpg" and self.replay_size > 0:
            if self.batch_size > self.warm_up:
                raise ValueError(
                    f"batch_size is {self.batch_size}: it must be at most warm_up, the {self.warm_up} steps that are "
                    "in the replay memory when learning begins"
                )
            if self.warm_up > self.replay_size:
                raise ValueError(
                    f"warm_up is {self.warm_up}: it must be at most replay_size, the {self.replay_size} steps that "
                    "the replay memory holds"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["network"] = layers_to_list(self.network)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Return the checked settings from ``to_dict``'s form.

        Raises
        ------
        ValueError
            The mapping has no environment, an unknown setting or a value that cannot work.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"the settings are {values!r}: they must be a JSON object")
        check_names(values)
        if "environment" not in values:
            raise ValueError("the settings name no environment")
        return cls(**values)


# What differs from the paper's settings, by kind of observation, and then by method. The length of the run is one of
# the defaults, since the learning rate anneals over it: a third of the paper's frames take a learning rate somewhat
# higher than its 7e-4.
DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {"learning_rate": 1e-3, "steps": 25_000_000},
    "vector": {
        "network": NETWORKS["mlp"],
        "rollout_length": 16,
        "optimiser": "shared_adam",
        "learning_rate": 1e-3,
        "normalise_rewards": True,
        "reward_clip": None,
        "steps": 300_000,
    },
}
# On top of these, for A3C with continuous actions.
CONTINUOUS: dict[str, Any] = {
    "separate_networks": True,
    "policy_variance": "constant",
    "normalise_observations": True,
    "normalise_rewards": True,
    "reward_clip": 10.0,
    "gae_lambda": 0.95,
    "initialisation": "orthogonal",
    "entropy_weight": 0.0,
    "lockstep": 4,
    "rollout_length": 32,
    "learning_rate": 2e-3,  # of vectors, in runs as long as this; _learning_rate has it for longer ones
    "steps": 1_000_000,
}
CONTINUOUS_IMAGES: dict[str, Any] = {
    "separate_networks": False,
    "normalise_observations": False,
    "optimiser": "shared_adam",
    "learning_rate": 5e-4,
}
_VALUE_METHODS_ON_VECTORS = {"target_interval": 500, "epsilon_steps": 50_000}
METHOD_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "image": {},
    "vector": {
        # With normalised rewards fewer seeds learn CartPole.
        "one_step_q": _VALUE_METHODS_ON_VECTORS | {"rollout_length": 5, "normalise_rewards": False},
        "one_step_sarsa": _VALUE_METHODS_ON_VECTORS | {"rollout_length": 5, "gradient_clip": 1e3},
        "n_step_q": _VALUE_METHODS_ON_VECTORS | {"gradient_clip": 1e3},
        # A clip that seldom acts: the critic's part of the gradient, which is the larger, would hold back the actor's.
        # Rewards as they are: a memory would hold them in the scale of their time.
        "dpg": {
            "network": (Dense(256), Dense(256)),
            "normalise_rewards": False,
            "rollout_length": 1,
            "target_rate": 0.005,
            "replay_size": 1_000_000,
            "batch_size": 256,
            "gradient_clip": 1e6,
        },
    },
}
# On top of dpg's, for what learns from rollouts alone.
WITHOUT_REPLAY: dict[str, Any] = {"lockstep": 8, "rollout_length": 2, "exploration": 1.0, "steps": 1_000_000}

# "paper" takes the paper's Atari settings, the class's own, for images, and its MuJoCo settings for vectors. "quick"
# goes beyond the paper, to learn in fewer minutes: longer rollouts of several actors make fewer and better updates.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "image": {},
        "vector": {
            "network": (Dense(200, "relu"),),
            "separate_networks": True,
            "entropy_weight": 1e-4,
            "reward_clip": None,
        },
    },
    "quick": {
        "image": {
            "lockstep": 4,
            "rollout_length": 20,
            "gae_lambda": 0.95,
            "initialisation": "orthogonal",
            "optimiser": "shared_adam",
            "learning_rate": 7e-4,
            "adam_epsilon": 1e-3,
            "steps": 8_000_000,
        },
        "vector": DEFAULTS["vector"] | {"gae_lambda": 0.95, "initialisation": "orthogonal"},
    },
}
# On top of a preset, with an LSTM. Adam moves every weight as far, however small its gradient: at the rate that suits
# feed-forward networks, those below an LSTM saturate it before its value fits. So the run is longer as well.
RECURRENT: dict[str, dict[str, dict[str, Any]]] = {"quick": {"image": {"learning_rate": 1e-4, "steps": 16_000_000}}}


def configure(environment: Any, *, preset: str | None = None, frames: int | None = None, **settings: Any) -> Config:
    """Return the settings for an environment: those given, and the defaults of its kind of observation for the rest.

    Parameters
    ----------
    environment
        An id such as ``"ALE/Pong-v5"``, a callable that makes a gymnasium environment, or an environment object.
    preset
        ``"paper"`` takes the paper's settings instead of the defaults.
    frames
        Length of the run in the environment's frames, in place of ``steps``: an Atari step is four frames.
    **settings
        Fields of ``Config``. ``threads`` is by default the number of cores this process may use, at most the actors. A
        ``lockstep`` above 1 that is only a default is lowered to what ``actors`` and ``threads`` allow.

    Raises
    ------
    ValueError
        The environment, the preset or a setting is unknown, or a value cannot work.
    """
    from nbrl import envs

    check_names(settings)
    if preset is not None and preset not in PRESETS:
        raise ValueError(unknown("preset", preset, PRESETS))
    if frames is not None and "steps" in settings:
        raise ValueError("steps and frames are both given: give one of them, since each sets the length of the run")
    spec = envs.make(environment)
    name = envs.description(environment, spec.name)
    values = dict(PRESETS[preset][spec.kind] if preset else DEFAULTS[spec.kind])
    method = settings.get("method", "a3c")
    if frames is not None:
        settings["steps"] = _steps(frames, spec.frames_per_step)
    if spec.action_count == 0 and method == "a3c" and preset != "paper":
        values |= CONTINUOUS
        if spec.kind == "image":
            values |= CONTINUOUS_IMAGES
        else:
            values["learning_rate"] = _learning_rate(settings.get("steps"))
    if preset != "paper":
        values |= METHOD_DEFAULTS[spec.kind].get(method, {})
        if method == "dpg" and settings.get("replay_size") == 0:
            values |= WITHOUT_REPLAY
    network = layers_from_list((values | settings).get("network", Config.network))
    if any(isinstance(layer, Lstm) for layer in network):
        values |= RECURRENT.get(preset or "", {}).get(spec.kind, {})
    values |= settings
    if "lockstep" not in settings:
        values["lockstep"] = _lockstep(values)
    if values.get("threads") is None:
        # Values that are wrong here are refused by Config, which names them.
        values["threads"] = 1
        config = Config(environment=name, **values)
        return dataclasses.replace(config, threads=min(available_cores(), config.actors // config.lockstep))
    return Config(environment=name, **values)


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, str]:
    """Return a line for each field of ``Config``: what it is, its unit and the paper's value."""
    return {field.name: field.metadata["description"] for field in dataclasses.fields(Config)}


def check_names(names: Iterable[str]) -> None:
    """Raise ``ValueError`` for the first name that is not a field of ``Config``."""
    known = describe()
    for name in names:
        if name not in known:
            raise ValueError(unknown("setting", name, known))


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence for a name that is not in a list.

    >>> unknown("setting", "learning_rat", ["steps", "learning_rate"])
    "unknown setting 'learning_rat': did you mean 'learning_rate'?"
    >>> unknown("optimiser", "sgd", ["shared_rmsprop", "shared_adam"])
    "unknown optimiser 'sgd': it must be one of shared_rmsprop, shared_adam"
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"unknown {what} {name!r}: did you mean {close[0]!r}?"
    return f"unknown {what} {name!r}: it must be one of {', '.join(known)}"


def _lockstep(values: Mapping[str, Any]) -> int:
    """The default lockstep, or the most below it that the actors and threads asked for allow."""
    most, actors, threads = (
        values.get("lockstep", 1),
        _whole(values.get("actors", Config.actors)),
        _whole(values.get("threads")),
    )
    if actors is None or actors < 1:  # refused by Config, which names it
        return most
    return next((k for k in range(most, 1, -1) if actors % k == 0 and actors // k >= (threads or 1)), 1)


def _learning_rate(steps: object) -> float:
    """The default of continuous actions, lower in runs longer than the one it was found on.

    Annealed over a longer run, the same rate stays high for longer, and may undo what was learnt.
    """
    rate, found_on = CONTINUOUS["learning_rate"], CONTINUOUS["steps"]
    return rate * math.sqrt(found_on / max(found_on, _whole(steps) or 0))


def _steps(frames: object, frames_per_step: int) -> int:
    whole = _whole(frames)
    if whole is None or whole < frames_per_step:
        raise ValueError(f"frames is {frames!r}: it must be a whole number of at least {frames_per_step}, one step")
    return whole // frames_per_step


def _whole(value: object) -> int | None:
    """Return a value as an ``int`` if it is a whole number, else None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def _real(value: object) -> float | None:
    """Return a value as a ``float`` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """Return a field's value in its own type; raise ``ValueError`` with one sentence if it cannot be one."""
    if field.name == "network":
        return layers_from_list(value)
    if field.type is str:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{field.name} is {value!r}: it must be a name")
        if field.metadata.get("choices") and value not in field.metadata["choices"]:
            raise ValueError(unknown(field.name, value, field.metadata["choices"]))
        return value
    if field.type is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{field.name} is {value!r}: it must be true or false")
        return value
    optional = field.type in (int | None, float | None)
    if optional and value is None:
        return None
    bounds: dict[str, float] = field.metadata["bounds"]
    is_whole = field.type in (int, int | None)
    number = _whole(value) if is_whole else _real(value)
    if number is None or not all(_HOLDS[words](number, bound) for words, bound in bounds.items()):
        wanted = " and".join(f" {words} {bound}" for words, bound in bounds.items())
        kind = "a whole number" if is_whole else "a finite number"
        raise ValueError(f"{field.name} is {value!r}: it must be {kind}{wanted}{', or none' if optional else ''}")
    return number


_HOLDS = {
    "of at least": lambda number, bound: number >= bound,
    "above": lambda number, bound: number > bound,
    "at most": lambda number, bound: number <= bound,
    "below": lambda number, bound: number < bound,
}
