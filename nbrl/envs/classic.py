"""CartPole and Catch in numba: no Python in a step, and models for one's own native environments."""

import math

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, NativeEnvironment
from nbrl.kernels.compile import cfunction
from nbrl.kernels.random import ROW, integer, seed_row, uniform

# CartPole: Barto, Sutton and Anderson (1983), with the constants and the order of operations of gymnasium's
# CartPole-v1, so that equal states and actions give equal floats.
GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = POLE_MASS + 1.0
HALF_LENGTH = 0.5
POLE_MOMENT = POLE_MASS * HALF_LENGTH
FORCE = 10.0
SECONDS = 0.02
X_LIMIT = 2.4
ANGLE_LIMIT = 12 * 2 * math.pi / 360
TIME_LIMIT = 500
CART_POLE_STATE = 5  # float64: position, velocity, angle, angular velocity, steps taken


@cfunction("int32(CPointer(float64), uint64, CPointer(float32))")
def cart_pole_reset(state_pointer, seed, observation_pointer):
    """Four uniform numbers in [-0.05, 0.05)."""
    state = carray(state_pointer, CART_POLE_STATE)
    observation = carray(observation_pointer, 4)
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    for i in range(4):
        state[i] = 0.1 * uniform(row) - 0.05
        observation[i] = state[i]
    state[4] = 0.0
    return STEPPED


@cfunction("int32(CPointer(float64), CPointer(int32), CPointer(float32), CPointer(float32))")
def cart_pole_step(state_pointer, action, observation_pointer, reward):
    """Push left (0) or right (1) for 0.02 s, by Euler's rule."""
    state = carray(state_pointer, CART_POLE_STATE)
    observation = carray(observation_pointer, 4)
    x, x_dot, theta, theta_dot = state[0], state[1], state[2], state[3]
    force = FORCE if action[0] == 1 else -FORCE
    cosine, sine = math.cos(theta), math.sin(theta)
    push = (force + POLE_MOMENT * (theta_dot * theta_dot) * sine) / TOTAL_MASS
    theta_acceleration = (GRAVITY * sine - cosine * push) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cosine * cosine) / TOTAL_MASS)
    )
    x_acceleration = push - POLE_MOMENT * theta_acceleration * cosine / TOTAL_MASS
    state[0] = x + SECONDS * x_dot
    state[1] = x_dot + SECONDS * x_acceleration
    state[2] = theta + SECONDS * theta_dot
    state[3] = theta_dot + SECONDS * theta_acceleration
    state[4] += 1.0
    for i in range(4):
        observation[i] = state[i]
    reward[0] = 1.0
    status = STEPPED
    if abs(state[0]) > X_LIMIT or abs(state[2]) > ANGLE_LIMIT:
        status |= TERMINATED
    if state[4] >= TIME_LIMIT:
        status |= TRUNCATED
    return status


def cart_pole_possible(state: np.ndarray) -> bool:
    """Whether the pole stands, and the episode is not over."""
    x, x_dot, theta, theta_dot, steps = state.view(np.float64).tolist()
    stands = abs(x) <= X_LIMIT and abs(theta) <= ANGLE_LIMIT and math.isfinite(x_dot) and math.isfinite(theta_dot)
    return stands and steps in range(TIME_LIMIT)


