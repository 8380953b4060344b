"""What the value methods share: exploration, which falls, for each actor to a place of its own, and target networks."""

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import Told
from toys import tiny

from nbrl import snapshot
from nbrl.learner import Learner
from nbrl.methods import driver
from nbrl.methods.q_values import FINAL_EPSILONS, epsilon_after, explore, final_epsilon

# Exploration


@pytest.mark.parametrize(
    ("final", "steps", "expected"),
    [
        (0.1, 0, 1),
        (0.1, 250, 0.775),
        (0.1, 500, 0.55),
        (0.1, 999, 0.1009),
        (0.1, 1000, 0.1),
        (0.1, 1001, 0.1),
        (0.1, 10**15, 0.1),
        (0.01, 0, 1),
        (0.01, 500, 0.505),
        (0.01, 1000, 0.01),
        (0.01, 5000, 0.01),
        (0.5, 500, 0.75),
        (0.5, 1000, 0.5),
        (0.5, 2000, 0.5),
    ],
)
def test_exploration_falls_on_a_line_and_stays(final, steps, expected):
    assert epsilon_after(final, steps, 1000) == pytest.approx(expected, rel=1e-14)


def test_exploration_is_everything_at_first_and_exactly_the_final_value_long_after():
    for final in FINAL_EPSILONS:
        assert epsilon_after(final, 0, 7) == 1
        assert epsilon_after(final, 8, 7) == final


@given(final=st.sampled_from(FINAL_EPSILONS), steps=st.integers(0, 3 * 10**6), over=st.integers(1, 10**6))
def test_exploration_equals_the_oracle(final, steps, over):
    found = epsilon_after(final, steps, over)
    assert found == pytest.approx(oracles.exploration(final, steps, over), rel=1e-12)
    assert final <= found <= 1
    assert epsilon_after(final, steps + 1, over) <= found


def test_exploration_goes_by_the_steps_of_all_threads():
    learner = Learner(tiny(method="one_step_q", threads=3, epsilon_steps=1000))
    learner.shared.steps[:, 0] = 100, 150, 250
    for thread in range(3):
        method, policy, shared, worker = learner.arguments(thread)
        method.final_epsilons[:] = 0.1
        explore(method, policy, shared, worker, 0, 0, policy.action[0, 0])
        assert policy.epsilon == pytest.approx(0.55)


def test_where_exploration_ends_is_drawn_with_the_paper_s_probabilities():
    draws = np.array([final_epsilon(12, actor) for actor in range(10_000)])
    for value, probability in {0.1: 0.4, 0.01: 0.3, 0.5: 0.3}.items():
        deviation = np.sqrt(10_000 * probability * (1 - probability))
        assert abs((draws == value).sum() - 10_000 * probability) <= 5 * deviation
    assert set(draws.tolist()) == {0.1, 0.01, 0.5}


def test_where_exploration_ends_depends_on_the_seed_and_the_actor_alone():
    assert [final_epsilon(3, actor) for actor in range(40)] == [final_epsilon(3, actor) for actor in range(40)]
    assert [final_epsilon(3, actor) for actor in range(40)] != [final_epsilon(4, actor) for actor in range(40)]
    for settings in ({}, {"threads": 3}, {"threads": 2, "envs_per_batch": 3}):
        learner = Learner(tiny(method="n_step_q", seed=3, actors=12, threads=settings.pop("threads", 1), **settings))
        for method, actors in zip(learner.methods, learner.actors, strict=True):
            assert method.final_epsilons.tolist() == [final_epsilon(3, actor) for actor in actors.tolist()]


