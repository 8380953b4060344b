"""The settings of a run: one frozen dataclass, its defaults by kind of observation, and its presets."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nbrl.bonuses import BONUSES, bonus_class
from nbrl.exchange import Hub
from nbrl.methods import METHODS, method_class
from nbrl.methods.optimisers import OPTIMISERS
from nbrl.nets.layers import NETWORKS, Dense, Layer, Lstm, layers_from_list, layers_to_list
from nbrl.settings import SHAPES, Arguments, Names, Schedule, Setting, Task, unknown, whole
from nbrl.spaces import LAYOUTS, Observations

if TYPE_CHECKING:
    from nbrl.envs.interface import EnvSpec

INITIALISATIONS = ("uniform", "orthogonal")

# The settings of all methods, besides environment and network. Those of a method or of an optimiser stand with it.
COMMON: dict[str, Setting] = {
    "method": Setting("a3c", "learning algorithm; paper: a3c does best", choices=tuple(METHODS)),
    "actors": Setting(16, "actor-learners, each with its own environment; paper: 16", least=1, most=10_000),
    "threads": Setting(16, "system threads that serve the actors; paper: 16, one for each actor", least=1),
    "envs_per_batch": Setting(1, "actors of one thread that step as one batch; paper: 1", least=1),
    "rollout_length": Setting(5, "t_max, steps of an actor between updates; paper: 5", least=1, most=1_000_000),
    "steps": Setting(
        80_000_000, "length of the run in agent steps, all actors; paper: 80 million", least=1, most=10**15
    ),
    "discount": Setting(0.99, "gamma, weight of the next step's return; paper: 0.99", least=0, most=1),
    "normalise_observations": Setting(
        False,
        "whether observations are scaled by their running mean and deviation: each number of a vector, all pixels of "
        "an image alike; not in the paper",
    ),
    "normalise_rewards": Setting(
        False,
        "whether rewards are divided by the running deviation of the return, where that is above 1; not in the paper",
    ),
    "initialisation": Setting(
        "uniform",
        "first weights: uniform within 1/sqrt(fan-in), or orthogonal; paper: uniform",
        choices=INITIALISATIONS,
    ),
    "learning_rate": Setting(7e-4, "first learning rate; paper: 7e-4", above=0),
    "learning_rate_schedule": Schedule(
        "linear", f"how the learning rate changes over the run, {SHAPES}; paper: linear"
    ),
    "optimiser": Setting("shared_rmsprop", "update rule; paper: shared_rmsprop", choices=tuple(OPTIMISERS)),
    "gradient_clip": Setting(40.0, "largest norm of an update's gradient; paper: used, not reported", above=0),
    "agent_index": Setting(
        False,
        "whether each of several agents is told which it is, one-hot after its observation, a vector; not in the paper",
    ),
    "bonus": Names(
        None,
        f"what rewards the new, for exploration: {', '.join(BONUSES)}, or several with + between them, none for "
        "nothing; not in the paper",
        choices=tuple(BONUSES),
        type=str,
    ),
    "environment_arguments": Arguments(
        None,
        "keywords that the environment is made with, as JSON; on the command line also --env-arg key=value; none for "
        "none",
        type=dict,
    ),
    "observation_layout": Setting(
        "auto",
        "axes of an image: HW, HWC or CHW (height, width, channels), of a stack those of each frame; vector for no "
        "image, auto for what shape and bounds say",
        choices=("auto", *LAYOUTS),
    ),
    "reward_clip": Setting(
        1.0, "largest absolute reward that learning sees, none for no limit; paper: 1 (Atari)", above=0, type=float
    ),
    "max_episode_steps": Setting(
        None, "steps after which an episode is truncated, none for no limit", least=1, most=2**62, type=int
    ),
    "sticky_actions": Setting(
        0.0, "probability that Atari repeats the last action for one frame; paper: 0", least=0, below=1
    ),
    "cut_on_life_loss": Setting(True, "whether a lost life ends the return in Atari training; paper: true"),
    "seed": Setting(None, "seed of everything random, none for a fresh one", least=0, most=2**63 - 1, type=int),
    "minutes": Setting(
        None,
        "end after so many minutes of training, none for no limit; a resumed run gets the full time again",
        above=0,
        type=float,
    ),
    "target_return": Setting(
        None, "end when the mean return of the last 100 episodes is as high as this, none for no such end", type=float
    ),
    "report_interval": Setting(1.0, "seconds between reports", above=0),
    "checkpoint_interval": Setting(300.0, "seconds between checkpoints", above=0),
    "tensorboard": Setting(False, "whether event files for TensorBoard are written, beside metrics.jsonl"),
    "eval_interval": Setting(
        None,
        "seconds between evaluations beside training, by sampled actions, which keep the best policy; none for none",
        above=0,
        type=float,
    ),
    "eval_episodes": Setting(10, "episodes of an evaluation beside training", least=1, most=1_000_000),
}


def setting_groups() -> dict[str, dict[str, Setting]]:
    """Every setting by name, by whose it is: of all methods, then of optimisers, of each method, of each
    bonus and of exchanges between machines."""
    owners: dict[str, Any] = {f"the optimiser {name}": rule for name, rule in OPTIMISERS.items()}
    owners |= {f"the method {name}": method_class(name) for name in METHODS}
    owners |= {f"the bonus {name}": bonus_class(name) for name in BONUSES}
    owners["runs on several machines"] = Hub
    groups, users = {"all runs": dict(COMMON)}, dict[str, list[str]]()
    for owner, declares in owners.items():
        for name in declares.settings:
            users.setdefault(name, []).append(owner)
    for declares in owners.values():
        for name, setting in declares.settings.items():
            groups.setdefault(" and ".join(users[name]), {})[name] = setting
    return groups


SETTINGS = {name: setting for group in setting_groups().values() for name, setting in group.items()}


def _with_settings(cls: type) -> Any:
    """Make a frozen dataclass of a class, with a field for every setting."""
    for name, setting in SETTINGS.items():
        cls.__annotations__[name] = setting.kind | None if setting.optional else setting.kind
        setattr(cls, name, setting.default)
    return dataclass(frozen=True, kw_only=True)(cls)


@_with_settings
class Config:
    """Every setting of a run. The class's own defaults are the paper's (A3C feed-forward, its study network, one day).

    ``configure`` builds one with the defaults that suit an environment. A value that cannot work raises ``ValueError``
    with one sentence. ``describe()`` lists every field with its unit and the paper's value.
    """

    environment: str
    network: tuple[Layer, ...] = NETWORKS["paper"]

    if TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        if not isinstance(self.environment, str) or not self.environment:
            raise ValueError(f"environment is {self.environment!r}: it must be a name")
        checked = {name: setting.checked(name, getattr(self, name)) for name, setting in SETTINGS.items()}
        for name, value in (checked | {"network": layers_from_list(self.network)}).items():
            object.__setattr__(self, name, value)
        if self.actors % self.envs_per_batch:
            raise ValueError(
                f"envs_per_batch is {self.envs_per_batch}: it must divide the number of actors, {self.actors}"
            )
        if self.threads > self.actors // self.envs_per_batch:
            raise ValueError(
                f"threads is {self.threads}: it must be at most {self.actors // self.envs_per_batch}, "
                "the number of actors divided by envs_per_batch"
            )
        method_class(self.method).check(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        values = {name: getattr(self, name) for name in describe()}
        values["network"] = layers_to_list(self.network)
        return values

    def replace(self, **changes: Any) -> "Config":
        """Return other settings, some of them changed."""
        return Config(**{name: getattr(self, name) for name in describe()} | changes)

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


# What a run has where nothing is said, by kind of observation: what all methods share, before the method's own. The
# length of the run is one of the defaults, since the learning rate anneals over it. Rollouts of several actors make
# fewer and better updates than the paper's of one.
DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {
        "method": "ppo",
        "envs_per_batch": 4,
        "rollout_length": 20,
        "gae_lambda": 0.95,
        "initialisation": "orthogonal",
        "optimiser": "shared_adam",
        "learning_rate": 7e-4,
        "adam_epsilon": 1e-3,
        "steps": 8_000_000,
    },
    "vector": {
        "method": "ppo",
        "network": NETWORKS["mlp"],
        "rollout_length": 16,
        "optimiser": "shared_adam",
        "learning_rate": 1e-3,
        "normalise_rewards": True,
        "reward_clip": None,
        "steps": 300_000,
    },
}
# On top of these for images other than Atari's, whose rewards are of any size, ...
PICTURES: dict[str, Any] = {"reward_clip": None, "normalise_rewards": True}
# ... for those that the paper's network cannot enter, ...
LEAST_SIDE = 20  # pixels
# ... and with an LSTM. Adam moves every weight as far, however small its gradient: at the rate that suits feed-forward
# networks, those below an LSTM saturate it before its value fits. So the run is longer as well.
RECURRENT_IMAGES: dict[str, Any] = {"learning_rate": 1e-4, "steps": 16_000_000}

# "paper" takes the paper's Atari settings, the class's own, for images, and its MuJoCo settings for vectors.
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
}


NETWORK_DESCRIPTION = (
    f"layers before the heads: {', '.join(NETWORKS)}, or a table as JSON; "
    "paper: conv 16 8x8 stride 4, conv 32 4x4 stride 2, dense 256"
)


def describe() -> dict[str, str]:
    """Return a line for each field of ``Config``: what it is, its unit and the paper's value."""
    own = {"environment": "id of the environment, such as ALE/Pong-v5", "network": NETWORK_DESCRIPTION}
    return own | {name: setting.description for name, setting in SETTINGS.items()}