def cart_pole_picture(observation: np.ndarray) -> np.ndarray:
    """The cart on its track, with the pole and the marks that the cart must not pass: uint8 (200, 400, 3)."""
    y, x = np.ogrid[-150.0:50.0, -200.0:200.0]  # pixels from the middle of the track
    picture = np.full((200, 400, 3), (246, 244, 238), np.float64)

    def paint(distance: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Colour what lies within a shape, given the distance of each pixel from its edge."""
        covered = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        picture[...] += covered * (np.array(colour) - picture)

    scale = 78.0  # pixels in a metre
    cart, angle, length = scale * float(observation[0]), float(observation[2]), scale * 2 * HALF_LENGTH
    paint(np.maximum(np.abs(y) - 1, np.abs(x) - 200), (160, 158, 152))
    for limit in (-scale * X_LIMIT, scale * X_LIMIT):
        paint(np.maximum(np.abs(y) - 7, np.abs(x - limit) - 1), (160, 158, 152))
    body = np.hypot(np.maximum(np.abs(x - cart) - 20, 0), np.maximum(np.abs(y + 13) - 8, 0))
    paint(body - 4, (52, 66, 98))
    along = np.clip((x - cart) * math.sin(angle) - (y + 22) * math.cos(angle), 0, length)
    pole = np.hypot(x - cart - along * math.sin(angle), y + 22 + along * math.cos(angle))
    paint(pole - 4.5, (214, 132, 58))
    paint(np.hypot(x - cart, y + 22) - 2.5, (246, 244, 238))
    return np.rint(picture).astype(np.uint8)


def cart_pole() -> NativeEnvironment:
    """Balance a pole on a cart: 4 observations, 2 actions, reward 1 a step, at most 500 steps."""
    high = np.array([2 * X_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)
    return NativeEnvironment(
        cart_pole_reset,
        cart_pole_step,
        state_size=8 * CART_POLE_STATE,
        observation_space=spaces.Box(-high, high),
        action_space=spaces.Discrete(2),
        name="CartPole-v1",
        possible=cart_pole_possible,
        picture=cart_pole_picture,
    )


# Catch, as in bsuite: a ball falls one row a step from a random column; the paddle on the last row must be under it.
ROWS, COLUMNS = 10, 5
BALL_ROW, BALL_COLUMN, PADDLE_COLUMN = 0, 1, 2
CATCH_STATE = 3  # int64


@cfunction("int32(CPointer(int64), uint64, CPointer(float32))")
def catch_reset(state_pointer, seed, observation_pointer):
    """The ball in a random column of the first row, the paddle in the middle of the last."""
    state = carray(state_pointer, CATCH_STATE)
    board = carray(observation_pointer, (ROWS, COLUMNS))
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    state[BALL_ROW], state[BALL_COLUMN], state[PADDLE_COLUMN] = 0, integer(row, COLUMNS), COLUMNS // 2
    board[:, :] = 0.0
    board[0, state[BALL_COLUMN]] = 1.0
    board[ROWS - 1, state[PADDLE_COLUMN]] = 1.0
    return STEPPED


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def catch_step(state_pointer, action, observation_pointer, reward):
    """Move the paddle left (0), not (1) or right (2); reward 1 or -1 when the ball is down. It fails after an end."""
    state = carray(state_pointer, CATCH_STATE)
    if state[BALL_ROW] >= ROWS - 1:
        return 0
    board = carray(observation_pointer, (ROWS, COLUMNS))
    state[PADDLE_COLUMN] = min(max(state[PADDLE_COLUMN] + action[0] - 1, 0), COLUMNS - 1)
    state[BALL_ROW] += 1
    board[:, :] = 0.0
    board[state[BALL_ROW], state[BALL_COLUMN]] = 1.0
    board[ROWS - 1, state[PADDLE_COLUMN]] = 1.0
    reward[0] = 0.0
    if state[BALL_ROW] < ROWS - 1:
        return STEPPED
    reward[0] = 1.0 if state[BALL_COLUMN] == state[PADDLE_COLUMN] else -1.0
    return STEPPED | TERMINATED


def catch_possible(state: np.ndarray) -> bool:
    """Whether ball and paddle are on the board, and the ball is not down."""
    ball_row, ball_column, paddle_column = state.view(np.int64).tolist()
    return ball_row in range(ROWS - 1) and ball_column in range(COLUMNS) and paddle_column in range(COLUMNS)


def catch_picture(observation: np.ndarray) -> np.ndarray:
    """The board, with the ball and the paddle in one colour: uint8 (320, 160, 3)."""
    cells = np.zeros((ROWS, 32, COLUMNS, 32), np.int64)
    cells[:, 1:-1, :, 1:-1] = 1 + observation.reshape(ROWS, 1, COLUMNS, 1).astype(np.int64)
    colours = np.array([(28, 30, 38), (40, 43, 54), (245, 190, 80)], np.uint8)  # between cells, empty, full
    return colours[cells.reshape(32 * ROWS, 32 * COLUMNS)]


def catch() -> NativeEnvironment:
    """Catch a falling ball: a board of 10 x 5 as 50 observations, 3 actions, 9 steps an episode."""
    return NativeEnvironment(
        catch_reset,
        catch_step,
        state_size=8 * CATCH_STATE,
        observation_space=spaces.Box(0.0, 1.0, (ROWS * COLUMNS,), np.float32),
        action_space=spaces.Discrete(3),
        name="Catch-v0",
        possible=catch_possible,
        picture=catch_picture,
    )