def test_each_actor_explores_as_much_as_its_own_final_value_says():
    # Two thirds of the way, all differ from 1 and from each other: epsilon = (1 + 2 final) / 3. The network's best
    # action is 0 of the two, so that 1 is taken with probability epsilon / 2.
    environment = Told([(0.0, 0)])
    learner = Learner(
        tiny(environment, method="one_step_q", actors=3, rollout_length=5000, steps=10**12, epsilon_steps=3 * 10**6,
             learning_rate=1e-20), environment,
    )  # fmt: skip
    [method], [policy], instances = learner.methods, learner.policies, learner.attach(0)
    assert len(instances) == 3
    method.final_epsilons[:] = 0.5, 0.1, 0.01
    learner.network.layout.view(learner.shared.theta, "q/weights")[...] = 0
    learner.network.layout.view(learner.shared.theta, "q/bias")[...] = 1, -1
    learner.shared.steps[0, 0] = 2 * 10**6
    for final in method.final_epsilons.tolist():
        assert learner.loop(0, 1) == driver.PAUSED
        probability = (1 + 2 * final) / 6
        # Five standard deviations of 5000 draws, and what the steps of the turns before took off epsilon.
        bound = 5 * np.sqrt(probability * (1 - probability) / 5000) + 0.005
        assert abs(policy.action.mean() - probability) <= bound


# The target network

INTERVALS = [1, 5, 7, 12, 20, 10**6]


def learner_of(method="n_step_q", environment="Catch-v0", **settings):
    learner = Learner(tiny(environment, method=method, **settings), environment)
    for worker in range(len(learner.workers)):
        learner.attach(worker)
    return learner


def run(learner, count=1, worker=0):
    return learner.loop(worker, count)


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("method", ["one_step_q", "one_step_sarsa", "n_step_q"])
def test_the_target_network_is_copied_when_the_steps_pass_a_multiple(method, interval):
    learner = learner_of(method, target_interval=interval, steps=10**6)
    shared = learner.shared
    expected, copies = shared.theta.copy(), 0
    np.testing.assert_array_equal(shared.target, expected)  # they begin alike
    for update in range(1, 13):
        before = shared.theta.copy()
        assert run(learner) == driver.PAUSED
        assert not np.array_equal(shared.theta, before)
        if any(step % interval == 0 for step in range(5 * update - 4, 5 * update + 1)):
            expected, copies = shared.theta.copy(), copies + 1
        np.testing.assert_array_equal(shared.target, expected, err_msg=f"update {update}")
    assert copies == min(12, 60 // interval)


def test_whichever_thread_passes_a_multiple_copies_the_target_network_and_once():
    # Rollouts of five steps and an interval of 12: T passes 12 at 15, 24 at 25, 36 at 40, 48 at 50.
    learner = learner_of(target_interval=12, threads=3, steps=10**6)
    shared, expected = learner.shared, learner.shared.theta.copy()
    copied_by = []
    for update, worker in enumerate((0, 0, 1, 2, 1, 0, 2, 2, 1, 1, 0), start=1):
        assert run(learner, worker=worker) == driver.PAUSED
        if 5 * update in (15, 25, 40, 50):
            expected = shared.theta.copy()
            copied_by.append(worker)
        np.testing.assert_array_equal(shared.target, expected, err_msg=f"update {update}")
    assert copied_by == [1, 1, 2, 1]
    assert learner.steps == 55


def test_all_threads_read_one_target_network():
    learner = learner_of(threads=3)
    for worker, method in zip(learner.workers, learner.methods, strict=True):
        assert np.shares_memory(method.target.theta, learner.shared.target)
        assert not np.shares_memory(worker.work.theta, learner.shared.target)
        assert not np.shares_memory(method.target.activations, worker.work.activations)


def test_a_policy_to_begin_with_is_the_first_target_network():
    agent, learner = learner_of(seed=1).agent(), learner_of(seed=2)
    assert not np.array_equal(learner.shared.target, agent.parameters)
    snapshot.begin_from(learner, agent)
    np.testing.assert_array_equal(learner.shared.theta, agent.parameters)
    np.testing.assert_array_equal(learner.shared.target, agent.parameters)


def test_a3c_has_no_target_network():
    learner = learner_of("a3c")
    assert learner.shared.target.size == 0
    assert not [name for name in snapshot.take(learner)[0] if name.startswith("target/")]
