"""A policy of discrete actions alone: what it does with observations."""

import math
import threading

import numpy as np
import pytest
from gymnasium import spaces
from oracles import left_states, log_softmax, network_forward
from policies import ACTIONS, PICTURES, RECURRENT, SMALL, VALUES, agent_of, observed

from nbrl import Agent, Dense
from nbrl.agent import EPSILON, choose_action
from nbrl.nets.network import Network
from nbrl.spaces import Actions


def probabilities(agent, observation):
    """By the float64 oracle."""
    parameters = {name: view.astype(np.float64) for name, view in agent.network.layout.views(agent.parameters).items()}
    scaled = np.asarray(observation, np.float64) / (255 if agent.network.observations.dtype == np.uint8 else 1)
    outputs, _ = network_forward(agent.network.layers, parameters, scaled[None])
    return np.exp(log_softmax(outputs["policy"][0]))


@pytest.mark.parametrize("kind", [{}, PICTURES], ids=["vector", "picture"])
def test_actions_have_the_policy_s_frequencies(kind):
    agent = agent_of(**kind, seed=3)
    rng = np.random.default_rng(0)
    if kind:
        observation = rng.integers(0, 256, kind["shape"], np.uint8)
    else:
        observation = rng.standard_normal(4)
    expected = probabilities(agent, observation)
    assert np.ptp(expected) > 0.02
    count = 8000
    actions = [agent.act(observation, rng=rng) for _ in range(count)]
    assert {type(action) for action in actions} == {int}
    found = np.bincount(actions, minlength=ACTIONS) / count
    # Five standard deviations.
    assert (abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count)).all()
    assert {agent.act(observation, greedy=True) for _ in range(20)} == {int(expected.argmax())}


def test_greedy_takes_the_first_of_equals():
    assert agent_of(policy=[1.0, 5.0, 5.0]).act(np.zeros(4), greedy=True) == 1


def test_a_generator_makes_actions_reproducible():
    agent, observation = agent_of(), np.ones(4)
    first, again = ([agent.act(observation, rng=rng) for _ in range(50)] for rng in map(np.random.default_rng, (1, 1)))
    assert first == again
    fresh = [[agent.act(observation) for _ in range(50)] for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_what_an_observation_may_be():
    agent = agent_of()
    values = [0.5, -1.0, 2.0, 0.0]
    forms = [values, tuple(values), np.array(values), np.array(values, np.float16), np.array(values * 2)[::-1][3::-1]]
    forms[-1] = np.repeat(values, 2)[::2]  # with gaps
    assert len({agent.act(form, rng=np.random.default_rng(5)) for form in forms}) == 1
    assert agent.act([1, 2, 3, 4], greedy=True) in range(ACTIONS)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (1, 5), (4, 1), (0,), (1, 1, 4)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"the observation has shape \(.*, but its space says \(4,\)$"):
        agent_of().act(np.zeros(shape))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_numbers_that_are_not_finite_are_refused(number, place):
    observation = np.ones(4, np.float32)
    observation[place] = number
    agent = agent_of()
    for greedy in (False, True):
        with pytest.raises(ValueError, match="a number that is not finite"):
            agent.act(observation, greedy=greedy)
    assert agent.act(np.ones(4)) in range(ACTIONS), "and the agent goes on"


def test_a_picture_of_another_type_is_refused():
    # From 0 to 1 it would turn black.
    for picture in (np.ones(PICTURES["shape"]), np.full(PICTURES["shape"], 300), np.full(PICTURES["shape"], np.nan)):
        with pytest.raises(ValueError, match="but its space says uint8, 0 to 255"):
            agent_of(**PICTURES).act(picture)


def test_words_are_no_observation():
    with pytest.raises(ValueError, match="but its space says numbers"):
        agent_of().act(["a", "b", "c", "d"])


def test_threads_share_an_agent():
    # Each asks about its own observation, whose best action it knows.
    network = Network((Dense(ACTIONS, "none"),), observed((ACTIONS,)), {"policy": ACTIONS, "value": 1})
    parameters = np.zeros(network.layout.size, np.float32)
    for name in ("dense1/weights", "policy/weights"):
        network.layout.view(parameters, name)[...] = 20 * np.eye(ACTIONS)
    agent = Agent(network, parameters, Actions(spaces.Discrete(ACTIONS)))
    found, together = [set() for _ in range(ACTIONS)], threading.Barrier(ACTIONS)

    def ask(number):
        observation = np.eye(ACTIONS, dtype=np.float32)[number]
        together.wait()
        for turn in range(2000):
            found[number].add(agent.act(observation, greedy=turn % 2 == 0))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(ACTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{0}, {1}, {2}]


