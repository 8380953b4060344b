"""Returns and gradients of single rollouts, worked out by hand: every way a return can stop, told apart.

The network is one layer that passes its one-hot observation on, so that the value of observation number i is the value
head's weight i, here 10 (i + 1), and the gradient of that weight is -value_weight (R - V) of the one step that saw it.
"""

import math

import numpy as np
import pytest
import told as environment
from oracles import CUT, TERMINATED, TRUNCATED
from told import FAIL, NOT_FINITE, OBSERVATIONS, REWARDS

from nbrl.methods import a3c, driver, state

VALUES = 10.0 * np.arange(1, OBSERVATIONS + 1)


def told(ends, rewards=REWARDS, **settings):
    """A loop, not yet run, on steps with these ends; the policy is even over two actions."""
    loop = environment.told(ends, rewards, **settings)
    loop.theta["value/weights"][:, 0] = VALUES
    return loop


def returns(loop):
    """{number of the observation: R}, from the gradient of the value head's weights of the rollout just run."""
    gradient = loop.dtheta["value/weights"][:, 0]
    return {
        int(i): pytest.approx(VALUES[i] - gradient[i] / 0.5, rel=1e-5) for i in np.flatnonzero(abs(gradient) > 1e-6)
    }


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        # Nothing ends: R_4 = 16 + V(5) / 2 = 16 + 30, R_3 = 8 + 46 / 2, and so on down.
        ([0, 0, 0, 0, 0], {0: 6.875, 1: 11.75, 2: 19.5, 3: 31, 4: 46}),
        # Terminated at step 1: R_1 is its reward. Observation 2 is the episode's last and 3 the next one's first, on
        # which step 2 acts; the rollout ends before observation 6, of value 70.
        ([0, TERMINATED, 0, 0, 0], {0: 2, 1: 2, 3: 20.75, 4: 33.5, 5: 51}),
        # Truncated at step 1: R_1 = 2 + V(2) / 2 with the last observation's value, 30.
        ([0, TRUNCATED, 0, 0, 0], {0: 9.5, 1: 17, 3: 20.75, 4: 33.5, 5: 51}),
        # Both: terminated wins.
        ([0, TERMINATED | TRUNCATED, 0, 0, 0], {0: 2, 1: 2, 3: 20.75, 4: 33.5, 5: 51}),
        # Cut at step 1: R_1 is its reward, but the episode goes on, without a reset.
        ([0, CUT, 0, 0, 0], {0: 2, 1: 2, 2: 19.5, 3: 31, 4: 46}),
        # Cut where truncated: the return is cut and the episode ends.
        ([0, TRUNCATED | CUT, 0, 0, 0], {0: 2, 1: 2, 3: 20.75, 4: 33.5, 5: 51}),
        # The same on the rollout's last step: no bootstrap, the last observation's value, no bootstrap.
        ([0, 0, 0, 0, TERMINATED], {0: 5, 1: 8, 2: 12, 3: 16, 4: 16}),
        ([0, 0, 0, 0, TRUNCATED], {0: 6.875, 1: 11.75, 2: 19.5, 3: 31, 4: 46}),
        ([0, 0, 0, 0, CUT], {0: 5, 1: 8, 2: 12, 3: 16, 4: 16}),
        ([0, 0, 0, 0, TRUNCATED | CUT], {0: 5, 1: 8, 2: 12, 3: 16, 4: 16}),
        # Every step ends an episode: observations 1, 3, 5, 7, 9 are the last ones, of values 20, 40, 60, 80, 100.
        ([TERMINATED] * 5, {0: 1, 2: 2, 4: 4, 6: 8, 8: 16}),
        ([TRUNCATED] * 5, {0: 11, 2: 22, 4: 34, 6: 48, 8: 66}),
        # Two in one rollout: R_1 = 2 + 30 / 2, R_3 (observation 4) = its reward.
        ([0, TRUNCATED, 0, TERMINATED, 0], {0: 9.5, 1: 17, 3: 8, 4: 8, 6: 56}),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, list) else "",
)
def test_returns(ends, expected):
    loop = told(ends)
    assert loop.rollout() == driver.PAUSED
    assert returns(loop) == expected


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        # Half of each return is the next value: R_4 = 16 + 60 / 2 = 46, R_3 = 8 + (50 + 46) / 4 = 32,
        # R_2 = 4 + (40 + 32) / 4 = 22, R_1 = 2 + (30 + 22) / 4 = 15, R_0 = 1 + (20 + 15) / 4.
        ([0, 0, 0, 0, 0], {0: 9.75, 1: 15, 2: 22, 3: 32, 4: 46}),
        # Observation 2, of value 30, is the episode's last: R_1 = 2 + 30 / 2 whatever lambda, R_0 = 1 + (20 + 17) / 4.
        # Then R_4 = 16 + 70 / 2 = 51, R_3 = 8 + (60 + 51) / 4 = 35.75, R_2 = 4 + (50 + 35.75) / 4.
        ([0, TRUNCATED, 0, 0, 0], {0: 10.25, 1: 17, 3: 25.4375, 4: 35.75, 5: 51}),
        # R_1 = 2 however valuable what follows; R_0 = 1 + (20 + 2) / 4.
        ([0, TERMINATED, 0, 0, 0], {0: 6.5, 1: 2, 3: 25.4375, 4: 35.75, 5: 51}),
        ([0, CUT, 0, 0, 0], {0: 6.5, 1: 2, 2: 22, 3: 32, 4: 46}),
    ],
)
def test_generalised_advantages(ends, expected):
    loop = told(ends, gae_lambda=0.5)
    assert loop.rollout() == driver.PAUSED
    assert returns(loop) == expected


