"""Several agents in one environment: what is learnt from whom, beside slow code; how they act, are saved and scored."""

import ctypes
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cfunc
from talk import Talk, plain_forward

import nbrl
from nbrl import Agent, NumpyPolicy, configure, envs
from nbrl.agent import choose_action, said
from nbrl.animation import play
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvSpec, EnvStepper, PythonEnvironment, python_instance
from nbrl.learner import Learner
from nbrl.nets.layers import Channel, Communicate, Dense, Gru, Lstm
from nbrl.nets.table import NOISE, NOISE_SIZE, outputs
from nbrl.spaces import ALIVE, HEARS, NEW, PRESENT, SPEAKS, STOPPED
from nbrl.testing import CheckError, check_agent, check_environment, check_resume
from nbrl.testing.strategies import episodes

AGENTS, INPUTS, ACTIONS = 3, 4, 2
RIDDLE, TRAFFIC, LEVER = "nbrl/SwitchRiddle-v0", "nbrl/TrafficJunction-v0", "nbrl/Lever-v0"


class Scripted(EnvSpec):
    """Agents that come, go, speak and hear by chance, in episodes that end by chance; all is written down."""

    def __init__(self, seed, *, truncates):
        box = spaces.Box(-9.0, 9.0, (INPUTS,), np.float32)
        super().__init__("scripted", box, spaces.Discrete(ACTIONS), agents=AGENTS, agents_come_and_go=True)
        self.rng, self.truncates, self.record = np.random.default_rng(seed), truncates, []

    def make(self):
        return python_instance(_Script(self))


class _Script(PythonEnvironment):
    def __init__(self, spec):
        self.spec, self.alive = spec, np.zeros(AGENTS, np.uint8)

    def _next(self, observation):
        rng, before = self.spec.rng, self.alive.copy()
        seen = rng.standard_normal((AGENTS, INPUTS)).astype(np.float32)
        ctypes.memmove(observation, seen.tobytes(), seen.nbytes)
        for agent in range(AGENTS):
            there = rng.random() < 0.75
            bits = there * (ALIVE | SPEAKS * (rng.random() < 0.7) | HEARS * (rng.random() < 0.7))
            if there and before[agent] & ALIVE and rng.random() < 0.2:
                bits |= NEW
            if not there and before[agent] & ALIVE and self.spec.truncates and rng.random() < 0.5:
                bits |= STOPPED
            self.alive[agent] = bits
        return seen

    def reset(self, seed, observation):
        self.alive[:] = 0
        self.spec.record.append({"seen": self._next(observation), "alive": self.alive.copy(), "begins": True})

    def step(self, action, observation, reward):
        actions = np.frombuffer(ctypes.string_at(action, 4 * AGENTS), np.int32)
        rewards = self.spec.rng.standard_normal(AGENTS).astype(np.float32)
        ctypes.memmove(reward, rewards.tobytes(), rewards.nbytes)
        ends = self.spec.rng.random() < 0.2
        cut = ends and self.spec.truncates and self.spec.rng.random() < 0.5
        status = STEPPED | (TRUNCATED if cut else TERMINATED if ends else 0)
        self.spec.record[-1] |= {"actions": actions.copy(), "rewards": rewards, "status": status}
        self.spec.record.append({"seen": self._next(observation), "alive": self.alive.copy(), "begins": False})
        return status

    def close(self):
        pass


def steps_of(record):
    """Of each step what was seen and done, and what came of it."""
    return [(now, then) for now, then in pairwise(record) if "actions" in now]


