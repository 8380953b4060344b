"""Any gymnasium environment, behind the environment interface."""

import functools
import inspect
import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error

from nbrl.envs.interface import (
    STEPPED,
    TERMINATED,
    TRUNCATED,
    Env,
    EnvSpec,
    PythonEnvironment,
    Views,
    python_instance,
    read_number,
    suggestion,
)

logger = logging.getLogger(__name__)

SEEDS = 2**31
PACKAGE = Path(__file__).parent.parent

# Environments that an actor has now, by id, since a function may give out one and the same again.
_in_use: set[int] = set()
_taking = threading.Lock()


class GymEnvironment(EnvSpec):
    """A gymnasium environment by its id, or by a function that returns a new one at each call.

    One is built at once, to read its spaces, and closed again. Those that are trained on are built, stepped and closed
    in the thread that uses them.

    Parameters
    ----------
    environment : str or callable
    probe : gymnasium.Env, optional
        What the function returned at a first call, to read its spaces from; it is closed.
    arguments : mapping, optional
        Keywords for `gymnasium.make`, where it is an id.
    pictures : bool, optional
        Whether an environment known by its id is made to be drawn, where it can be.
    observation_layout : str, optional
        As in `nbrl.spaces.Observations`.
    check : bool, optional
        Whether the one that is built at once is reset and stepped, to see that what it gives can be used.

    Raises
    ------
    ValueError
        With one sentence, when it is unknown, needs an absent package, or has spaces of another kind.
    """

    converts = True

    def __init__(
        self,
        environment: str | Callable[[], gymnasium.Env],
        probe: gymnasium.Env | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        pictures: bool = False,
        observation_layout: str = "auto",
        check: bool = False,
    ) -> None:
        given = arguments or {}
        self._build: Callable[..., Any] = (
            functools.partial(_make, environment, **given) if isinstance(environment, str) else environment
        )
        probe = self._build() if probe is None else probe
        if not isinstance(probe, gymnasium.Env):
            raise ValueError(f"{environment!r} must return a gymnasium environment, not {type(probe).__name__}")
        try:
            name = environment if isinstance(environment, str) else called(environment)
            for space in ("observation_space", "action_space"):
                if getattr(probe, space, None) is None:
                    raise ValueError(f"{name} has no {space}: it must be a space of gymnasium")
            _check_reset(probe)
            super().__init__(
                name,
                probe.observation_space,
                probe.action_space,
                action_mask=not isinstance(probe.action_space, gymnasium.spaces.Box),
                observation_layout=observation_layout,
            )
            if pictures and isinstance(environment, str) and "rgb_array" in probe.metadata.get("render_modes", ()):
                self._build = functools.partial(_make, name, **{**given, "render_mode": "rgb_array"})
            if check:
                self._check(probe)
        finally:
            try:
                probe.close()
            except Exception as problem:
                logger.warning("an environment could not be closed: %s: %s", type(problem).__name__, problem)

    def make(self) -> Env:
        return python_instance(_Adapter(self, self._build()))

    def _check(self, probe: gymnasium.Env) -> None:
        """Raise ``ValueError`` where the first two calls give what cannot be used."""
        adapter = _Adapter(self, probe)
        try:
            seen, reward = np.zeros(self.observations.bytes, np.uint8), np.zeros(1, np.float32)
            adapter.reset(0, seen.ctypes.data)
            action = self.actions.first(adapter.mask)
            adapter.step(action.ctypes.data, seen.ctypes.data, reward.ctypes.data)
        except Exception as problem:
            frames = traceback.extract_tb(problem.__traceback__)
            if isinstance(problem, ValueError) and PACKAGE in Path(frames[-1].filename).parents:
                raise  # what it gave is refused here
            # Its own errors are for training to raise, which says where they came up.
            logger.debug("%s failed when it was tried", self.name, exc_info=True)
        finally:
            adapter.release()


def _check_reset(environment: gymnasium.Env) -> None:
    """Raise ``ValueError`` for a `reset` that takes no seed: gymnasium's before 0.26."""
    try:
        parameters = inspect.signature(environment.unwrapped.reset).parameters
    except (TypeError, ValueError):  # not written in Python
        return
    kinds = [parameter.kind for parameter in parameters.values()]
    if "seed" not in parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(
            f"{type(environment.unwrapped).__name__}.reset takes no seed: it must be reset(self, *, seed=None, "
            "options=None)"
        )


def _make(name: str, /, **options: Any) -> gymnasium.Env:
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except (error.DependencyNotInstalled, ImportError) as problem:
        raise _lacking(name, problem) from None
    except TypeError as problem:
        if not options:
            raise
        raise ValueError(f"{name} cannot be made with {options}: {_line(problem)}") from None
    except error.UnregisteredEnv:
        raise ValueError(f'unknown environment "{name}"{_hint(name)}') from None
    except error.Error as problem:
        raise ValueError(f"{name} cannot be made: {_line(problem)}") from None


