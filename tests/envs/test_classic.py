"""CartPole against gymnasium's, and Catch against its rules."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl import envs
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvStepper

SEEDS = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def cart_pole():
    return EnvStepper(envs.make("CartPole-v1"))


@pytest.fixture(scope="module")
def catch():
    return EnvStepper(envs.make("Catch-v0"))


def state_of(player):
    return np.frombuffer(player.instance.save(), np.float64)[:4].copy()


def assert_close(observation, expected):
    np.testing.assert_array_max_ulp(observation, np.asarray(expected, np.float32), maxulp=1)


@settings(max_examples=300, deadline=None)
@given(
    state=st.tuples(st.floats(-2.5, 2.5), st.floats(-10, 10), st.floats(-0.25, 0.25), st.floats(-10, 10)),
    steps=st.integers(0, 498),
    action=st.integers(0, 1),
)
def test_one_step_from_any_state_is_gymnasiums(cart_pole, state, steps, action):
    reference = gymnasium.make("CartPole-v1").unwrapped
    reference.reset(seed=0)
    reference.state = np.array(state)
    cart_pole.instance.load(np.array([*state, steps], np.float64).tobytes())
    observation, reward, status = cart_pole.step(action)
    expected, expected_reward, terminated, _, _ = reference.step(action)
    assert_close(observation, expected)
    assert reward == expected_reward
    assert status == STEPPED | (TERMINATED if terminated else 0)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, actions=st.lists(st.integers(0, 1), min_size=200, max_size=200))
def test_random_episodes_are_gymnasiums(cart_pole, seed, actions):
    reference = gymnasium.make("CartPole-v1")
    first = cart_pole.reset(seed)
    reference.reset(seed=0)
    reference.unwrapped.state = state_of(cart_pole)
    np.testing.assert_array_equal(first, reference.unwrapped.state.astype(np.float32))
    for action in actions:
        observation, reward, status = cart_pole.step(action)
        expected, expected_reward, terminated, truncated, _ = reference.step(action)
        assert_close(observation, expected)
        assert reward == expected_reward
        assert status == STEPPED | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
        if terminated or truncated:
            return


@given(
    x=st.floats(-2.2, 2.2),  # beyond, the cart is cut by the edge
    angle=st.floats(-0.3, 0.3),
    speeds=st.tuples(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30)),
)
def test_the_picture_of_cart_pole(cart_pole, x, angle, speeds):
    def look(x, angle):
        return cart_pole.instance.picture(np.array([x, speeds[0], angle, speeds[1]], np.float32))

    picture = look(x, angle)
    assert (picture.shape, picture.dtype) == ((200, 400, 3), np.uint8)
    mirrored = look(-x, -angle)
    assert np.abs(picture[:, 1:].astype(int) - mirrored[:, :0:-1]).max() <= 1
    cart = (picture == (52, 66, 98)).all(axis=2)
    assert cart.sum(axis=0).nonzero()[0].mean() == pytest.approx(200 + 78 * x, abs=1)
    # The tip of the pole, a metre from its foot.
    tip = round(128 - 76 * np.cos(angle)), round(200 + 78 * x + 76 * np.sin(angle))
    np.testing.assert_array_equal(picture[tip], (214, 132, 58))


def test_a_balanced_pole_is_truncated_after_500_steps(cart_pole):
    # Feedback keeps the pole up. The reference starts each step from our state: over so many steps two libraries whose
    # cosines differ in the last place would part.
    reference = gymnasium.make("CartPole-v1")
    cart_pole.reset(1)
    reference.reset(seed=0)
    for step in range(1, 501):
        x, x_dot, theta, theta_dot = state = state_of(cart_pole)
        action = int(3 * theta + theta_dot + 0.1 * x + 0.2 * x_dot > 0)
        reference.unwrapped.state = state
        observation, _, status = cart_pole.step(action)
        expected, _, terminated, truncated, _ = reference.step(action)
        assert_close(observation, expected)
        assert (terminated, truncated) == (False, step == 500)
        assert status == STEPPED | (TRUNCATED if step == 500 else 0)


def test_a_pole_that_falls_at_step_500_sets_both_bits(cart_pole):
    cart_pole.instance.load(np.array([0, 0, 0.3, 0, 499], np.float64).tobytes())
    assert cart_pole.step(0)[2] == STEPPED | TERMINATED | TRUNCATED


@given(seed=SEEDS)
def test_cart_pole_starts(cart_pole, seed):
    first = cart_pole.reset(seed)
    assert np.all(np.abs(first) <= 0.05)
    np.testing.assert_array_equal(first, cart_pole.reset(seed))


def test_cart_pole_starts_are_uniform(cart_pole):
    starts = np.array([cart_pole.reset(seed) for seed in range(2000)])
    # Mean and deviation of the uniform distribution on (-0.05, 0.05), within five standard errors.
    assert np.all(np.abs(starts.mean(0)) < 5 * 0.1 / np.sqrt(12 * 2000))
    np.testing.assert_allclose(starts.std(0), 0.1 / np.sqrt(12), rtol=0.05)


@given(seed=SEEDS, actions=st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_catch_by_its_rules(catch, seed, actions):
    board = catch.reset(seed).reshape(10, 5)
    (ball,) = np.flatnonzero(board[0])
    paddle = 2
    assert board.sum() == 2
    assert board[9, paddle] == 1
    for row, action in enumerate(actions, start=1):
        observation, reward, status = catch.step(action)
        paddle = min(max(paddle + action - 1, 0), 4)
        expected = np.zeros((10, 5), np.float32)
        expected[row, ball] = expected[9, paddle] = 1
        np.testing.assert_array_equal(observation.reshape(10, 5), expected)
        assert status == (STEPPED | TERMINATED if row == 9 else STEPPED)
        assert reward == (0 if row < 9 else 1 if paddle == ball else -1)
    with pytest.raises(RuntimeError, match="status 0"):
        catch.step(1)


def test_the_picture_of_catch(catch):
    board = catch.reset(1)
    picture = catch.instance.picture(board)
    assert (picture.shape, picture.dtype) == ((320, 160, 3), np.uint8)
    full = (picture == (245, 190, 80)).all(axis=2)
    np.testing.assert_array_equal(full[16::32, 16::32], board.reshape(10, 5) == 1)
    assert full.sum() == 2 * 30 * 30


def test_catch_balls_fall_everywhere(catch):
    columns = [int(np.flatnonzero(catch.reset(seed)[:5])[0]) for seed in range(500)]
    assert np.all(np.bincount(columns, minlength=5) > 60)


@given(seed=SEEDS, actions=st.lists(st.integers(0, 2), min_size=9, max_size=9), at=st.integers(0, 8))
def test_a_restored_state_goes_on_alike(catch, seed, actions, at):
    catch.reset(seed)
    for action in actions[:at]:
        catch.step(action)
    saved = catch.instance.save()
    once = [catch.step(action)[1:] for action in actions[at:]]
    catch.instance.load(saved)
    assert [catch.step(action)[1:] for action in actions[at:]] == once
