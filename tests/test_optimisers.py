"""Update rules against the float64 oracle and numbers worked out by hand; the clip.

Tolerances: an update is a handful of float32 operations, each within 2^-24 of its result, so a step is right to about
1e-6 of its own size, and theta to that plus its own last place.
"""

import math

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nbrl.methods.optimisers import adam, clip_scale, gradient_norm, momentum_sgd, radam, rmsprop

RELATIVE, LAST_PLACE = 2e-6, 2.0**-23
sizes = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 1000]))


def float32(*numbers):
    return np.array(numbers, np.float32)


def test_three_steps_of_momentum_sgd_by_hand():
    # alpha 0.75, learning rate 0.5, the gradient scaled by half:
    #   d = 8:  m = 0.25 * 4 = 1;                theta = 1 - 0.5 * 1      = 0.5
    #   d = -8: m = 0.75 * 1 - 0.25 * 4 = -0.25; theta = 0.5 + 0.5 * 0.25 = 0.625
    #   d = 0:  m = 0.75 * -0.25 = -0.1875;      theta = 0.625 + 0.09375  = 0.71875
    theta, m = float32(1), float32(0)
    momentum_sgd(theta, m, float32(8), 0.5, 0.5, 0.75)
    assert (theta[0], m[0]) == (0.5, 1)
    momentum_sgd(theta, m, float32(-8), 0.5, 0.5, 0.75)
    assert (theta[0], m[0]) == (0.625, -0.25)
    momentum_sgd(theta, m, float32(0), 0.5, 0.5, 0.75)
    assert (theta[0], m[0]) == (0.71875, -0.1875)


def test_without_momentum_it_is_gradient_descent():
    theta, m = float32(1, -2, 3), float32(5, 5, 5)
    momentum_sgd(theta, m, float32(2, 0, -4), 1.0, 0.25, 0.0)
    assert theta.tolist() == [0.5, -2, 4]
    assert m.tolist() == [2, 0, -4]


def test_two_steps_of_rmsprop_by_hand():
    # alpha 0.75, epsilon 1, learning rate 0.5, epsilon inside the root:
    #   d = 2: g = 0.25 * 4 = 1;              theta = 1 - 0.5 * 2 / sqrt(2)     = 0.2928932
    #   d = 4: g = 0.75 * 1 + 0.25 * 16 = 4.75; theta = 0.2928932 - 0.5 * 4 / sqrt(5.75) = -0.5411644
    theta, g = float32(1), float32(0)
    rmsprop(theta, g, float32(2), 1.0, 0.5, 0.75, 1.0)
    assert (theta[0], g[0]) == (pytest.approx(0.2928932, abs=1e-6), 1)
    rmsprop(theta, g, float32(4), 1.0, 0.5, 0.75, 1.0)
    assert (theta[0], g[0]) == (pytest.approx(-0.5411644, abs=1e-6), 4.75)


def test_two_steps_of_adam_by_hand():
    # beta1 0.5, beta2 0.75, epsilon 1, learning rate 0.5:
    #   d = 2: m = 1, v = 1;        corrected 1 / 0.5 = 2 and 1 / 0.25 = 4;  theta = 1 - 0.5 * 2 / (2 + 1) = 2/3
    #   d = 4: m = 2.5, v = 4.75;   corrected 2.5 / 0.75 = 10/3 and 4.75 / 0.4375 = 76/7;
    #                               theta = 2/3 - 0.5 * (10/3) / (sqrt(76/7) + 1) = 0.2786136
    theta, m, v = float32(1), float32(0), float32(0)
    adam(theta, m, v, float32(2), 1.0, 0.5, 0.5, 0.75, 1.0, 1)
    assert (theta[0], m[0], v[0]) == (pytest.approx(2 / 3, abs=1e-6), 1, 1)
    adam(theta, m, v, float32(4), 1.0, 0.5, 0.5, 0.75, 1.0, 2)
    assert (theta[0], m[0], v[0]) == (pytest.approx(2 / 3 - 5 / 3 / (math.sqrt(76 / 7) + 1), abs=1e-6), 2.5, 4.75)


