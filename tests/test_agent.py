"""A policy alone: what it does with observations, and what it takes for a policy."""

import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import log_softmax, network_forward

from nbrl import Agent, CheckpointError, Conv, Dense
from nbrl.agent import Preprocessing
from nbrl.checkpoint import write_tensors
from nbrl.nets.network import Network

ACTIONS = 3


SMALL = (Dense(8, "tanh"),)


def agent_of(layers=SMALL, shape=(4,), dtype="float32", seed=0, **bias):
    network = Network(layers, shape, {"policy": ACTIONS, "value": 1})
    parameters = network.initial(seed)
    for name, values in bias.items():
        network.layout.view(parameters, f"{name}/weights")[...] = 0
        network.layout.view(parameters, f"{name}/bias")[...] = values
    return Agent(network, parameters, Preprocessing("CartPole-v1", shape, dtype, 0.25))


PICTURES = {"layers": (Conv(4, 3, 2, "relu"), Dense(8, "relu")), "shape": (2, 9, 9), "dtype": "uint8"}


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


# Files


@pytest.mark.parametrize("kind", [{}, PICTURES, {"shape": (2, 2), "layers": (Dense(3, "relu"),)}], ids=str)
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
        for _ in range(20):
            observation = rng.integers(0, 256, agent.preprocessing.observation_shape).astype(loaded._dtype)
            same = [policy.act(observation, rng=np.random.default_rng(9)) for policy in (agent, loaded)]
            assert same[0] == same[1]
    loaded.save(path)
    assert Agent.load(path).metadata() == agent.metadata()


REFUSED = r"^the file holds no policy that can be used: "
DEEP = "[" * 50_000
DAMAGES = [
    ("format", None), ("format", "nbrl policy 2"), ("network", None), ("network", "["), ("network", DEEP),
    ("network", "[]"), ("network", "{}"), ("network", "5"), ("network", '[["dense", 9, "tanh"]]'),
    ("network", '[["dense", 8.0, "tanh"]]'), ("network", '[["dense", 1000000000000, "tanh"]]'),
    ("network", '[["conv", 8, 1, 1, "tanh"]]'), ("network", '[["dense", 8, "sin"]]'),
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
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | st.sampled_from(["dense", "conv", "relu", "4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["policy", "value", "x"]), inner),
    max_leaves=8,
)


@given(st.sampled_from(["network", "heads", "observation_shape", "sticky_actions"]), json_values)
def test_whatever_stands_in_the_metadata_is_a_policy_or_refused(name, value):
    agent = agent_of()
    arrays = agent.network.layout.views(agent.parameters)
    try:
        loaded = Agent.from_tensors(arrays, agent.metadata() | {name: json.dumps(value)})
    except CheckpointError:
        return
    assert loaded.act(np.ones(loaded.preprocessing.observation_shape)) in range(ACTIONS)
