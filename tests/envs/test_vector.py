"""Vector environments as groups of actors: every mode of resetting, beside the same environments one by one."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from loops import Loop

import nbrl
from nbrl import configure, envs
from nbrl.envs.interface import TERMINATED, TRUNCATED, VOID, EnvStepper
from nbrl.envs.vector import VectorEnvironment
from nbrl.methods.state import METRICS

K = 3
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Walk(gymnasium.Env):
    """A walk whose episodes are told apart by their numbers: an observation is (number of the episode, place, sum of
    the actions). The ends depend on the seed of the first reset: some are terminations, some truncations."""

    action_space = spaces.Discrete(3)

    def __init__(self, masks=False, as_dict=False):
        self.masks, self.as_dict = masks, as_dict
        box = spaces.Box(-1e6, 1e6, (3,), np.float32)
        self.observation_space = spaces.Dict({"walk": box, "on": spaces.Discrete(2)}) if as_dict else box
        self.episode = -1

    def seen(self):
        walk = np.array([self.episode, self.place, self.total], np.float32)
        return {"walk": walk, "on": self.place % 2} if self.as_dict else walk

    def info(self):
        # All but one are legal, another at each place; at an end none.
        mask = (np.arange(3) != self.place % 3).astype(np.int8) * (not self.over)
        return {"place": self.place} | ({"action_mask": mask} if self.masks else {})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.place, self.total, self.over = self.episode + 1, 0, 0, False
        self.length, self.truncates = int(self.np_random.integers(1, 6)), bool(self.np_random.integers(2))
        return self.seen(), self.info()

    def step(self, action):
        assert not (self.masks and action == self.place % 3)
        self.place, self.total = self.place + 1, self.total + int(action)
        self.over = self.place == self.length
        terminated, truncated = self.over and not self.truncates, self.over and self.truncates
        return self.seen(), float(action) + self.place / 10, terminated, truncated, self.info()


def vector(mode, **options):
    def several():
        return SyncVectorEnv([lambda: Walk(**options)] * K, autoreset_mode=mode)

    return several


def played(instances, spec, rng, steps):
    """What the driver's calls give: of each environment its episodes, of (observation, action, reward, status)."""
    episodes, over = [[] for _ in instances], [True] * len(instances)
    players = []
    for instance in instances:
        one = copy.copy(spec)
        one.make = lambda instance=instance: instance
        players.append(EnvStepper(one))
    rows = np.zeros((len(players), 1), np.int32)
    for _ in range(steps):
        for i, player in enumerate(players):
            if over[i]:
                episodes[i].append([(player.reset(11 + i), None, 0.0, 0)])
                over[i] = False
        for i, player in enumerate(players):
            legal = np.flatnonzero(player.mask) if player.mask.size else np.arange(3)
            rows[i] = rng.choice(legal)
        for i, player in enumerate(players):
            # As in the engine, the actions of the whole group lie side by side.
            player._action = rows[i : i + 1].reshape(-1)
            seen, reward, status = player.step(rows[i])
            if status & VOID:
                assert len(episodes[i][-1]) == 1
                assert reward == 0
                episodes[i][-1] = [(seen, None, 0.0, 0)]
            else:
                episodes[i][-1].append((seen, int(rows[i, 0]), reward, status))
                over[i] = bool(status & (TERMINATED | TRUNCATED))
    return episodes