def _lacking(name: str, problem: BaseException) -> ValueError:
    newest = _newest(name)
    if newest != name:
        return ValueError(f"{name} cannot be made any more: {newest} is its newest version ({_line(problem)})")
    extra = ' (for MuJoCo: pip install "nbrl[mujoco]")' if "mujoco" in str(problem).lower() else ""
    return ValueError(f"{name} needs a package that is not installed: {_line(problem)}{extra}")


def _newest(name: str) -> str:
    """The id of the newest version of an environment that gymnasium has."""
    specs = [spec for spec in gymnasium.registry.values() if spec.id.rpartition("-v")[0] == name.rpartition("-v")[0]]
    return max(specs, key=lambda spec: spec.version or 0).id if specs else name


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())


def _hint(name: str) -> str:
    from nbrl.envs import names

    known = [name for group in names().values() for name in group]
    others = "; `nbrl envs` lists the known ones, and package:id imports a package of one's own first"
    return suggestion(name, known) or others


class _Adapter(PythonEnvironment):
    """One gymnasium environment behind the callbacks."""

    def __init__(self, spec: GymEnvironment, environment: gymnasium.Env) -> None:
        observations, actions = spec.observations, spec.actions
        self._spec, self._environment = spec, environment
        self._class = type(environment.unwrapped).__name__
        with _taking:
            if id(environment.unwrapped) in _in_use:
                raise ValueError(
                    f"{spec.name} returned an environment that is in use already: each call must make a new one, or "
                    "one actor alone may have it (actors=1, threads=1)"
                )
            _in_use.add(id(environment.unwrapped))
        self._write, self._decode = observations.write, actions.decode
        self._observations = Views(observations.shape, observations.dtype)
        self._rewards = Views((1,), np.float32)
        self._actions = Views((actions.parts,), np.int32 if actions.discrete else np.float32)
        self._gives_masks: bool | None = None  # as its first reset tells

    def _observe(self, call: str, value: Any, observation: int) -> None:
        try:
            self._write(value, self._observations[observation])
        except ValueError as problem:
            raise ValueError(f"{self._class}.{call}: {problem}") from None

    def _read_mask(self, call: str, info: dict[str, Any], ended: bool = False) -> None:
        if self._gives_masks is None:
            self._gives_masks = "action_mask" in info
        if self._gives_masks and "action_mask" not in info:
            raise ValueError(f"{self._class}.{call} gave no action_mask in its info, as its first reset did")
        if self._gives_masks:
            self.mask = self._spec.actions.mask(info["action_mask"], ended=ended)

    def reset(self, seed: int, observation: int) -> None:
        given = self._environment.reset(seed=seed % SEEDS)
        check_values(f"{self._class}.reset", given, 2, "an observation and a dict")
        self._observe("reset", given[0], observation)
        self._read_mask("reset", given[1])

    def step(self, action: int, observation: int, reward: int) -> int:
        given = self._environment.step(self._decode(self._actions[action]))
        wanted = "five values, an observation, a reward, terminated, truncated and a dict"
        check_values(f"{self._class}.step", given, 5, wanted)
        value, got, terminated, truncated, info = given
        self._rewards[reward][0] = read_number(f"the reward that {self._class}.step gave", got)
        status = STEPPED
        for bit, name, flag in ((TERMINATED, "terminated", terminated), (TRUNCATED, "truncated", truncated)):
            status |= bit if read_number(f"{name}, as {self._class}.step gave it,", flag, "true or false") else 0
        self.keep_info(info)
        self._observe("step", value, observation)
        self._read_mask("step", info, status != STEPPED)
        return status

    def picture(self, observation: np.ndarray) -> np.ndarray | None:
        if self._environment.render_mode != "rgb_array":
            return self._spec.observations.picture(observation)
        try:
            return np.asarray(self._environment.render())
        except (error.DependencyNotInstalled, ImportError) as problem:
            raise _lacking(f"drawing {self._spec.name}", problem) from None

    def release(self) -> None:
        """Let others have the environment."""
        _in_use.discard(id(self._environment.unwrapped))

    def close(self) -> None:
        self.release()
        self._environment.close()


def called(function: Callable[[], Any]) -> str:
    """The name of a function that makes environments."""
    return getattr(getattr(function, "func", function), "__name__", "environment")


def check_values(call: str, given: Any, count: int, wanted: str) -> None:
    """Raise ``ValueError`` unless a call returned so many values, the last of them a dict."""
    if not isinstance(given, tuple) or len(given) != count or not isinstance(given[-1], dict):
        found = f"{len(given)} values" if isinstance(given, tuple) else f"one {type(given).__name__}"
        raise ValueError(f"{call} returned {found}: it must return {wanted}")
