"""Targets and gradients of the three value methods, of single rollouts, worked out by hand: every end, told apart.

The network is one layer that passes its one-hot observation on. The online and the target network disagree, both on the
values and on the best action. For observation number i:

    Q(i, a; theta)    10 (i + 1), and 4 more for action i % 2: it is what the greedy policy takes
    Q(i, a; theta^-)  100 (i + 1), and 40 less for action i % 2: the largest is always 100 (i + 1)

Half of the next value counts: one-step Q and n-step Q bootstrap with 50 (i + 1), one-step Sarsa with 50 (i + 1) - 20.
"""

import math

import numpy as np
import pytest
import told as environment
from oracles import CUT, TERMINATED, TRUNCATED
from told import ACTIONS, FAIL, NOT_FINITE, OBSERVATIONS, REWARDS

from nbrl.methods import driver, q_values, state

METHODS = ("one_step_q", "one_step_sarsa", "n_step_q")
NUMBER = np.arange(OBSERVATIONS)
BEST = np.equal.outer(NUMBER % 2, np.arange(ACTIONS))
ONLINE = 10.0 * (NUMBER[:, None] + 1) + 4 * BEST
TARGET = 100.0 * (NUMBER[:, None] + 1) - 40 * BEST


def told(method, ends, rewards=REWARDS, **settings):
    """A loop, not yet run, on steps with these ends, that acts at random."""
    settings = {"target_interval": 10**6, "epsilon_steps": 10**9} | settings
    loop = environment.told(ends, rewards, method=method, **settings)
    loop.theta["q/weights"][...] = ONLINE
    loop.run.shared.target[:] = loop.run.shared.theta
    loop.target["q/weights"][...] = TARGET
    return loop


def greedy(method, ends, rewards=REWARDS, **settings):
    """The same, but always with the best action of the online network."""
    loop = told(method, ends, rewards, epsilon_steps=10, **settings)
    loop.run.methods[0].final_epsilons[:] = 0
    loop.run.shared.steps[0, 0] = 10
    return loop


def targets(loop):
    """{number of the observation: (action, y)}, from the gradient of the head's weights of the rollout just run."""
    gradient = loop.dtheta["q/weights"]
    return {
        int(i): (int(a), pytest.approx(ONLINE[i, a] - gradient[i, a], rel=1e-6))
        for i, a in np.argwhere(abs(gradient) > 1e-6)
    }


def expected_of(numbers):
    """What `targets` gives for greedy actions."""
    return {i: (i % 2, y) for i, y in numbers.items()}


