"""A policy alone: what it does with observations, and what it takes for a policy."""

import json
import math
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import gaussian_variance, left_states, log_softmax, network_forward, policy_forward
from toys import deterministic_policy

from nbrl import Agent, CheckpointError, Conv, Dense, Lstm, NumpyPolicy
from nbrl.agent import EPSILON, Preprocessing, choose
from nbrl.checkpoint import write_tensors
from nbrl.nets.heads import action_bounds
from nbrl.nets.network import Network

ACTIONS = 3
REFUSED = r"^the file holds no policy that can be used: "


SMALL = (Dense(8, "tanh"),)


def agent_of(layers=SMALL, shape=(4,), dtype="float32", seed=0, heads=None, **bias):
    network = Network(layers, shape, heads or {"policy": ACTIONS, "value": 1})
    parameters = network.initial(seed)
    for name, values in bias.items():
        network.layout.view(parameters, f"{name}/weights")[...] = 0
        network.layout.view(parameters, f"{name}/bias")[...] = values
    return Agent(network, parameters, Preprocessing("CartPole-v1", shape, dtype, 0.25))


PICTURES = {"layers": (Conv(4, 3, 2, "relu"), Dense(8, "relu")), "shape": (2, 9, 9), "dtype": "uint8"}
RECURRENT = {"layers": (Dense(6, "tanh"), Lstm(5), Lstm(3))}
VALUES = {"heads": {"q": ACTIONS}}


def probabilities(agent, observation):
    """By the float64 oracle."""
    parameters = {name: view.astype(np.float64) for name, view in agent.network.layout.views(agent.parameters).items()}
    scaled = np.asarray(observation, np.float64) / (255 if agent.preprocessing.observation_dtype == "uint8" else 1)
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


