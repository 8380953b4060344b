"""Any gymnasium environment, with its observations flattened to what the networks read."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error, spaces

from nbrl.envs.interface import (
    STEPPED,
    TERMINATED,
    TRUNCATED,
    Env,
    EnvSpec,
    PythonEnvironment,
    Views,
    python_instance,
    suggestion,
)

Write = Callable[[Any, np.ndarray], None]
SEEDS = 2**31


def encoder(space: spaces.Space) -> tuple[tuple[int, ...], Any, Write]:
    """How to write a space's values into an array.

    A Box keeps its shape: uint8 images of 2 or 3 dimensions as they are, all else as float32. Discrete and
    MultiDiscrete become one-hot float32, Dict and Tuple the float32 vector of their flattened parts, in gymnasium's
    order.

    Parameters
    ----------
    space : gymnasium.spaces.Space

    Returns
    -------
    shape : tuple of int
    dtype
        numpy.uint8 or numpy.float32.
    write : callable
        ``write(value, array)``; it raises ValueError for a value that is not of the space.

    Raises
    ------
    ValueError
        For any other kind of space.
    """
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            return space.shape, np.uint8, _write_box(space)
        return space.shape or (1,), np.float32, _write_box(space)
    size, write = _flat_encoder(space)
    return (size,), np.float32, write


def _flat_encoder(space: spaces.Space) -> tuple[int, Write]:
    if isinstance(space, spaces.Box):
        write_box, shape = _write_box(space), space.shape
        return int(np.prod(shape)), lambda value, vector: write_box(value, vector.reshape(shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n), _write_one_hot(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum()), _write_one_hot(space.nvec.ravel(), space.start.ravel())
    if isinstance(space, spaces.Dict):
        return _parts(list(space.spaces.items()))
    if isinstance(space, spaces.Tuple):
        return _parts(list(enumerate(space.spaces)))
    raise ValueError(
        f"the observation space {type(space).__name__} cannot be used: it must be Box, Discrete, MultiDiscrete, "
        "or a Dict or Tuple of these"
    )


def _write_box(space: spaces.Box) -> Write:
    shape = space.shape

    def write(value: Any, array: np.ndarray) -> None:
        value = np.asarray(value)
        if value.shape != shape:
            raise ValueError(f"an observation has shape {value.shape}, but its space says {shape}")
        np.copyto(array, value, casting="same_kind")

    return write


def _write_one_hot(counts: np.ndarray, starts: np.ndarray) -> Write:
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def write(value: Any, vector: np.ndarray) -> None:
        indices = np.asarray(value).ravel()
        if indices.shape != counts.shape or np.any(indices < starts) or np.any(indices >= starts + counts):
            raise ValueError(f"the observation {value} is outside its discrete space")
        vector[...] = 0.0
        vector[offsets + indices - starts] = 1.0

    return write


def _parts(named: list[tuple[Any, spaces.Space]]) -> tuple[int, Write]:
    parts = []
    size = 0
    for key, space in named:
        part_size, write_part = _flat_encoder(space)
        parts.append((key, slice(size, size + part_size), write_part))
        size += part_size

    def write(value: Any, vector: np.ndarray) -> None:
        for key, where, write_part in parts:
            write_part(value[key], vector[where])

    return size, write


def decoder(space: spaces.Space) -> Callable[[np.ndarray], Any]:
    """How an action in the interface's form, int32 or float32 of the space's shape, becomes the space's own.

    A Discrete one becomes an int, several an array; one of a Box is clipped to its bounds.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda action: action.item() + start
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        starts, kind = getattr(space, "start", 0), space.dtype
        return lambda action: (action + starts).astype(kind)
    low, high, dtype = space.low, space.high, space.dtype  # type: ignore[attr-defined]
    return lambda action: np.array(np.clip(action, low, high), dtype)


def mask_encoder(space: spaces.Space) -> Callable[..., np.ndarray]:
    """How a mask for `sample` of an action space becomes a row of the interface, uint8, one for each number.

    It raises ValueError for what is no such mask, or lets a part of the action have no number while an episode goes on.
    """
    if isinstance(space, spaces.Discrete):
        counts = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete):
        counts = space.nvec.ravel().tolist()
    else:
        counts = [2] * int(np.prod(space.shape or ()))

    def encode(mask: Any, ended: bool = False) -> np.ndarray:
        if isinstance(space, spaces.MultiBinary):  # 0 and 1 are what a part must be, 2 leaves it free
            given = np.asarray(mask).ravel()
            rows = [np.array([part != 1, part != 0]) for part in given]
        else:
            rows = [np.asarray(mask)] if isinstance(space, spaces.Discrete) else [np.asarray(part) for part in mask]
        if [row.size for row in rows] != counts or not all(np.isin(row, (0, 1)).all() for row in rows):
            raise ValueError(f"the action mask {mask!r} is none for {space}: see its method sample")
        if not ended and not all(row.any() for row in rows):
            raise ValueError(f"the action mask {mask!r} allows no action: at least one must be legal")
        return np.concatenate(rows).astype(np.uint8)

    return encode