@pytest.mark.parametrize(
    ("ends", "q", "sarsa", "n_step"),
    [
        # Nothing ends: y_0 = 1 + 50 * 2 with observation 1, y_4 = 16 + 50 * 6 with observation 5, where the rollout
        # stops. Sarsa takes 20 less. R_4 = 316, R_3 = 8 + 316 / 2, R_2 = 4 + 166 / 2, and so on down.
        (
            [0, 0, 0, 0, 0],
            {0: 101, 1: 152, 2: 204, 3: 258, 4: 316},
            {0: 81, 1: 132, 2: 184, 3: 238, 4: 296},
            {0: 23.75, 1: 45.5, 2: 87, 3: 166, 4: 316},
        ),
        # Terminated at step 1: y_1 is its reward. Observation 2 is the episode's last and 3 the next one's first, on
        # which step 2 acts; the rollout stops at observation 6.
        (
            [0, TERMINATED, 0, 0, 0],
            {0: 101, 1: 2, 3: 254, 4: 308, 5: 366},
            {0: 81, 1: 2, 3: 234, 4: 288, 5: 346},
            {0: 2, 1: 2, 3: 99.5, 4: 191, 5: 366},
        ),
        # Truncated at step 1: y_1 = 2 + 50 * 3 with the last observation, 2, and not with the next one's first, 3.
        (
            [0, TRUNCATED, 0, 0, 0],
            {0: 101, 1: 152, 3: 254, 4: 308, 5: 366},
            {0: 81, 1: 132, 3: 234, 4: 288, 5: 346},
            {0: 77, 1: 152, 3: 99.5, 4: 191, 5: 366},
        ),
        # Both: terminated wins.
        (
            [0, TERMINATED | TRUNCATED, 0, 0, 0],
            {0: 101, 1: 2, 3: 254, 4: 308, 5: 366},
            {0: 81, 1: 2, 3: 234, 4: 288, 5: 346},
            {0: 2, 1: 2, 3: 99.5, 4: 191, 5: 366},
        ),
        # Cut at step 1: y_1 is its reward, but the episode goes on, without a reset.
        (
            [0, CUT, 0, 0, 0],
            {0: 101, 1: 2, 2: 204, 3: 258, 4: 316},
            {0: 81, 1: 2, 2: 184, 3: 238, 4: 296},
            {0: 2, 1: 2, 2: 87, 3: 166, 4: 316},
        ),
        # Cut where truncated: the return is cut and the episode ends.
        (
            [0, TRUNCATED | CUT, 0, 0, 0],
            {0: 101, 1: 2, 3: 254, 4: 308, 5: 366},
            {0: 81, 1: 2, 3: 234, 4: 288, 5: 346},
            {0: 2, 1: 2, 3: 99.5, 4: 191, 5: 366},
        ),
        # The same on the rollout's last step: no bootstrap, the last observation's value, no bootstrap.
        (
            [0, 0, 0, 0, TERMINATED],
            {0: 101, 1: 152, 2: 204, 3: 258, 4: 16},
            {0: 81, 1: 132, 2: 184, 3: 238, 4: 16},
            {0: 5, 1: 8, 2: 12, 3: 16, 4: 16},
        ),
        (
            [0, 0, 0, 0, TRUNCATED],
            {0: 101, 1: 152, 2: 204, 3: 258, 4: 316},
            {0: 81, 1: 132, 2: 184, 3: 238, 4: 296},
            {0: 23.75, 1: 45.5, 2: 87, 3: 166, 4: 316},
        ),
        (
            [0, 0, 0, 0, CUT],
            {0: 101, 1: 152, 2: 204, 3: 258, 4: 16},
            {0: 81, 1: 132, 2: 184, 3: 238, 4: 16},
            {0: 5, 1: 8, 2: 12, 3: 16, 4: 16},
        ),
        # Every step ends an episode: observations 1, 3, 5, 7, 9 are the last ones, of values 200, 400 and so on.
        ([TERMINATED] * 5, *[{0: 1, 2: 2, 4: 4, 6: 8, 8: 16}] * 3),
        (
            [TRUNCATED] * 5,
            {0: 101, 2: 202, 4: 304, 6: 408, 8: 516},
            {0: 81, 2: 182, 4: 284, 6: 388, 8: 496},
            {0: 101, 2: 202, 4: 304, 6: 408, 8: 516},
        ),
        # Two in one rollout: y_1 = 2 + 50 * 3, y_3 (observation 4) = its reward; observation 7 follows on 6.
        (
            [0, TRUNCATED, 0, TERMINATED, 0],
            {0: 101, 1: 152, 3: 254, 4: 8, 6: 416},
            {0: 81, 1: 132, 3: 234, 4: 8, 6: 396},
            {0: 77, 1: 152, 3: 8, 4: 8, 6: 416},
        ),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, list) else "",
)
def test_targets(ends, q, sarsa, n_step):
    for method, expected in zip(METHODS, (q, sarsa, n_step), strict=True):
        loop = greedy(method, ends)
        assert loop.rollout() == driver.PAUSED
        assert targets(loop) == expected_of(expected), method


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Clipped: -1, 0.25, 1, -0.5, 1. Nothing ends.
        ("one_step_q", {0: 99, 1: 150.25, 2: 201, 3: 249.5, 4: 301}),
        ("one_step_sarsa", {0: 79, 1: 130.25, 2: 181, 3: 229.5, 4: 281}),
        # R_4 = 301, R_3 = -0.5 + 150.5, R_2 = 1 + 75, R_1 = 0.25 + 38, R_0 = -1 + 19.125
        ("n_step_q", {0: 18.125, 1: 38.25, 2: 76, 3: 150, 4: 301}),
    ],
)
def test_rewards_are_clipped_for_learning_and_raw_in_the_episode_s_record(method, expected):
    rewards = [-5.0, 0.25, 4.0, -0.5, 16.0]
    loop = greedy(method, [0, 0, 0, 0, 0, TERMINATED] + [0] * 4, rewards=rewards * 2, reward_clip=1.0)
    loop.rollout()
    assert targets(loop) == expected_of(expected)
    loop.rollout()
    worker = loop.run.workers[0]
    assert worker.episodes.ends[state.WRITTEN] == 1
    assert worker.episodes.ring[0, :2].tolist() == [9.75, 6]  # the five rewards and the first once more