F = TypeVar("F", bound=Callable[..., Any])


def lists_settings(function: F) -> F:
    """Write every setting into a function's docstring, so that ``help`` shows them."""
    lines = (f"{name} : {words}" for name, words in describe().items() if name != "environment")
    function.__doc__ = (function.__doc__ or "").replace("{settings}", "\n    ".join(lines))
    return function


@lists_settings
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
        ``envs_per_batch`` above 1 that is only a default is lowered to what ``actors`` and ``threads`` allow.

    Raises
    ------
    ValueError
        The environment, the preset or a setting is unknown, or a value cannot work.

    Settings, by default those that suit the environment:

    {settings}
    """
    return resolve(environment, preset=preset, frames=frames, **settings)[0]


def resolve(
    environment: Any, *, preset: str | None = None, frames: int | None = None, **settings: Any
) -> tuple[Config, dict[str, str]]:
    """As ``configure``, and where each setting that is not the paper's comes from, by its name."""
    from nbrl import envs

    check_names(settings)
    if preset is not None and preset not in PRESETS:
        raise ValueError(unknown("preset", preset, PRESETS))
    if frames is not None and "steps" in settings:
        raise ValueError("steps and frames are both given: give one of them, since each sets the length of the run")
    arguments = SETTINGS["environment_arguments"].checked(
        "environment_arguments", settings.get("environment_arguments")
    )
    spec = envs.make(environment, arguments=arguments, observation_layout=settings.get("observation_layout", "auto"))
    kind = "image" if spec.observations.image else "vector"
    name = envs.description(environment, spec.name)
    if frames is not None:
        settings["steps"] = _steps(frames, spec.frames_per_step)
    task = Task(spec.observations.image, spec.observations.size, not spec.actions.discrete, settings)
    found = [(f"preset {preset}", PRESETS[preset][kind])] if preset else [(f"{kind}s", DEFAULTS[kind])]
    if kind == "image" and not spec.clips_rewards:
        found.append(("images other than Atari's", {"reward_clip": None} if preset else PICTURES))
        found.append((f"images below {LEAST_SIDE}x{LEAST_SIDE}", _for_small(spec.observations)))
    method: Any = _merged([*found, ("given", settings)]).get("method")
    own = method_class(method) if preset is None and method in METHODS else None  # Config refuses others
    if own:
        found.append((method, own.defaults(task)))
    network = layers_from_list(_merged([*found, ("given", settings)]).get("network", Config.network))
    if spec.vector:
        found.append(("vector environment", {"envs_per_batch": spec.group, "actors": _actors(spec, settings)}))
    if spec.agents > 1 and not spec.observations.image and not spec.agents_come_and_go:
        found.append(("several agents", {"agent_index": True}))
    if kind == "image" and preset is None and any(isinstance(layer, Lstm) for layer in network):
        found.append(("images, with an LSTM", RECURRENT_IMAGES))
    found.append(("given", settings))
    values = _merged(found)
    sources = {key: source for source, overlay in found for key in overlay}
    if own and "network" not in settings:
        values["network"] = own.network(network)
    if "envs_per_batch" not in settings and not spec.vector:
        values["envs_per_batch"] = _envs_per_batch(values)
    if values.get("threads") is None:
        # Values that are wrong here are refused by Config, which names them.
        actors, batch = (whole(values.get(key, SETTINGS[key].default)) for key in ("actors", "envs_per_batch"))
        values["threads"] = max(1, min(available_cores(), (actors or 1) // (batch or 1)))
        sources["threads"] = "cores of this machine"
    return Config(environment=name, **values), sources


def _actors(spec: "EnvSpec", settings: Mapping[str, Any]) -> int:
    """The default of `actors` with a vector environment: that many groups as make about the usual number."""
    groups = max(spec.groups or SETTINGS["actors"].default // spec.group, whole(settings.get("threads")) or 1)
    return spec.group * min(groups, spec.groups or groups)


def _merged(found: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What several sources say together, the later ones over the earlier."""
    return {name: value for _, overlay in found for name, value in overlay.items()}


def _for_small(observations: Observations) -> dict[str, Any]:
    """What differs for an image that is too small for the paper's network."""
    side = min(observations.height, observations.width)
    if side >= LEAST_SIDE:
        return {}
    return {"network": NETWORKS["small" if side >= 3 else "mlp"], "normalise_observations": True}


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_names(names: Iterable[str]) -> None:
    """Raise ``ValueError`` for the first name that is not a field of ``Config``."""
    known = describe()
    for name in names:
        if name not in known:
            raise ValueError(unknown("setting", name, known))


def _envs_per_batch(values: Mapping[str, Any]) -> int:
    """The default ``envs_per_batch``, or the most below it that the actors and threads asked for allow."""
    most, actors, threads = (
        values.get("envs_per_batch", 1),
        whole(values.get("actors", SETTINGS["actors"].default)),
        whole(values.get("threads")),
    )
    if actors is None or actors < 1:  # refused by Config, which names it
        return most
    return next((k for k in range(most, 1, -1) if actors % k == 0 and actors // k >= (threads or 1)), 1)


def _steps(frames: object, frames_per_step: int) -> int:
    count = whole(frames)
    if count is None or count < frames_per_step:
        raise ValueError(f"frames is {frames!r}: it must be a whole number of at least {frames_per_step}, one step")
    return count // frames_per_step
