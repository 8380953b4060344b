"""Ten updates of the real loop against an independent float64 run of A3C on the very trajectory that the loop acted."""

import gymnasium
import numpy as np
import oracles
import pytest
import references
from gymnasium import spaces
from loops import Loop
from references import OPTIMISERS, UPDATES, assert_same, follow
from scripted import SIZE, Scripted, rollouts, transitions

from nbrl import Conv, Dense, Trainer, envs
from nbrl.envs import EnvStepper
from nbrl.methods import driver, state
from nbrl.nets.table import observations

ADAM = OPTIMISERS["shared_adam"]
TWO_LAYERS = (Dense(20, "tanh"), Dense(17, "tanh"))


def settings(network=TWO_LAYERS, **others):
    return references.settings(network, **others)


CASES = {
    "the paper's": settings(seed=4),
    "clips active": settings(gradient_clip=0.7, reward_clip=0.5),
    "no reward clip": settings(reward_clip=None, gradient_clip=1e6),
    "adam": settings(**ADAM, reward_clip=1.0),
    "long rollouts": settings(length=20),
    "one step": settings(length=1, seed=5),
    "orthogonal": settings(initialisation="orthogonal"),
    "relu": settings(network=(Dense(40, "relu"),)),
    "linear": settings(network=(Dense(8, "none"),)),
    "three actors in turn": settings(actors=3),
    "generalised advantages": settings(gae_lambda=0.8, seed=4),
    "one-step advantages": settings(gae_lambda=0.0, seed=4),
    "two pairs in lockstep": settings(actors=4, envs_per_batch=2),
    "three in lockstep, adam": settings(actors=3, envs_per_batch=3, **ADAM),
    "momentum of each of three groups": settings(actors=6, envs_per_batch=2, **OPTIMISERS["momentum_sgd"]),
    "mean squares of each of three groups": settings(actors=6, envs_per_batch=2, **OPTIMISERS["rmsprop"]),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_ten_updates_equal_the_reference(config):
    follow(config, oracles.A3CReference)


CONTINUOUS = {
    "the paper's": settings(separate_networks=True, seed=4),
    "one network": settings(entropy_weight=0.1),
    "a constant variance": settings(separate_networks=True, policy_variance="constant", **ADAM),
    "generalised advantages, orthogonal": settings(
        gae_lambda=0.8, initialisation="orthogonal", policy_variance="constant", seed=4
    ),
    "two pairs in lockstep": settings(actors=4, envs_per_batch=2, separate_networks=True, gradient_clip=0.7),
    "three actors in turn, one step": settings(actors=3, length=1),
}


@pytest.mark.parametrize("config", CONTINUOUS.values(), ids=CONTINUOUS)
def test_ten_updates_of_continuous_actions_equal_the_reference(config):
    follow(config, oracles.A3CReference, continuous=True)


def test_continuous_actions_are_drawn_from_the_policy():
    # As the actor's row gives them, by Box and Muller, with the parameters of the reference.
    config, environment = settings(length=7, seed=21, separate_networks=True), Scripted(continuous=True)
    loop = Loop(config, environment)
    generator, begun = oracles.Xoshiro([int(word) for word in loop.run.workers[0].actors.random[0]]), False
    for update in range(UPDATES):
        parameters = {name: values.astype(float) for name, values in loop.theta.items()}
        assert loop.rollout() == driver.PAUSED
        one = rollouts(transitions(environment.records(loop.instances[0])), config.rollout_length)[update]
        outputs, _ = oracles.network_forward(config.network, parameters, one["observations"])
        for t, status in enumerate(one["statuses"]):
            if not begun:
                generator.next_uint64()
            begun = not status & (oracles.TERMINATED | oracles.TRUNCATED)
            noise = [
                np.sqrt(-2 * np.log(1 - generator.uniform())) * np.cos(2 * np.pi * generator.uniform())
                for _ in range(2)
            ]
            deviation = np.sqrt(oracles.gaussian_variance(outputs["variance"][t]))
            expected = outputs["mean"][t] + deviation * noise
            np.testing.assert_allclose(loop.run.policies[0].action[t, 0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("continuous", [False, True])
def test_learning_sees_normalised_observations_and_rewards(continuous):
    # The statistics of a rollout are those of all steps before it; an episode's discounted return goes on through
    # rollouts. 0.3 is low enough to clip some rewards.
    config = settings(normalise_observations=True, normalise_rewards=True, reward_clip=0.3, actors=2, seed=4)
    environment = Scripted(continuous=continuous)
    loop = Loop(config, environment)
    worker, length = loop.run.workers[0], config.rollout_length
    seen, returns, discounted, clipped = [], [], [0.0, 0.0], 0
    for update in range(UPDATES):
        assert loop.rollout() == driver.PAUSED
        actor = update % 2
        one = rollouts(transitions(environment.records(loop.instances[actor])), length)[update // 2]
        mean, deviation, scale = np.zeros(SIZE), np.ones(SIZE), 1.0
        if update:
            mean, deviation = np.mean(seen, axis=0), np.sqrt(np.var(seen, axis=0) + 1e-8)
            scale = 1 / np.sqrt(np.var(returns) + 1e-8)
            assert scale < 1  # else rewards are as they were given
        expected = np.clip((one["observations"] - mean) / deviation, -10, 10)
        np.testing.assert_allclose(observations(worker.work, 0, length), expected, rtol=0, atol=1e-4)
        rewards = np.clip(one["rewards"] * scale, -0.3, 0.3)
        clipped += (np.abs(rewards) == 0.3).sum()
        np.testing.assert_allclose(worker.rollout.reward[:, 0], rewards, rtol=1e-5)
        for t in range(length):
            if one["begins"][t]:
                discounted[actor] = 0.0
            discounted[actor] = config.discount * discounted[actor] + one["rewards"][t]
            returns.append(discounted[actor])
            seen.append(one["next_observations"][t])
    assert 0 < clipped < UPDATES * length
    # The policy as it is given out has the statistics of all steps.
    normal = loop.run.agent().normal
    np.testing.assert_allclose(normal[0], np.mean(seen, axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(normal[1], 1 / np.sqrt(np.var(seen, axis=0) + 1e-8), rtol=1e-5)
    raw = worker.episodes.ring[: worker.episodes.ends[state.WRITTEN], state.RETURN]
    assert np.abs(raw).max() > 1  # episodes are reported in the environment's own rewards


def test_the_trainer_s_own_run_equals_the_reference():
    # The same through the public entry alone: threads, compiled loop, agent.
    config, environment = settings(seed=4), Scripted()
    trainer = Trainer(config, environment)
    first = trainer._run.learner.network.layout.views(trainer.snapshot().parameters.astype(float))
    trainer.start()
    assert trainer.join(timeout=60)
    reference = oracles.A3CReference(config.network, first, config)
    [instance] = environment.made
    acted = rollouts(transitions(environment.records(instance)), config.rollout_length)
    assert len(acted) == UPDATES
    for one in acted:
        reference.update(one)
    assert trainer.steps == reference.steps
    assert_same(trainer._run.learner.network.layout.views(trainer.snapshot().parameters), reference.parameters, first)


def test_actions_are_drawn_from_the_policy_and_seeds_from_the_actor_s_row():
    # The loop is replayed without it: parameters from the reference, random numbers from the oracle's generator, the
    # environment from Python.
    config, environment = settings(length=7, seed=21, entropy_weight=0.0), Scripted()
    loop = Loop(config, environment)
    row = [int(word) for word in loop.run.workers[0].actors.random[0]]
    first = {name: values.astype(float) for name, values in loop.theta.items()}
    assert loop.rollout(UPDATES) == driver.PAUSED
    recorded = rollouts(transitions(environment.records(loop.instances[0])), config.rollout_length)

    generator, player = oracles.Xoshiro(row), EnvStepper(Scripted())
    reference, observation = oracles.A3CReference(config.network, first, config), None
    for expected in recorded:
        for t in range(config.rollout_length):
            if observation is None:
                observation = player.reset(generator.next_uint64())
            assert np.array_equal(observation, expected["observations"][t])
            outputs, _ = oracles.network_forward(config.network, reference.parameters, observation[None])
            upper = np.exp(oracles.log_softmax(outputs["policy"][0])).cumsum()
            u = generator.uniform()
            assert np.abs(upper - u).min() > 1e-5  # no draw so near a boundary that rounding decides it
            action = int((u >= upper).sum())
            assert action == expected["actions"][t]
            observation, reward, status = player.step(action)
            assert (reward, status) == (expected["rewards"][t], expected["statuses"][t])
            if status & (oracles.TERMINATED | oracles.TRUNCATED):
                observation = None
        reference.update(expected)


class Pictures(gymnasium.Env):
    """Random uint8 pictures from Python, everything written down in `records` (of the class)."""

    observation_space = spaces.Box(0, 255, (2, 10, 9), np.uint8)
    action_space = spaces.Discrete(3)
    records: list = []  # noqa: RUF012 - shared on purpose, the test empties it

    def observe(self, action, reward, ends):
        observation = self.np_random.integers(0, 256, (2, 10, 9), dtype=np.uint8)
        self.records.append((observation, action, reward, ends))
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(-1, 0.0, (False, False)), {}

    def step(self, action):
        reward, chance = float(np.float32(self.np_random.uniform(-2, 2))), self.np_random.random()
        ends = (bool(chance < 0.15), bool(chance > 0.85))
        return self.observe(int(action), reward, ends), reward, *ends, {}


def test_ten_updates_on_pictures_from_python_equal_the_reference():
    Pictures.records.clear()
    network = (Conv(5, 4, 2, "relu"), Conv(6, 2, 1, "tanh"), Dense(19, "relu"))
    config, environment = settings(network=network, seed=2), envs.make(Pictures)
    loop = Loop(config, environment)
    first = {name: values.astype(float) for name, values in loop.theta.items()}
    assert loop.rollout(UPDATES) == driver.PAUSED
    observations, actions, rewards, ends = map(np.array, zip(*Pictures.records, strict=True))
    steps = np.flatnonzero(actions >= 0)
    statuses = 1 + 2 * ends[:, 0] + 4 * ends[:, 1]
    assert {1, 3, 5} <= set(statuses.tolist())
    acted = {
        "observations": observations[steps - 1],
        "actions": actions[steps],
        "rewards": rewards[steps],
        "statuses": statuses[steps],
        "next_observations": observations[steps],
    }
    reference = oracles.A3CReference(network, first, config)
    for one in rollouts(acted, config.rollout_length):
        reference.update(one)
    assert reference.updates == UPDATES
    assert_same(loop.theta, reference.parameters, first)


def test_scripted_records_are_what_they_say():
    environment = Scripted()
    player = EnvStepper(environment)
    observation, begins, expected = player.reset(1), True, []
    for i in range(200):
        before = observation
        observation, reward, status = player.step(i % 4)
        expected.append((before, i % 4, reward, status, observation, begins))
        begins = status & (oracles.TERMINATED | oracles.TRUNCATED) != 0
        if begins:
            observation = player.reset(i)
    found = transitions(environment.records(environment.made[0]))
    for values, one in zip(found.values(), zip(*expected, strict=True), strict=True):
        assert np.array_equal(values, np.array(one))
    assert found["observations"].shape == (200, SIZE)
    assert set(found["statuses"].tolist()) == {1, 3, 5, 7, 9}
