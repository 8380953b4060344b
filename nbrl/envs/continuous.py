"""Pendulum, from its state or from pixels, and MountainCarContinuous in numba: small tasks with continuous actions.

Constants, the order of operations and where single precision is used are gymnasium's, so that equal states and actions
give equal floats.
"""

import math

import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, NativeEnvironment
from nbrl.kernels.compile import cfunction, jit, strict
from nbrl.kernels.random import ROW, seed_row, uniform

GRAVITY = 10.0
SECONDS = 0.05
SPEED_LIMIT = 8.0
TORQUE_LIMIT = 2.0
PENDULUM_TIME_LIMIT = 200
PENDULUM_STATE = 3  # float64: angle from upright, angular velocity, steps taken
SIDE, ROD_LENGTH, ROD_RADIUS = 84, 32.0, 4.0  # pixels


@strict
def _hang(state, seed):
    """Any angle, and an angular velocity in [-1, 1)."""
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    state[0], state[1], state[2] = math.pi * (2.0 * uniform(row) - 1.0), 2.0 * uniform(row) - 1.0, 0.0


@strict
def _turn(state, action):
    """Turn with a torque, a float32, for 0.05 s: the reward."""
    torque = min(max(action, np.float32(-TORQUE_LIMIT)), np.float32(TORQUE_LIMIT))
    angle, speed = state[0], state[1]
    off = (angle + math.pi) % (2 * math.pi) - math.pi
    reward = -(off * off + 0.1 * (speed * speed) + np.float64(np.float32(0.001) * (torque * torque)))
    speed += (3 * GRAVITY / 2 * math.sin(angle) + np.float64(np.float32(3.0) * torque)) * SECONDS
    speed = min(max(speed, -SPEED_LIMIT), SPEED_LIMIT)
    state[0], state[1] = angle + speed * SECONDS, speed
    state[2] += 1.0
    return reward


@cfunction("int32(CPointer(float64), uint64, CPointer(float32))")
def pendulum_reset(state_pointer, seed, observation):
    state = carray(state_pointer, PENDULUM_STATE)
    _hang(state, seed)
    observation[0], observation[1], observation[2] = math.cos(state[0]), math.sin(state[0]), state[1]
    return STEPPED


@cfunction("int32(CPointer(float64), CPointer(float32), CPointer(float32), CPointer(float32))")
def pendulum_step(state_pointer, action, observation, reward):
    """It fails with a torque that is not a number."""
    state = carray(state_pointer, PENDULUM_STATE)
    if math.isnan(action[0]):
        return 0
    reward[0] = _turn(state, action[0])
    observation[0], observation[1], observation[2] = math.cos(state[0]), math.sin(state[0]), state[1]
    return STEPPED | TRUNCATED if state[2] >= PENDULUM_TIME_LIMIT else STEPPED


@jit
def _draw(angle, picture):
    """The rod, white on black with smooth edges, turned about the middle of a picture, uint8 (SIDE, SIDE)."""
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))  # a positive angle is to the left
    middle, length, edge = np.float32(SIDE / 2 - 0.5), np.float32(ROD_LENGTH), np.float32(ROD_RADIUS + 0.5)
    zero, one, white = np.float32(0.0), np.float32(1.0), np.float32(255.0)
    for row in range(SIDE):
        y = np.float32(row) - middle
        for column in range(SIDE):
            x = np.float32(column) - middle
            along, across = -cosine * y - sine * x, cosine * x - sine * y
            beyond = along - min(max(along, zero), length)
            inside = edge - np.sqrt(beyond * beyond + across * across)
            picture[row, column] = np.uint8(white * min(max(inside, zero), one))


@cfunction("int32(CPointer(float64), uint64, CPointer(uint8))")
def pendulum_pixels_reset(state_pointer, seed, observation):
    state, frames = carray(state_pointer, PENDULUM_STATE), carray(observation, (2, SIDE, SIDE))
    _hang(state, seed)
    _draw(state[0] - state[1] * SECONDS, frames[0])  # where it came from
    _draw(state[0], frames[1])
    return STEPPED