@pytest.mark.parametrize("options", [{}, {"masks": True}, {"as_dict": True}], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_group_has_the_episodes_of_the_environments_one_by_one(mode, options):
    spec = envs.make(vector(mode, **options))
    group = spec.make_group()
    episodes = played(group, spec, np.random.default_rng(1), 60)
    ends = set()
    for i, found in enumerate(episodes):
        alone = Walk(**options)
        for number, episode in enumerate(found[:-1]):
            expected, _ = alone.reset(seed=11 + i if number == 0 else None)
            row = np.zeros(spec.observations.shape, np.float32)
            for seen, action, reward, status in episode:
                if action is not None:
                    expected, right, terminated, truncated, _ = alone.step(action)
                    assert reward == pytest.approx(right)
                    assert (bool(status & TERMINATED), bool(status & TRUNCATED)) == (terminated, truncated)
                spec.observations.write(expected, row)
                np.testing.assert_array_equal(seen, row)
            ends.add(status)
        assert len(found) > 5
    assert len(ends) == 2  # terminations and truncations
    group[0].close()


class Single(Walk):
    """Every episode has one step, and a reward that is learnt from; the actions may be continuous."""

    def __init__(self, continuous=False):
        super().__init__()
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.truncates = 1, False
        return self.seen(), self.info()

    def step(self, action):
        seen, _, *rest = super().step(np.asarray(action).reshape(-1)[0])
        return seen, 5.0, *rest


def single_steps(method, **settings):
    """A loop whose rollouts are one step each, every second of them void."""

    def build():
        return SyncVectorEnv([lambda: Single(continuous=method == "dpg")], autoreset_mode=AutoresetMode.NEXT_STEP)

    settings |= {"rollout_length": 1, "actors": 1, "threads": 1, "seed": 3, "network": [["dense", 8]]}
    return Loop(configure(build, method=method, optimiser="shared_rmsprop", **settings), build)


@pytest.mark.parametrize("method", ["a3c", "ppo", "n_step_q", "one_step_q", "one_step_sarsa", "pqn", "dpg"])
def test_nothing_is_learnt_from_a_void_step(method):
    more = {"dpg": {"buffer_size": 0}, "ppo": {"epochs": 2}, "pqn": {"epochs": 2}}.get(method, {})
    loop = single_steps(method, **more)
    theta, worker = loop.run.shared.theta, loop.run.workers[0]
    for _ in range(5):
        before = theta.copy()
        loop.rollout()
        assert (theta != before).any()
        before, sums = theta.copy(), worker.sums.copy()
        loop.rollout()
        np.testing.assert_array_equal(theta, before)
        assert not worker.work.dtheta.any()
        if method == "ppo":  # which tells of its losses without them
            np.testing.assert_array_equal(worker.sums[METRICS:], sums[METRICS:])
    # And it is neither an episode nor a reward.
    np.testing.assert_array_equal(worker.episodes.take()[:, :2], [[5, 1]] * 5)


def test_nothing_is_learnt_from_void_rows_of_a_memory():
    loop = single_steps("dpg", buffer_size=100, learning_starts=8, batch_size=8, tau=1.0)
    loop.rollout(20)
    rows, theta = loop.run.methods[0].replay.rows, loop.run.shared.theta
    assert rows[:20, 1].tolist() == [0.0, -1.0] * 10  # the weights: terminated, and void
    rows[:, 1] = -1
    before = theta.copy()
    loop.rollout()
    rows[:, 1] = -1
    loop.rollout()
    assert loop.run.shared.updates[0] == 22 - 7
    np.testing.assert_array_equal(theta, before)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_cart_pole_is_learnt_by_groups(mode):
    def several():
        return gymnasium.make_vec(
            "CartPole-v1", num_envs=8, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
        )

    agent = nbrl.train(several, steps=100_000, seed=1)
    # Of 24 seeds the worst ended at 177, their mean is 279 and their deviation 54.
    assert nbrl.evaluate(agent, "CartPole-v1", episodes=20).mean_return > 100


def test_an_object_serves_one_group_and_stays_open():
    env = vector(AutoresetMode.NEXT_STEP)()
    config = configure(env)
    assert (config.actors, config.envs_per_batch, config.threads) == (K, K, 1)
    agent = nbrl.train(env, steps=300, seed=1)
    evaluation = nbrl.evaluate(agent, env, episodes=7)
    assert len(evaluation.lengths) == 7
    assert set(evaluation.lengths) <= {1, 2, 3, 4, 5}
    assert not env.closed


def test_what_gymnasium_makes_by_default_is_taken():
    agent = nbrl.train(lambda: gymnasium.make_vec("CartPole-v1", num_envs=4), steps=500, seed=1)
    config = configure(lambda: gymnasium.make_vec("CartPole-v1", num_envs=4))
    assert (config.actors, config.envs_per_batch) == (16, 4)
    assert agent.action_space == spaces.Discrete(2)


def test_continuous_actions_reach_their_environments():
    sent = []

    class Tell(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Box(-3, 5, (2,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            sent.append((self, action.copy()))
            return np.zeros(1, np.float32), 0.0, False, False, {}

    env = SyncVectorEnv([Tell] * 2)
    loop = Loop(configure(env, rollout_length=3, seed=1), env)
    loop.rollout()
    policy = loop.run.policies[0]
    for (_, action), own in zip(sent, policy.action.reshape(6, 2), strict=True):
        np.testing.assert_allclose(action, np.clip(1 + 4 * own, -3, 5), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"envs_per_batch": 1}, "envs_per_batch is 1: .* steps 3 environments at once, so it must be 3"),
        ({"actors": 6}, "actors is 6: .* is one object that serves 3 actors; give a function"),
        ({"eval_interval": 1.0}, "eval_interval is 1.0: .* is one object .* give a function"),
    ],
)
def test_settings_that_a_vector_environment_cannot_have(settings, words):
    env = vector(AutoresetMode.NEXT_STEP)()
    with pytest.raises(ValueError, match=words):
        nbrl.train(env, steps=100, **settings)


def test_an_episode_cannot_be_ended_early():
    env = vector(AutoresetMode.NEXT_STEP)()
    with pytest.raises(ValueError, match="SyncVectorEnv cannot end one environment's episode early: leave max_episode"):
        nbrl.train(env, steps=1000, max_episode_steps=2, seed=1)
    nbrl.train(vector(AutoresetMode.DISABLED)(), steps=1000, max_episode_steps=2, seed=1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda given: given[:4], "step returned 4 values: it must return five values"),
        (lambda given: (given[0][:2], *given[1:]), "step gave observations of 2 environments: they must be of its 3"),
        (lambda given: (given[0], given[1][:2], *given[2:]), r"step gave rewards of shape \(2,\): it must be \(3,\)"),
    ],
)
def test_what_a_vector_environment_gives_is_checked(wrong, words):
    class Wrong(SyncVectorEnv):
        def step(self, actions):
            return wrong(super().step(actions))

    with pytest.raises(ValueError, match=f"Wrong.{words}"):
        nbrl.train(Wrong([Walk] * K), steps=100)


