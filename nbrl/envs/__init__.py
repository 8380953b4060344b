"""Everything that can be stepped, behind one interface."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from nbrl.envs import atari, mujoco
from nbrl.envs.interface import Env, EnvSpec, EnvStepper, NativeEnvironment, suggestion
from nbrl.registration import MUJOCO, NATIVE, native_name, register

__all__ = [
    "Env",
    "EnvSpec",
    "EnvStepper",
    "NativeEnvironment",
    "check_named_in_file",
    "description",
    "make",
    "names",
]

register()


def names() -> dict[str, list[str]]:
    """The known environments' ids under "native", "atari" (empty without ale-py) and "gymnasium"."""
    try:
        games = atari.names()
    except ValueError:
        games = []
    native = sorted(name for name in NATIVE if native_name(name) == name and (name not in MUJOCO or mujoco.works()))
    others = [
        name
        for name, spec in gymnasium.registry.items()
        if native_name(name) not in native and not str(spec.entry_point).startswith("ale_py")  # its games' old ids too
    ]
    return {"native": native, "atari": games, "gymnasium": sorted(others)}


def description(environment: str | Callable[[], gymnasium.Env] | EnvSpec, name: str) -> str:
    """How an environment is named in files: its id, or in angle brackets what no id brings back."""
    if isinstance(environment, str):
        return environment
    has_id = name in NATIVE or name in gymnasium.registry
    return name if isinstance(environment, EnvSpec) and has_id else f"<{name}>"


def check_named_in_file(name: str) -> None:
    """Refuse what a file names as its environment, if that would import code or cannot be brought back.

    Raises
    ------
    ValueError
        With one sentence that says how to give the environment again.
    """
    if name.startswith("<"):
        raise ValueError(
            f"the environment is the Python object {name}, which settings and files cannot hold: give it besides, as "
            "in Trainer(config, environment), Trainer.from_run(run, environment) and evaluate(agent, environment), or "
            "by --env module:name"
        )
    if ":" in name:
        raise ValueError(
            f'the file names the environment "{name}", which would import the module {name.partition(":")[0]}: '
            f"if you trust it, give it again with --env {name}, or from Python as the environment"
        )


def _from_module(environment: str) -> Any:
    """What ``module:name`` stands for: a class or function of the module, or else an id that it registers."""
    module, _, name = environment.partition(":")
    try:
        imported = importlib.import_module(module)
    except ImportError as problem:
        here = f" (and there is no {module}.py in this folder)" if getattr(problem, "name", "") == module else ""
        raise ValueError(f"{environment} needs a package that is not installed: {problem}{here}") from None
    except SyntaxError as problem:
        where = f"{problem.filename}, line {problem.lineno}"
        raise ValueError(f"{environment} is in a module that is no Python: {problem.msg} ({where})") from None
    except TypeError:  # it begins with a dot
        raise ValueError(f"{module} is the name of no module: give module:name, such as corridor:Corridor") from None
    found = getattr(imported, name, None)
    if callable(found) or isinstance(found, EnvSpec):
        return found
    if name.isidentifier() and environment not in gymnasium.registry and name not in gymnasium.registry:
        made = [word for word, value in vars(imported).items() if callable(value) and not word.startswith("_")]
        raise ValueError(f"the module {module} has no class or function {name}{suggestion(name, made)}")
    return environment


def _takes(environment: Any, keyword: str) -> bool:
    """Whether a function or class, perhaps of a module, has a parameter of this name."""
    if isinstance(environment, str) and ":" in environment and not environment.startswith("pettingzoo:"):
        environment = _from_module(environment)
    try:
        return callable(environment) and keyword in inspect.signature(environment).parameters
    except ValueError:  # its parameters cannot be told
        return False