@pytest.mark.parametrize(("method", "y"), [("one_step_q", 166), ("n_step_q", 166), ("one_step_sarsa", 136)])
def test_the_discount(method, y):
    # y = 16 + 0.75 * 200 with the largest value of observation 1, 16 + 0.75 * 160 with that of action 1.
    loop = greedy(method, [0], rewards=[16.0], rollout_length=1, discount=0.75)
    loop.rollout()
    assert targets(loop) == {0: (0, y)}


@pytest.mark.parametrize("method", METHODS)
def test_an_end_on_the_last_step_begins_the_next_rollout_with_a_reset(method):
    # Steps 5 to 9 of the script are the second rollout's. Observation 5 was the last one and 6 is the reset's.
    loop = greedy(method, [0, 0, 0, 0, TRUNCATED, *[TERMINATED] * 5], rewards=REWARDS * 2, learning_rate=1e-12)
    loop.rollout()
    loop.rollout()
    assert targets(loop) == expected_of({6: 1, 8: 2, 10: 4, 12: 8, 14: 16})


# The action that Sarsa takes next


def actions(loop):
    return loop.run.policies[0].action[:, 0, 0].tolist()


def test_sarsa_bootstraps_with_the_action_really_taken_next():
    loop = told("one_step_sarsa", [0] * 15, rewards=REWARDS * 3, learning_rate=1e-12)
    rollouts = []
    for _ in range(3):
        assert loop.rollout() == driver.PAUSED
        rollouts.append((actions(loop), targets(loop)))
    taken = [action for acted, _ in rollouts for action in acted]
    assert 4 <= sum(taken) <= 11  # at random: so a' is often another than a, and than the best
    # Step t sees observation t. The last rollout's last target needs an action that is yet to be taken.
    expected = [(taken[t], REWARDS[t % 5] + 0.5 * TARGET[t + 1, taken[t + 1]]) for t in range(14)]
    found = [one[t] for number, (_, one) in enumerate(rollouts) for t in range(5 * number, 5 * number + 5)]
    assert found[:14] == expected


def test_the_action_chosen_at_the_end_of_a_rollout_is_taken_whatever_is_learnt_from_it():
    loop = greedy("one_step_sarsa", [0] * 10, rewards=REWARDS * 2, learning_rate=1e-12)
    worker = loop.run.workers[0]
    loop.rollout()
    assert worker.actors.next_action.tolist() == [1]  # observation 5's
    # Now the other action is better everywhere.
    loop.theta["q/weights"][...] = ONLINE[:, ::-1]
    loop.rollout()
    assert actions(loop) == [1, 1, 0, 1, 0]  # of observations 5 to 9
    assert worker.actors.next_action.tolist() == [1]  # observation 10's


def test_no_action_is_kept_where_a_rollout_ends_with_an_episode():
    for end in (TERMINATED, TRUNCATED):
        loop = greedy("one_step_sarsa", [0, 0, 0, 0, end] + [0] * 5, rewards=REWARDS * 2, learning_rate=1e-12)
        loop.rollout()
        assert loop.run.workers[0].actors.next_action.tolist() == [-1]
        # Observation 5 was the last one, of which action 1 is the best, and 6 is the reset's, of which action 0 is.
        loop.rollout()
        assert actions(loop) == [0, 1, 0, 1, 0]


def test_an_action_that_was_kept_is_forgotten_where_the_episode_is():
    loop = greedy("one_step_sarsa", [0] * 10, rewards=REWARDS * 2, learning_rate=1e-12)
    worker = loop.run.workers[0]
    loop.rollout()
    assert worker.actors.next_action.tolist() == [1]
    worker.actors.begun[0] = False  # as after a restart from a checkpoint that could not save the environment
    loop.rollout()
    assert actions(loop) == [0, 1, 0, 1, 0]  # of observations 6 to 10


def test_where_truncated_sarsa_draws_an_action_that_it_does_not_take():
    # At random, either action of the last observation may be drawn: y = 1 + 200 / 2 or 1 + 160 / 2, each as likely. Of
    # 200, 60 is more than five standard deviations (of 7) away from the mean.
    counts = {81.0: 0, 101.0: 0}
    for seed in range(40):
        loop = told("one_step_sarsa", [TRUNCATED] * 5, rewards=[1.0] * 5, seed=seed)
        loop.rollout()
        for i, (a, y) in targets(loop).items():
            value = round(float(y.expected), 2) - 50 * i  # of which observation 1 is the last
            counts[value] += 1
            assert a in (0, 1)
        assert loop.run.workers[0].actors.next_action.tolist() == [-1]
    assert sum(counts.values()) == 200
    assert min(counts.values()) > 60