@pytest.mark.parametrize("shape", [(), (3,), (5,), (1, 4), (4, 1), (0,)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"the observation has shape \(.*: this policy takes \(4,\)$"):
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
        with pytest.raises(ValueError, match="this policy takes uint8, 0 to 255"):
            agent_of(**PICTURES).act(picture)


def test_words_are_no_observation():
    with pytest.raises(ValueError, match="could not convert"):
        agent_of().act(["a", "b", "c", "d"])


def test_threads_share_an_agent():
    # Each asks about its own observation, whose best action it knows.
    network = Network((Dense(ACTIONS, "none"),), (ACTIONS,), {"policy": ACTIONS, "value": 1})
    parameters = np.zeros(network.layout.size, np.float32)
    for name in ("dense1/weights", "policy/weights"):
        network.layout.view(parameters, name)[...] = 20 * np.eye(ACTIONS)
    agent = Agent(network, parameters, Preprocessing("x", (ACTIONS,), "float32"))
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
    network = Network(SMALL, (4,), {"policy": ACTIONS, "value": 1})
    parameters = network.initial(0)
    agent = Agent(network, parameters, Preprocessing("x", (4,), "float32"))
    parameters[:] = 0
    assert agent.parameters.any()
    with pytest.raises(ValueError, match="read-only"):
        agent.parameters[0] = 1
    with pytest.raises(ValueError, match="the parameters have shape"):
        Agent(network, parameters[:-1], Preprocessing("x", (4,), "float32"))


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
        r"^state must be a whole, writable array of 16 float32, as from initial_state\(\) at the start of an episode: "
        "this policy remembers$"
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
    assert agent.action_count == 4
    assert {agent.act(np.zeros(4), greedy=True) for _ in range(500)} == {1}


@pytest.mark.parametrize("best", range(ACTIONS))
def test_any_action_is_taken_now_and_then(best):
    # One number, uniform in [0, 1), decides: below 0.01 each action has a third of that, above it is the best.
    agent, below = agent_of(**VALUES, q=np.eye(ACTIONS)[best]), np.nextafter
    policy, observation, third = agent.policy(), np.zeros(4, np.float32).view(np.uint8), 0.01 / 3
    told = {0.0: 0, third * 0.999999: 0, third * 1.000001: 1, 2 * third * 0.999999: 1, 2 * third * 1.000001: 2}
    told |= {below(0.01, 0): 2, 0.01: best, below(0.01, 1): best, 0.5: best, below(1, 0): best}
    for u, action in told.items():
        policy.noise[0] = u
        for greedy, expected in ((False, action), (True, best)):
            assert choose(policy, observation, agent.initial_state(), greedy)
            assert policy.action[0] == expected


def test_the_generator_decides_when():
    assert EPSILON == 0.01
    agent = agent_of(**VALUES, q=[1.0, 0.0, 0.0])
    numbers, rngs = np.random.default_rng(7).random(20_000), [np.random.default_rng(7) for _ in range(2)]
    expected = [int(u / 0.01 * ACTIONS) if u < 0.01 else 0 for u in numbers]
    assert {1, 2} <= set(expected)
    for policy, rng in zip((agent, agent.to_numpy()), rngs, strict=True):
        assert [policy.act(np.zeros(4), rng=rng) for _ in numbers] == expected


# Continuous actions


SHAPE = (2, 3)
LOW = np.array([[-1, 0, -np.inf], [-2, -0.1, 5]], np.float32)
HIGH = np.array([[1, 10, np.inf], [np.inf, 0.1, 6]], np.float32)


def continuous_agent(layers=SMALL, normalised=True, seed=0, **options):
    """A Gaussian policy whose actions have the shape (2, 3), and parts with two bounds, with one and with none."""
    network = Network(layers, (4,), {"mean": 6, "variance": 6, "value": 1}, **options)
    normal = network.normal(4 if normalised else 0)
    normal[:] = np.random.default_rng(seed).uniform(0.5, 1.5, normal.shape)
    seen = Preprocessing("Six", (4,), "float32", 0.0, SHAPE)
    return Agent(network, network.initial(seed), seen, normal=normal, bounds=action_bounds(LOW, HIGH))


def gaussian(agent, observation):
    """Mean and variance in the policy's units, (6,), by the float64 oracle."""
    mean, scale = agent.normal if agent.normal.size else (0, 1)
    seen = np.clip((np.asarray(observation, np.float64) - mean) * scale, -10, 10)
    outputs, _ = network_forward(agent.network.layers, agent.network.layout.views(agent.parameters), seen[None])
    return outputs["mean"][0], gaussian_variance(outputs["variance"][0])


def in_units(actions):
    """Actions (..., 6) in their space's units, by hand: where both bounds are finite, -1 and 1 are the bounds."""
    low, high = LOW.reshape(-1).astype(float), HIGH.reshape(-1).astype(float)
    return np.clip(actions * [1, 5, 1, 1, 0.1, 0.5] + [0, 5, 0, 0, 0, 5.5], low, high).reshape(-1, *SHAPE)


GAUSSIANS = [{}, {"normalised": False}, {"separate": True}, {"separate": True, "constant": ("variance",)}]


@pytest.mark.parametrize("options", GAUSSIANS, ids=str)
def test_a_continuous_action_is_the_mean_or_drawn_around_it(options):
    agent, rng = continuous_agent(**options), np.random.default_rng(0)
    assert agent.action_count == 0
    for seed in range(20):
        observation = rng.uniform(-3, 3, 4)
        mean, variance = gaussian(agent, observation)
        greedy = agent.act(observation, greedy=True)
        assert (greedy.shape, greedy.dtype) == (SHAPE, np.float32)
        np.testing.assert_allclose(greedy, in_units(mean)[0], rtol=0, atol=1e-4)
        noise = np.random.default_rng(seed).standard_normal(6)
        for policy in (agent, agent.to_numpy()):
            sampled = policy.act(observation, rng=np.random.default_rng(seed))
            np.testing.assert_allclose(sampled, in_units(mean + np.sqrt(variance) * noise)[0], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(np.clip(sampled, LOW, HIGH), sampled)


def test_continuous_actions_have_the_policy_s_moments():
    agent, rng, count, observation = continuous_agent(), np.random.default_rng(1), 8000, np.ones(4)
    mean, variance = gaussian(agent, observation)
    actions = np.array([agent.act(observation, rng=rng) for _ in range(count)])
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    free = actions[:, 0, 2]  # the part without bounds is as it was drawn
    assert free.mean() == pytest.approx(mean[2], abs=5 * math.sqrt(variance[2] / count))
    assert free.var() == pytest.approx(variance[2], abs=5 * variance[2] * math.sqrt(2 / count))


def test_an_action_goes_where_it_should():
    agent, out = continuous_agent(), np.full((3, *SHAPE), np.nan, np.float32)
    expected = agent.act(np.ones(4), rng=np.random.default_rng(3))
    assert agent.act(np.ones(4), rng=np.random.default_rng(3), out=out[1]) is not None
    assert out[1].tobytes() == expected.tobytes()
    assert np.isnan(out[[0, 2]]).all()
    gaps = np.zeros((2, 6), np.float32)[:, ::2]
    assert agent.act(np.ones(4), rng=np.random.default_rng(3), out=gaps) is gaps
    np.testing.assert_array_equal(gaps, expected)
    agent.act(np.ones(4))
    np.testing.assert_array_equal(gaps, expected)  # nothing is written there again


def frozen():
    array = np.zeros(SHAPE, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "out",
    [np.zeros(6, np.float32), np.zeros((3, 2), np.float32), np.zeros(SHAPE), [[0.0] * 3] * 2, 5, frozen()],
    ids=["flat", "turned", "float64", "list", "number", "read-only"],
)
def test_no_other_place_is_taken_for_an_action(out):
    agent, rng = continuous_agent(), np.random.default_rng(2)
    with pytest.raises(
        ValueError, match=r"^out must be a writable float32 array of shape \(2, 3\), as the actions are$"
    ):
        agent.act(np.ones(4), out=out, rng=rng)
    assert out == 5 if isinstance(out, int) else not np.any(out)
    assert rng.random() == np.random.default_rng(2).random(), "no chance was drawn"
    with pytest.raises(ValueError, match=r"^out is given, but this policy's actions are numbers: leave it out$"):
        agent_of().act(np.ones(4), out=out)


@pytest.mark.parametrize("options", [*GAUSSIANS, {"layers": (Dense(6, "tanh"), Lstm(5)), "separate": True}], ids=str)
def test_a_saved_continuous_policy_is_the_same_again(options, tmp_path):
    agent = continuous_agent(**options)
    agent.save(tmp_path / "policy")
    loaded = Agent.load(tmp_path / "policy")
    for name in ("parameters", "normal", "bounds"):
        assert getattr(loaded, name).tobytes() == getattr(agent, name).tobytes()
    assert loaded.preprocessing == agent.preprocessing
    assert loaded.metadata() == agent.metadata()
    states = [agent.initial_state(), loaded.initial_state()]
    for turn in range(5):
        first, again = (
            policy.act(np.full(4, turn), state, rng=np.random.default_rng(turn))
            for policy, state in zip((agent, loaded), states, strict=True)
        )
        assert first.tobytes() == again.tobytes()
    assert states[0].tobytes() == states[1].tobytes()
    assert agent.initial_state().size == (20 if "layers" in options else 0)  # both networks remember


def normal_of(rows=2, size=4, dtype=np.float32):
    return {"observations/normal": np.ones((rows, size), dtype)}


def bounds_of(rows=4, parts=6, dtype=np.float32, value=0.0):
    return {"actions/bounds": np.full((rows, parts), value, dtype)}


@pytest.mark.parametrize(
    "arrays",
    [
        normal_of(size=3), normal_of(rows=1), normal_of(dtype=np.float64),
        {"observations/normal": np.ones(8, np.float32)}, {"observations/normal": np.full((2, 4), math.nan, np.float32)},
        {"observations/normal": np.full((2, 4), math.inf, np.float32)},
        {"observations/normal": np.zeros((2, 4), np.float32)}, {"observations/normal": -np.ones((2, 4), np.float32)},
        bounds_of(parts=5), bounds_of(rows=3), bounds_of(parts=0), bounds_of(dtype=np.float64),
        bounds_of(value=math.nan), {"actions/bounds": np.zeros(24, np.float32)},
    ],
    ids=lambda arrays: " ".join(f"{name} {a.shape} {a.dtype} {a[:1, :1]}" for name, a in arrays.items() if a.ndim > 1),
)  # fmt: skip
def test_scales_that_do_not_fit_are_refused(arrays):
    agent = continuous_agent()
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.from_tensors(agent.arrays() | arrays, agent.metadata())


@pytest.mark.parametrize(
    "metadata",
    [
        {"action_shape": [6, 2]}, {"action_shape": []}, {"action_shape": 6}, {"action_shape": [-2, -3]},
        {"action_shape": [2.0, 3]}, {"action_shape": [True, 6]}, {"action_shape": "6"}, {"action_shape": None},
        {"action_shape": [[6]]}, {"action_shape": [10**12, 10**12]}, {"separate": 1}, {"separate": None},
        {"separate": True}, {"separate": "true"}, {"constant": ["variance"]}, {"constant": ["mean"]}, {"constant": 5},
        {"constant": ["variance", "mean"]}, {"heads": {"mean": 6, "variance": 5, "value": 1}},
        {"heads": {"mean": 6, "value": 1, "variance": 6}}, {"heads": {"mean": 6, "variance": 6}},
        {"heads": {"mean": 3, "variance": 3, "value": 1}}, {"heads": {"policy": 6, "value": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_claims_of_a_continuous_policy_that_do_not_hold_are_refused(metadata):
    agent = continuous_agent()
    told = {name: json.dumps(value) for name, value in metadata.items()}
    arrays = agent.arrays()
    if told == {"constant": '["variance"]'}:  # its own weights are then passed over, as others' are
        assert Agent.from_tensors(arrays, agent.metadata() | told).network.constant == ("variance",)
        return
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.from_tensors(arrays, agent.metadata() | told)


def test_pictures_have_one_scale_and_numbers_have_no_bounds():
    agent = agent_of(**PICTURES)
    for scales in (162, 2):
        normal = {"observations/normal": np.ones((2, scales), np.float32)}
        with pytest.raises(CheckpointError, match=r"observations/normal is no array of \(2, 1\) finite float32"):
            Agent.from_tensors(agent.arrays() | normal, agent.metadata())
    normal = {"observations/normal": np.array([[0.4], [3.0]], np.float32)}
    assert Agent.from_tensors(agent.arrays() | normal, agent.metadata()).normal.tolist() == [[np.float32(0.4)], [3.0]]
    agent = agent_of()
    for parts in (1, 3):
        with pytest.raises(CheckpointError, match=REFUSED):
            Agent.from_tensors(agent.arrays() | bounds_of(parts=parts), agent.metadata())
    with pytest.raises(CheckpointError, match="its heads do not fit its actions"):
        Agent.from_tensors(agent.arrays(), agent.metadata() | {"action_shape": "[3]"})


def test_older_files_of_policies_are_read():
    agent = agent_of()
    metadata = agent.metadata()
    for name in ("separate", "constant", "action_shape"):
        del metadata[name]
    loaded = Agent.from_tensors(agent.arrays(), metadata)
    assert loaded.metadata() == agent.metadata()
    assert NumpyPolicy.from_tensors(agent.arrays(), metadata).action_shape == ()


# Files


KINDS = [
    {}, PICTURES, {"shape": (2, 2), "layers": (Dense(3, "relu"),)}, RECURRENT, VALUES, RECURRENT | VALUES,
    PICTURES | VALUES | {"layers": (Conv(4, 3, 2), Lstm(3))},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_saved_policy_is_the_same_again(kind, tmp_path):
    agent = agent_of(**kind)
    path = tmp_path / "policy.safetensors"
    agent.save(path)
    for source in (path, str(path), path.read_bytes()):
        loaded = Agent.load(source)
        np.testing.assert_array_equal(loaded.parameters, agent.parameters)
        assert loaded.preprocessing == agent.preprocessing
        assert (loaded.network.layers, loaded.network.heads) == (agent.network.layers, agent.network.heads)
        rng = np.random.default_rng(0)
        states = [agent.initial_state(), loaded.initial_state()]
        for turn in range(20):
            observation = rng.integers(0, 256, agent.preprocessing.observation_shape).astype(loaded._dtype)
            same = [
                policy.act(observation, state, rng=np.random.default_rng(turn))
                for policy, state in zip((agent, loaded), states, strict=True)
            ]
            assert same[0] == same[1]
            assert states[0].tobytes() == states[1].tobytes()
    loaded.save(path)
    assert Agent.load(path).metadata() == agent.metadata()


DEEP = "[" * 50_000
DAMAGES = [
    ("format", None), ("format", "nbrl policy 2"), ("network", None), ("network", "["), ("network", DEEP),
    ("network", "[]"), ("network", "{}"), ("network", "5"), ("network", '[["dense", 9, "tanh"]]'),
    ("network", '[["dense", 8.0, "tanh"]]'), ("network", '[["dense", 1000000000000, "tanh"]]'),
    ("network", '[["conv", 8, 1, 1, "tanh"]]'), ("network", '[["dense", 8, "sin"]]'), ("network", '"paper"'),
    ("network", '[["lstm", 8]]'), ("network", '[["lstm", 2]]'), ("network", '[["lstm", 1000000000000]]'),
    ("network", '[["lstm", 8, "tanh"]]'), ("network", '[["lstm"]]'), ("network", '[["lstm", true]]'),
    ("heads", '{"q": 3}'), ("heads", '{"q": 3, "policy": 3, "value": 1}'), ("heads", '{"policy": 3, "q": 3}'),
    ("heads", '["policy", "value"]'), ("heads", '{"value": 1, "policy": 3}'), ("heads", '{"policy": 3}'),
    ("heads", '{"policy": 3.0, "value": 1}'), ("heads", '{"policy": 0, "value": 1}'), ("heads", "null"),
    ("heads", '{"policy": -3, "value": 1}'), ("heads", '{"policy": 3, "value": 2}'),
    ("heads", '{"policy": 1e400, "value": 1}'), ("heads", '{"policy": true, "value": 1}'),
    ("observation_shape", None), ("observation_shape", "4"), ("observation_shape", '"4"'),
    ("observation_shape", "[5]"), ("observation_shape", "[-4]"), ("observation_shape", "[-2, -2]"),
    ("observation_shape", "[4.0]"), ("observation_shape", "[true, 4]"), ("observation_shape", "[[4]]"),
    ("observation_shape", "[null]"), ("observation_shape", "[]"), ("observation_shape", "[100000000000, 4]"),
    ("observation_dtype", "float64"), ("observation_dtype", None), ("sticky_actions", "NaN"), ("sticky_actions", "-1"),
    ("sticky_actions", "1" + "0" * 400), ("sticky_actions", '"x"'), ("sticky_actions", "null"), ("environment", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), DAMAGES, ids=lambda value: str(value)[:40])
def test_a_damaged_policy_is_refused(name, text, tmp_path):
    agent = agent_of()
    metadata = agent.metadata()
    if text is None:
        del metadata[name]
    else:
        metadata[name] = text
    write_tensors(tmp_path / "policy", agent.network.layout.views(agent.parameters), metadata)
    with pytest.raises(CheckpointError, match=REFUSED) as caught:
        Agent.load(tmp_path / "policy")
    assert "\n" not in str(caught.value)


MIXED = [
    {"q": ACTIONS, "value": 1}, {"policy": ACTIONS, "q": ACTIONS}, {"policy": ACTIONS, "value": 1, "q": ACTIONS},
    {"q": ACTIONS, "policy": ACTIONS, "value": 1}, {"value": 1}, {"policy": ACTIONS}, {"value": 1, "policy": ACTIONS},
    {"q": 0}, {"q": -3}, {"q": 3.0}, {"q": [3]}, {"q": True}, {"q": None}, {"q": 4}, {"Q": ACTIONS}, {},
]  # fmt: skip


@pytest.mark.parametrize("heads", MIXED, ids=str)
def test_heads_of_no_known_kind_are_refused(heads):
    # The file has parameters for all of them.
    network = Network(SMALL, (4,), {"q": ACTIONS, "policy": ACTIONS, "value": 1})
    arrays, metadata = network.layout.views(network.initial(0)), agent_of(**VALUES).metadata()
    assert Agent.from_tensors(arrays, metadata).network.heads == {"q": ACTIONS}
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.from_tensors(arrays, metadata | {"heads": json.dumps(heads)})


# What a file may claim in a few bytes. It has 100,000 numbers in its first array, to be taken for something else.
CLAIMS = [
    {"network": [["lstm", 10**5]]},
    {"network": [["lstm", 10**12]]},
    {"network": [["dense", 10**5, "relu"], ["lstm", 10**5]]},
    {"network": [["lstm", 10**4]] * 500},
    {"network": [["dense", 10**5, "relu"]] * 2000},
    {"network": [["conv", 10**5, 1, 1, "relu"], ["conv", 1, 1000, 1, "relu"]], "observation_shape": [4000, 4000]},
    {"network": [["conv", 1, 1, 1, "relu"]] * 2000, "observation_shape": [4000, 4000]},
    {"network": [["dense", 8, "tanh"]], "observation_shape": [4000, 4000]},
    {"network": [["dense", 8, "tanh"]], "observation_shape": [10**9, 10**9]},
    {"heads": {"q": 10**5}},
    {"heads": {"policy": 10**12, "value": 1}},
]


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda claims: str(claims)[:60])
def test_a_claim_that_the_file_does_not_hold_takes_no_memory(claims):
    agent = agent_of(**RECURRENT)
    arrays = {"lstm1/bias": np.zeros(10**5, np.float32)} | agent.network.layout.views(agent.parameters)
    metadata = agent.metadata() | {name: json.dumps(value) for name, value in claims.items()}
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=REFUSED):
            Agent.from_tensors(arrays, metadata)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("value/bias"),
        lambda arrays: arrays.update({"value/bias": np.zeros(2, np.float32)}),
        lambda arrays: arrays.update({"value/bias": np.zeros(1, np.float64)}),
        lambda arrays: arrays.update({"value/bias": np.zeros((), np.float32)}),
        lambda arrays: arrays.update({"value/bias": np.array([math.nan], np.float32)}),
        lambda arrays: arrays.update({"policy/bias": np.array([0, math.inf, 0], np.float32)}),
        lambda arrays: arrays.clear(),
    ],
    ids=["absent", "longer", "float64", "scalar", "nan", "infinite", "empty"],
)
def test_damaged_parameters_are_refused(damage, tmp_path):
    agent = agent_of()
    arrays = agent.network.layout.views(agent.parameters.copy())
    damage(arrays)
    write_tensors(tmp_path / "policy", arrays, agent.metadata())
    with pytest.raises(CheckpointError, match=REFUSED):
        Agent.load(tmp_path / "policy")


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "words").write_text("these are words")
    for source in (tmp_path / "absent", tmp_path, tmp_path / "words", b"", b"words"):
        with pytest.raises(CheckpointError):
            Agent.load(source)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.floats()
    | st.sampled_from(["dense", "conv", "lstm", "relu", "4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["policy", "value", "q", "x"]), inner),
    max_leaves=8,
)


@given(
    st.sampled_from(
        ["network", "heads", "observation_shape", "sticky_actions", "separate", "constant", "action_shape"]
    ),
    json_values,
)
def test_whatever_stands_in_the_metadata_is_a_policy_or_refused(name, value):
    agent = agent_of()
    arrays = agent.network.layout.views(agent.parameters)
    try:
        loaded = Agent.from_tensors(arrays, agent.metadata() | {name: json.dumps(value)})
    except CheckpointError:
        return
    assert loaded.act(np.ones(loaded.preprocessing.observation_shape)) in range(ACTIONS)


# Deterministic policies


def test_a_deterministic_policy_takes_its_action(tmp_path):
    agent, rng = deterministic_policy("InvertedPendulum-v5", seed=3), np.random.default_rng(0)
    agent.save(tmp_path / "policy.safetensors")
    loaded = Agent.load(tmp_path / "policy.safetensors")
    assert (agent.action_count, agent.recurrent) == (0, False)
    named = agent.network.layout.views(agent.parameters)
    mean, scale = agent.normal
    for _ in range(20):
        observation = rng.uniform(-2, 2, agent.preprocessing.observation_shape)
        mu, _ = policy_forward(agent.network.layers, named, np.clip((observation - mean) * scale, -10, 10)[None])
        action = agent.act(observation)
        np.testing.assert_allclose(action, 3 * mu[0], rtol=0, atol=1e-5)  # whose bounds are -3 and 3
        # Greedy or not, whatever the generator, it is the same.
        for policy in (agent, loaded):
            assert policy.act(observation, greedy=True, rng=rng).tobytes() == action.tobytes()
        for policy in (agent.to_numpy(), NumpyPolicy.load(tmp_path / "policy.safetensors")):
            found = policy.act(observation, rng=rng)
            assert (found.shape, found.dtype) == (action.shape, np.float32)
            np.testing.assert_allclose(found, action, rtol=0, atol=1e-5)
            assert policy.act(observation, greedy=True).tobytes() == found.tobytes()


def test_a_policy_for_numpy_has_no_critic():
    policy = deterministic_policy().to_numpy()
    assert policy.heads == ["action"]
    assert not [name for name in policy.arrays if name.startswith("q")]
    assert policy.outputs(np.ones(3)).keys() == {"action"}


@pytest.mark.parametrize(
    ("changes", "removed"),
    [
        ({"separate": "true"}, ()),
        ({"heads": '{"q": 1, "action": 1}'}, ()),
        ({"heads": '{"action": 1}'}, ()),
        ({"heads": '{"action": 2, "q": 1}'}, ()),
        ({"action_shape": "[2]"}, ()),
        ({"action_shape": "[]"}, ()),
        ({"network": '[["lstm", 8]]'}, ()),
        ({"network": '[["conv", 8, 2, 1]]', "observation_shape": "[4, 4]"}, ()),
        ({}, ("actions/bounds",)),
        ({}, ("action/weights",)),
        ({}, ("q_dense1/bias",)),
    ],
    ids=str,
)
def test_claims_of_a_deterministic_policy_that_do_not_hold_are_refused(changes, removed):
    agent = deterministic_policy()
    arrays = {name: array for name, array in agent.arrays().items() if name not in removed}
    with pytest.raises(CheckpointError, match="the file holds no policy that can be used"):
        Agent.from_tensors(arrays, agent.metadata() | changes)
