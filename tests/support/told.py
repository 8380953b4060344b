"""A native environment that gives the rewards and ends it is told, with observations that only count.

Observation number i since the start is row i of the identity matrix, the reset's observation after an end included. The
network of `told` is one layer that passes it on, so that a head's weights i are its outputs for observation number i,
and the gradient of these weights is that of the one step that saw it.
"""

import ctypes

import numba
import numpy as np
from gymnasium import spaces
from loops import Loop
from numba import carray

from nbrl import Dense, configure
from nbrl.envs import NativeEnvironment
from nbrl.envs.interface import STEPPED

NOT_FINITE, FAIL = 16, 32  # besides the interface's bits: the observation has a NaN; the call fails

OBSERVATIONS = 32
ACTIONS = 2
STEPS = 16
STATE = 2 + 2 * STEPS  # float64: observations given, steps taken, then each step's reward and status
REWARDS = [1.0, 2.0, 4.0, 8.0, 16.0]


@numba.njit
def _count(numbers, observation):
    observation[:] = 0
    observation[int(numbers[0]) % OBSERVATIONS] = 1
    numbers[0] += 1


@numba.cfunc("int32(CPointer(float64), uint64, CPointer(float32))")
def told_reset(state, seed, observation):
    _count(carray(state, STATE), carray(observation, OBSERVATIONS))
    return STEPPED


@numba.cfunc("int32(CPointer(float64), CPointer(int32), CPointer(float32), CPointer(float32))")
def told_step(state, action, observation, reward):
    numbers = carray(state, STATE)
    step = 2 + 2 * (int(numbers[1]) % STEPS)
    numbers[1] += 1
    _count(numbers, carray(observation, OBSERVATIONS))
    reward[0] = numbers[step]
    status = int(numbers[step + 1])
    if status & NOT_FINITE:
        observation[OBSERVATIONS - 1] = np.nan
    return 0 if status & FAIL else STEPPED | status & ~NOT_FINITE


class Told(NativeEnvironment):
    """Each step gives its reward and status of `script`. Actions do not matter, and may be continuous, of one part."""

    def __init__(self, script, *, continuous=False):
        super().__init__(
            told_reset,
            told_step,
            state_size=8 * STATE,
            observation_space=spaces.Box(0.0, 1.0, (OBSERVATIONS,), np.float32),
            action_space=spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(ACTIONS),
            name="Told",
        )
        self.script = script

    def make(self):
        instance = super().make()
        numbers = np.ctypeslib.as_array(ctypes.cast(instance.state_address, ctypes.POINTER(ctypes.c_double)), (STATE,))
        numbers[2 : 2 + 2 * len(self.script)] = np.ravel(self.script)
        return instance


def told(ends, rewards=REWARDS, **settings):
    """A loop, not yet run, on steps with these ends; all parameters of its heads are 0."""
    settings = {
        "method": "a3c",
        "optimiser": "shared_rmsprop", "learning_rate": 7e-4, "reward_clip": None, "discount": 0.5,
        "normalise_rewards": False,
        "gradient_clip": 1e9, "seed": 3, "steps": 1000, "rollout_length": 5, "network": (Dense(OBSERVATIONS, "none"),),
    } | settings  # fmt: skip
    config = configure("CartPole-v1", actors=1, threads=1, **settings)
    loop = Loop(config, Told(list(zip(rewards, ends, strict=True))))
    for values in loop.theta.values():
        values[...] = 0
    loop.theta["dense1/weights"][...] = np.eye(OBSERVATIONS)
    return loop
