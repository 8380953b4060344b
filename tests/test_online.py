"""OnlineLearner: what the engine does with an environment of its own, done with a host's loop, bit for bit."""

import threading

import numpy as np
import pytest
from gymnasium import spaces
from toys import tiny

from nbrl import Agent, CheckpointError, Dense, Lstm, OnlineLearner, Trainer, configure, envs, evaluate
from nbrl.envs import EnvStepper
from nbrl.envs.interface import TERMINATED, TRUNCATED
from nbrl.kernels.random import next_uint64
from nbrl.space_descriptions import gymnasium_space

BOX, TWO = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
ZEROS = np.zeros(3, np.float32)


def host(learner, player, steps):
    """Play until `steps` steps are learnt from, as a host would; resets are seeded as the engine seeds them."""
    observation, action = None, None
    while learner.steps < steps:
        if action is None:
            observation = player.reset(next_uint64(learner._worker.actors.random[0]))
            action = learner.step(observation)
        observation, reward, status = player.step(action)
        action = learner.step(observation, reward, status & TERMINATED != 0, status & TRUNCATED != 0)


def learner_for(environment, config):
    spec = envs.make(environment)
    return OnlineLearner(config, gymnasium_space(spec.observations.space), gymnasium_space(spec.actions.space))


METHODS = ("one_step_q", "one_step_sarsa", "n_step_q", "pqn", "a3c", "ppo")


@pytest.mark.parametrize("network", [(Dense(8, "tanh"),), (Dense(8, "tanh"), Lstm(4))], ids=["feed-forward", "lstm"])
@pytest.mark.parametrize("method", METHODS)
def test_a_host_s_loop_learns_exactly_as_the_engine_s(method, network):
    # Rooms is truncated as well as terminated; 41 rollouts of 7 steps begin and end anywhere in its episodes.
    settings = {"method": method, "network": network, "rollout_length": 7, "epsilon_steps": 200, "target_interval": 50}
    config = tiny("Rooms-v0", **settings, steps=7 * 41)
    trainer = Trainer(config)
    trainer.start(wait=True)
    learner = learner_for("Rooms-v0", config)
    host(learner, EnvStepper(envs.make("Rooms-v0")), config.steps)
    assert learner.finished
    assert learner.steps == trainer.steps == 7 * 41
    parameters = learner.snapshot().parameters
    assert np.array_equal(parameters, trainer.snapshot().parameters)
    assert not np.array_equal(parameters, Trainer(config).snapshot().parameters)  # it has learnt something


def test_a_host_s_loop_is_given_for_what_is_new_as_the_engine_is():
    config = tiny("Rooms-v0", bonus="count+episodic", steps=500)
    trainer = Trainer(config)
    trainer.start(wait=True)
    learner = learner_for("Rooms-v0", config)
    host(learner, EnvStepper(envs.make("Rooms-v0")), config.steps)
    assert np.array_equal(learner.snapshot().parameters, trainer.snapshot().parameters)
    without = Trainer(config.replace(bonus=None))
    without.start(wait=True)
    assert not np.array_equal(without.snapshot().parameters, trainer.snapshot().parameters)


@pytest.mark.parametrize("network", [(Dense(8, "tanh"),), (Dense(8, "tanh"), Lstm(4))], ids=["feed-forward", "lstm"])
@pytest.mark.parametrize("more", [{}, {"normalise_observations": False, "normalise_rewards": False}], ids=str)
def test_a_host_s_loop_learns_continuous_actions_exactly_as_the_engine_s(network, more):
    # Pendulum is truncated after 200 steps.
    config = tiny("Pendulum-v1", network=network, rollout_length=7, envs_per_batch=1, steps=7 * 41, **more)
    trainer = Trainer(config)
    trainer.start(wait=True)
    learner = learner_for("Pendulum-v1", config)
    host(learner, EnvStepper(envs.make("Pendulum-v1")), config.steps)
    assert learner.steps == trainer.steps == 7 * 41
    found, expected = learner.snapshot(), trainer.snapshot()
    assert found.parameters.tobytes() == expected.parameters.tobytes()
    assert found.normal.tobytes() == expected.normal.tobytes()
    assert found.normal.shape == ((2, 0) if more else (2, 3))
    assert not np.array_equal(found.parameters, Trainer(config).snapshot().parameters)  # it has learnt something


