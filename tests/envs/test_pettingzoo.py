"""PettingZoo's parallel environments: real ones of mpe2 behind the interface, and ours by PettingZoo's own test."""

import functools
import warnings

import numpy as np
import pytest
from gymnasium import spaces

import nbrl
from nbrl import envs
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvStepper
from nbrl.spaces import ALIVE, PRESENT, STOPPED

mpe2 = pytest.importorskip("mpe2", reason="mpe2 and pettingzoo are in the extra dev")
from pettingzoo import ParallelEnv  # noqa: E402 - after the check that it is there

from nbrl.envs.pettingzoo import NativeParallelEnv  # noqa: E402

with warnings.catch_warnings():  # its own environments warn of its own coming changes
    warnings.simplefilter("ignore")
    from mpe2 import simple_speaker_listener_v4, simple_spread_v3
    from pettingzoo.test import parallel_api_test

SPREAD, LISTENER = "pettingzoo:mpe2.simple_spread_v3", "pettingzoo:mpe2.simple_speaker_listener_v4"


@pytest.mark.parametrize(
    ("name", "settings"),
    [("nbrl/SwitchRiddle-v0", {"agents": 4}), ("nbrl/Lever-v0", {}), ("nbrl/TrafficJunction-v0", {"level": "medium"})],
)
def test_ours_pass_pettingzoo_s_test(name, settings):
    parallel_api_test(NativeParallelEnv(name, **settings), 200)


def test_ours_are_the_same_functions():
    native, ours = EnvStepper(envs.make("nbrl/TrafficJunction-v0")), NativeParallelEnv("nbrl/TrafficJunction-v0")
    rng, seen = np.random.default_rng(0), native.reset(7)
    found, infos = ours.reset(seed=7)
    assert ours.metadata["name"] == "nbrl/TrafficJunction-v0"
    assert ours.possible_agents == [f"agent_{i}" for i in range(5)]
    while ours.agents:
        assert np.array_equal(seen, list(found.values()))
        assert [info["alive"] for info in infos.values()] == native.alive.tolist()
        acts, was = rng.integers(2, size=5), native.alive.copy()
        seen, _, status = native.step(acts)
        found, rewards, terminations, truncations, infos = ours.step(dict(zip(ours.agents, acts, strict=True)))
        assert list(rewards.values()) == pytest.approx(np.where(was & ALIVE, native.rewards, 0).tolist())
        assert set(truncations.values()) == {status == STEPPED | TRUNCATED}
        assert set(terminations.values()) == {False}
    ours.reset(seed=7)
    with pytest.raises(ValueError, match="the action 7777 is none of these 2 actions"):
        ours.step(dict.fromkeys(ours.agents, 7777))
    riddle = NativeParallelEnv("nbrl/SwitchRiddle-v0", render_mode="rgb_array")
    assert riddle.render() is None
    _, infos = riddle.reset(seed=1)
    assert sorted(info["action_mask"].tolist() for info in infos.values()) == [[1, 0], [1, 0], [1, 1]]
    assert riddle.render().dtype == np.uint8
    assert riddle.action_space("agent_0").n == 2


def test_theirs_step_by_step():
    player, theirs = EnvStepper(envs.make(SPREAD)), simple_spread_v3.parallel_env()
    seen, (found, _), rng = player.reset(11), theirs.reset(seed=11), np.random.default_rng(0)
    for _ in range(25):
        assert np.allclose(seen, list(found.values()))
        acts = rng.integers(5, size=3)
        assert player.alive.tolist() == [PRESENT] * 3
        seen, reward, status = player.step(acts)
        found, rewards, *_ = theirs.step(dict(zip(theirs.agents, acts, strict=True)))
        assert player.rewards == pytest.approx(list(rewards.values()), rel=1e-6)
        assert reward == pytest.approx(np.mean(list(rewards.values())), rel=1e-6)
    assert status == STEPPED | TRUNCATED
    assert player.alive.tolist() == [PRESENT] * 3


