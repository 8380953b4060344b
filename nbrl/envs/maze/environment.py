"""The mazes behind the environment interface: settings, the C functions, and pictures for people."""

import ctypes
import dataclasses
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numba import carray, types

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, Env, NativeEnvironment
from nbrl.envs.maze.making import MILLION
from nbrl.envs.maze.pictures import both, paint, screen_bytes
from nbrl.envs.maze.textures import TEXELS as TEXEL_COUNT
from nbrl.envs.maze.textures import texels
from nbrl.envs.maze.world import (
    ACTIONS,
    APPLES,
    DISTANCE,
    EVALUATION,
    FIXED,
    HEADER,
    HEIGHT,
    OPENED,
    PORTAL,
    PORTAL_TILE,
    REPEAT,
    SAVED,
    SIZE,
    SMALLEST,
    TEXELS,
    WHOLE,
    WIDTH,
    advance,
    begin,
    has_begun,
    is_over,
    is_sound,
    places,
    tiles_away,
    world_at,
)
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.native import copy, pointer_to
from nbrl.registration import MAZES

MOST_CELLS, MOST_PIXELS = 50, 1024  # of a side
PLAYED = 210  # pixels of a side of each half of the picture that `nbrl play` draws

bytes_at, words_at, rewards_at = pointer_to(types.uint8), pointer_to(types.int64), pointer_to(types.float32)
texels_at, actions_at = pointer_to(types.uint32), pointer_to(types.int32)


