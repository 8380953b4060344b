"""Pendulum and MountainCarContinuous against gymnasium's."""

import gymnasium
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbrl import envs
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvStepper

SEEDS = st.integers(0, 2**64 - 1)
NAMES = ["Pendulum-v1", "MountainCarContinuous-v0"]


@pytest.fixture(scope="module")
def players():
    return {name: EnvStepper(envs.make(name)) for name in [*NAMES, "PendulumPixels-v0"]}


def state_of(player):
    return np.frombuffer(player.instance.save(), np.float64)[:2].copy()


@pytest.mark.parametrize("name", NAMES)
def test_the_spaces_are_gymnasiums(name):
    ours, reference = envs.make(name), gymnasium.make(name)
    assert isinstance(ours, envs.NativeEnvironment)
    assert ours.observations.shape == reference.observation_space.shape
    np.testing.assert_array_equal(ours.actions.bounds[2], reference.action_space.low)
    np.testing.assert_array_equal(ours.actions.bounds[3], reference.action_space.high)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=SEEDS, drawn=st.integers(0, 2**32), push=st.booleans())
def test_episodes_are_gymnasiums(players, name, seed, drawn, push):
    player, reference = players[name], gymnasium.make(name, disable_env_checker=True)
    rng = np.random.default_rng(drawn)
    low, high = reference.action_space.low, reference.action_space.high
    first = player.reset(seed)
    reference.reset(seed=0)
    reference.unwrapped.state = state_of(player)
    if name == "Pendulum-v1":
        np.testing.assert_array_equal(first, reference.unwrapped._get_obs())
    else:
        np.testing.assert_array_equal(first, reference.unwrapped.state.astype(np.float32))
    for _ in range(1000):
        action = rng.uniform(1.5 * low, 1.5 * high).astype(np.float32)
        if push:  # which reaches the goal of the car, and the limits of speed
            action[:] = high * (1.0 if first[-1] >= 0.0 else -1.0)
        first, reward, status = player.step(action)
        expected, expected_reward, terminated, truncated, _ = reference.step(np.clip(action, low, high))
        np.testing.assert_array_max_ulp(first, expected, maxulp=1)
        assert reward == pytest.approx(float(expected_reward), rel=1e-6)
        assert status == STEPPED | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
        np.testing.assert_allclose(state_of(player), reference.unwrapped.state, rtol=1e-12)
        if terminated or truncated:
            return
    raise AssertionError("no end")


def test_resets_are_gymnasiums(players):
    starts = np.array([players["Pendulum-v1"].reset(seed) for seed in range(4000)])
    angles = np.arctan2(starts[:, 1], starts[:, 0])
    assert np.all(np.histogram(angles, 8, (-np.pi, np.pi))[0] > 400)
    assert np.all(np.histogram(starts[:, 2], 8, (-1.0, 1.0))[0] > 400)
    starts = np.array([players["MountainCarContinuous-v0"].reset(seed) for seed in range(4000)])
    assert np.all(np.histogram(starts[:, 0], 8, (-0.6, -0.4))[0] > 400)
    assert not np.any(starts[:, 1])


@pytest.mark.parametrize("name", [*NAMES, "PendulumPixels-v0"])
def test_an_action_that_is_no_number_fails(players, name):
    player = players[name]
    player.reset(0)
    before = state_of(player)
    with pytest.raises(RuntimeError, match="failed with status 0"):
        player.step(np.nan)
    np.testing.assert_array_equal(state_of(player), before)


@given(seed=SEEDS, at=st.integers(0, 100))
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_state_goes_on_alike(players, name, seed, at):
    player, rng = players[name], np.random.default_rng(0)
    player.reset(seed)
    for action in rng.uniform(-2, 2, at):
        player.step(action)
    saved, actions = player.instance.save(), rng.uniform(-2, 2, 50)
    once = [player.step(action) for action in actions]
    player.instance.load(saved)
    for (observation, *rest), action in zip(once, actions, strict=True):
        again, *others = player.step(action)
        np.testing.assert_array_equal(again, observation)
        assert others == rest


def test_pictures_follow_the_state():
    picture = envs.make("Pendulum-v1").make().picture
    upright = picture(np.array([1.0, 0.0, 0.0], np.float32))
    left = picture(np.array([0.0, 1.0, 0.0], np.float32))
    assert upright.shape == (240, 240, 3)
    assert upright.dtype == np.uint8
    red = (204, 77, 77)
    assert tuple(upright[40, 120]) == red
    assert tuple(left[120, 40]) == red
    assert tuple(upright[120, 40]) != red
    picture = envs.make("MountainCarContinuous-v0").make().picture
    first, second = (picture(np.array([at, 0.0], np.float32)) for at in (-0.5, 0.4))
    assert first.shape == (200, 360, 3)
    car = np.array((52, 66, 98))
    assert np.argwhere(np.all(first == car, axis=2))[:, 1].mean() == pytest.approx(140, abs=1)
    assert np.argwhere(np.all(second == car, axis=2))[:, 1].mean() == pytest.approx(320, abs=1)


def rod(angle):
    """A slow drawing of the rod: the distance of each pixel's centre from a segment, in float64."""
    picture = np.zeros((84, 84))
    tip = -32.0 * np.array([np.cos(angle), np.sin(angle)])  # row and column, from the axle
    for row in range(84):
        for column in range(84):
            pixel = np.array([row, column]) - 41.5
            nearest = tip * np.clip(pixel @ tip / (tip @ tip), 0, 1)
            picture[row, column] = 255 * np.clip(4.5 - np.hypot(*(pixel - nearest)), 0, 1)
    return picture


def assert_drawn(frame, angle):
    """The frame is that drawing, its greys cut to whole numbers; 0.01 for single precision."""
    cut = rod(angle) - frame
    assert cut.min() > -0.01
    assert cut.max() < 1.01


@settings(max_examples=10)
@given(seed=SEEDS, drawn=st.integers(0, 2**32))
@example(seed=187535, drawn=0)
def test_pendulum_from_pixels_is_pendulum_seen(players, seed, drawn):
    seen, felt, rng = EnvStepper(envs.make("PendulumPixels-v0")), players["Pendulum-v1"], np.random.default_rng(drawn)
    frames, state = seen.reset(seed).copy(), felt.reset(seed)
    angle, speed = state_of(felt)
    assert_drawn(frames[0], angle - 0.05 * speed)
    for t in range(1, 201):
        if t < 4 or t == 200:
            assert_drawn(frames[1], np.arctan2(state[1], state[0]))
        torque = rng.uniform(-3, 3, 1).astype(np.float32)
        (now, *rest), (state, *expected) = seen.step(torque), felt.step(torque)
        assert rest == expected  # reward and status
        np.testing.assert_array_equal(now[0], frames[1])
        frames = now.copy()
    assert rest[-1] & TRUNCATED