# What becomes of the targets


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient(method):
    loop = told(method, [0, 0, 0, 0, TERMINATED])
    # y = 16 for the last step, and n-step Q's are 5, 8, 12, 16, 16.
    loop.rollout()
    gradient, acted = loop.dtheta, actions(loop)
    assert set(acted) == {0, 1}
    values = ONLINE[NUMBER[:5], acted]
    following = [100 * (t + 2) / 2 for t in range(4)]
    if method == "one_step_sarsa":
        following = [TARGET[t + 1, acted[t + 1]] / 2 for t in range(4)]
    y = np.array([5.0, 8, 12, 16, 16]) if method == "n_step_q" else np.add(REWARDS, [*following, 0])
    # Of (y - Q)^2 / 2 with y held constant: -(y - Q) for the action that was taken, and nothing for the other.
    expected = np.zeros((OBSERVATIONS, ACTIONS))
    expected[NUMBER[:5], acted] = values - y
    assert gradient["q/weights"] == pytest.approx(expected, rel=1e-6)
    assert gradient["q/bias"] == pytest.approx(expected.sum(axis=0), rel=1e-6)
    # What flows into the layer below: that times the weights of the action, on the row of each step's observation.
    below = (values - y)[:, None] * ONLINE[:, acted].T
    assert gradient["dense1/weights"][:5] == pytest.approx(below, rel=1e-5)
    assert not gradient["dense1/weights"][5:].any()
    assert gradient["dense1/bias"] == pytest.approx(below.sum(axis=0), rel=1e-5)
    # And what is reported of it.
    sums = loop.run.workers[0].sums
    assert sums[[state.UPDATES, state.SAMPLES]].tolist() == [1, 5]
    assert sums.size == state.METRICS + 1  # there is neither a policy's loss nor an entropy
    assert sums[q_values.VALUE_LOSS] == pytest.approx(((y - values) ** 2).sum() / 2, rel=1e-6)
    norm = math.sqrt(sum((values.astype(float) ** 2).sum() for values in gradient.values()))
    assert sums[state.GRADIENT_NORM] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_update_moves_the_online_network_alone(method):
    loop = greedy(method, [TERMINATED] * 5, optimiser="momentum_sgd", momentum=0.5, learning_rate=0.1, steps=10**9)
    target = loop.run.shared.target.copy()
    loop.rollout()
    # y = (1, 2, 4, 8, 16) and Q = (14, 34, 54, 74, 94), of observations 0, 2, 4, 6, 8: m is half of the gradient.
    moves = loop.theta["q/weights"] - ONLINE
    assert moves[0:10:2, 0] == pytest.approx(-0.1 * 0.5 * np.array([13, 32, 50, 66, 78]), rel=1e-4)
    assert not moves[1::2].any()
    assert not moves[:, 1].any()
    assert np.array_equal(loop.run.shared.target, target)
    assert loop.trainer.steps == 15


# What stops a loop


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([0, 0, FAIL, 0, 0], driver.FAILED_ENVIRONMENT),
        ([0, NOT_FINITE, 0, 0, 0], driver.BAD_OBSERVATION),
        ([0, TRUNCATED | NOT_FINITE, 0, 0, 0], driver.BAD_OBSERVATION),
        ([0, 0, 0, 0, NOT_FINITE], driver.BAD_OBSERVATION),
    ],
    ids=["fails", "observation", "last observation", "observation after the rollout"],
)
def test_what_cannot_be_used_never_reaches_the_shared_arrays(method, ends, code):
    loop = told(method, ends)
    shared = loop.run.shared
    before = shared.theta.copy(), shared.target.copy()
    assert loop.rollout() == code
    assert np.array_equal(shared.theta, before[0])
    assert np.array_equal(shared.target, before[1])
    assert loop.trainer.steps == 0
    assert shared.updates[0] == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["theta", "target"])
def test_values_beyond_float32_never_reach_the_shared_arrays(method, network):
    loop = told(method, [0] * 5)
    getattr(loop, network)["q/weights"][[2, 5]] = 1e30  # squared, it is infinite; n-step Q sees the last alone
    shared = loop.run.shared
    before = shared.theta.copy(), shared.target.copy()
    assert loop.rollout() == driver.BAD_GRADIENT
    assert np.array_equal(shared.theta, before[0])
    assert np.array_equal(shared.target, before[1])
    assert not shared.optimiser.any()