def test_an_end_on_the_last_step_begins_the_next_rollout_with_a_reset():
    # Steps 5 to 9 of the script are the second rollout's.
    loop = told([0, 0, 0, 0, TRUNCATED, 0, 0, 0, 0, 0], rewards=REWARDS * 2, learning_rate=1e-12)
    loop.rollout()
    loop.rollout()
    # Observation 5 was the last one; 6 is the reset's, and 11, of value 120, what the rollout stops at.
    assert returns(loop) == {6: 8.75, 7: 15.5, 8: 27, 9: 46, 10: 76}


def test_rewards_are_clipped_for_learning_and_raw_in_the_episode_s_record():
    loop = told([0, 0, 0, 0, TERMINATED], rewards=[-5.0, 0.25, 4.0, -0.5, 16.0], reward_clip=1.0)
    loop.rollout()
    # Clipped: -1, 0.25, 1, -0.5, 1.
    assert returns(loop) == {0: -0.625, 1: 0.75, 2: 1, 3: 0, 4: 1}
    worker = loop.run.workers[0]
    assert worker.episodes.ends[state.WRITTEN] == 1
    assert worker.episodes.ring[0].tolist() == [14.75, 5, 0, 1]  # and actor 0's first


def test_an_episode_that_spans_rollouts_has_one_record():
    loop = told([0] * 5 + [0, TERMINATED, 0, CUT, TRUNCATED], rewards=[1.0] * 10)
    loop.rollout(2)
    worker = loop.run.workers[0]
    assert worker.episodes.ends[state.WRITTEN] == 2
    assert worker.episodes.ring[:2, :2].tolist() == [[7, 7], [3, 3]]  # a cut ends no episode


def test_the_gradients_of_both_heads():
    loop = told([0, 0, 0, 0, TERMINATED])
    loop.rollout()
    gradient = loop.dtheta
    # R = (5, 8, 12, 16, 16) and V = (10, 20, 30, 40, 50): R - V = (-5, -12, -18, -24, -34). With pi = (1/2, 1/2) an
    # action's logit has the gradient -(R - V) / 2, the other's (R - V) / 2; the entropy, at its largest, adds nothing.
    advantage = np.array([-5.0, -12, -18, -24, -34])
    actions = loop.run.policies[0].action[:, 0, 0]
    assert set(actions.tolist()) == {0, 1}
    expected = np.zeros((OBSERVATIONS, 2))
    expected[np.arange(5), actions] = -advantage / 2
    expected[np.arange(5), 1 - actions] = advantage / 2
    assert gradient["policy/weights"] == pytest.approx(expected, abs=1e-5)
    assert gradient["policy/bias"] == pytest.approx(expected.sum(axis=0), abs=1e-5)
    assert gradient["value/bias"] == pytest.approx([-0.5 * advantage.sum()], rel=1e-6)
    # What flows into the layer below: the value's gradient times its weights (the policy's weights are 0), on the row
    # of each step's observation.
    below = np.outer(-0.5 * advantage, VALUES)
    assert gradient["dense1/weights"][:5] == pytest.approx(below, rel=1e-5)
    assert not gradient["dense1/weights"][5:].any()
    assert gradient["dense1/bias"] == pytest.approx(below.sum(axis=0), rel=1e-5)


def test_the_entropy_term_and_the_value_weight():
    # The policy prefers action 0 by ln 3: pi = (3/4, 1/4), and V = R everywhere, so that only the entropy is left:
    # H = 0.562335 and beta pi (log pi + H) = 0.1 * 0.75 * (-0.287682 + 0.562335) = 0.0205990 a step for action 0, its
    # negative for action 1.
    loop = told([TERMINATED] * 5, entropy_weight=0.1, value_weight=0.25)
    loop.theta["policy/bias"][0] = math.log(3)
    loop.theta["value/weights"][0:10:2, 0] = REWARDS
    loop.rollout()
    gradient = loop.dtheta
    assert gradient["policy/bias"] == pytest.approx([5 * 0.0205990, -5 * 0.0205990], abs=1e-6)
    assert not gradient["value/weights"].any()
    # And with a value that is 2 too low everywhere, each step adds -0.25 * 2.
    loop = told([TERMINATED] * 5, entropy_weight=0.1, value_weight=0.25)
    loop.theta["value/weights"][0:10:2, 0] = np.subtract(REWARDS, 2)
    loop.rollout()
    assert loop.dtheta["value/bias"] == pytest.approx([-2.5])


