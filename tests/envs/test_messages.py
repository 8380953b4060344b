"""Messages as actions, against what a slow second pass makes of the environment without them."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbrl
from nbrl import envs
from nbrl.animation import play
from nbrl.envs.agents.messages import TalkingEnvironment
from nbrl.envs.interface import STEPPED, EnvStepper
from nbrl.spaces import ALIVE, HEARS, SPEAKS
from nbrl.testing import check_environment, check_resume

RIDDLE, TRAFFIC, LEVER = "nbrl/SwitchRiddle-v0", "nbrl/TrafficJunction-v0", "nbrl/Lever-v0"
TASKS = [(RIDDLE, {"agents": 4}), (TRAFFIC, {}), (LEVER, {})]


def does(alive, bit):
    return alive & ALIVE > 0 and alive & bit > 0


def heard(said, alive, symbols, come_and_go):
    """What each agent hears, row by row, of symbols that others said (None for nothing)."""
    rows, n = [], len(said)
    for a in range(n):
        parts = [np.eye(symbols)[s] if s is not None else np.zeros(symbols) for s in said[a + 1 :] + said[:a]]
        spoke = sum(s is not None for s in said[a + 1 :] + said[:a])
        row = sum(parts) / max(spoke, 1) if come_and_go else np.concatenate(parts)
        rows.append(row if does(alive[a], HEARS) else np.zeros_like(row))
    return np.array(rows)


@pytest.mark.parametrize(("name", "arguments"), TASKS)
@settings(max_examples=15)
@given(symbols=st.integers(2, 4), seed=st.integers(0, 2**32))
def test_agents_hear_what_others_said_a_step_before(name, arguments, symbols, seed):
    spec = envs.make(name, arguments=arguments)
    talking, silent = EnvStepper(envs.make(name, arguments=arguments | {"messages": symbols})), EnvStepper(spec)
    rng, n = np.random.default_rng(seed), spec.agents
    for episode in range(2):
        seen, expected, said = talking.reset(seed + episode), silent.reset(seed + episode), [None] * n
        status = STEPPED
        while True:
            own = seen.reshape(n, -1)
            assert np.array_equal(own[:, : spec.observations.size], expected.reshape(n, -1))
            assert np.array_equal(talking.alive, silent.alive)
            told = heard(said, silent.alive, symbols, spec.agents_come_and_go)
            assert own[:, spec.observations.size :] == pytest.approx(told)
            legal = silent.mask.reshape(n, -1) if spec.action_mask else np.ones((n, spec.actions.counts[0]), np.uint8)
            speaks = np.array([does(alive, SPEAKS) for alive in silent.alive])
            for a in range(n):
                first = np.eye(symbols)[0]
                assert np.array_equal(talking.mask[a], np.kron(legal[a], np.ones(symbols) if speaks[a] else first))
            if status != STEPPED:
                break
            actions = np.array([rng.choice(np.flatnonzero(row)) for row in talking.mask])
            said = [int(action % symbols) if speaks[a] else None for a, action in enumerate(actions)]
            seen, _, status = talking.step(actions)
            expected, _, other = silent.step(actions // symbols)
            assert status == other
            assert np.array_equal(talking.rewards, silent.rewards)
    talking.close()
    silent.close()


@pytest.mark.filterwarnings("ignore")  # mpe2's own
def test_agents_of_pettingzoo_talk():
    pytest.importorskip("mpe2", reason="it has the environment")
    name = "pettingzoo:mpe2.simple_spread_v3"
    talking, silent = (EnvStepper(envs.make(name, arguments=more)) for more in ({"messages": 2}, {}))
    seen, expected, rng = talking.reset(3), silent.reset(3), np.random.default_rng(0)
    size = expected.shape[1]
    for _ in range(10):
        actions = rng.integers(10, size=3)
        seen, *told = talking.step(actions)
        expected, *other = silent.step(actions // 2)
        assert np.array_equal(seen[:, :size], expected)
        assert told == other
        rows = heard([int(action % 2) for action in actions], talking.alive, 2, False)
        assert np.array_equal(seen[:, size:], rows)


@pytest.mark.parametrize(("name", "arguments"), TASKS[:2])
def test_a_state_has_what_was_said(name, arguments):
    spec = envs.make(name, arguments=arguments | {"messages": 3})
    first, second, rng = EnvStepper(spec), EnvStepper(spec), np.random.default_rng(1)
    first.reset(5)
    for _ in range(3):
        first.step([rng.choice(np.flatnonzero(row[:3])) for row in first.mask])
    saved = first.instance.save()
    spec.check_state(saved)
    second.reset(6)
    second.instance.load(saved)
    actions = [rng.choice(np.flatnonzero(row)) for row in first.mask]
    for one, other in zip(first.step(actions), second.step(actions), strict=True):
        assert np.array_equal(one, other)
    for place, sentence in ((2, "said last is none of 3 symbols"), (1, "do has bits that are none")):
        bad = np.frombuffer(saved, np.uint8).copy()
        bad[len(bad) - 8 * place * spec.agents :][:8] = 77
        with pytest.raises(ValueError, match=sentence):
            spec.check_state(bad.tobytes())
    with pytest.raises(ValueError, match=f"has at least {16 * spec.agents} bytes, not 7"):
        spec.check_state(bytes(7))


@pytest.mark.parametrize("method", ["a3c", "n_step_q"])
def test_a_run_that_is_cut_goes_on_with_what_was_said(method):
    check_resume(TRAFFIC, method=method, cuts=2, actors=2, rollout_length=7, environment_arguments={"messages": 2})


def test_a_policy_says_in_evaluation_what_it_says_in_training(tmp_path):
    arguments = {"agents": 3, "messages": 2}
    agent = nbrl.train(RIDDLE, method="ppo", steps=300, threads=1, seed=1, environment_arguments=arguments)
    assert agent.observation_space.shape == (1 + 2 * 2,)
    assert agent.action_space.n == 2 * 2
    assert nbrl.evaluate(agent, episodes=3).agent_returns
    play(agent, path=tmp_path / "riddle.gif")
    assert (tmp_path / "riddle.gif").stat().st_size > 1000


def test_it_is_an_environment():
    check_environment(envs.make(TRAFFIC, arguments={"messages": 3}))


@pytest.mark.parametrize(
    ("name", "messages", "sentence"),
    [
        ("CartPole-v1", 2, "messages are for several agents with vectors and Discrete actions, and CartPole-v1 has 1"),
        (RIDDLE, 1, "messages is 1: it must be a whole number of at least 2"),
        (RIDDLE, "2", "messages is '2': it must be a whole number"),
    ],
)
def test_what_cannot_talk_is_refused(name, messages, sentence):
    with pytest.raises(ValueError, match=sentence):
        envs.make(name, arguments={"messages": messages})


class Letters(gymnasium.Env):
    """An environment with a keyword of that name of its own."""

    observation_space, action_space = gymnasium.spaces.Discrete(3), gymnasium.spaces.Discrete(2)

    def __init__(self, messages=1):
        self.action_space = gymnasium.spaces.Discrete(messages)


def test_a_keyword_of_an_environment_s_own_is_left_to_it():
    assert envs.make(Letters, arguments={"messages": 7}).actions.counts == (7,)


def test_who_is_evaluated_elsewhere_talks_there():
    spec = envs.make(TRAFFIC, arguments={"messages": 2, "curriculum": 1000}).for_evaluation()
    assert isinstance(spec, TalkingEnvironment)
    assert "messages=2" in spec.name