def slow_rollout(steps, last, discount, values, value_at):
    """Of each step and agent whether it acted, its return, and whether its next sample goes on from it.

    `values` are of what is seen at the rollout's end, `value_at(t, agent)` of what step t led to.
    """
    acted, goes_on, R = (np.zeros((len(steps), AGENTS), kind) for kind in (bool, bool, float))
    following = np.array(values, float)
    for t in range(len(steps) - 1, -1, -1):
        now, then = steps[t]
        over, cut = now["status"] & (TERMINATED | TRUNCATED), now["status"] & TRUNCATED
        for a in range(AGENTS):
            acted[t, a] = now["alive"][a] & ALIVE > 0
            left = not then["alive"][a] & ALIVE or then["alive"][a] & NEW
            if left:
                after = value_at(t, a) if then["alive"][a] & STOPPED else 0.0
            elif over:
                after = value_at(t, a) if cut else 0.0
            else:
                after = following[a]
            R[t, a] = now["rewards"][a] + discount * after
            goes_on[t, a] = acted[t, a] and not left and not over
        following = R[t].copy()
    return acted, goes_on, R


@pytest.mark.parametrize(
    ("network", "truncates", "central"),
    [
        ((Dense(5, "tanh"), Communicate(4, "tanh"), Gru(3)), True, False),
        ((Dense(4, "tanh"), Lstm(3), Communicate(3, "tanh")), True, False),
        ((Dense(4, "tanh"), Channel(4, 2)), False, False),  # whose noise at an end is not kept
        ((Dense(4, "tanh"), Gru(3)), True, True),
        ((Dense(5, "tanh"), Communicate(3, "tanh")), True, True),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_rollout_teaches_what_slow_code_says(network, truncates, central, seed):
    t_max, rollouts, beta, weight, discount, rate = 6, 3, 0.02, 0.5, 0.9, 1e-2
    spec = Scripted(seed, truncates=truncates)
    config = configure(
        spec, method="a3c", network=network, actors=1, threads=1, rollout_length=t_max, steps=10**6, seed=seed,
        optimiser="momentum_sgd", momentum=0.0, learning_rate=rate, learning_rate_schedule="constant",
        gradient_clip=1e9, normalise_rewards=False, reward_clip=None, entropy_weight=beta, value_weight=weight,
        discount=discount, gae_lambda=1.0, initialisation="uniform", central_value=central,
    )  # fmt: skip
    assert not config.agent_index
    learner = Learner(config, spec)
    [instance] = learner.attach(0)
    worker, rng = learner.workers[0], np.random.default_rng(seed)
    for _ in range(rollouts):
        theta, states = learner.shared.theta.copy(), worker.actors.state.copy()
        already = len(spec.record)
        learner.loop(0, 1)
        begin = already - 1 if already and "actions" in spec.record[already - 1] else already
        record = spec.record[begin:]
        steps = steps_of(record)
        assert len(steps) == t_max
        # Where an episode ended with the rollout, what is seen last is that episode's own.
        seen = [now for now, _ in steps] + [steps[-1][1]]
        shape = (t_max + 1, 1, AGENTS)
        noise = np.zeros((*shape, 0))
        for row in worker.work.table:
            if row[NOISE_SIZE]:
                size = (t_max + 1) * AGENTS * row[NOISE_SIZE]
                noise = worker.work.activations[row[NOISE] :][:size].reshape(*shape, -1)
        talk = Talk(
            np.array([one["seen"] for one in seen])[:, None],
            np.zeros(shape, bool),
            np.zeros((*shape, learner.network.state_size), np.float32),
            np.array([[(one["alive"] & (ALIVE | SPEAKS)) == ALIVE | SPEAKS for one in seen]]).reshape(shape),
            np.array([[(one["alive"] & (ALIVE | HEARS)) == ALIVE | HEARS for one in seen]]).reshape(shape),
            noise,
            np.array([[one["alive"] & ALIVE > 0 for one in seen]]).reshape(shape),
        )
        acted, goes_on, _ = slow_rollout(steps, seen[-1], discount, np.zeros(AGENTS), lambda t, a: 0.0)
        talk.continues[1:, 0] = goes_on
        if not seen[0]["begins"]:
            talk.states[0, 0] = states

        def value_at(t, a, talk=talk, steps=steps, theta=theta):
            """V of what step t led to, had it gone on: what everybody remembers is what was there then."""
            last, alive = steps[t][1], steps[t][1]["alive"]
            over = steps[t][0]["status"] & (TERMINATED | TRUNCATED)
            _, left = plain_forward(learner.network, theta.astype(float), Talk(*(part[: t + 1] for part in talk)))
            before = left[t, 0].copy()
            for b in range(AGENTS):
                acted_now = steps[t][0]["alive"][b] & ALIVE
                gone = not alive[b] & ALIVE or alive[b] & NEW
                if not acted_now or (gone and not alive[b] & STOPPED):
                    before[b] = 0
            assert over or alive[a] & STOPPED
            one = Talk(
                last["seen"][None, None], np.zeros((1, 1, AGENTS), bool), before[None, None],
                ((alive & (ALIVE | SPEAKS)) == ALIVE | SPEAKS)[None, None],
                ((alive & (ALIVE | HEARS)) == ALIVE | HEARS)[None, None], np.zeros((1, 1, AGENTS, 0)),
                (alive & ALIVE > 0)[None, None],
            )  # fmt: skip
            return plain_forward(learner.network, theta.astype(float), one)[0]["value"][0, 0, a, 0]

        found, _ = plain_forward(learner.network, theta.astype(float), talk)
        values = found["value"][:, 0, :, 0]
        acted, _, R = slow_rollout(steps, seen[-1], discount, values[-1], value_at)
        advantage = R - values[:-1]

        def loss(parameters, talk=talk, steps=steps, acted=acted, R=R, advantage=advantage):
            outputs_, total = plain_forward(learner.network, parameters, talk)[0], 0.0
            for t, a in np.argwhere(acted):
                logits = outputs_["policy"][t, 0, a]
                log_pi = logits - np.log(np.exp(logits).sum())
                entropy = -(np.exp(log_pi) * log_pi).sum()
                total -= log_pi[steps[t][0]["actions"][a]] * advantage[t, a] + beta * entropy
                total += weight * (R[t, a] - outputs_["value"][t, 0, a, 0]) ** 2 / 2
            return total

        taught = (theta - learner.shared.theta) / rate
        largest = float(np.abs(taught).max())
        names = learner.network.layout.names
        for name in [names[i] for i in rng.permutation(len(names))[:12]]:
            view = learner.network.layout.view(np.arange(theta.size, dtype=np.float32), name)
            place = int(rng.choice(view.reshape(-1)))
            sides = []
            for sign in (1, -1):
                moved = theta.astype(float)
                moved[place] += sign * 1e-6
                sides.append(loss(moved))
            assert taught[place] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-3 * max(1.0, largest)), name
    assert learner.steps == rollouts * t_max  # of the environment
    instance.close()


def test_returns_are_told_for_the_team_and_for_each():
    spec = Scripted(5, truncates=False)
    config = configure(spec, method="a3c", actors=1, threads=1, rollout_length=50, steps=10**6, seed=1)
    learner = Learner(config, spec)
    learner.attach(0)
    learner.loop(0, 1)
    totals, expected, length = np.zeros(AGENTS), [], 0
    for now, _ in steps_of(spec.record):
        totals += np.where(now["alive"] & ALIVE > 0, now["rewards"], 0)
        length += 1
        if now["status"] & TERMINATED:
            expected.append([totals.mean(), length, 0, len(expected) + 1, *totals])
            totals, length = np.zeros(AGENTS), 0
    assert len(expected) > 4
    assert learner.new_episodes() == pytest.approx(np.array(expected), abs=1e-5)


MESSAGES = {"nbrl/SwitchRiddle-v0": (Dense(6), Channel(5, 2)), "nbrl/TrafficJunction-v0": (Communicate(6), Gru(4))}


@pytest.mark.parametrize("method", ["a3c", "ppo", "pqn", "n_step_q", "one_step_q", "one_step_sarsa"])
@pytest.mark.parametrize("name", list(MESSAGES))
def test_a_run_that_is_cut_goes_on_to_the_bit(method, name):
    more = {"epochs": 2, "minibatches": 2} if method in ("ppo", "pqn") else {}
    check_resume(
        name, method=method, network=MESSAGES[name], rollout_length=7, cuts=2, envs_per_batch=2, actors=4,
        normalise_rewards=True, bonus="count", **more,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["a3c", "ppo"])
def test_a_central_value_is_learnt_by_and_left_behind(method, tmp_path):
    settings = {
        "method": method, "network": (Dense(6), Gru(4)), "envs_per_batch": 2, "actors": 4, "rollout_length": 7,
        "central_value": True, "bonus": "rnd", "minibatches": 2,
    }  # fmt: skip
    check_resume(TRAFFIC, cuts=2, **settings)
    agent = nbrl.train(TRAFFIC, steps=500, seed=1, threads=2, directory=tmp_path / "run", **settings)
    assert set(agent.network.heads) == {"policy"}
    assert not any(name.startswith("value") for name in agent.arrays())
    check_agent(agent)
    assert len(agent.act(np.zeros((3, *agent.observation_space.shape)), np.zeros((3, 4), np.float32))) == 3  # apart
    again = nbrl.train(TRAFFIC, steps=500, seed=2, threads=1, init=nbrl.Agent.load(tmp_path / "run"), **settings)
    assert again.network.shapes() == agent.network.shapes()


@pytest.mark.parametrize(("name", "network"), [(RIDDLE, (Dense(6), Gru(4))), (TRAFFIC, (Communicate(6), Gru(4)))])
def test_policies_of_agents_who_act_together_are_checked(name, network):
    agent = nbrl.train(name, method="a3c", steps=200, seed=1, threads=1, network=network)
    assert agent.network.passes_together
    check_agent(agent)


def test_a_central_value_needs_several_agents_of_vectors():
    with pytest.raises(ValueError, match="central_value is true, but CartPole-v1 has one agent: it is for several"):
        Learner(configure("CartPole-v1", method="a3c", central_value=True))


@pytest.mark.parametrize("bonus", ["rnd", "icm", "novelty"])
def test_a_learnt_bonus_has_room_for_all_agents(bonus):
    # 1,200 steps of agents in a rollout, 60 of environments, in several chunks of the bonus.
    check_resume(
        TRAFFIC, method="a3c", network=(Communicate(6),), rollout_length=30, cuts=1, envs_per_batch=2, actors=4,
        bonus=bonus, environment_arguments={"level": "hard"},
    )  # fmt: skip


@pytest.mark.parametrize("network", [(Dense(6), Communicate(5, "tanh")), (Dense(5), Channel(4, 1), Dense(3))])
@pytest.mark.parametrize("indexed", [False, True])
def test_minibatches_keep_agents_together(network, indexed):
    config = configure(
        RIDDLE, method="ppo", network=network, actors=4, envs_per_batch=4, threads=1, rollout_length=6, epochs=1,
        minibatches=2, learning_rate=1e-30, agent_index=indexed, seed=3, steps=10**6,
    )  # fmt: skip
    learner = Learner(config)
    learner.attach(0)
    learner.loop(0, 1)
    work, batches = learner.workers[0].work, learner.methods[0].batches
    n, length = 3, 6 if learner.network.state_size else 1
    size = batches.size * length * n
    samples = batches.sample[:size]
    assert (samples.reshape(-1, n) % n == np.arange(n)).all()
    assert (np.diff(samples.reshape(-1, n), axis=1) == 1).all()
    for head in ("policy", "value"):
        row = learner.network.head(head)
        assert outputs(batches.work, row, 0, size) == pytest.approx(outputs(work, row, 0, 72)[samples], abs=1e-5)


def trained(name, tmp_path, **settings):
    agent = nbrl.train(name, steps=4000, seed=2, threads=1, **settings)
    agent.save(tmp_path / "policy.safetensors")
    return agent, Agent.load(tmp_path / "policy.safetensors"), NumpyPolicy.load(tmp_path / "policy.safetensors")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(("name", "network"), [*MESSAGES.items(), (LEVER, (Dense(8), Communicate(6)))])
def test_a_policy_of_agents_is_saved_and_is_the_same_in_numpy(name, network, indexed, tmp_path):
    agent, loaded, numbers = trained(name, tmp_path, network=network, method="a3c", agent_index=indexed)
    spec = envs.make(name)
    assert (loaded.agents, numbers.agents) == (spec.agents, spec.agents)
    assert f"{spec.agents} agents" in repr(loaded)
    player, rng, choices = EnvStepper(spec), np.random.default_rng(1), []
    states = [policy.initial_state() for policy in (agent, loaded, numbers)]
    for seed in range(15):
        seen, status = player.reset(seed), STEPPED
        for state in states:
            state[:] = 0
        while status == STEPPED:
            more = {"action_mask": player.mask} if player.mask.size else {}
            acts = [
                policy.act(seen, state if agent.recurrent else None, alive=player.alive, greedy=True, **more)
                for policy, state in zip((agent, loaded, numbers), states, strict=True)
            ]
            assert (acts[0] == acts[1]).all()
            assert (acts[0] == acts[2]).all()
            assert states[0] == pytest.approx(states[2], abs=1e-5)
            choices.append(acts[0])
            given = acts[0] if rng.random() < 0.7 or player.mask.size else rng.integers(2, size=spec.agents)
            seen, _, status = player.step(given)
    alive = np.full(2 * spec.agents, PRESENT)
    alive[1] = 0
    both = np.concatenate([seen, seen])
    state = np.zeros((2 * spec.agents, agent.network.state_size), np.float32) if agent.recurrent else None
    other = None if state is None else state.copy()
    greedy = agent.act(both, state, alive=alive, greedy=True), numbers.act(both, other, alive=alive, greedy=True)
    assert (greedy[0] == greedy[1]).all()
    if state is not None:
        assert not state[1].any()
        assert state[0].any()


def test_an_evaluation_has_each_agent_s_return(tmp_path):
    agent, *_ = trained(TRAFFIC, tmp_path, network=(Dense(8), Communicate(8)), method="a3c")
    found = nbrl.evaluate(agent, episodes=6, seed=4, greedy=True, threads=2)
    assert np.shape(found.agent_returns) == (6, 5)
    assert np.mean(found.agent_returns, axis=1) == pytest.approx(found.returns)
    assert json.loads(json.dumps(found.to_dict()))["agent_returns"] == found.agent_returns
    assert set(found.lengths) == {20}
    cart_pole = nbrl.train("CartPole-v1", steps=500, seed=1, threads=1)
    alone = nbrl.evaluate(cart_pole, episodes=2)
    assert alone.agent_returns == []
    assert "agent_returns" not in alone.to_dict()


def test_a_host_is_told_each_agent_s_return():
    class Told(nbrl.Callback):
        episodes, reports = [], []

        def on_episode(self, trainer, episode):
            self.episodes.append(episode)

        def on_report(self, trainer, report):
            self.reports.append(report)

    told = Told()
    nbrl.train(TRAFFIC, steps=4000, seed=1, threads=1, method="a3c", network=(Dense(8),), callbacks=[told])
    assert len(told.episodes) > 50
    for episode in told.episodes:
        assert len(episode.agent_returns) == 5
        assert episode.total_return == pytest.approx(np.mean(episode.agent_returns))
    last = [report.metrics for report in told.reports if report.episodes][-1]
    assert set(last) == {f"charts/episodic_return_{agent}" for agent in range(5)}
    own = told.reports[-1]
    if own.episodes:
        assert own.return_mean == pytest.approx(np.mean(list(own.metrics.values())))


def test_what_is_said_is_seen(tmp_path):
    agent = nbrl.train(TRAFFIC, steps=500, seed=1, threads=1, method="a3c", network=(Dense(8), Communicate(8)))
    (policy, actor), player = agent.actor(), EnvStepper(envs.make(TRAFFIC))
    seen, state = player.reset(3), agent.initial_state()
    for _ in range(8):
        actor.alive[:] = player.alive
        assert choose_action(policy, actor, seen.view(np.uint8), state, True)
        colours = said(agent.network, actor)
        assert (colours.any(axis=1) == (player.alive > 0)).all()
        before = player.instance.picture(seen)
        player.instance.says = colours
        after = player.instance.picture(seen)
        assert (before != after).any() == bool(player.alive.any())
        seen, *_ = player.step(policy.action[0, :, 0])
        player.instance.says = None
    assert player.alive.any()
    bits = nbrl.train(RIDDLE, steps=500, seed=1, threads=1, method="a3c", network=(Channel(8, 1),))
    policy, actor = bits.actor()
    actor.alive[:] = PRESENT, ALIVE, PRESENT
    assert choose_action(policy, actor, np.ones((3, 1), np.float32).view(np.uint8), bits.initial_state(), True)
    assert [bool(colour.any()) for colour in said(bits.network, actor)] == [True, False, True]
    pytest.importorskip("PIL")
    played = play(agent, None, tmp_path / "traffic.gif", seed=1)
    assert played.length == 20


def test_what_agents_are_told_of_themselves():
    config = configure(LEVER, network=(Dense(8),), method="a3c", threads=1, actors=2, seed=1)
    assert config.agent_index  # several agents that stay
    learner = Learner(config)
    assert learner.network.layout.shape("dense1/weights") == (505, 8)
    assert not configure(TRAFFIC).agent_index
    assert not configure("CartPole-v1").agent_index


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("CartPole-v1", {"agent_index": True}, "agent_index is true, but CartPole-v1 has one agent"),
        (RIDDLE, {"method": "dpg"}, "has 3 agents: dpg learns from one alone, take a3c, ppo, pqn or n_step_q"),
    ],
)
def test_settings_that_cannot_be(name, settings, words):
    with pytest.raises(ValueError, match=words):
        Learner(configure(name, **settings))