def make(
    environment: Any,
    *,
    arguments: Mapping[str, Any] | None = None,
    sticky_actions: float = 0.0,
    cut_on_life_loss: bool = False,
    seed_every_reset: bool = False,
    pictures: bool = False,
    observation_layout: str = "auto",
    check: bool = False,
) -> EnvSpec:
    """Describe an environment, ready to make running ones.

    Parameters
    ----------
    environment : str, callable, gymnasium.vector.VectorEnv or EnvSpec
        An id (see `nbrl.registration`: those of `NATIVE` are compiled here, MuJoCo's tasks if `mujoco.works`; "ALE/..."
        is Atari, "pettingzoo:..." a module's parallel environment, all others gymnasium's), a function that returns a
        gymnasium environment, a vector environment or a parallel one of PettingZoo, a vector environment, or a
        description, which is returned as it is.
    arguments : mapping, optional
        Keywords that it is made with; of any with several agents also `messages`, as in `nbrl.envs.agents.messages`.
    sticky_actions, cut_on_life_loss, seed_every_reset
        As in `nbrl.envs.atari.AtariEnvironment`, for "ALE/..." ids; the last two mean nothing elsewhere.
    pictures
        Whether it will be drawn: as in `nbrl.envs.gym.GymEnvironment`, which then runs MuJoCo's tasks too, since it can
        draw them; it means nothing elsewhere.
    observation_layout, check
        As in `nbrl.envs.gym.GymEnvironment`.

    Returns
    -------
    EnvSpec

    Raises
    ------
    ValueError
        With one sentence, when there is no such environment, or a package that it needs is absent, or its spaces are of
        an unsupported kind.
    """
    arguments = dict(arguments or {})
    if arguments and (isinstance(environment, EnvSpec) or not (isinstance(environment, str) or callable(environment))):
        raise ValueError(f"environment_arguments are {arguments}, but {environment!r} is made already: leave them out")
    if isinstance(environment, EnvSpec):
        return environment.laid_out(observation_layout)
    if "messages" in arguments and not _takes(environment, "messages"):
        from nbrl.envs.agents.messages import TalkingEnvironment

        symbols = arguments.pop("messages")
        silent = make(environment, arguments=arguments, pictures=pictures, check=check)
        return TalkingEnvironment(silent, symbols).laid_out(observation_layout)
    if isinstance(environment, str) and (game := atari.today_s_name(environment)) and game != environment:
        theirs = gymnasium.registry.get(environment)
        if theirs is None or str(theirs.entry_point).startswith("ale_py"):
            memory = " with --env-arg obs_type=ram" if "-ram" in environment.lower() else ""
            raise ValueError(f'unknown environment "{environment}"; did you mean {game}{memory}?')
    if isinstance(environment, str) and atari.is_game(environment):
        return atari.AtariEnvironment(
            environment,
            sticky_actions=sticky_actions,
            cut_on_life_loss=cut_on_life_loss,
            seed_every_reset=seed_every_reset,
            **atari.checked_arguments(environment, arguments),
        ).laid_out(observation_layout)
    if sticky_actions:
        raise ValueError(f"sticky_actions is for Atari games (ids with ALE/), and {environment} is none: leave it at 0")
    name = native_name(environment) if isinstance(environment, str) else None
    if name in MUJOCO and (pictures or not mujoco.works()):
        environment, name = str(name), None
    if name is not None and arguments and environment == name and NATIVE[name].mirrors:
        name = None  # gymnasium's takes them, the native twin mirrors the one without
    if name is not None:
        module, function = NATIVE[name].function.split(":")
        maker = getattr(importlib.import_module(f"nbrl.envs.{module}"), function)
        try:
            inspect.signature(maker).bind(**NATIVE[name].settings | arguments)
        except TypeError as problem:
            raise ValueError(f"environment_arguments are {arguments}, which {name} does not take: {problem}") from None
        return maker(**NATIVE[name].settings | arguments).laid_out(observation_layout)
    if isinstance(environment, str) and environment.startswith("pettingzoo:"):
        from nbrl.envs.pettingzoo import PettingZooEnvironment, build

        made = functools.partial(build, environment, arguments)
        return PettingZooEnvironment(environment, made, observation_layout=observation_layout)
    if isinstance(environment, str) and ":" in environment:
        environment = _from_module(environment)
    if isinstance(environment, EnvSpec):
        return environment.laid_out(observation_layout)
    from nbrl.envs.gym import GymEnvironment, called
    from nbrl.envs.vector import VectorEnvironment

    if isinstance(environment, str):
        return GymEnvironment(
            environment, arguments=arguments, pictures=pictures, observation_layout=observation_layout, check=check
        )
    if isinstance(environment, gymnasium.vector.VectorEnv):  # before what can be called: some are both
        return VectorEnvironment(environment, observation_layout=observation_layout)
    if callable(environment):
        try:
            inspect.signature(environment).bind(**arguments)
        except TypeError as problem:
            raise ValueError(
                f"{called(environment)} cannot be made with environment_arguments {arguments or 'none'}: {problem}"
            ) from None
        except ValueError:  # its parameters cannot be told
            pass
        build = functools.partial(environment, **arguments) if arguments else environment
        probe = build()
        if isinstance(probe, gymnasium.vector.VectorEnv):  # EnvPool's are gymnasium.Env as well
            return VectorEnvironment(build, probe, observation_layout=observation_layout)
        if hasattr(probe, "possible_agents") and not isinstance(probe, gymnasium.Env):
            from nbrl.envs.pettingzoo import PettingZooEnvironment

            return PettingZooEnvironment(called(environment), build, probe, observation_layout=observation_layout)
        return GymEnvironment(build, probe, observation_layout=observation_layout, check=check)
    raise ValueError(
        "an environment is an id, a function that returns a gymnasium environment, a vector environment, or a "
        f"NativeEnvironment, not {environment!r}"
    )