def test_parameters_are_copied_and_cannot_be_written():
    network = Network(SMALL, observed((4,)), {"policy": ACTIONS, "value": 1})
    parameters = network.initial(0)
    agent = Agent(network, parameters, Actions(spaces.Discrete(ACTIONS)))
    parameters[:] = 0
    assert agent.parameters.any()
    with pytest.raises(ValueError, match="read-only"):
        agent.parameters[0] = 1
    with pytest.raises(ValueError, match="the parameters have shape"):
        Agent(network, parameters[:-1], Actions(spaces.Discrete(ACTIONS)))


# Memory


def episode(seed, steps=12):
    return np.random.default_rng(seed).standard_normal((steps, 4)).astype(np.float32)


def play(agent, observations):
    """The greedy actions of an episode, and the state after each."""
    state, actions, states = agent.initial_state(), [], []
    for observation in observations:
        actions.append(agent.act(observation, state, greedy=True))
        states.append(state.copy())
    return actions, np.array(states)


@pytest.mark.parametrize("kind", [RECURRENT, RECURRENT | VALUES], ids=["policy", "values"])
def test_a_recurrent_policy_acts_on_the_whole_episode(kind):
    agent, observations = agent_of(**kind, seed=1), episode(0)
    assert agent.recurrent
    assert agent.initial_state().tolist() == [0] * 16, "h and c of eight cells"
    parameters = agent.network.layout.views(agent.parameters)
    outputs, tape = network_forward(agent.network.layers, parameters, observations, 1, np.arange(12) > 0)
    values = outputs[next(iter(agent.network.heads))]
    alone = network_forward(agent.network.layers, parameters, observations)[0][next(iter(agent.network.heads))]
    assert np.abs(values - alone)[1:].max(axis=1).min() > 1e-4, "what was before matters at every step"
    actions, states = play(agent, observations)
    assert actions == values.argmax(axis=1).tolist()
    # A float32 is a few 1e-7 off, a step's gates and cells of about 1 as well; no more than 1e-5 after a dozen.
    np.testing.assert_allclose(states, left_states(tape), rtol=0, atol=1e-5)


def test_sampled_actions_have_the_frequencies_that_the_episode_gives():
    agent, observations = agent_of(**RECURRENT, seed=3), episode(1)
    _, states = play(agent, observations[:-1])
    outputs, _ = network_forward(
        agent.network.layers, agent.network.layout.views(agent.parameters), observations, 1, np.arange(12) > 0
    )
    expected, rng, count = np.exp(log_softmax(outputs["policy"][-1])), np.random.default_rng(0), 8000
    actions = [agent.act(observations[-1], states[-1].copy(), rng=rng) for _ in range(count)]
    found = np.bincount(actions, minlength=ACTIONS) / count
    # Five standard deviations.
    assert (abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count)).all()


def test_two_episodes_at_once_do_not_mix():
    agent, both = agent_of(**RECURRENT), [episode(1), episode(2)]
    expected = [play(agent, observations) for observations in both]
    states, actions = [agent.initial_state(), agent.initial_state()], [[], []]
    for t in range(12):
        for i in (0, 1):
            actions[i].append(agent.act(both[i][t], states[i], greedy=True))
            assert states[i].tobytes() == expected[i][1][t].tobytes()
    assert actions == [actions for actions, _ in expected]
    assert not np.array_equal(*states)


def test_threads_share_a_recurrent_agent():
    agent, count = agent_of(**RECURRENT), 4
    expected = [play(agent, episode(number, 500)) for number in range(count)]
    found, together = [None] * count, threading.Barrier(count)

    def ask(number):
        together.wait()
        found[number] = play(agent, episode(number, 500))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (actions, states), (expected_actions, expected_states) in zip(found, expected, strict=True):
        assert actions == expected_actions
        assert states.tobytes() == expected_states.tobytes()


