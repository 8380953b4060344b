"""Random rows against the generators' published definitions, and the distributions made from them."""

import math

import numba
import numpy as np
import oracles
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl.kernels.random import integer, next_uint64, normal, seed_row, uniform

words = st.integers(0, 2**64 - 1)
DRAWS = 200_000


@numba.njit
def fill_uint64(row, out):
    for i in range(out.size):
        out[i] = next_uint64(row)


@numba.njit
def fill_uniform(row, out):
    for i in range(out.size):
        out[i] = uniform(row)


@numba.njit
def fill_integer(row, n, out):
    for i in range(out.size):
        out[i] = integer(row, n)


@numba.njit
def fill_normal(row, out):
    for i in range(out.size):
        out[i] = normal(row)


def seeded(seed, stream=0):
    row = np.zeros(4, np.uint64)
    seed_row(row, np.uint64(seed), np.uint64(stream))
    return row


def test_the_oracle_gives_the_published_first_outputs():
    # From the authors' C programs: xoshiro256++ started at (1, 2, 3, 4), splitmix64 at 1234567.
    generator = oracles.Xoshiro([1, 2, 3, 4])
    assert [generator.next_uint64() for _ in range(3)] == [41943041, 58720359, 3588806011781223]
    state, first = oracles.splitmix64(1234567)
    assert (first, oracles.splitmix64(state)[1]) == (6457827717110365317, 3203168211198807973)


@given(state=st.lists(words, min_size=4, max_size=4).filter(any))
@settings(max_examples=50)
def test_a_row_gives_the_words_of_xoshiro256plusplus(state):
    row, out, generator = np.array(state, np.uint64), np.zeros(20, np.uint64), oracles.Xoshiro(state)
    fill_uint64(row, out)
    assert out.tolist() == [generator.next_uint64() for _ in range(20)]
    assert row.tolist() == generator.state


@given(seed=words, stream=words)
@settings(max_examples=50)
def test_a_row_is_seeded_by_splitmix64(seed, stream):
    state, expected = seed ^ oracles.splitmix64(stream)[1], []
    for _ in range(4):
        state, word = oracles.splitmix64(state)
        expected.append(word)
    assert seeded(seed, stream).tolist() == expected


@given(state=st.lists(words, min_size=4, max_size=4).filter(any), n=st.integers(1, 2**32))
@settings(max_examples=50)
def test_uniform_and_integer_are_the_top_53_bits(state, n):
    row, out, generator = np.array(state, np.uint64), np.zeros(10), oracles.Xoshiro(state)
    fill_uniform(row, out)
    expected = [generator.uniform() for _ in range(10)]
    assert out.tolist() == expected
    row, out = np.array(state, np.uint64), np.zeros(10, np.int64)
    fill_integer(row, n, out)
    assert out.tolist() == [math.floor(value * n) for value in expected]


@pytest.mark.parametrize("word", [0, 2**64 - 1])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 18, 2**31 - 1, 2**32 - 1, 2**32])
def test_the_extreme_words_stay_inside_the_ranges(word, n):
    # The first output of (a, *, *, d) is rotl(a + d, 23) + a: a = word and d = -word give it.
    row = np.array([word, 1, 2, -word % 2**64], np.uint64)
    assert oracles.Xoshiro(row).next_uint64() == word
    out = np.zeros(1)
    fill_uniform(row.copy(), out)
    assert 0 <= out[0] < 1
    drawn = np.zeros(1, np.int64)
    fill_integer(row.copy(), n, drawn)
    assert drawn[0] == (0 if word == 0 else n - 1)


def test_the_moments_and_the_spread_of_uniform():
    out = np.zeros(DRAWS)
    fill_uniform(seeded(1), out)
    assert out.min() >= 0
    assert out.max() < 1
    assert abs(out.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / DRAWS)
    assert abs((out**2).mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / DRAWS)
    assert abs((out[1:] * out[:-1]).mean() - 1 / 4) < 5 * math.sqrt(7 / 144 / DRAWS) * math.sqrt(2)  # neighbours
    counts = np.bincount((out * 100).astype(int), minlength=100)
    assert chi_square(counts) < 99 + 6 * math.sqrt(2 * 99)


def chi_square(counts):
    """Of counts that should be equal: mean k - 1, variance 2 (k - 1)."""
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("n", [1, 2, 3, 6, 18])
def test_integers_are_equally_frequent(n):
    out = np.zeros(DRAWS, np.int64)
    fill_integer(seeded(n), n, out)
    counts = np.bincount(out, minlength=n)
    assert counts.size == n
    assert chi_square(counts) <= n - 1 + 6 * math.sqrt(2 * (n - 1))


def test_the_moments_of_normal():
    out = np.zeros(DRAWS)
    fill_normal(seeded(3), out)
    assert np.isfinite(out).all()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((out**power).mean() - moment) < 5 * math.sqrt(variance / DRAWS)
    inside = np.mean(np.abs(out) < 1)
    assert abs(inside - math.erf(math.sqrt(0.5))) < 5 * math.sqrt(0.25 / DRAWS)


def test_normal_is_finite_at_the_extreme_words():
    for word in (0, 2**64 - 1):
        out = np.zeros(1)
        fill_normal(np.array([word, 1, 2, -word % 2**64], np.uint64), out)
        assert np.isfinite(out).all()


@given(seed=strategies.seeds)
@settings(max_examples=20)
def test_equal_pairs_give_equal_streams_and_others_unrelated_ones(seed):
    pairs = [(seed, 0), (seed, 1), (seed + 1, 0), (seed + 1, 1), (seed, 2**63), (0, seed + 2)]
    streams = np.zeros((len(pairs), 2000), np.uint64)
    for pair, out in zip(pairs, streams, strict=True):
        fill_uint64(seeded(*pair), out)
        again = np.zeros_like(out)
        fill_uint64(seeded(*pair), again)
        assert np.array_equal(out, again)
    assert np.unique(streams).size == streams.size  # 12,000 words of 64 bits: no two alike, in any stream
    ones = np.bitwise_count(streams[:, None] ^ streams[None, :]).sum(axis=2) / (2000 * 64)
    others = ones[~np.eye(len(pairs), dtype=bool)]
    assert (np.abs(others - 0.5) < 6 * 0.5 / math.sqrt(2000 * 64)).all()


def test_consecutive_seeds_and_streams_start_apart():
    firsts = {tuple(seeded(seed, stream).tolist()) for seed in range(100) for stream in range(100)}
    assert len(firsts) == 10_000
    assert all(any(first) for first in firsts)  # xoshiro never leaves the state of zeros
