"""The heads: of a policy, sampling, log-probability, entropy and gradients; of Q values, epsilon-greedy actions too."""

import math

import numba
import numpy as np
import oracles
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl.kernels.random import seed_row, uniform
from nbrl.nets.heads import argmax, categorical_gradient, categorical_sample, epsilon_greedy, q_gradient, softmax

logits_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=18)
EPSILON = float(np.finfo(np.float32).eps)


@numba.njit
def sample_many(logits, row, counts, draws):
    for _ in range(draws):
        counts[categorical_sample(logits, uniform(row))] += 1


def row_of(seed):
    row = np.zeros(4, np.uint64)
    seed_row(row, np.uint64(seed), np.uint64(0))
    return row


@pytest.mark.parametrize(
    "probabilities",
    [[1.0], [0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.9, 0.05, 0.05], [0.001, 0.999], [1 / 18] * 18],
    ids=lambda p: f"{len(p)} actions, first {p[0]:.3g}",
)
def test_actions_are_as_frequent_as_their_probabilities(probabilities):
    probabilities, draws = np.array(probabilities), 200_000
    logits = (np.log(probabilities) + 3).astype(np.float32)
    counts = np.zeros(probabilities.size, np.int64)
    sample_many(logits, row_of(1), counts, draws)
    deviation = np.sqrt(draws * probabilities * (1 - probabilities))
    assert counts.sum() == draws
    assert (np.abs(counts - draws * probabilities) <= 5 * deviation).all()


LARGEST = 1 - 2.0**-53  # that a row gives


@pytest.mark.parametrize("u", [0.0, 2.0**-53, 0.5, 1 - 2.0**-25, LARGEST])
@pytest.mark.parametrize(
    "logits", [[0, -200], [-200, 0], [-200, 0, -200], [-1e30, 5, -1e30, -1e30], [-200, 3, 3, -200]]
)
def test_an_action_of_no_probability_is_never_drawn(logits, u):
    # exp(-200) is 0 in float32.
    assert logits[categorical_sample(np.array(logits, np.float32), u)] == max(logits)


@given(logits=logits_lists, u=st.floats(0, LARGEST))
@settings(max_examples=200)
def test_an_action_is_the_inverse_of_its_number(logits, u):
    logits = np.array(logits, np.float32)
    upper = np.exp(oracles.log_softmax(logits)).cumsum()
    action, rounding = categorical_sample(logits, u), logits.size * 4 * EPSILON
    assert u <= upper[action] + rounding
    assert u >= (upper[action - 1] if action else 0) - rounding


def test_the_gradient_by_hand():
    # pi = (1/2, 1/4, 1/4), so log2 pi = (-1, -2, -2) and H = 1.5 ln 2 = 1.039721 nats. Action 1, advantage 2, beta 0.1:
    #   d(-log pi_1)/dz * 2       = 2 * (0.5, 0.25 - 1, 0.25) = (1, -1.5, 0.5)
    #   beta pi_i (log pi_i + H)  = 0.1 ln 2 (0.5 * 0.5, 0.25 * -0.5, 0.25 * -0.5) = 0.1 ln 2 (0.25, -0.125, -0.125)
    logits = np.array([math.log(2), 0, 0], np.float32)
    dlogits = np.zeros(3, np.float32)
    log_pi, entropy = categorical_gradient(logits, 1, np.float32(2), np.float32(0.1), dlogits)
    assert log_pi == pytest.approx(-1.386294, abs=1e-6)
    assert entropy == pytest.approx(1.039721, abs=1e-6)
    assert dlogits.tolist() == pytest.approx([1.0173287, -1.5086643, 0.4913357], abs=1e-6)


@given(logits=logits_lists, advantage=st.floats(-40, 40, width=32), beta=st.floats(0, 1, width=32), data=st.data())
@settings(max_examples=200)
def test_the_gradient_equals_the_oracle(logits, advantage, beta, data):
    logits = np.array(logits, np.float32)
    action = data.draw(st.integers(0, logits.size - 1))
    dlogits = np.full(logits.size, np.nan, np.float32)
    log_pi, entropy = categorical_gradient(logits, action, np.float32(advantage), np.float32(beta), dlogits)
    expected, _ = oracles.a3c_gradient(
        logits[None].astype(float), np.zeros(1), np.array([action]), np.array([advantage]),
        entropy_weight=beta, value_weight=0.5,
    )  # fmt: skip
    # Logits up to 30 and log-probabilities down to -60 carry an absolute error of some 60 eps; terms are at most
    # |advantage| and beta * 60.
    tolerance = 100 * EPSILON * (1 + abs(advantage) + 60 * beta)
    assert dlogits == pytest.approx(expected[0], abs=tolerance, rel=0)
    assert log_pi == pytest.approx(oracles.log_softmax(logits)[action], abs=100 * EPSILON)
    assert entropy == pytest.approx(oracles.entropy(logits), abs=100 * EPSILON)
    assert abs(dlogits.sum()) <= logits.size * tolerance  # moving all logits together changes nothing