@cfunction("int32(CPointer(float64), CPointer(float32), CPointer(uint8), CPointer(float32))")
def pendulum_pixels_step(state_pointer, action, observation, reward):
    """It fails with a torque that is not a number."""
    state, frames = carray(state_pointer, PENDULUM_STATE), carray(observation, (2, SIDE, SIDE))
    if math.isnan(action[0]):
        return 0
    _draw(state[0], frames[0])
    reward[0] = _turn(state, action[0])
    _draw(state[0], frames[1])
    return STEPPED | TRUNCATED if state[2] >= PENDULUM_TIME_LIMIT else STEPPED


def pendulum_possible(state: np.ndarray) -> bool:
    """Whether the pendulum is no faster than it can be, at an angle that so many steps reach."""
    angle, speed, steps = state.view(np.float64).tolist()
    reached = math.pi + PENDULUM_TIME_LIMIT * SPEED_LIMIT * SECONDS
    return abs(angle) <= reached and abs(speed) <= SPEED_LIMIT and steps in range(PENDULUM_TIME_LIMIT)


def pendulum_picture(observation: np.ndarray) -> np.ndarray:
    """The pendulum on its axle: uint8 (240, 240, 3)."""
    y, x = np.ogrid[-119.5:120.0, -119.5:120.0]  # pixels from the axle
    cosine, sine = float(observation[0]), float(observation[1])  # a positive angle is to the left
    along, across = -cosine * y - sine * x, cosine * x - sine * y
    rod = np.hypot(along - np.clip(along, 0.0, 90.0), across)
    return _painted(y + x, [(rod - 9, (204, 77, 77)), (np.hypot(x, y) - 4, (40, 40, 40))])


