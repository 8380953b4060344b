"""A small game in pixels, in numba: a paddle, a ball and a wall of bricks, learnt in minutes by the Atari network.

The field is 10 x 10 cells of 4 x 4 pixels. The ball moves one cell down or up and one left or right a step; a brick
that it hits is gone and gives a reward of 1; the episode ends when the paddle, 3 cells wide on the last row, misses the
ball. The paddle's left cell sends the ball to the left, its right cell to the right. A wall that is gone stands again
when the paddle meets the ball.
"""

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, NativeEnvironment
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.random import ROW, integer, seed_row

CELLS, PIXELS = 10, 4
FIRST_BRICKS, LAST_BRICKS = 1, 3  # rows of the wall
TIME_LIMIT = 1000
BALL, PADDLE, BRICK = 255, 255, 110  # grey levels

# State, int64: where everything is, then the same as it was one step before.
BALL_ROW, BALL_COLUMN, DOWN, RIGHT, PADDLE_COLUMN, STEPS, WALL = range(7)
WALL_CELLS = (LAST_BRICKS - FIRST_BRICKS + 1) * CELLS
FIELD = WALL + WALL_CELLS


@jit
def _draw(field, frame):
    """One picture, uint8 (40, 40)."""
    for row in range(CELLS):
        for column in range(CELLS):
            level = 0
            if row == field[BALL_ROW] and column == field[BALL_COLUMN]:
                level = BALL
            elif row == CELLS - 1 and abs(column - field[PADDLE_COLUMN]) <= 1:
                level = PADDLE
            elif FIRST_BRICKS <= row <= LAST_BRICKS and field[WALL + (row - FIRST_BRICKS) * CELLS + column]:
                level = BRICK
            for y in range(row * PIXELS, (row + 1) * PIXELS):
                for x in range(column * PIXELS, (column + 1) * PIXELS):
                    frame[y, x] = level


@jit
def _move(field, action):
    """One step of the game: the reward, and whether the ball is lost."""
    field[PADDLE_COLUMN] = min(max(field[PADDLE_COLUMN] + action - 1, 1), CELLS - 2)
    if not 0 <= field[BALL_COLUMN] + field[RIGHT] < CELLS:
        field[RIGHT] = -field[RIGHT]
    if field[BALL_ROW] + field[DOWN] < 0:
        field[DOWN] = 1
    row, column = field[BALL_ROW] + field[DOWN], field[BALL_COLUMN] + field[RIGHT]
    if FIRST_BRICKS <= row <= LAST_BRICKS and field[WALL + (row - FIRST_BRICKS) * CELLS + column]:
        # The brick is gone, and the ball turns back from where it was.
        field[WALL + (row - FIRST_BRICKS) * CELLS + column] = 0
        field[DOWN] = -field[DOWN]
        return 1.0, False
    if row == CELLS - 1:
        side = column - field[PADDLE_COLUMN]
        if abs(side) > 1:
            field[BALL_ROW], field[BALL_COLUMN] = row, column
            return 0.0, True
        field[DOWN], row = -1, CELLS - 2  # it stays above the paddle
        if side:
            field[RIGHT] = side
        if not field[WALL:FIELD].any():
            field[WALL:FIELD] = 1
    field[BALL_ROW], field[BALL_COLUMN] = row, column
    return 0.0, False


@cfunction("int32(CPointer(int64), uint64, CPointer(uint8))")
def bricks_reset(state_pointer, seed, observation_pointer):
    """A whole wall, the paddle in the middle, the ball below the wall on a random column, on its way down."""
    fields = carray(state_pointer, (2, FIELD))
    frames = carray(observation_pointer, (2, CELLS * PIXELS, CELLS * PIXELS))
    row, field = np.empty(ROW, np.uint64), fields[0]
    seed_row(row, seed, np.uint64(0))
    field[BALL_ROW], field[BALL_COLUMN] = LAST_BRICKS + 1, integer(row, CELLS)
    field[DOWN], field[RIGHT] = 1, 2 * integer(row, 2) - 1
    field[PADDLE_COLUMN], field[STEPS] = CELLS // 2, 0
    field[WALL:] = 1
    for i in range(FIELD):
        fields[1, i] = field[i]
    _draw(fields[1], frames[0])
    _draw(field, frames[1])
    return STEPPED


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(uint8), CPointer(float32))")
def bricks_step(state_pointer, action, observation_pointer, reward):
    """Move the paddle left (0), not (1) or right (2)."""
    fields = carray(state_pointer, (2, FIELD))
    frames = carray(observation_pointer, (2, CELLS * PIXELS, CELLS * PIXELS))
    field = fields[0]
    for i in range(FIELD):
        fields[1, i] = field[i]
    gained, lost = _move(field, action[0])
    reward[0] = gained
    field[STEPS] += 1
    _draw(fields[1], frames[0])
    _draw(field, frames[1])
    status = STEPPED
    if lost:
        status |= TERMINATED
    elif field[STEPS] >= TIME_LIMIT:
        status |= TRUNCATED
    return status


def bricks_possible(state: np.ndarray) -> bool:
    """Whether both fields, of this step and of the one before, are ones that the game has while it goes on."""
    fields = state.view(np.int64).reshape(2, FIELD)
    least, most = np.zeros(FIELD, np.int64), np.ones(FIELD, np.int64)
    for place, low, high in (
        (BALL_ROW, 0, CELLS - 2), (BALL_COLUMN, 0, CELLS - 1), (DOWN, -1, 1), (RIGHT, -1, 1),
        (PADDLE_COLUMN, 1, CELLS - 2), (STEPS, 0, TIME_LIMIT - 1),
    ):  # fmt: skip
        least[place], most[place] = low, high
    return bool(((least <= fields) & (fields <= most)).all() and fields[:, [DOWN, RIGHT]].all())


def bricks() -> NativeEnvironment:
    """Two frames of 40 x 40 pixels, the one before and this one; 3 actions; reward 1 a brick; at most 1,000 steps."""
    side = CELLS * PIXELS
    return NativeEnvironment(
        bricks_reset,
        bricks_step,
        state_size=2 * 8 * FIELD,
        observation_space=spaces.Box(0, 255, (2, side, side), np.uint8),
        action_space=spaces.Discrete(3),
        name="Bricks-v0",
        possible=bricks_possible,
    )