DPG = {"method": "dpg", "batch_size": 8, "learning_starts": 30, "noise_std": 0.2}


@pytest.mark.parametrize(
    "more",
    [
        {"buffer_size": 0, "rollout_length": 7},
        {"buffer_size": 40, "rollout_length": 1},
        {"buffer_size": 1000, "rollout_length": 3, "updates_per_step": 0.5, "normalise_observations": True},
    ],
    ids=str,
)
def test_a_host_s_loop_learns_a_deterministic_policy_exactly_as_the_engine_s(more):
    config = tiny("Pendulum-v1", envs_per_batch=1, steps=21 * 41, **DPG | more)
    trainer = Trainer(config)
    trainer.start(wait=True)
    learner = learner_for("Pendulum-v1", config)
    host(learner, EnvStepper(envs.make("Pendulum-v1")), config.steps)
    assert learner.steps == trainer.steps == 21 * 41
    found, expected = learner.snapshot(), trainer.snapshot()
    assert found.parameters.tobytes() == expected.parameters.tobytes()
    assert found.normal.tobytes() == expected.normal.tobytes()
    assert not np.array_equal(found.parameters, Trainer(config).snapshot().parameters)  # it has learnt something


def test_continuous_actions_are_those_of_the_space():
    low, high = np.array([[0, -1, -np.inf]] * 2, np.float32), np.array([[1, 5, np.inf]] * 2, np.float32)
    learner = OnlineLearner({"seed": 1, "rollout_length": 32}, BOX, spaces.Box(low, high))
    actions = [learner.step(ZEROS)] + [learner.step(ZEROS, 1.0) for _ in range(100)]
    assert {(action.shape, action.dtype) for action in actions} == {((2, 3), np.dtype(np.float32))}
    assert all((action >= low).all() and (action <= high).all() for action in actions)
    assert len({action.tobytes() for action in actions}) == 101  # each is an array of its own
    assert learner.step(ZEROS, 1.0, truncated=True) is None
    assert learner.steps >= 96
    assert learner.snapshot().act(ZEROS).shape == (2, 3)


def test_it_learns_catch():
    learner = learner_for("Catch-v0", {"seed": 1, "steps": 40_000})
    host(learner, EnvStepper(envs.make("Catch-v0")), learner.config.steps)
    assert evaluate(learner.snapshot(), "Catch-v0", episodes=100, greedy=True).mean_return == 1.0
    returns = learner.returns()
    assert len(returns) == 4096  # of more that ended: the oldest that fitted
    assert set(returns) == {-1.0, 1.0}
    assert learner.returns() == []


def test_several_threads_share_the_parameters():
    # Whose turn it is varies. Of 300 seeds all learnt it; by half the steps, entropy weight 0.01, 141 of 150 had.
    settings = {"method": "a3c", "seed": 1, "steps": 80_000, "actors": 3, "entropy_weight": 0.03}
    first = learner_for("Catch-v0", settings)
    learners = [first, first.another(), first.another()]
    with pytest.raises(ValueError, match="all 3 learners are in use: set actors to how many share the parameters"):
        first.another()
    errors = []

    def play(learner):
        try:
            host(learner, EnvStepper(envs.make("Catch-v0")), 80_000)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=play, args=(learner,)) for learner in learners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    # Each may have had one rollout under way when the last step was counted.
    length = first.config.rollout_length
    assert 80_000 <= first.steps <= 80_000 + 3 * length
    assert len({learner.steps for learner in learners}) == 1
    assert len({learner.snapshot().parameters.tobytes() for learner in learners}) == 1
    assert all(own.tolist() != [0] * own.size for own in first._learner.shared.steps)
    assert evaluate(first.snapshot(), "Catch-v0", episodes=100, greedy=True).mean_return == 1.0


def test_once_finished_it_acts_and_learns_no_more():
    learner = OnlineLearner({"seed": 1, "steps": 16, "rollout_length": 16}, BOX, TWO)
    learner.step(ZEROS)
    for _ in range(16):
        assert not learner.finished
        learner.step(ZEROS, 1.0)
    assert learner.finished
    parameters = learner.snapshot().parameters
    for _ in range(40):
        assert learner.step(ZEROS, 1.0) in (0, 1)
    assert learner.steps == 16
    assert np.array_equal(learner.snapshot().parameters, parameters)