def test_steps_of_rectified_adam_by_hand():
    # beta1 0.5, beta2 0.75, epsilon 1, learning rate 0.5: v is never a mean of more than 2 / 0.25 - 1 = 7 numbers.
    #   update 1: rho = 7 - 2 * 0.75 / 0.25 = 1, too few: m as it is, corrected 1 / 0.5 = 2; theta = 1 - 0.5 * 2 = 0
    theta, m, v = float32(1), float32(0), float32(0)
    radam(theta, m, v, float32(2), 1.0, 0.5, 0.5, 0.75, 1.0, 1)
    assert (theta[0], m[0], v[0]) == (0, 1, 1)
    #   update 8: power 0.1001129, rho = 7 - 16 * 0.1001129 / 0.8998871 = 5.2199915;
    #             r = sqrt(1.2199915 * 3.2199915 * 7 / (3 * 5 * 5.2199915)) = 0.5926172; m = 1, v = 1, corrected
    #             1 / 0.99609375 and 1 / 0.8998871; theta = -0.5 * 0.5926172 * 1.0039216 / (1.0541508 + 1)
    theta, m, v = float32(0), float32(0), float32(0)
    radam(theta, m, v, float32(2), 1.0, 0.5, 0.5, 0.75, 1.0, 8)
    assert (theta[0], m[0], v[0]) == (pytest.approx(-0.1448138, abs=1e-6), 1, 1)


def test_epsilon_stands_inside_the_root_of_rmsprop_and_outside_that_of_adam():
    theta, g = float32(0), float32(0)
    rmsprop(theta, g, float32(1), 1.0, 1.0, 1 - 1e-6, 0.01)
    assert theta[0] == pytest.approx(-1 / math.sqrt(1e-6 + 0.01), rel=1e-4)
    theta, m, v = float32(0), float32(0), float32(0)
    adam(theta, m, v, float32(1), 1.0, 1.0, 0.9, 0.999, 0.25, 1)
    assert theta[0] == pytest.approx(-1 / 1.25, rel=1e-5)


def stays_close(actual, expected, moved):
    """Whether float32 `actual` is float64 `expected`, but for rounding, after moving by `moved` in all."""
    return (np.abs(actual - expected) <= RELATIVE * moved + 8 * LAST_PLACE * (np.abs(expected) + moved)).all()


@given(
    seed=strategies.seeds,
    size=sizes,
    learning_rate=st.floats(1e-5, 0.1),
    alpha=st.floats(0, 0.999),
    scale=st.floats(0.01, 1),
)
@settings(max_examples=100)
def test_momentum_sgd_equals_the_oracle(seed, size, learning_rate, alpha, scale):
    rng = np.random.default_rng(seed)
    theta, m = rng.standard_normal(size).astype(np.float32), np.zeros(size, np.float32)
    expected, expected_m, moved = theta.astype(float), m.astype(float), 0.0
    for _ in range(4):
        d = np.abs(rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)).astype(np.float32)  # m never cancels
        momentum_sgd(theta, m, d, scale, learning_rate, alpha)
        before = expected
        expected, expected_m = oracles.momentum_sgd(
            expected, expected_m, scale * d.astype(float), learning_rate=learning_rate, momentum=alpha
        )
        moved = moved + np.abs(expected - before)
        assert stays_close(theta, expected, moved)
        assert m == pytest.approx(expected_m, rel=RELATIVE, abs=1e-30)


@given(
    seed=strategies.seeds,
    size=sizes,
    learning_rate=st.floats(1e-5, 0.1),
    alpha=st.floats(0, 0.999),
    epsilon=st.floats(1e-6, 1),
    scale=st.floats(0.01, 1),
)
@settings(max_examples=100)
def test_rmsprop_equals_the_oracle(seed, size, learning_rate, alpha, epsilon, scale):
    rng = np.random.default_rng(seed)
    theta, g = rng.standard_normal(size).astype(np.float32), np.zeros(size, np.float32)
    expected, expected_g, moved = theta.astype(float), g.astype(float), 0.0
    for _ in range(4):
        d = (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)).astype(np.float32)
        rmsprop(theta, g, d, scale, learning_rate, alpha, epsilon)
        before = expected
        expected, expected_g = oracles.rmsprop(
            expected, expected_g, scale * d.astype(float), learning_rate=learning_rate, decay=alpha, epsilon=epsilon
        )
        moved = moved + np.abs(expected - before)
        assert stays_close(theta, expected, moved)
        assert g == pytest.approx(expected_g, rel=RELATIVE, abs=1e-30)


