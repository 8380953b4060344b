"""Find a goal in four rooms, seen from the agent's own place, in numba: in the manner of MiniGrid's FourRooms.

The rooms are 4 x 4 cells, and a doorway joins each to both of its neighbours. Doorways, goal, and the agent's place and
direction are drawn anew in every episode. The agent sees the 7 x 7 cells before it, itself in the middle of the last
row, but not through walls. Reaching the goal after n steps gives 1 - 0.9 n / 100; after 100 steps the episode is
truncated. A player that knew the whole plan would have a mean return of 0.914.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, NativeEnvironment
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row

ROOM = 4  # cells of a room's side
MIDDLE = ROOM + 1  # row and column of the walls between rooms
SIDE = 2 * MIDDLE + 1
VIEW = 7
HALF = VIEW // 2
TIME_LIMIT = 100
TURN_LEFT, TURN_RIGHT, FORWARD = range(3)

# What a cell holds, and its channel in the observation.
FLOOR, WALL, GOAL, KINDS = range(4)

# Directions, clockwise: right, down, left, up.
DOWN = (0, 1, 0, -1)
RIGHT = (1, 0, -1, 0)

# State, int64: where the agent is, its direction, the steps taken, then the cells.
AGENT_ROW, AGENT_COLUMN, DIRECTION, STEPS, CELLS = range(5)
ROOMS_STATE = CELLS + SIDE * SIDE

PIXELS = 32  # of a cell's side in the picture
PALETTE = ((58, 61, 74), (128, 132, 146), (96, 190, 110))  # floor, wall, goal
AGENT = (245, 190, 80)


@jit
def _look(state, observation):
    """Write the view: of each cell seen, a 1 in the channel of what it holds; of others nothing.

    Sight begins at the agent and goes on from every open cell that is seen: to both sides, ahead, and aslant ahead.
    """
    cells = state[CELLS:]
    down, right = DOWN[state[DIRECTION]], RIGHT[state[DIRECTION]]
    kinds, seen = np.empty((VIEW, VIEW), np.int64), np.zeros((VIEW, VIEW), np.bool_)
    for y in range(VIEW):
        for x in range(VIEW):
            ahead, aside = VIEW - 1 - y, x - HALF
            row = state[AGENT_ROW] + ahead * down + aside * right  # the right hand of (down, right) is (right, -down)
            column = state[AGENT_COLUMN] + ahead * right - aside * down
            inside = 0 <= row < SIDE and 0 <= column < SIDE
            kinds[y, x] = cells[row * SIDE + column] if inside else WALL
    seen[VIEW - 1, HALF] = True
    for y in range(VIEW - 1, -1, -1):
        for x in range(VIEW - 1):
            if seen[y, x] and kinds[y, x] != WALL:
                seen[y, x + 1] = True
        for x in range(VIEW - 1, 0, -1):
            if seen[y, x] and kinds[y, x] != WALL:
                seen[y, x - 1] = True
        if y > 0:
            for x in range(VIEW):
                if seen[y, x] and kinds[y, x] != WALL:
                    for there in range(max(x - 1, 0), min(x + 2, VIEW)):
                        seen[y - 1, there] = True
    observation[:, :, :] = 0.0
    for y in range(VIEW):
        for x in range(VIEW):
            if seen[y, x]:
                observation[kinds[y, x], y, x] = 1.0


@jit
def _floor_cell(cells, number):
    """The index of a floor cell, counted from 0 along the rows."""
    index = -1
    while number >= 0:
        index += 1
        if cells[index] == FLOOR:
            number -= 1
    return index


@cfunction("int32(CPointer(int64), uint64, CPointer(float32))")
def rooms_reset(state_pointer, seed, observation_pointer):
    """Four doorways, then the goal on any floor cell, a doorway's too, and the agent on any other."""
    state = carray(state_pointer, ROOMS_STATE)
    cells = state[CELLS:]
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    for y in range(SIDE):
        for x in range(SIDE):
            cells[y * SIDE + x] = WALL if y % MIDDLE == 0 or x % MIDDLE == 0 else FLOOR
    for first in (1, MIDDLE + 1):  # of the upper rooms and of the lower, of the left rooms and of the right
        cells[(first + integer(row, ROOM)) * SIDE + MIDDLE] = FLOOR
        cells[MIDDLE * SIDE + first + integer(row, ROOM)] = FLOOR
    floor = 4 * ROOM * ROOM + 4
    cells[_floor_cell(cells, integer(row, floor))] = GOAL
    start = _floor_cell(cells, integer(row, floor - 1))
    state[AGENT_ROW], state[AGENT_COLUMN] = start // SIDE, start % SIDE
    state[DIRECTION], state[STEPS] = integer(row, 4), 0
    _look(state, carray(observation_pointer, (KINDS, VIEW, VIEW)))
    return STEPPED


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def rooms_step(state_pointer, action, observation_pointer, reward):
    """Turn left (0), turn right (1) or go forward (2), which a wall prevents. It fails after an end."""
    state = carray(state_pointer, ROOMS_STATE)
    cells = state[CELLS:]
    if state[STEPS] >= TIME_LIMIT or cells[state[AGENT_ROW] * SIDE + state[AGENT_COLUMN]] == GOAL:
        return 0
    state[STEPS] += 1
    if action[0] == TURN_LEFT:
        state[DIRECTION] = (state[DIRECTION] + 3) % 4
    elif action[0] == TURN_RIGHT:
        state[DIRECTION] = (state[DIRECTION] + 1) % 4
    else:
        row, column = state[AGENT_ROW] + DOWN[state[DIRECTION]], state[AGENT_COLUMN] + RIGHT[state[DIRECTION]]
        if cells[row * SIDE + column] != WALL:
            state[AGENT_ROW], state[AGENT_COLUMN] = row, column
    reward[0] = 0.0
    status = STEPPED
    if cells[state[AGENT_ROW] * SIDE + state[AGENT_COLUMN]] == GOAL:
        reward[0] = 1.0 - 0.9 * state[STEPS] / TIME_LIMIT
        status |= TERMINATED
    elif state[STEPS] >= TIME_LIMIT:
        status |= TRUNCATED
    _look(state, carray(observation_pointer, (KINDS, VIEW, VIEW)))
    return status