def test_one_environment_of_several_is_no_environment():
    with pytest.raises(ValueError, match="steps 3 environments at once: here one is needed"):
        VectorEnvironment(vector(AutoresetMode.NEXT_STEP)).make()


def test_one_environment_in_an_object():
    env = SyncVectorEnv([Single], autoreset_mode=AutoresetMode.NEXT_STEP)
    agent = nbrl.train(env, steps=200, seed=1)
    assert nbrl.evaluate(agent, env, episodes=6, threads=2).lengths == [1] * 6


def test_a_mask_belongs_to_its_observation():
    """In SameStep the info of an end has the mask of the next episode as well."""

    class Turns(Single):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Discrete(2)

        def info(self):
            return {"action_mask": np.array([1, 0] if self.place == 0 else [0, 1], np.int8)}

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.length, self.truncates = 2, True
            return self.seen(), self.info()

    for mode in MODES:
        [env] = envs.make(lambda mode=mode: SyncVectorEnv([Turns], autoreset_mode=mode)).make_group()
        one = envs.make(lambda mode=mode: SyncVectorEnv([Turns], autoreset_mode=mode))
        one.make = lambda env=env: env
        player = EnvStepper(one)
        player.reset(1)
        assert player.mask.tolist() == [1, 0]
        player.step(0)
        _, _, status = player.step(1)
        assert status & TRUNCATED
        assert player.mask.tolist() == [0, 1]