@given(
    seed=strategies.seeds,
    size=sizes,
    learning_rate=st.floats(1e-5, 0.1),
    beta1=st.floats(0, 0.95),
    beta2=st.floats(0, 0.999),
    epsilon=st.floats(1e-8, 1),
    first=st.sampled_from([1, 2, 100, 10**7]),
)
@settings(max_examples=100)
@pytest.mark.parametrize(("rule", "oracle"), [(adam, oracles.adam), (radam, oracles.radam)], ids=["adam", "radam"])
def test_adam_equals_the_oracle(rule, oracle, seed, size, learning_rate, beta1, beta2, epsilon, first):
    rng = np.random.default_rng(seed)
    theta, m, v = rng.standard_normal(size).astype(np.float32), *np.zeros((2, size), np.float32)
    expected, expected_m, expected_v, moved = theta.astype(float), m.astype(float), v.astype(float), 0.0
    for count in range(first, first + 4):
        d = np.abs(rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)).astype(np.float32)  # m never cancels
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * count * beta2**count / (1 - beta2**count)
        assume(rule is adam or abs(length - 4) > 1e-6)  # else rounding decides whether it is rectified
        rule(theta, m, v, d, 0.5, learning_rate, beta1, beta2, epsilon, count)
        before = expected
        expected, expected_m, expected_v = oracle(
            expected, expected_m, expected_v, count, 0.5 * d.astype(float),
            learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon,
        )  # fmt: skip
        moved = moved + np.abs(expected - before)
        assert stays_close(theta, expected, moved)
        assert m == pytest.approx(expected_m, rel=RELATIVE, abs=1e-30)
        assert v == pytest.approx(expected_v, rel=RELATIVE, abs=1e-30)


def test_an_element_without_gradient_stays_where_it_is():
    theta, g = float32(0.5, -3), float32(0, 0.25)
    rmsprop(theta, g, float32(0, 0), 1.0, 0.1, 0.75, 0.1)
    assert theta.tolist() == [0.5, -3]
    assert g.tolist() == [0, 0.1875]
    theta, m, v = float32(0.5), float32(0), float32(0)
    adam(theta, m, v, float32(0), 1.0, 0.1, 0.9, 0.999, 1e-8, 1)
    assert (theta[0], m[0], v[0]) == (0.5, 0, 0)
    theta, m = float32(0.5), float32(0)
    momentum_sgd(theta, m, float32(0), 1.0, 0.1, 0.9)
    assert (theta[0], m[0]) == (0.5, 0)


def test_a_running_mean_goes_on_without_a_gradient():
    # Only a mean that is 0 leaves a parameter where it is: of 1 nine tenths are left, a tenth of which is taken off.
    theta, m = float32(0.5), float32(1)
    momentum_sgd(theta, m, float32(0), 1.0, 0.1, 0.9)
    assert (theta[0], m[0]) == (pytest.approx(0.41, rel=1e-6), pytest.approx(0.9, rel=1e-6))


def test_the_clip_by_hand():
    d = float32(3, -4, 0, 12)
    norm = gradient_norm(d)
    assert norm == 13
    assert clip_scale(norm, 40.0) == 1
    assert clip_scale(norm, 13.0) == 1
    assert clip_scale(norm, 6.5) == 0.5
    assert clip_scale(0.0, 40.0) == 1


@given(seed=strategies.seeds, size=st.integers(1, 3000), limit=st.floats(0.1, 100))
@settings(max_examples=100)
def test_the_clip_equals_the_oracle(seed, size, limit):
    d = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    clipped, norm = oracles.clip_norm(d.astype(float), limit)
    # A float32 sum of squares in sequence is right to size * 2^-24 at worst, and its root to half of that.
    rounding = size * 2.0**-24 + 1e-6
    assert gradient_norm(d) == pytest.approx(norm, rel=rounding)
    assert clip_scale(gradient_norm(d), limit) * d == pytest.approx(clipped, rel=rounding)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 5, 16, 33, 1000])
def test_a_number_that_is_not_finite_shows_in_the_norm_wherever_it_stands(bad, size):
    for place in {0, size // 2, size - 1}:
        d = np.ones(size, np.float32)
        d[place] = bad
        assert not np.isfinite(gradient_norm(d))
