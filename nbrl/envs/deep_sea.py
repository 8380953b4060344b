"""A treasure that only right moves all the way down reach, in numba: DeepSea of bsuite (Osband et al., 2020).

The sea has N x N cells. An episode begins at the top left and goes down a row each step, N steps in all; which of the
two actions goes right differs from cell to cell, always the same. Going right costs 0.01 / N, and from the last cell of
the last row it finds the treasure, 1. So the best return is 0.99, and a policy that explores by chance finds it in
one of 2^N episodes. Numbers, map and noise are as in bsuite's deep_sea.py.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, NativeEnvironment, name_with
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, normal, seed_row, uniform
from nbrl.settings import Setting

COST = 0.01  # of going right all the way

# State, int64: the sea, then the episode, then of each cell the action that goes right there.
SIZE, STOCHASTIC, AT_ROW, AT_COLUMN, BAD, RANDOM = range(6)
CELLS = RANDOM + ROW

LENGTH = Setting(10, "", least=1, most=1000)
MAPPING = Setting(42, "", least=0, most=2**32 - 1)

PIXELS = 16  # of a cell's side in the picture
WATER, DEEP, DIVER, TREASURE = (52, 96, 140), (30, 52, 84), (245, 190, 80), (96, 190, 110)


@jit
def _state(pointer):
    size = carray(pointer, 1)[0]
    return carray(pointer, CELLS + size * size)


@jit
def _look(state, pointer):
    """A 1 where the diver is; nothing after the last step."""
    size = state[SIZE]
    observation = carray(pointer, size * size)
    observation[:] = 0
    if state[AT_ROW] < size:
        observation[state[AT_ROW] * size + state[AT_COLUMN]] = 1


@cfunction("int32(CPointer(int64), uint64, CPointer(float32))")
def deep_sea_reset(state_pointer, seed, observation_pointer):
    """The diver at the top left."""
    state = _state(state_pointer)
    seed_row(state[RANDOM:CELLS].view(np.uint64), seed, np.uint64(0))
    state[AT_ROW] = state[AT_COLUMN] = state[BAD] = 0
    _look(state, observation_pointer)
    return STEPPED


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def deep_sea_step(state_pointer, action, observation_pointer, reward):
    """Down a row, and left or right. It fails after an end."""
    state = _state(state_pointer)
    size, row, column = state[SIZE], state[AT_ROW], state[AT_COLUMN]
    if row >= size:
        return 0
    random, gained = state[RANDOM:CELLS].view(np.uint64), 0.0
    right = action[0] == state[CELLS + row * size + column]
    if right and column == size - 1:
        gained += 1
    if state[STOCHASTIC] and row == size - 1 and (column == 0 or column == size - 1):
        gained += normal(random)
    if right:
        gained -= COST / size
        if not state[STOCHASTIC] or uniform(random) > 1 / size:
            column = min(column + 1, size - 1)
    else:
        if row == column:
            state[BAD] = 1  # off the only way to the treasure
        column = max(column - 1, 0)
    state[AT_ROW], state[AT_COLUMN] = row + 1, column
    reward[0] = gained
    _look(state, observation_pointer)
    return STEPPED | TERMINATED if row + 1 == size else STEPPED


def deep_sea_picture(state: np.ndarray) -> np.ndarray:
    """The sea from the side: the diver, the treasure at the bottom right, and cells that no way leads to darker."""
    words = state.view(np.int64)
    size, row, column = (int(words[place]) for place in (SIZE, AT_ROW, AT_COLUMN))
    cells = np.tril(np.ones((size, size), np.int64))
    cells[-1, -1] = 3
    cells[min(row, size - 1), column] = 2
    colours = np.array([DEEP, WATER, DIVER, TREASURE], np.uint8)
    return colours[cells].repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


class DeepSea(NativeEnvironment):
    """See the top of this file."""

    def __init__(self, size: int, stochastic: bool, mapping_seed: int) -> None:
        self.size = LENGTH.checked("size", size)
        self.header = np.zeros(CELLS + self.size**2, np.int64)
        self.header[[SIZE, STOCHASTIC]] = self.size, Setting(False, "").checked("stochastic", stochastic)
        mapping = np.random.RandomState(MAPPING.checked("mapping_seed", mapping_seed))
        self.header[CELLS:] = mapping.binomial(1, 0.5, self.size**2)
        super().__init__(
            deep_sea_reset,
            deep_sea_step,
            state_size=self.header.nbytes,
            begins_with=self.header,
            observation_space=spaces.Box(0.0, 1.0, (self.size, self.size), np.float32),
            observation_layout="vector",
            action_space=spaces.Discrete(2),
            name=name_with(
                "nbrl/DeepSea-v0", size=(size, 10), stochastic=(stochastic, False), mapping_seed=(mapping_seed, 42)
            ),
            possible=self._possible,
            state_picture=deep_sea_picture,
        )

    def _possible(self, state: np.ndarray) -> bool:
        """Whether it is of this sea, within an episode."""
        words = state.view(np.int64)
        own = [*range(AT_ROW), *range(CELLS, len(words))]
        row, column, bad = (int(words[place]) for place in (AT_ROW, AT_COLUMN, BAD))
        return (
            bool((words[own] == self.header[own]).all())
            and 0 <= column <= row < self.size
            and bad in (0, 1)
            and bool(words[RANDOM:CELLS].any())
        )


def deep_sea(size: int = 10, stochastic: bool = False, mapping_seed: int = 42) -> DeepSea:
    """A sea of `size` rows; stochastic: going right fails once in `size` times, and the last row's ends are noisy."""
    return DeepSea(size, stochastic, mapping_seed)