def test_calls_that_cannot_be(tmp_path):
    agent, _, numbers = trained(RIDDLE, tmp_path, network=MESSAGES[RIDDLE], method="a3c")
    for policy in (agent, numbers):
        state = policy.initial_state()
        with pytest.raises(ValueError, match="2 observations are given: this policy's 3 agents act together"):
            policy.act(np.zeros((2, 1)), state[:2].copy())
        for alive in ([1, 2], [1, 1, 2], [7, 7, 39], [7, 7, -1], [1.0, 1.0, 1.0]):  # 2: who is not there says something
            with pytest.raises(ValueError, match=r"alive is .*: it must have a number for each of the 3 observations"):
                policy.act(np.zeros((3, 1)), state, alive=alive)
        with pytest.raises(ValueError, match="state must be a whole, writable array of float32 with shape"):
            policy.act(np.zeros((3, 1)), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"the policy is of 3 agents, nbrl/SwitchRiddle-v0\(agents=4\) has 4"):
        nbrl.evaluate(agent, RIDDLE, environment_arguments={"agents": 4})
    assert math.isfinite(nbrl.evaluate(agent, episodes=3).mean_return)


@pytest.mark.parametrize("name", [RIDDLE, TRAFFIC, LEVER])
def test_the_checkers_take_several_agents(name):
    check_environment(name, steps=60)


def test_the_checkers_find_what_is_wrong():
    @cfunc("int32(CPointer(int64), uint64, CPointer(float32))")
    def reset(state, seed, observation):
        for i in range(2):
            observation[i] = 0
        return 1

    @cfunc("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
    def step(state, action, observation, reward):
        for i in range(2):
            observation[i] = 0
        reward[0] = 0  # and not the second agent's
        return 1

    box = spaces.Box(-1.0, 1.0, (1,), np.float32)
    spec = envs.NativeEnvironment(
        reset, step, state_size=8, observation_space=box, action_space=spaces.Discrete(2), agents=2, name="pair"
    )
    with pytest.raises(CheckError, match="pair: step left number 1 of the reward unwritten"):
        check_environment(spec, steps=5)


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_courses_of_several_agents_are_drawn(data):
    course = data.draw(episodes(RIDDLE, 6))
    assert course[0].observation.shape == (3, 1)
    for step in course[1:]:
        assert len(step.action) == 3
        assert sum(step.action) <= 1
