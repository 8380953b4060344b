"""A native environment that draws everything at random, every kind of end among it, and writes down all that happens.

Its state holds its own random row, a count and a log of records, which the tests read from the instances' memory.
"""

import ctypes

import numba
import numpy as np
from gymnasium import spaces
from numba import carray

from nbrl.envs import NativeEnvironment
from nbrl.envs.interface import CUT, STEPPED, TERMINATED, TRUNCATED
from nbrl.kernels.random import seed_row, uniform

SIZE = 6  # of an observation
ACTIONS = 4
RECORDS = 4000
PARTS = 2  # of a continuous action
LOW, HIGH = (-1.5, -4.0), (0.5, 2.0)  # its bounds
# float64: the observation given, the action (-1 for a reset, 0 for a continuous one), the reward, the status, and the
# parts of a continuous action.
RECORD = SIZE + 3 + PARTS
HEAD = 5  # uint64: the random row, the count of records


@numba.njit
def _write(head, log, observation, action, reward, status):
    record = log[np.int64(head[4])]
    for i in range(SIZE):
        observation[i] = 2 * uniform(head) - 1
        record[i] = observation[i]
    record[SIZE], record[SIZE + 1], record[SIZE + 2] = action, reward, status
    head[4] += np.uint64(1)


@numba.cfunc("int32(voidptr, uint64, CPointer(float32))")
def scripted_reset(state, seed, observation):
    head = carray(state, HEAD, np.uint64)
    log = carray(state, HEAD + RECORD * RECORDS, np.float64)[HEAD:].reshape((RECORDS, RECORD))
    if head[4] >= RECORDS:
        return 0
    seed_row(head, seed, np.uint64(7))
    _write(head, log, carray(observation, SIZE), -1, 0.0, STEPPED)
    return STEPPED


@numba.njit
def _status(chance):
    status = STEPPED
    if chance < 0.1:
        status |= TERMINATED
    elif chance < 0.2:
        status |= TRUNCATED
    elif chance < 0.3:
        status |= CUT
    elif chance < 0.34:
        status |= TERMINATED | TRUNCATED
    return status


@numba.cfunc("int32(voidptr, CPointer(int32), CPointer(float32), CPointer(float32))")
def scripted_step(state, action, observation, reward):
    head = carray(state, HEAD, np.uint64)
    log = carray(state, HEAD + RECORD * RECORDS, np.float64)[HEAD:].reshape((RECORDS, RECORD))
    if head[4] >= RECORDS:
        return 0
    reward[0] = 6 * uniform(head) - 3 + 0.5 * action[0]
    status = _status(uniform(head))
    _write(head, log, carray(observation, SIZE), action[0], reward[0], status)
    return status


@numba.cfunc("int32(voidptr, CPointer(float32), CPointer(float32), CPointer(float32))")
def scripted_motion(state, action, observation, reward):
    head = carray(state, HEAD, np.uint64)
    log = carray(state, HEAD + RECORD * RECORDS, np.float64)[HEAD:].reshape((RECORDS, RECORD))
    if head[4] >= RECORDS:
        return 0
    reward[0] = 6 * uniform(head) - 3 + 0.5 * action[0] - 0.25 * action[1]
    status = _status(uniform(head))
    for part in range(PARTS):
        log[np.int64(head[4]), SIZE + 3 + part] = action[part]
    _write(head, log, carray(observation, SIZE), 0, reward[0], status)
    return status


class Scripted(NativeEnvironment):
    """The environment, whose actions may be continuous; `made` holds every instance that was made of it, in order."""

    def __init__(self, *, continuous=False):
        motions = spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))
        super().__init__(
            scripted_reset,
            scripted_motion if continuous else scripted_step,
            state_size=8 * (HEAD + RECORD * RECORDS),
            observation_space=spaces.Box(-1.0, 1.0, (SIZE,), np.float32),
            action_space=motions if continuous else spaces.Discrete(ACTIONS),
            name="Scripted",
        )
        self.made = []

    def make(self):
        self.made.append(super().make())
        return self.made[-1]

    def records(self, instance):
        """(N, RECORD) float64: everything that an instance of this environment wrote."""
        size = 8 * (HEAD + RECORD * RECORDS)
        state = np.frombuffer(ctypes.string_at(instance.state_address, size), np.float64)
        return state[HEAD:].reshape(RECORDS, RECORD)[: int(state[:HEAD].view(np.uint64)[4])]


def motions(records):
    """(N, PARTS): the continuous actions of every step, in the space's units."""
    return records[records[:, SIZE] != -1, SIZE + 3 :]


def transitions(records):
    """One dict of (N, ...) arrays: observations, actions, rewards, statuses and next_observations of every step.

    Raises AssertionError where the records do not begin with a reset, or an end without a reset after it (or a reset
    without an end before it) is found.
    """
    is_reset = records[:, SIZE] == -1
    ended = records[:, SIZE + 2].astype(int) & (TERMINATED | TRUNCATED) != 0
    assert is_reset[0]
    assert np.array_equal(is_reset[1:], ended[:-1])
    steps = np.flatnonzero(~is_reset)
    return {
        "observations": records[steps - 1, :SIZE].astype(np.float32),
        "actions": records[steps, SIZE].astype(int),
        "rewards": records[steps, SIZE + 1],
        "statuses": records[steps, SIZE + 2].astype(int),
        "next_observations": records[steps, :SIZE].astype(np.float32),
        "begins": is_reset[steps - 1],
    }


def rollouts(steps, length):
    """Cut the arrays of `transitions` into whole rollouts of `length` steps."""
    count = len(steps["actions"]) // length
    return [{name: value[i * length : (i + 1) * length] for name, value in steps.items()} for i in range(count)]
