"""A native environment whose actions are mostly illegal."""

import ctypes

import numba
import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl import NativeEnvironment
from nbrl.envs.interface import STEPPED, TRUNCATED
from nbrl.kernels.random import integer, seed_row

DOORS = 20  # of which two can be opened: the first one pays 1
STATE = 8  # int64: a random row of 4, steps left, the two doors, and how many shut ones were tried


@numba.njit
def _look(state, observation, mask):
    state[5] = integer(state[:4].view(np.uint64), DOORS)
    state[6] = (state[5] + 1 + integer(state[:4].view(np.uint64), DOORS - 1)) % DOORS
    for door in range(DOORS):
        mask[door] = door == state[5] or door == state[6]
        observation[door] = mask[door]


@numba.cfunc("int32(CPointer(int64), uint64, CPointer(float32), CPointer(uint8), int64)")
def doors_reset(pointer, seed, observation, mask, alive):
    state = carray(pointer, STATE)
    seed_row(state[:4].view(np.uint64), seed, np.uint64(0))
    state[4] = 10
    _look(state, carray(observation, DOORS), carray(mask, DOORS))
    return STEPPED


@numba.cfunc("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32), CPointer(uint8), int64)")
def doors_step(pointer, action, observation, reward, mask, alive):
    state, door = carray(pointer, STATE), action[0]
    state[7] += not (door == state[5] or door == state[6])
    reward[0] = door == min(state[5], state[6])
    state[4] -= 1
    _look(state, carray(observation, DOORS), carray(mask, DOORS))
    return STEPPED | (TRUNCATED if state[4] == 0 else 0)


class Doors(NativeEnvironment):
    """A tenth of the doors can be opened, as the mask says, and as is seen. Ten steps; `made` holds all instances."""

    def __init__(self):
        super().__init__(
            doors_reset,
            doors_step,
            state_size=8 * STATE,
            observation_space=spaces.Box(0.0, 1.0, (DOORS,), np.float32),
            action_space=spaces.Discrete(DOORS),
            action_mask=True,
            name="Doors",
        )
        self.made = []

    def make(self):
        self.made.append(super().make())
        return self.made[-1]

    def illegal(self):
        """How often a shut door was tried, in all instances."""
        states = [np.frombuffer(ctypes.string_at(one.state_address, 8 * STATE), np.int64) for one in self.made]
        return sum(int(state[7]) for state in states)
