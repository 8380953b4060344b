"""A test of memory in numba: a cue seen once, at the beginning, says which way to go at the end of a corridor.

The agent walks along the corridor by itself; its actions have no effect before the junction. There the cued side gives
a reward of 1 and the other -1. At the junction both episodes look alike, so the best mean return without memory is
exactly 0; with memory it is 1.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, NativeEnvironment
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row

LEFT, RIGHT = 0, 1  # of cues and of actions
CORRIDOR = 10  # steps from the cue to the junction

# State, int64. The choice is the action at the junction, or none yet.
CUE, PLACE, CHOICE, CUE_STATE = range(4)
NONE = -1

# Observation, float32: the cue, one of two; whether this is the junction; the part of the corridor that is behind.
SEEN_LEFT, SEEN_RIGHT, JUNCTION, WAY, OBSERVATION = range(5)

PIXELS = 24  # of a cell's side in the picture
PLAN, FLOOR, SIGN, AGENT = (28, 30, 38), (64, 68, 82), (96, 190, 110), (245, 190, 80)


@jit
def _look(state, observation):
    """What the agent sees. The choice is not in it: it says nothing on the cue, not even after the end."""
    observation[SEEN_LEFT] = state[PLACE] == 0 and state[CUE] == LEFT
    observation[SEEN_RIGHT] = state[PLACE] == 0 and state[CUE] == RIGHT
    observation[JUNCTION] = state[PLACE] == CORRIDOR
    observation[WAY] = state[PLACE] / CORRIDOR


@cfunction("int32(CPointer(int64), uint64, CPointer(float32))")
def cue_reset(state_pointer, seed, observation_pointer):
    """One of two cues with equal probability, and the agent beside it."""
    state = carray(state_pointer, CUE_STATE)
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    state[CUE], state[PLACE], state[CHOICE] = integer(row, 2), 0, NONE
    _look(state, carray(observation_pointer, OBSERVATION))
    return STEPPED


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def cue_step(state_pointer, action, observation_pointer, reward):
    """Walk on; at the junction go left (0) or right (1). It fails after an end."""
    state = carray(state_pointer, CUE_STATE)
    if state[CHOICE] != NONE:
        return 0
    status = STEPPED
    reward[0] = 0.0
    if state[PLACE] == CORRIDOR:
        state[CHOICE] = action[0]
        reward[0] = 1.0 if state[CHOICE] == state[CUE] else -1.0
        status |= TERMINATED
    else:
        state[PLACE] += 1
    _look(state, carray(observation_pointer, OBSERVATION))
    return status


def cue_possible(state: np.ndarray) -> bool:
    """Whether the agent is in the corridor, and has not chosen yet."""
    cue, place, choice = state.view(np.int64).tolist()
    return cue in (LEFT, RIGHT) and place in range(CORRIDOR + 1) and choice == NONE


def cue_picture(state: np.ndarray) -> np.ndarray:
    """The corridor from above, walked upwards, with the agent and a sign on the cued side: uint8 (312, 120, 3).

    The sign stands beside the agent while the agent sees it, and at the junction's arm all the time, for who looks on.
    """
    cue, place, choice = (int(number) for number in state.view(np.int64))
    cells = np.zeros((CORRIDOR + 3, 5), np.int64)
    first, junction, middle = CORRIDOR + 1, 1, 2
    cells[junction : first + 1, middle] = 1
    cells[junction, 1:4] = 1
    side = {LEFT: -1, RIGHT: 1, NONE: 0}
    cells[junction, middle + side[cue]] = 2
    if place == 0:
        cells[first, middle + side[cue]] = 2
    cells[first - place, middle + side[choice]] = 3
    blocks = np.zeros((CORRIDOR + 3, PIXELS, 5, PIXELS), np.int64)
    blocks[:, 1:-1, :, 1:-1] = cells[:, None, :, None]
    colours = np.array([PLAN, FLOOR, SIGN, AGENT], np.uint8)
    return colours[blocks.reshape(PIXELS * (CORRIDOR + 3), PIXELS * 5)]


def cue() -> NativeEnvironment:
    """Remember a cue: 4 observations, 2 actions, 11 steps; the best mean return is 0 without memory, 1 with it."""
    return NativeEnvironment(
        cue_reset,
        cue_step,
        state_size=8 * CUE_STATE,
        observation_space=spaces.Box(0.0, 1.0, (OBSERVATION,), np.float32),
        action_space=spaces.Discrete(2),
        name="Cue-v0",
        possible=cue_possible,
        state_picture=cue_picture,
    )