def rooms_possible(state: np.ndarray) -> bool:
    """Whether the agent stands on the floor within walls all around, and the episode is not over."""
    row, column, direction, steps, *_ = numbers = state.view(np.int64)
    cells = numbers[CELLS:].reshape(SIDE, SIDE)
    known = ((cells >= 0) & (cells < KINDS)).all() and 0 <= direction < 4 and 0 <= steps < TIME_LIMIT
    enclosed = all((cells[edge] == WALL).all() for edge in ((0, ...), (-1, ...), (..., 0), (..., -1)))
    return bool(known and enclosed and 0 <= row < SIDE and 0 <= column < SIDE and cells[row, column] == FLOOR)


def rooms_picture(state: np.ndarray) -> np.ndarray:
    """The rooms from above, lighter where the agent looks, which is a triangle: uint8 (352, 352, 3)."""
    numbers = state.view(np.int64)
    agent_row, agent_column, direction = (int(number) for number in numbers[:STEPS])
    cells = numbers[CELLS:].reshape(SIDE, SIDE)
    view = np.zeros((KINDS, VIEW, VIEW), np.float32)
    _look(numbers, view)
    # The view's rows go from far to near, its columns from the agent's left to its right.
    ahead, aside = VIEW - 1 - np.arange(VIEW)[:, None], np.arange(VIEW) - HALF
    rows = agent_row + ahead * DOWN[direction] + aside * RIGHT[direction]
    columns = agent_column + ahead * RIGHT[direction] - aside * DOWN[direction]
    seen = view.any(axis=0)
    light = np.zeros((SIDE, SIDE, 1))
    light[rows[seen], columns[seen]] = 0.25  # all of them are inside, since walls enclose the rooms
    colours = np.array(PALETTE)[cells]
    blocks = np.zeros((SIDE, PIXELS, SIDE, PIXELS, 3))
    blocks[...] = np.array(PALETTE[FLOOR]) / 2  # the lines between cells
    blocks[:, 1:, :, 1:] = (colours + light * (255 - colours))[:, None, :, None]
    picture = blocks.reshape(SIDE * PIXELS, SIDE * PIXELS, 3)
    # Pixels from the middle of the agent's cell, along its direction and across it.
    y = np.arange(SIDE * PIXELS)[:, None] - PIXELS * agent_row - PIXELS / 2
    x = np.arange(SIDE * PIXELS) - PIXELS * agent_column - PIXELS / 2
    along, across = y * DOWN[direction] + x * RIGHT[direction], y * RIGHT[direction] - x * DOWN[direction]
    distance = np.maximum(-9 - along, (along - 11) / 2 + np.abs(across)) * 0.9
    covered = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    return np.rint(picture + covered * (np.array(AGENT) - picture)).astype(np.uint8)


def rooms() -> NativeEnvironment:
    """Find a goal in four rooms: a view of 3 x 7 x 7, 3 actions, reward 1 - 0.9 n / 100 after n of 100 steps."""
    return NativeEnvironment(
        rooms_reset,
        rooms_step,
        state_size=8 * ROOMS_STATE,
        observation_space=spaces.Box(0.0, 1.0, (KINDS, VIEW, VIEW), np.float32),
        observation_layout="vector",
        action_space=spaces.Discrete(3),
        name="Rooms-v0",
        possible=rooms_possible,
        state_picture=rooms_picture,
    )
