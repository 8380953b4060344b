"""The replay memory alone: a ring of the last steps, drawn from evenly, as the random numbers say."""

import math
from collections import deque

import numpy as np
import oracles
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from nbrl.methods.replay import contents, draw, new_replay, refill, staged, stored


def remember(replay, steps, numbers):
    """Write a rollout's steps: rows of one number each."""
    for place, number in enumerate(numbers):
        staged(replay, place)[:] = number
    replay.written += steps


@given(size=st.integers(1, 12), steps=st.integers(1, 7), rollouts=st.integers(0, 20), seed=seeds)
@settings(max_examples=150)
def test_it_holds_the_last_steps_and_draws_only_those(size, steps, rollouts, seed):
    replay, expected = new_replay(size, steps, 1, 1, 9), deque(maxlen=size)
    random = np.random.default_rng(seed).integers(1, 2**63, 4, dtype=np.uint64)
    replay.rows[:] = np.nan
    for rollout in range(rollouts):
        numbers = np.arange(rollout * steps, (rollout + 1) * steps)
        remember(replay, steps, numbers)
        expected += numbers.tolist()
        assert stored(replay, steps) == len(expected)
        assert contents(replay, steps)[:, 0].tolist() == list(expected)
        for place in range(steps):  # a rollout that is then abandoned
            staged(replay, place)[:] = -1
        assert contents(replay, steps)[:, 0].tolist() == list(expected)
        generator = oracles.Xoshiro(random)
        draw(replay, steps, random)
        # The newest is number 0 of those that can be drawn.
        told = [list(expected)[-1 - int(generator.uniform() * len(expected))] for _ in range(9)]
        assert replay.rows[replay.drawn, 0].tolist() == told
        assert random.tolist() == generator.state
    other = new_replay(size, steps, 1, 1, 9)
    refill(other, contents(replay, steps))
    assert contents(other, steps).tobytes() == contents(replay, steps).tobytes()
    if rollouts:
        again = random.copy()
        draw(replay, steps, random)
        draw(other, steps, again)
        assert other.rows[other.drawn].tobytes() == replay.rows[replay.drawn].tobytes()


def test_each_step_is_as_likely():
    replay, random = new_replay(50, 4, 1, 1, 100), np.array([1, 2, 3, 4], np.uint64)
    for rollout in range(40):
        remember(replay, 4, range(4 * rollout, 4 * rollout + 4))
    counts = np.zeros(160)
    for _ in range(1000):
        draw(replay, 4, random)
        np.add.at(counts, replay.rows[replay.drawn, 0].astype(int), 1)
    assert not counts[:110].any()
    # 2000 each of 100,000; five standard deviations, and the sum of squares of as many as a chi-square of 49.
    assert np.abs(counts[110:] - 2000).max() < 5 * math.sqrt(2000 * 0.98)
    assert ((counts[110:] - 2000) ** 2).sum() / 2000 < 49 + 5 * math.sqrt(2 * 49)


def test_without_a_size_there_is_nothing():
    replay = new_replay(0, 5, 3, 2, 64)
    assert replay.rows.size == replay.drawn.size == 0
    dtypes = [[array.dtype for array in one.arrays().values()] for one in (replay, new_replay(9, 5, 3, 2, 64))]
    assert dtypes[0] == dtypes[1]
