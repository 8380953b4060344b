"""A replay memory (Lin, 1992) of one worker: its last steps, from which minibatches are drawn.

A row is one step: the return R of what followed in its rollout, the weight w that the value of what came then has in
its target (the discount of so many steps, or 0), the observation s and the action a of the step, and the observation s'
that came then. So the target is R + w Q(s', .). Observations are as the environment gave them, and scaled as they are
drawn; rewards are as learning saw them then.

The rows are a ring. The last `size` that were written can be drawn; as many more as a rollout has steps are written by
the rollout under way, so one that is abandoned leaves nothing behind.
"""

import numpy as np
from numba import float32, int64

from nbrl.kernels.compile import jit
from nbrl.kernels.native import copy, span
from nbrl.kernels.random import integer
from nbrl.kernels.struct import Struct
from nbrl.nets.layout import aligned_zeros
from nbrl.nets.table import actions, load_vector

RETURN, WEIGHT, START = 0, 1, 2  # columns of a row; from START on s, a and s'
VOID_ROW = np.float32(-1.0)  # the weight of a row that nothing is learnt from


class Replay(Struct):
    """A memory. One without rows remembers nothing."""

    rows = float32[:, ::1]  # (size + steps of a rollout, START + 2 observation + parts)
    written = int64  # steps, ever
    drawn = int64[::1]  # (batch,): the rows of a minibatch


def new_replay(size: int, steps: int, observation: int, parts: int, batch: int) -> Replay:
    """An empty memory of `size` steps, written by rollouts of `steps` steps; of size 0, none.

    The system gives the memory as it fills; ``ValueError`` where there is not so much.
    """
    if size == 0:
        return Replay(rows=np.zeros((0, START), np.float32), written=0, drawn=np.zeros(0, np.int64))
    shape = (size + steps, START + 2 * observation + parts)
    try:
        rows = aligned_zeros(shape, np.float32)
    except (MemoryError, ValueError) as error:  # the latter where it is more than an address reaches
        raise ValueError(
            f"a replay memory of {size:,} steps for each thread takes {4e-9 * shape[0] * shape[1]:,.0f} GB, which "
            "cannot be had: lower buffer_size"
        ) from error
    return Replay(rows=rows, written=0, drawn=np.zeros(batch, np.int64))


def contents(replay: Replay, steps: int) -> np.ndarray:
    """A copy of the rows that can be drawn, the oldest first."""
    written = replay.written
    return replay.rows[np.arange(written - stored(replay, steps), written) % len(replay.rows)]


def refill(replay: Replay, rows: np.ndarray) -> None:
    """Begin with rows that `contents` gave."""
    replay.rows[: len(rows)] = rows
    replay.written = len(rows)


@jit
def staged(replay, number):
    """The row for a step, by its number, of the rollout under way."""
    return replay.rows[(replay.written + number) % replay.rows.shape[0]]


@jit
def stored(replay, steps):
    """How many rows can be drawn, where a rollout has so many steps."""
    return min(replay.written, replay.rows.shape[0] - steps)


@jit
def draw(replay, steps, random):
    """Fill `drawn` with rows that can be drawn, each as likely, by numbers from a random row."""
    written, count, ring = replay.written, stored(replay, steps), replay.rows.shape[0]
    for i in range(replay.drawn.size):
        replay.drawn[i] = (written - 1 - integer(random, count)) % ring


@jit
def sample_batch(work, target, replay):
    """Load s and a of the rows drawn into one workspace, and s' into another."""
    size, a = work.observation_size, actions(work, 0, replay.drawn.size)
    for i in range(replay.drawn.size):
        row = replay.rows[replay.drawn[i]]
        load_vector(work, i, span(row, START, size))
        copy(a[i], span(row, START + size, row.size - START - 2 * size))
        load_vector(target, i, span(row, row.size - size, size))


# What a worker's rollout puts down: step number t * k + i is step t of the group's actor i, an observation is as bytes.


@jit
def remember_action(replay, number, observation, action):
    """s and a."""
    row, seen = staged(replay, number), observation.view(np.float32)
    copy(span(row, START, seen.size), seen)
    copy(span(row, START + seen.size, action.size), action)


@jit
def remember_next(replay, number, observation):
    """s': what the actor sees now."""
    row, seen = staged(replay, number), observation.view(np.float32)
    copy(span(row, row.size - seen.size, seen.size), seen)


@jit
def remember_rollout(replay, rollout, void, observation, first):
    """R, w and s' of all steps, whose s and a were put down, and s' where an episode was truncated."""
    t_max, k = rollout.reward.shape
    size = observation.shape[1] // 4
    for i in range(k):
        R, w = np.float32(0.0), np.float32(1.0)
        for t in range(t_max - 1, -1, -1):
            row = staged(replay, t * k + i)
            following = span(row, row.size - size, size)
            if rollout.ended[t, i]:
                R, w = np.float32(0.0), np.float32(1.0)
                if not rollout.truncated[t, i]:
                    copy(following, span(row, START, size))  # any: its weight is 0
            elif t == t_max - 1:
                remember_next(replay, t * k + i, observation[first + i])
            else:
                copy(following, span(staged(replay, (t + 1) * k + i), row.size - size, size))
            R = rollout.reward[t, i] + rollout.discount[t, i] * R
            w *= rollout.discount[t, i]
            row[RETURN], row[WEIGHT] = R, VOID_ROW if void[t * k + i] else w
    replay.written += t_max * k
