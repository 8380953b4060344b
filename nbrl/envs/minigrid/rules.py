"""What the tasks share: the state, what the agent sees, and what its actions do, as in MiniGrid (Chevalier-Boisvert et
al., 2023), whose numbers of kinds, colours and actions these are.

The agent sees the 7 x 7 cells before it, itself in the middle of the last row, but not through walls and closed doors:
of each its kind, colour and state, or zeros; of its own what it carries.
"""

import numpy as np
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED
from nbrl.kernels.compile import cfunction, jit

VIEW = 7
HALF = VIEW // 2
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE, ACTIONS = range(8)

# What a cell holds: kind, colour and state in one number.
EMPTY, WALL_KIND, DOOR, KEY, BALL, GOAL_KIND = 1, 2, 4, 5, 6, 8
RED, GREEN, BLUE, PURPLE, YELLOW, GREY, COLOURS = range(7)
OPEN, CLOSED, LOCKED, STATES = range(4)
COLOUR_BIT, STATE_BIT = 4, 7
KIND, COLOUR = (1 << COLOUR_BIT) - 1, (1 << STATE_BIT - COLOUR_BIT) - 1  # masks
WALL, GOAL = WALL_KIND | GREY << COLOUR_BIT, GOAL_KIND | GREEN << COLOUR_BIT

# Directions, clockwise: right, down, left, up.
DX, DY = (1, 0, -1, 0), (0, 1, 0, -1)

# State, int64: the task (the kind of what ends an episode when it is picked up, or 0; two numbers of its own), then the
# episode, then the cells along the rows.
WIDTH, HEIGHT, MAX_STEPS, WANTED, FIRST, SECOND, X, Y, DIRECTION, STEPS, CARRIED, OVER, CELLS = range(13)


@jit
def state_of(pointer):
    """The state that begins at a pointer to int64."""
    header = carray(pointer, CELLS)
    return carray(pointer, CELLS + header[WIDTH] * header[HEIGHT])


@jit
def coloured(kind, colour, state=0):
    """The number of what is of some kind, colour and state."""
    return kind | colour << COLOUR_BIT | state << STATE_BIT


@jit
def cell(state, x, y):
    """What a cell holds; outside there are walls."""
    inside = 0 <= x < state[WIDTH] and 0 <= y < state[HEIGHT]
    return state[CELLS + y * state[WIDTH] + x] if inside else WALL


@jit
def put(state, x, y, what):
    """Let a cell hold something."""
    state[CELLS + y * state[WIDTH] + x] = what


@jit
def is_open(what):
    """Whether one sees through it."""
    return what != WALL and (what & KIND != DOOR or what >> STATE_BIT == OPEN)


@jit
def look(state, observation):
    """Write the view, uint8 (VIEW, VIEW, 3): columns from left to right, of each its cells from far to near."""
    dx, dy = DX[state[DIRECTION]], DY[state[DIRECTION]]
    view, seen = np.empty((VIEW, VIEW), np.int64), np.zeros((VIEW, VIEW), np.bool_)
    for i in range(VIEW):
        for j in range(VIEW):
            ahead, aside = VIEW - 1 - j, i - HALF
            view[i, j] = cell(state, state[X] + ahead * dx - aside * dy, state[Y] + ahead * dy + aside * dx)
    see(view, seen)
    view[HALF, VIEW - 1] = state[CARRIED] if state[CARRIED] else EMPTY
    for i in range(VIEW):
        for j in range(VIEW):
            what = view[i, j] if seen[i, j] else 0
            observation[i, j, 0] = what & KIND
            observation[i, j, 1] = what >> COLOUR_BIT & COLOUR
            observation[i, j, 2] = what >> STATE_BIT


@jit
def see(view, seen):
    """Mark what is seen: sight begins at the agent, and goes on from what is open to both sides, ahead and aslant."""
    seen[HALF, VIEW - 1] = True
    for j in range(VIEW - 1, -1, -1):
        for i in range(VIEW - 1):
            if seen[i, j] and is_open(view[i, j]):
                seen[i + 1, j] = True
                if j > 0:
                    seen[i + 1, j - 1] = seen[i, j - 1] = True
        for i in range(VIEW - 1, 0, -1):
            if seen[i, j] and is_open(view[i, j]):
                seen[i - 1, j] = True
                if j > 0:
                    seen[i - 1, j - 1] = seen[i, j - 1] = True


@jit
def _act(state, action):
    """Do an action; whether the task is done by it."""
    x, y = state[X] + DX[state[DIRECTION]], state[Y] + DY[state[DIRECTION]]
    before = cell(state, x, y)
    kind = before & KIND
    if action == LEFT:
        state[DIRECTION] = (state[DIRECTION] + 3) % 4
    elif action == RIGHT:
        state[DIRECTION] = (state[DIRECTION] + 1) % 4
    elif action == FORWARD:
        if kind in (EMPTY, GOAL_KIND) or (kind == DOOR and is_open(before)):
            state[X], state[Y] = x, y
        return kind == GOAL_KIND
    elif action == PICK_UP:
        if kind in (KEY, BALL) and not state[CARRIED]:
            state[CARRIED] = before
            put(state, x, y, EMPTY)
            return kind == state[WANTED]
    elif action == DROP:
        if kind == EMPTY and state[CARRIED]:
            put(state, x, y, state[CARRIED])
            state[CARRIED] = 0
    elif action == TOGGLE and kind == DOOR:
        colour, door = before >> COLOUR_BIT & COLOUR, before >> STATE_BIT
        if door != LOCKED:
            put(state, x, y, coloured(DOOR, colour, OPEN if door == CLOSED else CLOSED))
        elif state[CARRIED] == coloured(KEY, colour):
            put(state, x, y, coloured(DOOR, colour, OPEN))
    return False


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(uint8), CPointer(float32))")
def step(state_pointer, action, observation_pointer, reward):
    """Turn, go forward, pick up or drop, open or close, or wait. It fails after an end."""
    state = state_of(state_pointer)
    if state[OVER]:
        return 0
    state[STEPS] += 1
    status, reward[0] = STEPPED, 0.0
    if _act(state, action[0]):
        reward[0] = 1 - 0.9 * (state[STEPS] / state[MAX_STEPS])
        status |= TERMINATED
    if state[STEPS] >= state[MAX_STEPS]:
        status |= TRUNCATED
    state[OVER] = status != STEPPED
    look(state, carray(observation_pointer, (VIEW, VIEW, 3)))
    return status