def test_unequal_spaces_are_laid_out_for_one_network():
    spec, theirs = envs.make(LISTENER), simple_speaker_listener_v4.parallel_env()
    assert (spec.agents, spec.observations.size, spec.actions.counts) == (2, 11, (5,))
    player = EnvStepper(spec)
    seen, (found, _) = player.reset(3), theirs.reset(seed=3)
    assert player.mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]  # the speaker says one of three words
    assert np.allclose(seen[0], [*found["speaker_0"], *[0] * 8])
    assert np.allclose(seen[1], found["listener_0"])
    agent = nbrl.train(LISTENER, steps=3000, seed=1, threads=1)
    assert nbrl.evaluate(agent, LISTENER, episodes=3, seed=2).lengths == [25] * 3
    acts = [agent.act(seen, action_mask=player.mask) for _ in range(60)]
    assert {act[0] for act in acts} <= {0, 1, 2}


class Leaving(ParallelEnv):
    """Agent a leaves after step 1 + a, the odd ones by a limit; the last one's end is the episode's."""

    metadata = {"name": "leaving"}  # noqa: RUF012
    possible_agents = ("a", "b", "c")

    @functools.cache  # noqa: B019
    def observation_space(self, agent):
        return spaces.Discrete(3)

    @functools.cache  # noqa: B019
    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return dict.fromkeys(self.agents, 0), {agent: {} for agent in self.agents}

    def step(self, actions):
        assert sorted(actions) == self.agents
        self.t += 1
        gone = {agent: self.possible_agents.index(agent) < self.t for agent in self.agents}
        odd = {agent: self.possible_agents.index(agent) % 2 == 1 for agent in self.agents}
        playing = list(self.agents)
        self.agents = [agent for agent in playing if not gone[agent]]
        return (
            dict.fromkeys(playing, 1), {agent: float(self.t) for agent in playing},
            {agent: gone[agent] and not odd[agent] for agent in playing},
            {agent: gone[agent] and odd[agent] for agent in playing}, {agent: {} for agent in playing},
        )  # fmt: skip

    def close(self):
        pass


def test_agents_that_leave_before_the_others():
    player = EnvStepper(envs.make(Leaving))
    seen = player.reset(0)
    assert seen.tolist() == [[1, 0, 0]] * 3
    found = []
    for _ in range(3):
        _, _, status = player.step(np.zeros((3, 1)))
        found.append((player.rewards.tolist(), player.alive.tolist(), status))
    assert found == [
        ([1, 1, 1], [0, PRESENT, PRESENT], STEPPED),
        ([0, 2, 2], [0, STOPPED, PRESENT], STEPPED),
        ([0, 0, 3], [0, 0, 0], STEPPED | TERMINATED),
    ]
    agent = nbrl.train(Leaving, steps=500, seed=1, threads=1)
    assert nbrl.evaluate(agent, Leaving, episodes=1).agent_returns == [[1, 3, 6]]


def test_what_cannot_be():
    with pytest.raises(ValueError, match=r"pettingzoo:mpe2.nothing needs a module that is not installed"):
        envs.make("pettingzoo:mpe2.nothing")
    with pytest.raises(ValueError, match="the module json has no parallel_env"):
        envs.make("pettingzoo:json")
    with pytest.raises(ValueError, match=r"pettingzoo:mpe2.simple_spread_v3 cannot be made with {'M': 3}"):
        envs.make(SPREAD, arguments={"M": 3})
    assert envs.make(SPREAD, arguments={"N": 2}).agents == 2

    class Mixed(Leaving):
        @functools.cache  # noqa: B019
        def action_space(self, agent):
            return spaces.Discrete(2) if agent == "a" else spaces.Box(-1, 1, (2,))

    with pytest.raises(ValueError, match="they must have one space, or each be Discrete"):
        envs.make(Mixed)
