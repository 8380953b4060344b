"""The heads: of a policy, sampling, log-probability, entropy and gradients; of Q values, epsilon-greedy actions too."""

import math

import numba
import numpy as np
import oracles
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl.actions import (
    argmax,
    before_softplus,
    categorical_gradient,
    categorical_sample,
    epsilon_greedy,
    gaussian_gradient,
    gaussian_sample,
    q_gradient,
    rescale_action,
    softmax,
    variance,
)
from nbrl.kernels.random import normal, seed_row, uniform
from nbrl.spaces import action_bounds

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


# Gaussian policies


INFINITE = math.inf


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        # -1 and 1 become the bounds, 0 their middle; what lies beyond is clipped.
        (-2, 6, {-1: -2, 0: 2, 1: 6, 0.5: 4, -1.5: -2, 3: 6}),
        (0, 1, {-1: 0, 0: 0.5, 1: 1, -7: 0, 7: 1}),
        (5, 5, {-1: 5, 0: 5, 1: 5}),
        # With one bound or none an action is in the space's own units.
        (-2, INFINITE, {-1: -1, -3: -2, 1e9: 1e9}),
        (-INFINITE, 0.5, {-1e9: -1e9, 0: 0, 0.75: 0.5}),
        (3, INFINITE, {0: 3, 4: 4}),
        (-INFINITE, INFINITE, {-1e30: -1e30, 0: 0, 2.5: 2.5}),
    ],
)
def test_an_action_in_its_space_s_units(low, high, told):
    bounds, sent = action_bounds(np.array([low], np.float32), np.array([high], np.float32)), np.zeros(1, np.float32)
    assert (bounds.shape, bounds.dtype) == ((4, 1), np.float32)
    for action, expected in told.items():
        rescale_action(bounds, np.array([action], np.float32), sent)
        assert sent[0] == np.float32(expected)


def test_each_part_has_its_own_bounds_in_the_order_of_memory():
    low = np.array([[-1, 0], [-INFINITE, -4]], np.float32)
    high = np.array([[1, 10], [INFINITE, 0]], np.float32)
    bounds = action_bounds(low, high)
    assert bounds.tolist() == [[0, 5, 0, -2], [1, 5, 1, 2], low.ravel().tolist(), high.ravel().tolist()]
    action = np.array([0.5, 0.5, 0.5, 0.5], np.float32)
    rescale_action(bounds, action, action)  # in place
    assert action.tolist() == [0.5, 7.5, 0.5, -1]