@given(logits=st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=18))
@settings(max_examples=200)
def test_softmax_of_any_finite_logits(logits):
    logits = np.array(logits, np.float32)
    probabilities = np.full(logits.size, np.nan, np.float32)
    log_total = softmax(logits, probabilities)
    expected = oracles.log_softmax(logits)
    assert probabilities == pytest.approx(np.exp(expected), abs=logits.size * 4 * EPSILON, rel=0)
    assert log_total == pytest.approx(logits[0].astype(float) - expected[0], abs=2000 * EPSILON)
    out = np.zeros(logits.size, np.float32)
    log_pi, entropy = categorical_gradient(logits, 0, np.float32(1), np.float32(0.01), out)
    assert np.isfinite([log_pi, entropy]).all()
    assert np.isfinite(out).all()
    assert -1e-3 <= entropy <= math.log(logits.size) + 1e-3


@given(seed=strategies.seeds, size=st.integers(1, 18))
@settings(max_examples=50)
def test_argmax_is_the_first_of_the_largest(seed, size):
    values = np.random.default_rng(seed).integers(-3, 3, size).astype(np.float32)
    assert argmax(values) == np.argmax(values)


# Q values


@pytest.mark.parametrize(
    ("epsilon", "u", "action"),
    [
        # Below epsilon u is spread over the four actions: 0.4 is cut at 0.1, 0.2 and 0.3.
        (0.4, 0.0, 0),
        (0.4, 0.0999, 0),
        (0.4, 0.1001, 1),
        (0.4, 0.2001, 2),
        (0.4, 0.3001, 3),
        (0.4, 0.3999999999, 3),
        # From epsilon on it is the best action.
        (0.4, 0.4, 2),
        (0.4, 0.9, 2),
        (0.4, LARGEST, 2),
        (1.0, 0.74, 2),
        (1.0, 0.76, 3),
        (1.0, LARGEST, 3),
        (0.0, 0.0, 2),
        (0.0, LARGEST, 2),
        (1e-300, 0.0, 0),
    ],
)
def test_an_epsilon_greedy_action_by_hand(epsilon, u, action):
    assert epsilon_greedy(np.array([1, -2, 3, 2.9], np.float32), epsilon, u) == action


@given(
    size=st.integers(1, 18), seed=strategies.seeds, epsilon=st.floats(0, 1), part=st.floats(0, 1, exclude_max=True),
    explores=st.booleans(),
)  # fmt: skip
@settings(max_examples=200)
def test_an_epsilon_greedy_action_is_one_of_all_or_the_best(size, seed, epsilon, part, explores):
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    u = min(part * epsilon if explores else epsilon + part * (1 - epsilon), LARGEST)
    action = epsilon_greedy(values, epsilon, u)
    if u >= epsilon:
        assert action == np.argmax(values)
    else:
        # Inversion: the action's own part of [0, epsilon) holds u, but for the rounding of u / epsilon times the size.
        assert 0 <= action < size
        assert action - 1e-13 <= u / epsilon * size <= action + 1 + 1e-13


@numba.njit
def choose_many(values, epsilon, row, counts, draws):
    for _ in range(draws):
        counts[epsilon_greedy(values, epsilon, uniform(row))] += 1


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_epsilon_greedy_actions_are_as_frequent_as_they_should_be(epsilon):
    values, counts, draws = np.array([0.5, 2, 1.5, 1, -3], np.float32), np.zeros(5, np.int64), 200_000
    choose_many(values, epsilon, row_of(2), counts, draws)
    # Every action has its share of epsilon, and the best one all the rest.
    probabilities = np.full(5, epsilon / 5)
    probabilities[1] += 1 - epsilon
    deviation = np.sqrt(draws * probabilities * (1 - probabilities))
    assert counts.sum() == draws
    assert (np.abs(counts - draws * probabilities) <= 5 * deviation).all()


def test_the_gradient_of_q_by_hand():
    # (3.5 - 1.5)^2 / 2 = 2, and its slope in the action's value is -(3.5 - 1.5).
    dvalues = np.full(3, np.nan, np.float32)
    assert q_gradient(np.array([7, 1.5, -4], np.float32), 1, np.float32(3.5), dvalues) == 2
    assert dvalues.tolist() == [0, -2, 0]
    assert q_gradient(np.array([7, 1.5, -4], np.float32), 2, np.float32(-4), dvalues) == 0
    assert dvalues.tolist() == [0, 0, 0]


@given(seed=strategies.seeds, size=st.integers(1, 18), target=st.floats(-100, 100, width=32), data=st.data())
@settings(max_examples=100)
def test_the_gradient_of_q_is_the_slope_of_its_loss(seed, size, target, data):
    values = np.random.default_rng(seed).uniform(-10, 10, size).astype(np.float32)
    action, dvalues, unused = (
        data.draw(st.integers(0, size - 1)),
        np.zeros(size, np.float32),
        np.zeros(size, np.float32),
    )
    loss = q_gradient(values, action, np.float32(target), dvalues)
    assert loss == pytest.approx((float(target) - float(values[action])) ** 2 / 2, rel=8 * EPSILON, abs=1e-9)
    for i in range(size):
        # Of a parabola the central slope is exact. With a whole step of 8 its rounding is that of losses up to 7000.
        up, down = values.copy(), values.copy()
        up[i] += 8
        down[i] -= 8
        slope = (
            q_gradient(up, action, np.float32(target), unused) - q_gradient(down, action, np.float32(target), unused)
        ) / 16
        assert dvalues[i] == pytest.approx(slope, abs=7000 * 8 * EPSILON / 16 + 1e-5)