class GymEnvironment(EnvSpec):
    """A gymnasium environment by its id, or by a function that returns a new one at each call.

    One is built at once, to read its spaces, and closed again. Actions are Discrete or a Box of floats, clipped to its
    bounds.

    Parameters
    ----------
    environment : str or callable
    pictures : bool, optional
        Whether an environment known by its id is made to be drawn, where it can be.

    Raises
    ------
    ValueError
        With one sentence, when it is unknown, needs an absent package, or has spaces of another kind.
    """

    def __init__(self, environment: str | Callable[[], gymnasium.Env], *, pictures: bool = False) -> None:
        self._build = (lambda: _make(environment)) if isinstance(environment, str) else environment
        probe = self._build()
        if not isinstance(probe, gymnasium.Env):
            raise ValueError(f"{environment!r} must return a gymnasium environment, not {type(probe).__name__}")
        try:
            name = environment if isinstance(environment, str) else getattr(environment, "__name__", "environment")
            self._action_space = probe.action_space
            try:
                shape, dtype, self._write = encoder(probe.observation_space)
            except ValueError as problem:
                raise ValueError(f"{name}: {problem}") from None
            discrete = not isinstance(probe.action_space, spaces.Box)
            super().__init__(name, shape, dtype, probe.action_space, action_mask=discrete)
            if pictures and isinstance(environment, str) and "rgb_array" in probe.metadata.get("render_modes", ()):
                self._build = lambda: _make(environment, render_mode="rgb_array")
        finally:
            probe.close()

    def make(self) -> Env:
        return python_instance(_Adapter(self, self._build(), self._action_space, self._write))


def _make(name: str, **options: Any) -> gymnasium.Env:
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except (error.DependencyNotInstalled, ImportError) as problem:
        raise _lacking(name, problem) from None
    except error.UnregisteredEnv:
        raise ValueError(f'unknown environment "{name}"{_hint(name)}') from None
    except error.Error as problem:
        raise ValueError(f"{name} cannot be made: {_line(problem)}") from None


def _lacking(name: str, problem: BaseException) -> ValueError:
    extra = ' (for MuJoCo: pip install "nbrl[mujoco]")' if "mujoco" in str(problem).lower() else ""
    return ValueError(f"{name} needs a package that is not installed: {_line(problem)}{extra}")


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())


def _hint(name: str) -> str:
    from nbrl.envs import names

    known = [name for group in names().values() for name in group]
    atari = f"ALE/{name.partition('-v')[0]}-v5"
    if atari in known:
        return f"; did you mean {atari}?"
    others = "; `nbrl envs` lists the known ones, and package:id imports a package of one's own first"
    return suggestion(name, known) or others


class _Adapter(PythonEnvironment):
    """One gymnasium environment behind the callbacks."""

    def __init__(
        self, description: GymEnvironment, environment: gymnasium.Env, action_space: spaces.Space, write: Write
    ) -> None:
        self._name = description.name
        self._environment = environment
        self._write = write
        self._observations = Views(description.observation_shape, description.observation_dtype)
        self._rewards = Views((1,), np.float32)
        discrete = bool(description.action_counts)
        self._actions = Views(action_space.shape or (), np.int32 if discrete else np.float32)
        self._action = decoder(action_space)
        self._encode_mask = mask_encoder(action_space)
        self._gives_masks: bool | None = None  # as its first reset tells

    def _read_mask(self, call: str, info: dict[str, Any], ended: bool = False) -> None:
        if self._gives_masks is None:
            self._gives_masks = "action_mask" in info
        if self._gives_masks and "action_mask" not in info:
            raise ValueError(f"{self._name}: {call} gave no action_mask in its info, as its first reset did")
        if self._gives_masks:
            self.mask = self._encode_mask(info["action_mask"], ended)

    def reset(self, seed: int, observation: int) -> None:
        value, info = self._environment.reset(seed=seed % SEEDS)
        self._write(value, self._observations[observation])
        self._read_mask("reset", info)

    def step(self, action: int, observation: int, reward: int) -> int:
        chosen = self._action(self._actions[action])
        value, self._rewards[reward][0], terminated, truncated, info = self._environment.step(chosen)
        self._write(value, self._observations[observation])
        self._read_mask("step", info, bool(terminated or truncated))
        return STEPPED | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)

    def picture(self, observation: np.ndarray) -> np.ndarray | None:
        if self._environment.render_mode != "rgb_array":
            return super().picture(observation)
        try:
            return np.asarray(self._environment.render())
        except (error.DependencyNotInstalled, ImportError) as problem:
            raise _lacking(f"drawing {self._name}", problem) from None

    def close(self) -> None:
        self._environment.close()