@given(
    ends=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
    action=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
@settings(max_examples=100)
def test_no_action_leaves_its_space(ends, action):
    low, high = (np.array([end], np.float32) for end in sorted(ends))
    sent = np.zeros(1, np.float32)
    rescale_action(action_bounds(low, high), np.array([action], np.float32), sent)
    assert low[0] <= sent[0] <= high[0]


def test_a_variance_by_hand():
    # softplus(0) = ln 2, softplus(ln 3) = ln 4, softplus(-ln 3) = ln(4 / 3); slopes 1/2, 3/4, 1/4.
    for s, expected, slope in (
        (0, math.log(2), 0.5),
        (math.log(3), math.log(4), 0.75),
        (-math.log(3), math.log(4 / 3), 0.25),
    ):
        assert variance(np.float32(s)) == (pytest.approx(expected + 1e-4, rel=1e-6), pytest.approx(slope, rel=1e-6))
    assert variance(np.float32(-1e30)) == (np.float32(1e-4), 0)
    assert variance(np.float32(1e30)) == (np.float32(1e30), 1)


@given(s=st.floats(-200, 200, width=32))
@settings(max_examples=200)
def test_a_variance_equals_the_oracle(s):
    found, slope = variance(np.float32(s))
    assert found == pytest.approx(oracles.gaussian_variance(s), rel=8 * EPSILON)
    # exp(s) carries the rounding of s itself: none, s is exact; its own is a few last places.
    assert slope == pytest.approx(math.exp(s - np.logaddexp(0.0, s)), rel=16 * EPSILON, abs=1e-37)
    assert found > 0


def test_the_gradient_of_a_gaussian_by_hand():
    # s = ln(e - 1) makes the variance 1 (and the smallest one more: left out here, since it moves nothing by more than
    # 1e-4), and its slope (e - 1) / e = 0.632121. Mean 1, action 3, advantage 2, beta 0.1:
    #   log pi = -(2^2 + ln 2 pi) / 2 = -2.918939      H = (ln 2 pi + 1) / 2 = 1.418939
    #   d(-log pi A)/d mean = -2 * 2 / 1 = -4
    #   d(-log pi A)/dv = 2 * (1 - 4) / 2 = -3          d(-beta H)/dv = -0.1 / 2 = -0.05
    #   d/ds = -3.05 * 0.632121 = -1.927968
    s, dmean, ds = np.array([math.log(math.e - 1)], np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    mean, action = np.array([1], np.float32), np.array([3], np.float32)
    log_pi, entropy = gaussian_gradient(mean, s, action, np.float32(2), np.float32(0.1), dmean, ds)
    assert log_pi == pytest.approx(-2.918939, abs=3e-4)
    assert entropy == pytest.approx(1.418939, abs=1e-4)
    assert dmean[0] == pytest.approx(-4, abs=1e-3)
    assert ds[0] == pytest.approx(-1.927968, abs=2e-3)


@given(
    seed=strategies.seeds, parts=st.integers(1, 17), advantage=st.floats(-40, 40, width=32),
    beta=st.floats(0, 1, width=32), low=st.floats(-30, 30),
)  # fmt: skip
@settings(max_examples=200)
def test_the_gradient_of_a_gaussian_equals_the_oracle(seed, parts, advantage, beta, low):
    rng = np.random.default_rng(seed)
    mean = rng.uniform(-3, 3, parts).astype(np.float32)
    s = np.clip(rng.uniform(low, low + 5, parts), -30, 30).astype(np.float32)
    v = oracles.gaussian_variance(s)
    action = (mean + np.sqrt(v) * rng.standard_normal(parts)).astype(np.float32)
    dmean, ds = np.full((2, parts), np.nan, np.float32)
    log_pi, entropy = gaussian_gradient(mean, s, action, np.float32(advantage), np.float32(beta), dmean, ds)
    rows = [array[None].astype(float) for array in (mean, s, action)]
    expected_mean, expected_s = oracles.gaussian_gradient(*rows, [advantage], beta)
    # Differences of float32 numbers are exact near each other; each quotient and product has its own last place.
    assert dmean == pytest.approx(expected_mean[0], rel=32 * EPSILON, abs=1e-30)
    terms = 0.5 / v * (abs(advantage) * (1 + (action - mean) ** 2 / v) + beta)
    assert (np.abs(ds - expected_s[0]) <= 64 * EPSILON * terms + 1e-30).all()
    magnitude = 0.5 * ((action - mean) ** 2 / v + np.abs(np.log(v)) + 3).sum()
    assert log_pi == pytest.approx(oracles.gaussian_log_pi(*rows)[0], abs=32 * EPSILON * magnitude)
    assert entropy == pytest.approx(oracles.gaussian_entropy(rows[1])[0], abs=32 * EPSILON * magnitude)


@given(seed=strategies.seeds, advantage=st.floats(-5, 5), beta=st.floats(0, 1))
@settings(max_examples=50)
def test_the_oracle_s_gradient_of_a_gaussian_is_the_slope_of_its_loss(seed, advantage, beta):
    rng = np.random.default_rng(seed)
    mean, s, action = rng.uniform(-2, 2, (3, 1, 4))
    dmean, ds = oracles.gaussian_gradient(mean, s, action, [advantage], beta)

    def loss(mean, s):
        return (-oracles.gaussian_log_pi(mean, s, action) * advantage - beta * oracles.gaussian_entropy(s))[0]

    step = 1e-5
    for i in range(4):
        along = step * np.eye(4)[i]
        assert dmean[0, i] == pytest.approx((loss(mean + along, s) - loss(mean - along, s)) / (2 * step), abs=1e-4)
        assert ds[0, i] == pytest.approx((loss(mean, s + along) - loss(mean, s - along)) / (2 * step), abs=1e-4)


@numba.njit
def gaussian_moments(mean, s, row, draws):
    noise, action = np.zeros(mean.size), np.zeros(mean.size, np.float32)
    total, products = np.zeros(mean.size), np.zeros((mean.size, mean.size))
    for _ in range(draws):
        for i in range(noise.size):
            noise[i] = normal(row)
        gaussian_sample(mean, s, noise, action)
        for i in range(mean.size):
            total[i] += action[i]
            for j in range(mean.size):
                products[i, j] += (action[i] - mean[i]) * (action[j] - mean[j])
    return total / draws, products / draws


@given(st.floats(0.0101, 10))
def test_a_deviation_has_the_number_that_makes_it(deviation):
    found, _ = variance(np.float32(before_softplus(deviation)))
    assert found == pytest.approx(deviation**2, rel=1e-5)


def test_continuous_actions_have_the_policy_s_mean_and_variance():
    mean, s, draws = np.array([0.5, -3, 0], np.float32), np.array([-2, 0, 3], np.float32), 200_000
    average, products = gaussian_moments(mean, s, row_of(3), draws)
    v = oracles.gaussian_variance(s)
    assert (np.abs(average - mean) <= 5 * np.sqrt(v / draws)).all()
    # Of independent parts: the diagonal is the variance, whose own deviation is sqrt(2 / n) v, and the rest 0.
    deviation = np.sqrt(np.outer(v, v) * (1 + np.eye(3)) / draws)
    assert (np.abs(products - np.diag(v)) <= 5 * deviation).all()


def test_a_continuous_action_without_noise_is_the_mean():
    mean, action = np.array([0.25, -7], np.float32), np.zeros(2, np.float32)
    gaussian_sample(mean, np.array([3, -3], np.float32), np.zeros(2), action)
    assert np.array_equal(action, mean)
    gaussian_sample(mean, np.array([0, 0], np.float32), np.array([1.0, -2.0]), action)
    assert action == pytest.approx(mean + np.sqrt(math.log(2) + 1e-4) * np.array([1, -2]), rel=1e-6)
