"""How each task's world is drawn, with the chances of MiniGrid's doorkey.py, keycorridor.py and multiroom.py."""

import numpy as np
from numba import carray

from nbrl.envs.interface import STEPPED
from nbrl.envs.minigrid.rules import (
    BALL,
    CARRIED,
    CELLS,
    CLOSED,
    COLOURS,
    DIRECTION,
    DOOR,
    DX,
    DY,
    EMPTY,
    FIRST,
    GOAL,
    HEIGHT,
    KEY,
    LOCKED,
    OVER,
    SECOND,
    STEPS,
    VIEW,
    WALL,
    WIDTH,
    YELLOW,
    X,
    Y,
    cell,
    coloured,
    look,
    put,
    state_of,
)
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row

COLUMNS = 3  # of rooms in a corridor of keys
MIDDLE = COLUMNS // 2
SMALLEST = 4  # room of several, walls included
TRIES = 8  # for the next room of several
CORRIDOR_ROWS = 8  # at most
TOP_X, TOP_Y, SIZE_X, SIZE_Y, DOOR_X, DOOR_Y, PLACED = range(7)  # of one of several rooms; its first door
NOWHERE = -1


@jit
def _between(row, low, high):
    """A number from `low` to `high` - 1 at random."""
    return low + integer(row, high - low)


@jit
def _begin(state, seed, filled):
    """A random row, and a state at an episode's start with cells that all hold the same."""
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    state[X] = state[Y] = NOWHERE
    state[STEPS] = state[CARRIED] = state[OVER] = 0
    state[CELLS:] = filled
    return row


@jit
def _finish(state, observation_pointer):
    look(state, carray(observation_pointer, (VIEW, VIEW, 3)))
    return STEPPED


@jit
def _walls(state, left, top, width, height):
    """The walls of a room."""
    for x in range(left, left + width):
        put(state, x, top, WALL)
        put(state, x, top + height - 1, WALL)
    for y in range(top, top + height):
        put(state, left, y, WALL)
        put(state, left + width - 1, y, WALL)


@jit
def _free(state, row, left, top, width, height, away):
    """Any empty cell of a rectangle where the agent is not, at least `away` steps from it."""
    while True:
        x, y = _between(row, left, left + width), _between(row, top, top + height)
        from_agent = abs(x - state[X]) + abs(y - state[Y])
        if cell(state, x, y) == EMPTY and from_agent >= max(away, 1):
            return x, y


@jit
def _place(state, row, what, left, top, width, height, away=0):
    """Put something into any such cell."""
    x, y = _free(state, row, left, top, width, height, away)
    put(state, x, y, what)


@jit
def _place_agent(state, row, left, top, width, height):
    """Put the agent into any empty cell of a rectangle, with any direction."""
    state[X] = state[Y] = NOWHERE
    state[X], state[Y] = _free(state, row, left, top, width, height, 0)
    state[DIRECTION] = integer(row, 4)


@cfunction("int32(CPointer(int64), uint64, CPointer(uint8))")
def door_key_reset(state_pointer, seed, observation_pointer):
    """A wall with a locked door parts the agent and its key from the goal."""
    state = state_of(state_pointer)
    row, size = _begin(state, seed, EMPTY), state[WIDTH]
    _walls(state, 0, 0, size, size)
    put(state, size - 2, size - 2, GOAL)
    split = _between(row, 2, size - 2)
    for y in range(size):
        put(state, split, y, WALL)
    _place_agent(state, row, 0, 0, split, size)
    put(state, split, _between(row, 1, size - 2), coloured(DOOR, YELLOW, LOCKED))
    _place(state, row, coloured(KEY, YELLOW), 0, 0, split, size)
    return _finish(state, observation_pointer)


@jit
def _door_place(doors, column, line, wall):
    """Where a room's door to the right, down, left or up could be: a view of two numbers, of `doors` (2, C, R, 2)."""
    if wall == 2:
        return doors[0, column - 1, line]
    if wall == 3:
        return doors[1, column, line - 1]
    return doors[wall, column, line]


@jit
def _is_joined(state, doors, column, line, wall):
    """Whether a room and its neighbour have a door, or no wall between them."""
    place = _door_place(doors, column, line, wall)
    return cell(state, place[0], place[1]) != WALL


@jit
def _all_joined(state, doors, rows):
    """Whether one comes to every room from the middle column, whose rooms are one."""
    reached = np.zeros((COLUMNS, rows), np.bool_)
    reached[MIDDLE, :] = True
    for _ in range(COLUMNS * rows):
        for column in range(COLUMNS):
            for line in range(rows):
                for wall in range(4):
                    x, y = column + DX[wall], line + DY[wall]
                    if 0 <= x < COLUMNS and 0 <= y < rows and reached[x, y]:
                        reached[column, line] |= _is_joined(state, doors, column, line, wall)
    return reached.all()