def test_actions_are_those_of_the_space_and_an_end_needs_none():
    learner = OnlineLearner({"seed": 1}, spaces.Discrete(5), spaces.Discrete(2, start=-3))
    assert learner.step(4) in (-3, -2)
    assert {learner.step(step % 5, 0.0) for step in range(50)} == {-3, -2}
    assert learner.step(0, 2.5, terminated=True) is None
    assert learner.returns() == [2.5]
    assert learner.step(1) in (-3, -2)
    assert learner.step(0, -1.0, truncated=True) is None
    assert learner.returns() == [-1.0]


def test_what_is_seen_twice_is_one_sentence_and_nothing_is_lost():
    learner = OnlineLearner({"seed": 1, "rollout_length": 2}, BOX, TWO)
    with pytest.raises(ValueError, match="an episode cannot end with its first observation: no action led there"):
        learner.step(ZEROS, terminated=True)
    learner.step(ZEROS)
    with pytest.raises(ValueError, match=r"the observation has shape \(2,\), but its space says \(3,\)"):
        learner.step(np.zeros(2), 1.0)
    parameters = learner.snapshot().parameters
    for observation, reward, sentence in (
        (ZEROS, np.nan, "a reward is not finite; the parameters are as they were before it"),
        (np.full(3, np.inf), 1.0, "an observation has a number that is not finite"),
    ):
        with pytest.raises(FloatingPointError, match=sentence):
            learner.step(observation, reward)
        assert learner.step(ZEROS) in (0, 1)  # what follows begins anew
    assert np.array_equal(learner.snapshot().parameters, parameters)
    learner.step(ZEROS, 1.0)
    learner.step(ZEROS, 1.0)
    assert learner.steps == 2


def test_what_cannot_be_learnt_is_refused():
    sentence = "host has continuous actions: one_step_q takes an environment with discrete ones"
    with pytest.raises(ValueError, match=sentence):
        OnlineLearner({"method": "one_step_q"}, BOX, BOX)
    with pytest.raises(ValueError, match="the observation space Text cannot be used"):
        OnlineLearner({}, spaces.Text(3), TWO)
    with pytest.raises(ValueError, match=r"unknown setting 'learning_rat': did you mean 'learning_rate'?"):
        OnlineLearner({"learning_rat": 1}, BOX, TWO)


def test_a_whole_config_is_taken_as_it_is():
    config = configure("Catch-v0", actors=2, threads=1, envs_per_batch=2, seed=3, learning_rate=0.5)
    learner = OnlineLearner(config, BOX, TWO)
    assert (learner.config.learning_rate, learner.config.actors, learner.config.seed) == (0.5, 2, 3)
    learner.another()


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_from_what_it_saved(tmp_path, method):
    config = {"seed": 1, "steps": 1000, "method": method, "rollout_length": 4}
    learner = OnlineLearner(config, BOX, TWO)
    rng = np.random.default_rng(0)

    def feed(learner, steps):
        learner.step(rng.standard_normal(3))
        for _ in range(steps):
            learner.step(rng.standard_normal(3), rng.standard_normal())

    feed(learner, 40)
    learner.step(ZEROS, 0.0, terminated=True)
    learner.save(tmp_path / "learner")
    assert np.array_equal(Agent.load(tmp_path / "learner").parameters, learner.snapshot().parameters)
    other = OnlineLearner(config, BOX, TWO, restore=tmp_path / "learner")
    assert (other.steps, other.returns()) == (40, [])
    state = rng.bit_generator.state
    learner._t = 0  # the rollout under way is no part of what was saved
    feed(learner, 40)
    rng.bit_generator.state = state
    feed(other, 40)
    assert other.steps == learner.steps == 80
    assert np.array_equal(other.snapshot().parameters, learner.snapshot().parameters)
    with pytest.raises(CheckpointError, match="another network"):
        OnlineLearner(config, spaces.Box(-1, 1, (4,), np.float32), TWO, restore=tmp_path / "learner")