def read_only():
    state = np.zeros(16, np.float32)
    state.flags.writeable = False
    return state


@pytest.mark.parametrize(
    "state",
    [
        None,
        [0.0] * 16,
        np.zeros(16),
        np.zeros(16, ">f4"),
        np.zeros(15, np.float32),
        np.zeros(17, np.float32),
        np.zeros(0, np.float32),
        np.zeros((1, 16), np.float32),
        np.zeros((16, 2), np.float32)[:, 0],
        read_only(),
    ],
    ids=["none", "list", "float64", "swapped", "short", "long", "empty", "row", "column", "read-only"],
)
def test_a_recurrent_policy_needs_its_state(state):
    agent = agent_of(**RECURRENT)
    sentence = (
        r"^state must be a whole, writable array of float32 with shape \(16,\), as from initial_state\(\) at the start "
        r"of an episode: this policy remembers$"
    )
    for policy in (agent, agent.to_numpy()):
        with pytest.raises(ValueError, match=sentence):
            policy.act(np.ones(4), state)
    assert not np.any(state), "and nothing is written"
    rows = np.zeros((3, 16), np.float32)
    assert agent.act(np.ones(4), rows[1]) in range(ACTIONS)
    assert rows.any(axis=1).tolist() == [False, True, False]


def test_a_policy_without_memory_takes_no_state():
    agent = agent_of()
    assert not agent.recurrent
    assert agent.initial_state().size == 0
    for policy in (agent, agent.to_numpy()):
        # One loop serves all policies.
        assert policy.act(np.ones(4), policy.initial_state(), greedy=True) == policy.act(np.ones(4), greedy=True)
        for state in (np.zeros(16, np.float32), np.zeros(0), 0, [], agent):
            with pytest.raises(ValueError, match=r"^state is given, but this policy remembers nothing: leave it out$"):
                policy.act(np.ones(4), state)


@pytest.mark.parametrize("observation", [[0, 0, 0, math.nan], [0, 0, 0, math.inf], [0, 0, 0]], ids=str)
def test_a_refused_observation_leaves_the_state(observation):
    agent, state = agent_of(**RECURRENT), np.arange(16, dtype=np.float32)
    with pytest.raises(ValueError, match="observation"):
        agent.act(observation, state)
    assert np.array_equal(state, np.arange(16))


# Values


def test_the_best_value_is_taken_and_the_first_of_equals():
    agent = agent_of(heads={"q": 4}, q=[1.0, 5.0, 5.0, -7.0])
    assert agent.actions.counts == (4,)
    assert {agent.act(np.zeros(4), greedy=True) for _ in range(500)} == {1}


@pytest.mark.parametrize("best", range(ACTIONS))
def test_any_action_is_taken_now_and_then(best):
    # One number, uniform in [0, 1), decides: below 0.01 each action has a third of that, above it is the best.
    agent, below = agent_of(**VALUES, q=np.eye(ACTIONS)[best]), np.nextafter
    (policy, actor), observation, third = agent.actor(), np.zeros((1, 4), np.float32).view(np.uint8), 0.01 / 3
    told = {0.0: 0, third * 0.999999: 0, third * 1.000001: 1, 2 * third * 0.999999: 1, 2 * third * 1.000001: 2}
    told |= {below(0.01, 0): 2, 0.01: best, below(0.01, 1): best, 0.5: best, below(1, 0): best}
    for u, action in told.items():
        actor.noise[0, 0] = u
        for greedy, expected in ((False, action), (True, best)):
            assert choose_action(policy, actor, observation, agent.initial_state()[None], greedy)
            assert policy.action[0, 0] == expected


def test_the_generator_decides_when():
    assert EPSILON == 0.01
    agent = agent_of(**VALUES, q=[1.0, 0.0, 0.0])
    numbers, rngs = np.random.default_rng(7).random(20_000), [np.random.default_rng(7) for _ in range(2)]
    expected = [int(u / 0.01 * ACTIONS) if u < 0.01 else 0 for u in numbers]
    assert {1, 2} <= set(expected)
    for policy, rng in zip((agent, agent.to_numpy()), rngs, strict=True):
        assert [policy.act(np.zeros(4), rng=rng) for _ in numbers] == expected