@cfunction("int32(CPointer(int64), uint64, CPointer(uint8))")
def key_corridor_reset(state_pointer, seed, observation_pointer):
    """Three columns of rooms; the middle one is a corridor, and behind a locked door at its right there is a ball."""
    state = state_of(state_pointer)
    row, size, rows = _begin(state, seed, EMPTY), state[FIRST], state[SECOND]
    doors = np.full((2, COLUMNS, rows, 2), NOWHERE)
    for line in range(rows):
        for column in range(COLUMNS):
            left, top = column * (size - 1), line * (size - 1)
            _walls(state, left, top, size, size)
            if column < COLUMNS - 1:
                doors[0, column, line] = left + size - 1, _between(row, top + 1, top + size - 1)
            if line < rows - 1:
                doors[1, column, line] = _between(row, left + 1, left + size - 1), top + size - 1
    for line in range(1, rows):
        for x in range(1, size - 1):
            put(state, MIDDLE * (size - 1) + x, line * (size - 1), EMPTY)
    state[X] = MIDDLE * (size - 1) + size // 2  # where the agent is thought to be while things are placed
    state[Y] = rows // 2 * (size - 1) + size // 2
    locked, colour = integer(row, rows), integer(row, COLOURS)
    door = _door_place(doors, MIDDLE + 1, locked, 2)
    put(state, door[0], door[1], coloured(DOOR, colour, LOCKED))
    ball, key = coloured(BALL, integer(row, COLOURS)), coloured(KEY, colour)
    _place(state, row, ball, (MIDDLE + 1) * (size - 1), locked * (size - 1), size, size, 2)
    _place(state, row, key, 0, integer(row, rows) * (size - 1), size, size, 2)
    while True:  # not before something that is no wall
        _place_agent(state, row, MIDDLE * (size - 1), rows // 2 * (size - 1), size, size)
        before = cell(state, state[X] + DX[state[DIRECTION]], state[Y] + DY[state[DIRECTION]])
        if before in (EMPTY, WALL):
            break
    while not _all_joined(state, doors, rows):
        column, line, wall = integer(row, COLUMNS), integer(row, rows), integer(row, 4)
        x, y = column + DX[wall], line + DY[wall]
        if not (0 <= x < COLUMNS and 0 <= y < rows) or _is_joined(state, doors, column, line, wall):
            continue
        if (column, line) != (MIDDLE + 1, locked) and (x, y) != (MIDDLE + 1, locked):
            place = _door_place(doors, column, line, wall)
            put(state, place[0], place[1], coloured(DOOR, integer(row, COLOURS), CLOSED))
    return _finish(state, observation_pointer)


@jit
def _wall_place(row, left, top, width, height, wall):
    """Any place for a door in a room's wall: right, down, left or up."""
    if wall % 2 == 0:
        return left + (width - 1 if wall == 0 else 0), top + _between(row, 1, height - 1)
    return left + _between(row, 1, width - 1), top + (height - 1 if wall == 1 else 0)


@jit
def _try_room(state, row, rooms, number, wall, x, y):
    """Add room `number` behind a door at (x, y) in its wall; whether there is room for it. The first begins there."""
    largest = state[SECOND]
    width, height = _between(row, SMALLEST, largest + 1), _between(row, SMALLEST, largest + 1)
    left, top = x, y
    if number > 0:
        if wall % 2 == 0:
            left, top = x - (width - 1 if wall == 0 else 0), _between(row, y - height + 2, y)
        else:
            left, top = _between(row, x - width + 2, x), y - (height - 1 if wall == 1 else 0)
    if left < 0 or top < 0 or left + width > state[WIDTH] or top + height >= state[HEIGHT]:
        return False
    for other in rooms[: max(number - 1, 0)]:  # all but the one with the door
        apart = (
            left + width < other[TOP_X]
            or other[TOP_X] + other[SIZE_X] <= left
            or top + height < other[TOP_Y]
            or other[TOP_Y] + other[SIZE_Y] <= top
        )
        if not apart:
            return False
    rooms[number, TOP_X], rooms[number, TOP_Y], rooms[number, SIZE_X], rooms[number, SIZE_Y] = left, top, width, height
    rooms[number, DOOR_X], rooms[number, DOOR_Y] = x, y
    return True


@jit
def _chain(state, row, rooms):
    """Fill rooms one behind the other, as far as there is room: how many."""
    x, y, wall = integer(row, state[WIDTH] - 2), integer(row, state[WIDTH] - 2), 2
    if not _try_room(state, row, rooms, 0, wall, x, y):
        return 0
    for number in range(1, rooms.shape[0]):
        left, top, width, height = rooms[number - 1, :DOOR_X]
        found = False
        for _ in range(TRIES):
            out = (wall + 1 + integer(row, 3)) % 4
            x, y = _wall_place(row, left, top, width, height, out)
            if _try_room(state, row, rooms, number, (out + 2) % 4, x, y):
                found, wall = True, (out + 2) % 4
                break
        if not found:
            return number
    return rooms.shape[0]


@cfunction("int32(CPointer(int64), uint64, CPointer(uint8))")
def multi_room_reset(state_pointer, seed, observation_pointer):
    """Rooms one behind the other, a closed door between each two; the goal is in the last one."""
    state = state_of(state_pointer)
    row = _begin(state, seed, EMPTY)
    rooms = np.zeros((state[FIRST], PLACED), np.int64)
    while _chain(state, row, rooms) < state[FIRST]:
        pass
    colour = COLOURS
    for number in range(state[FIRST]):
        left, top, width, height, x, y = rooms[number]
        _walls(state, left, top, width, height)
        if number > 0:
            # Any colour but that of the door before.
            colour = (colour + 1 + integer(row, COLOURS - 1)) % COLOURS if colour < COLOURS else integer(row, COLOURS)
            put(state, x, y, coloured(DOOR, colour, CLOSED))
    left, top, width, height = rooms[0, :DOOR_X]
    _place_agent(state, row, left, top, width, height)
    left, top, width, height = rooms[state[FIRST] - 1, :DOOR_X]
    _place(state, row, GOAL, left, top, width, height)
    return _finish(state, observation_pointer)
