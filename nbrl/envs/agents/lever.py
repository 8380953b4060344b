"""The game of levers (Sukhbaatar et al., 2016, CommNet), in numba: pull levers, no two agents the same.

Five of 500 agents are drawn. Each sees only who it is and pulls one of five levers; that is the episode. Everybody's
reward is (distinct levers - 1) / 4. Agents that do not talk get 0.59 on average, as by chance; who know each other's
names can always get 1.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, NativeEnvironment
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row

POOL, LEVERS = 500, 5  # agents to draw from; levers, and agents that are drawn

# State, int64: who is drawn, then the levers that they pulled, from 0, or -1.
PULLED = LEVERS
LEVER_STATE = 2 * LEVERS

PIXELS = 24  # of a lever's side in the picture
GROUND, IDLE, ONE, SEVERAL = (28, 30, 38), (120, 124, 140), (96, 190, 110), (200, 80, 70)


@jit
def _look(state, observation_pointer):
    """Who each is, one-hot."""
    observation = carray(observation_pointer, LEVERS * POOL)
    observation[:] = 0
    for agent in range(LEVERS):
        observation[agent * POOL + state[agent]] = 1


@cfunction("int32(CPointer(int64), uint64, CPointer(float32))")
def lever_reset(state_pointer, seed, observation_pointer):
    """Five others, each set of them as likely."""
    state = carray(state_pointer, LEVER_STATE)
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    for agent in range(LEVERS):
        drawn = True
        while drawn:
            state[agent], drawn = integer(row, POOL), False
            for other in range(agent):
                drawn = drawn or state[other] == state[agent]
        state[PULLED + agent] = -1
    _look(state, observation_pointer)
    return STEPPED


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def lever_step(state_pointer, action_pointer, observation_pointer, reward_pointer):
    """All pull at once. It fails after that."""
    state, actions = carray(state_pointer, LEVER_STATE), carray(action_pointer, LEVERS)
    if state[PULLED] >= 0:
        return 0
    distinct = 0
    for agent in range(LEVERS):
        state[PULLED + agent], new = actions[agent], 1
        for other in range(agent):
            if state[PULLED + other] == actions[agent]:
                new = 0
        distinct += new
    carray(reward_pointer, LEVERS)[:] = (distinct - 1) / (LEVERS - 1)
    _look(state, observation_pointer)
    return STEPPED | TERMINATED


def lever_possible(state: np.ndarray) -> bool:
    """Whether five different agents are about to pull."""
    words = state.view(np.int64).tolist()
    drawn = words[:PULLED]
    return len(set(drawn)) == LEVERS and all(0 <= one < POOL for one in drawn) and words[PULLED:] == [-1] * LEVERS


def lever_picture(state: np.ndarray, says: np.ndarray | None = None) -> np.ndarray:
    """The levers: grey before and where nobody pulls, green where one does, red where several do."""
    pulled = state.view(np.int64)[PULLED:]
    cells = np.full((3, 2 * LEVERS + 1, 3), GROUND, np.uint8)
    for lever in range(LEVERS):
        count = int((pulled == lever).sum())
        cells[1, 2 * lever + 1] = IDLE if count == 0 else ONE if count == 1 else SEVERAL
    return cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


def lever() -> NativeEnvironment:
    """Five agents, 500 observations and 5 actions each, one step; the best return is 1."""
    return NativeEnvironment(
        lever_reset,
        lever_step,
        state_size=8 * LEVER_STATE,
        observation_space=spaces.Box(0.0, 1.0, (POOL,), np.float32),
        action_space=spaces.Discrete(LEVERS),
        agents=LEVERS,
        name="nbrl/Lever-v0",
        possible=lever_possible,
        state_picture=lever_picture,
    )