@dataclass(frozen=True)
class Settings:
    """What can be set of a maze. The defaults are nbrl/Maze-v0.

    Parameters
    ----------
    size : int
        Cells of a side.
    smallest : int or None
        Cells of a side at least: each episode draws how many between this and `size`. None: always `size`.
    apples : int
    portal : bool
    openness : float
        The part of dead ends that are opened.
    height, width : int
        Of the picture, in pixels.
    fixed : bool
        The same maze, apples and portal in every episode; only where the agent begins is drawn.
    distance : int or None
        With `fixed`: tiles of a shortest way from the cell where every episode begins to the portal, where it ends, or
        after 2,100 frames; only the direction that the agent looks in first is drawn. None: it begins anywhere, and the
        portal brings it elsewhere.
    evaluation : bool
        Mazes that never come up without it. It means nothing with `fixed`.

    Raises
    ------
    ValueError
        A setting that cannot be, in one sentence.
    """

    size: int = 11
    smallest: int | None = None
    apples: int = 10
    portal: bool = True
    openness: float = 0.3
    height: int = 84
    width: int = 84
    fixed: bool = False
    distance: int | None = None
    evaluation: bool = False

    def __post_init__(self) -> None:
        most = {"size": (3, MOST_CELLS), "height": (8, MOST_PIXELS), "width": (8, MOST_PIXELS)}
        for name, (least, greatest) in most.items():
            self._check(name, numbers.Integral, least, greatest)
        if self.smallest is not None:
            self._check("smallest", numbers.Integral, 3, self.size)
        # A cell for the portal and one for the agent.
        self._check("apples", numbers.Integral, 0, self.least_size**2 - 2)
        self._check("openness", numbers.Real, 0, 1)
        for name in ("portal", "fixed", "evaluation"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be true or false")
        if self.distance is not None:
            self._check_distance()

    def _check_distance(self) -> None:
        self._check("distance", numbers.Integral, 1, MOST_CELLS**2)
        if not (self.fixed and self.portal):
            raise ValueError(f"distance is {self.distance}: it needs fixed=true, and a portal")
        words = dataclasses.replace(self, distance=None).words()
        state = np.zeros(self.saved, np.uint8)
        state[: words.nbytes] = words.view(np.uint8)  # first of all: they say where the world's parts lie
        world = world_at(state)
        begin(world, np.uint64(0))
        side = 2 * self.size + 1
        known = sorted(set(tiles_away(world).reshape(side, side)[1::2, 1::2].reshape(-1).tolist()) - {0, -1})
        if self.distance not in known:
            raise ValueError(f"distance is {self.distance}: in this maze it can be {', '.join(map(str, known))}")

    def _check(self, name: str, kind: type, least: int, greatest: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= greatest:  # type: ignore
            whole = "a whole number" if kind is numbers.Integral else "a number"
            raise ValueError(f"{name} is {value!r}: it must be {whole} from {least} to {greatest}")

    @property
    def least_size(self) -> int:
        """Cells of a side of the smallest maze."""
        return self.size if self.smallest is None else self.smallest

    @property
    def saved(self) -> int:
        """Bytes of the world."""
        return places(self.size, self.apples)[-1]

    @property
    def whole(self) -> int:
        """Bytes of the world and of what drawing takes."""
        return self.saved + screen_bytes(self.height, self.width, self.apples)

    def words(self) -> np.ndarray:
        """What a state begins with, int64 (HEADER,)."""
        words = np.zeros(HEADER, np.int64)
        words[[SIZE, SMALLEST]] = self.size, self.least_size
        words[[APPLES, PORTAL]] = self.apples, self.portal
        words[[FIXED, EVALUATION]] = self.fixed, self.evaluation
        words[OPENED] = round(self.openness * MILLION)
        words[DISTANCE] = self.distance or 0
        words[[HEIGHT, WIDTH]] = self.height, self.width
        words[[SAVED, WHOLE, TEXELS]] = self.saved, self.whole, texels().ctypes.data
        return words


# The C functions


@jit
def _state(address):
    """The bytes of the world, and those behind it."""
    settings = carray(words_at(address), (HEADER,))
    whole = carray(bytes_at(address), (settings[WHOLE],))
    return whole[: settings[SAVED]], whole[settings[SAVED] :]


@jit
def _observe(state, memory, settings, observation):
    painted = carray(texels_at(settings[TEXELS]), (TEXEL_COUNT,))
    paint(state, memory, painted, carray(bytes_at(observation), (settings[HEIGHT], settings[WIDTH], 3)))


@cfunction("int32(int64, uint64, int64)")
def maze_reset(address, seed, observation):
    state, memory = _state(address)
    world = world_at(state)
    if not begin(world, seed):
        return np.int32(0)
    _observe(state, memory, world.settings, observation)
    return np.int32(STEPPED)


@cfunction("int32(int64, int64, int64, int64)")
def maze_step(address, action, observation, reward):
    """It fails with an action that there is not, before a reset, and after an end."""
    state, memory = _state(address)
    world = world_at(state)
    chosen = carray(actions_at(action), (1,))[0]
    if not 0 <= chosen < ACTIONS or not has_begun(world) or is_over(world):
        return np.int32(0)
    carray(rewards_at(reward), (1,))[0] = advance(world, chosen)
    _observe(state, memory, world.settings, observation)
    if not is_over(world):
        return np.int32(STEPPED)
    found = world.settings[DISTANCE] and world.counters[PORTAL_TILE] < 0
    return np.int32(STEPPED | (TERMINATED if found else TRUNCATED))


@cfunction("int32(int64, int64)")
def maze_save(address, buffer):
    state, _ = _state(address)
    saved = carray(bytes_at(buffer), (state.size,))
    copy(saved, state)
    world_at(saved).settings[TEXELS] = 0
    return np.int32(STEPPED)


@cfunction("int32(int64, int64)")
def maze_load(address, buffer):
    """It fails with a state of other settings, and with one that cannot be."""
    state, _ = _state(address)
    saved = carray(bytes_at(buffer), (state.size,))
    settings, others = carray(words_at(address), (HEADER,)), carray(words_at(buffer), (HEADER,))
    for word in range(TEXELS):
        if settings[word] != others[word]:
            return np.int32(0)
    if not is_sound(world_at(saved)):
        return np.int32(0)
    copy(state[8 * HEADER :], saved[8 * HEADER :])
    return np.int32(STEPPED)


class MazeEnvironment(NativeEnvironment):
    """Explore a random maze, seen in 3D: see `Settings`.

    Actions: turn left, turn right, forward, back, strafe left, strafe right, each for 4 frames of 60 a second. An apple
    gives 1; the portal gives 10, puts the agent at a random place and brings the apples back. After 3,600 frames the
    episode is truncated. A portal at a `distance` ends it instead.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__(
            maze_reset,
            maze_step,
            state_size=settings.whole,
            begins_with=settings.words(),
            observation_space=spaces.Box(0, 255, (settings.height, settings.width, 3), np.uint8),
            action_space=spaces.Discrete(ACTIONS),
            save=maze_save,
            load=maze_load,
            saved_size=settings.saved,
            possible=self._possible,
            name=_name(settings),
            frames_per_step=REPEAT,
            state_picture=lambda state: both(state, PLAYED, PLAYED),
        )

    def _possible(self, state: np.ndarray) -> bool:
        state = state.copy()
        return bool((state[: 8 * TEXELS] == self.settings.words()[:TEXELS].view(np.uint8)).all()) and bool(
            is_sound(world_at(state))
        )

    def for_evaluation(self) -> "MazeEnvironment":
        return MazeEnvironment(dataclasses.replace(self.settings, evaluation=True))


def state_of(instance: Env) -> np.ndarray:
    """The world of a running maze as it changes, uint8 (bytes,), for `nbrl.envs.maze.pictures`."""
    memory = (ctypes.c_uint8 * instance.saved_size).from_address(instance.state_address)
    memory.owner = instance  # type: ignore[attr-defined]  # it lives as long as the array
    return np.ctypeslib.as_array(memory)


def _name(settings: Settings) -> str:
    """The id with these settings, or what differs from nbrl/Maze-v0."""
    own = {name: value for name, value in dataclasses.asdict(settings).items() if value != getattr(Settings, name)}
    own.pop("evaluation", None)
    named = ", ".join(f"{name}={value}" for name, value in own.items())
    return next((name for name, others in MAZES.items() if others == own), f"nbrl/Maze-v0({named})")


def maze(**settings: Any) -> MazeEnvironment:
    """A maze to train on, with any of `Settings`.

    >>> maze(size=5, apples=3).name
    'nbrl/Maze-v0(size=5, apples=3)'
    """
    return MazeEnvironment(Settings(**settings))