def _painted(like: np.ndarray, shapes: list[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """A picture of shapes on a light ground, each given by the distance of every pixel from its edge."""
    picture = np.full((*like.shape, 3), (246, 244, 238), np.float64)
    for distance, colour in shapes:
        picture += np.clip(0.5 - distance, 0.0, 1.0)[..., None] * (np.array(colour) - picture)
    return np.rint(picture).astype(np.uint8)


def pendulum() -> NativeEnvironment:
    """Swing a pendulum up and hold it: 3 observations, a torque in [-2, 2], at most 0 a step, 200 steps."""
    high = np.array([1.0, 1.0, SPEED_LIMIT], np.float32)
    return NativeEnvironment(
        pendulum_reset,
        pendulum_step,
        state_size=8 * PENDULUM_STATE,
        observation_space=spaces.Box(-high, high),
        action_space=spaces.Box(-TORQUE_LIMIT, TORQUE_LIMIT, (1,), np.float32),
        name="Pendulum-v1",
        possible=pendulum_possible,
        picture=pendulum_picture,
    )


def pendulum_pixels() -> NativeEnvironment:
    """The same from pictures: two frames of 84 x 84 pixels, the one before and this one, uint8 (2, 84, 84)."""
    return NativeEnvironment(
        pendulum_pixels_reset,
        pendulum_pixels_step,
        state_size=8 * PENDULUM_STATE,
        observation_space=spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8),
        action_space=spaces.Box(-TORQUE_LIMIT, TORQUE_LIMIT, (1,), np.float32),
        name="PendulumPixels-v0",
        possible=pendulum_possible,
    )


LEFT_END, RIGHT_END, GOAL = np.float32(-1.2), np.float32(0.6), np.float32(0.45)
CAR_SPEED_LIMIT = np.float32(0.07)
POWER = np.float32(0.0015)
CAR_TIME_LIMIT = 999
CAR_STATE = 3  # float64: position, velocity, steps taken


@cfunction("int32(CPointer(float64), uint64, CPointer(float32))")
def mountain_car_reset(state_pointer, seed, observation):
    """At rest near the bottom, in [-0.6, -0.4)."""
    state = carray(state_pointer, CAR_STATE)
    row = np.empty(ROW, np.uint64)
    seed_row(row, seed, np.uint64(0))
    state[0], state[1], state[2] = 0.2 * uniform(row) - 0.6, 0.0, 0.0
    observation[0], observation[1] = state[0], 0.0
    return STEPPED


@cfunction("int32(CPointer(float64), CPointer(float32), CPointer(float32), CPointer(float32))")
def mountain_car_step(state_pointer, action, observation, reward):
    """Push with a force in [-1, 1]. It fails with one that is not a number."""
    state = carray(state_pointer, CAR_STATE)
    if math.isnan(action[0]):
        return 0
    force = np.float32(min(max(action[0], np.float32(-1.0)), np.float32(1.0)))
    angle = 3.0 * state[0]
    if state[2] > 0.0:  # gymnasium's state is in single precision after a step, but not after a reset
        angle = np.float64(np.float32(angle))
    velocity = np.float32(state[1]) + (force * POWER - np.float32(0.0025 * math.cos(angle)))
    velocity = min(max(velocity, -CAR_SPEED_LIMIT), CAR_SPEED_LIMIT)
    position = np.float32(state[0] + np.float64(velocity))
    position = min(max(position, LEFT_END), RIGHT_END)
    if position == LEFT_END and velocity < 0.0:
        velocity = np.float32(0.0)
    state[0], state[1] = position, velocity
    state[2] += 1.0
    observation[0], observation[1] = position, velocity
    there = position >= GOAL and velocity >= 0.0
    reward[0] = (100.0 if there else 0.0) - 0.1 * (np.float64(force) * np.float64(force))
    status = STEPPED
    if there:
        status |= TERMINATED
    if state[2] >= CAR_TIME_LIMIT:
        status |= TRUNCATED
    return status


def mountain_car_possible(state: np.ndarray) -> bool:
    """Whether the car is between the ends, no faster than it can be, and the episode is not over."""
    position, velocity, steps = state.view(np.float64).tolist()
    there = float(LEFT_END) <= position <= float(RIGHT_END) and abs(velocity) <= float(CAR_SPEED_LIMIT)
    return there and steps in range(CAR_TIME_LIMIT)


def mountain_car_picture(observation: np.ndarray) -> np.ndarray:
    """The car on its hill, and the goal: uint8 (200, 360, 3)."""
    scale = 200.0  # pixels in a unit
    y, x = np.mgrid[199.5:-0.5:-1.0, 0.5:360.0]

    def height(position: np.ndarray | float) -> np.ndarray:
        return scale * (0.4 * np.sin(3 * np.asarray(position)) + 0.42)

    ground = (y - height(x / scale + float(LEFT_END))) / np.hypot(1, 1.2 * np.cos(3 * (x / scale + float(LEFT_END))))
    shapes = [(ground, (160, 158, 152))]
    for position, size, colour in ((float(GOAL), 5, (214, 132, 58)), (float(observation[0]), 8, (52, 66, 98))):
        middle = scale * (position - float(LEFT_END))
        shapes.append((np.hypot(x - middle, y - height(position) - size) - size, colour))
    return _painted(y, shapes)


def mountain_car() -> NativeEnvironment:
    """Drive a weak car up a hill: 2 observations, a force in [-1, 1], reward 100 at the goal, at most 999 steps."""
    return NativeEnvironment(
        mountain_car_reset,
        mountain_car_step,
        state_size=8 * CAR_STATE,
        observation_space=spaces.Box(
            np.array([LEFT_END, -CAR_SPEED_LIMIT]), np.array([RIGHT_END, CAR_SPEED_LIMIT]), dtype=np.float32
        ),
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        name="MountainCarContinuous-v0",
        possible=mountain_car_possible,
        picture=mountain_car_picture,
    )