def test_the_reported_sums():
    loop = told([0, 0, 0, 0, TERMINATED])
    loop.rollout()
    sums, advantage = loop.run.workers[0].sums, np.array([-5.0, -12, -18, -24, -34])
    assert sums[state.UPDATES] == 1
    assert sums[state.SAMPLES] == 5
    assert sums[a3c.POLICY_LOSS] == pytest.approx(math.log(2) * advantage.sum(), rel=1e-5)
    assert sums[a3c.VALUE_LOSS] == pytest.approx((advantage**2).sum() / 2, rel=1e-5)
    assert sums[a3c.ENTROPY] == pytest.approx(5 * math.log(2), rel=1e-5)
    norm = math.sqrt(sum((values.astype(float) ** 2).sum() for values in loop.dtheta.values()))
    assert sums[state.GRADIENT_NORM] == pytest.approx(norm, rel=1e-5)


def test_the_update_is_clipped_and_counted():
    before = told([TERMINATED] * 5).theta["value/bias"].copy()
    for clip in (1e9, 1.0):
        loop = told([TERMINATED] * 5, gradient_clip=clip, learning_rate=0.5, rmsprop_decay=0.75, rmsprop_epsilon=1.0)
        loop.rollout()
        norm = math.sqrt(sum((values.astype(float) ** 2).sum() for values in loop.dtheta.values()))
        assert norm > 100
        d = float(loop.dtheta["value/bias"][0]) * min(1, clip / norm)
        expected = before[0] - 0.5 * d / math.sqrt(0.25 * d * d + 1)
        assert loop.theta["value/bias"][0] == pytest.approx(expected, rel=1e-5)
        assert loop.trainer.steps == 5
        assert loop.run.shared.updates[0] == 1


def test_the_learning_rate_falls_to_nothing_at_the_last_step():
    # Of 15 steps: the first rollout's rate is whole, the second's two thirds, the third's one third; then nothing runs.
    loop = told([TERMINATED] * 15, rewards=[1000.0] * 15, learning_rate=1e-6, steps=15, rmsprop_decay=0.0)
    moves = []
    for _ in range(3):
        before = loop.theta["value/bias"][0].astype(float)
        assert loop.rollout() == driver.PAUSED
        moves.append(loop.theta["value/bias"][0] - before)
    # With decay 0 and a gradient far above epsilon each move is the rate itself.
    assert np.array(moves) / moves[0] == pytest.approx([1, 2 / 3, 1 / 3], rel=1e-2)
    theta = loop.run.shared.theta.copy()
    assert loop.rollout() == driver.FINISHED
    assert np.array_equal(loop.run.shared.theta, theta)
    assert loop.trainer.steps == 15


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_stops_the_loop_before_it_learns(bad):
    loop = told([0, 0, 0, 0, 0], rewards=[1.0, 2.0, bad, 4.0, 5.0])
    theta = loop.run.shared.theta.copy()
    assert loop.rollout() == driver.BAD_REWARD
    assert np.array_equal(loop.run.shared.theta, theta)
    assert loop.trainer.steps == 0


@pytest.mark.parametrize("end", [0, TERMINATED, TRUNCATED, CUT])
@pytest.mark.parametrize("step", [1, 4])
def test_an_observation_that_is_not_finite_never_reaches_the_shared_array(end, step):
    ends = [0] * 5
    ends[step] = end | NOT_FINITE
    loop = told(ends)
    code, theta = loop.rollout(), loop.theta
    assert all(np.isfinite(values).all() for values in theta.values())
    if (end, step) == (TERMINATED, 1):  # a last observation that nothing looks at
        assert code == driver.PAUSED
        assert returns(loop) == {0: 2, 1: 2, 3: 20.75, 4: 33.5, 5: 51}
    else:
        assert code == driver.BAD_OBSERVATION
        assert loop.trainer.steps == 0
        assert np.array_equal(theta["value/weights"][:, 0], VALUES)


def test_a_failing_environment_stops_the_loop_and_is_named():
    loop = told([0, 0, FAIL, 0, 0])
    theta = loop.run.shared.theta.copy()
    assert loop.rollout() == driver.FAILED_ENVIRONMENT
    assert loop.run.workers[0].at == 0
    assert np.array_equal(loop.run.shared.theta, theta)
    assert loop.trainer.steps == 0


def test_a_gradient_that_is_not_finite_never_reaches_the_shared_array():
    loop = told([0, 0, 0, 0, 0])
    loop.theta["value/weights"][2, 0] = 1e30  # squared, beyond float32
    theta = loop.run.shared.theta.copy()
    assert loop.rollout() == driver.BAD_GRADIENT
    assert np.array_equal(loop.run.shared.theta, theta)
    assert not loop.run.shared.optimiser.any()


def test_a_set_control_word_stops_the_loop():
    loop = told([0, 0, 0, 0, 0])
    theta = loop.run.shared.theta.copy()
    loop.run.shared.control[0] = state.PARK
    assert loop.rollout(100) == driver.PAUSED
    assert (loop.trainer.steps, np.array_equal(loop.run.shared.theta, theta)) == (0, True)
    loop.run.shared.control[0] = state.RUN
    assert loop.rollout() == driver.PAUSED
    assert loop.trainer.steps == 5
