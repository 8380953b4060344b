"""The riddle of the hundred prisoners and the switch (Foerster et al., 2016), in numba.

Each day one of n agents, drawn at random, is in a room with a switch of two positions. It sees the switch as the agent
of the day before left it: what that one said. It may tell that all have been in the room, today included: that ends the
episode, with 1 for everybody if it is true and -1 if not. After 4 n - 6 days the episode ends with 0.

An agent observes only whether it is the one in the room; all others can do nothing, neither hear nor speak. Who is in
the room on two days in a row is not told again what it said.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, NativeEnvironment, name_with
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row
from nbrl.settings import Setting
from nbrl.spaces import ALIVE, PRESENT

NONE, TELL, ACTIONS = range(3)

# State, int64: the riddle, then the episode. Who has been in the room is a bit each.
AGENTS, DAY, IN_ROOM, BEEN, TOLD, RANDOM = range(6)
RIDDLE_STATE = RANDOM + ROW

COUNT = Setting(3, "", least=2, most=50)

PIXELS = 24  # of a figure's side in the picture
GROUND, ROOM, SEEN, UNSEEN, RIGHT, WRONG = (
    (28, 30, 38), (64, 68, 82), (96, 190, 110), (120, 124, 140), (96, 190, 110), (200, 80, 70)
)  # fmt: skip


def days(agents: int) -> int:
    """How many an episode has at most."""
    return 4 * agents - 6


@jit
def _look(state, observation_pointer, mask_pointer, alive_pointer):
    """Who is in the room, what each may do, and that the one in the room alone hears and speaks."""
    n = state[AGENTS]
    observation, mask = carray(observation_pointer, n), carray(mask_pointer, n * ACTIONS)
    alive = carray(alive_pointer, n)
    for agent in range(n):
        here = agent == state[IN_ROOM]
        observation[agent] = here
        mask[agent * ACTIONS + NONE], mask[agent * ACTIONS + TELL] = 1, here
        alive[agent] = PRESENT if here else ALIVE


@jit
def _enter(state):
    """A new day."""
    state[IN_ROOM] = integer(state[RANDOM:RIDDLE_STATE].view(np.uint64), state[AGENTS])
    state[BEEN] |= 1 << state[IN_ROOM]


@cfunction("int32(CPointer(int64), uint64, CPointer(float32), CPointer(uint8), CPointer(uint8))")
def riddle_reset(state_pointer, seed, observation_pointer, mask_pointer, alive_pointer):
    """The first day."""
    state = carray(state_pointer, RIDDLE_STATE)
    seed_row(state[RANDOM:RIDDLE_STATE].view(np.uint64), seed, np.uint64(0))
    state[DAY] = state[BEEN] = state[TOLD] = 0
    _enter(state)
    _look(state, observation_pointer, mask_pointer, alive_pointer)
    return STEPPED


@cfunction(
    "int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32), CPointer(uint8), CPointer(uint8))"
)
def riddle_step(state_pointer, action_pointer, observation_pointer, reward_pointer, mask_pointer, alive_pointer):
    """Tell, or wait for another day. It fails after an end."""
    state = carray(state_pointer, RIDDLE_STATE)
    n = state[AGENTS]
    actions, reward = carray(action_pointer, n), carray(reward_pointer, n)
    if state[TOLD] or state[DAY] >= 4 * n - 6:
        return 0
    reward[:] = 0
    state[DAY] += 1
    if actions[state[IN_ROOM]] == TELL:
        state[TOLD] = 1
        reward[:] = 1 if state[BEEN] == (1 << n) - 1 else -1
    elif state[DAY] < 4 * n - 6:
        _enter(state)
    _look(state, observation_pointer, mask_pointer, alive_pointer)
    return STEPPED | TERMINATED if state[TOLD] or state[DAY] == 4 * n - 6 else STEPPED


def riddle_picture(state: np.ndarray, says: np.ndarray | None = None) -> np.ndarray:
    """A figure for each agent, in green if it has been in the room; the room with who is in it, green or red once told;
    between them what was said last."""
    words = state.view(np.int64)
    n, been = int(words[AGENTS]), int(words[BEEN])
    cells = np.full((3, 2 * n + 1, 3), GROUND, np.uint8)
    for agent in range(n):
        if says is not None and says[agent].any():
            cells[1, 2 * agent + 1] = says[agent]
        cells[2, 2 * agent + 1] = SEEN if been >> agent & 1 else UNSEEN
        if agent == words[IN_ROOM]:
            cells[0, 2 * agent : 2 * agent + 3] = ROOM
            whole = been == (1 << n) - 1
            cells[0, 2 * agent + 1] = (RIGHT if whole else WRONG) if words[TOLD] else UNSEEN
    return cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


def switch_riddle(agents: int = 3) -> NativeEnvironment:
    """The riddle of so many agents: 1 observation, 2 actions each, at most 4 n - 6 days."""
    n = COUNT.checked("agents", agents)
    header = np.zeros(RIDDLE_STATE, np.int64)
    header[AGENTS] = n

    def possible(state: np.ndarray) -> bool:
        """Whether an episode of so many agents can be there, and go on."""
        words = state.view(np.int64)
        count, day, in_room, been, told = (int(word) for word in words[:RANDOM])
        return (
            count == n
            and day in range(days(n))
            and in_room in range(n)
            and 0 < been < 1 << n
            and been >> in_room & 1 == 1
            and told == 0
            and bool(words[RANDOM:].any())
        )

    return NativeEnvironment(
        riddle_reset,
        riddle_step,
        state_size=header.nbytes,
        begins_with=header,
        observation_space=spaces.Box(0.0, 1.0, (1,), np.float32),
        action_space=spaces.Discrete(ACTIONS),
        action_mask=True,
        agents=n,
        name=name_with("nbrl/SwitchRiddle-v0", agents=(agents, 3)),
        possible=possible,
        state_picture=riddle_picture,
    )
