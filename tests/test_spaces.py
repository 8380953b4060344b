"""What people's environments give and take: any space, in training, in a policy's two engines, in a host's loop."""

import copy
import math
import pickle

import gymnasium
import numpy as np
import pytest
import strategies
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import compiled_outputs

import nbrl
from nbrl import Agent, Conv, Dense, Gru, LayerNorm, Lstm, NumpyPolicy, OnlineLearner
from nbrl.nets.network import Network
from nbrl.space_descriptions import gymnasium_space
from nbrl.spaces import MOST_VALUES, Actions, Observations


def agent_for(observation_space, action_space, draw, seed=0):
    """A policy of random weights for any spaces, with any layers that fit."""
    observations, actions = Observations(observation_space), Actions(action_space)
    conv = [Conv(3, 2, 1)] if observations.image and min(observations.height, observations.width) > 1 else []
    rest = draw(st.sampled_from([[Dense(5, "tanh")], [LayerNorm("tanh"), Dense(4)], [Gru(4)], [Dense(4), Lstm(3)]]))
    if actions.discrete:
        heads = {"policy": actions.outputs, "value": 1}
    else:
        heads = {"mean": actions.parts, "variance": actions.parts, "value": 1}
    network = Network((*conv, *rest), observations, heads, separate=draw(st.booleans()))
    size = draw(st.sampled_from([0, 1 if observations.image else observations.size]))
    normal = np.random.default_rng(seed).uniform(0.5, 1.5, (2, size)).astype(np.float32)
    return Agent(network, network.initial(seed), actions, normal=normal)


def distribution(outputs):
    """What a policy's outputs say: probabilities, or means and what stands for the variances."""
    if "policy" in outputs:
        weights = np.exp(outputs["policy"] - outputs["policy"].max())
        return weights / weights.sum()
    return np.concatenate([outputs["mean"], outputs["variance"]])


def stacked(space, values):
    """A batch of a space's values, as vectors of environments give it."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    return np.array(values)


@settings(max_examples=150)
@given(
    observation_space=strategies.observation_spaces,
    action_space=strategies.action_spaces,
    data=st.data(),
    seed=st.integers(0, 2**31 - 1),
)
def test_both_engines_take_the_same_and_say_the_same(observation_space, action_space, data, seed):
    agent = agent_for(observation_space, action_space, data.draw, seed)
    policy = NumpyPolicy.from_tensors(agent.arrays(), agent.metadata())
    assert agent.observation_space == observation_space
    assert agent.action_space == action_space
    observation_space.seed(seed)
    values = [observation_space.sample() for _ in range(3)]
    states, own = [agent.initial_state() for _ in values], [agent.initial_state() for _ in values]
    for value, state, other in zip(values, states, own, strict=True):
        (row,), batch = agent.network.observations.rows(value)
        assert not batch
        expected = distribution(compiled_outputs(agent, row, state))
        np.testing.assert_allclose(distribution(policy.outputs(value, other)), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(other, state, rtol=0, atol=1e-5)

    # A batch is as one after the other, and actions are of their space.
    rng = [np.random.default_rng(seed) for _ in range(4)]
    batch = stacked(observation_space, values)
    for engine, alone, together in ((agent, rng[0], rng[1]), (policy, rng[2], rng[3])):
        kept = np.array([engine.initial_state() for _ in values])
        memories = [engine.initial_state() for _ in values]
        single = [engine.act(value, state, rng=alone) for value, state in zip(values, memories, strict=True)]
        whole = engine.act(batch, kept, rng=together)
        assert all(action_space.contains(action) for action in single)
        assert whole.dtype == np.asarray(single[0]).dtype
        np.testing.assert_array_equal(whole, np.array(single))
        np.testing.assert_array_equal(kept, np.array(memories))


BOX, BYTES = spaces.Box(-1, 1, (4,), np.float32), spaces.Box(0, 255, (9, 9, 3), np.uint8)
DICT = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    ("space", "value", "sentence"),
    [
        (BOX, np.zeros(3), r"has shape \(3,\), but its space says \(4,\)"),
        (BOX, np.zeros((4, 1)), r"has shape \(1,\), but"),
        (BOX, np.zeros((2, 2)), r"has shape \(2,\), but"),
        (BOX, np.zeros((1, 1, 4)), r"has shape \(1, 1, 4\), but"),
        (BOX, 0.5, r"has shape \(\), but"),
        (BOX, [0, 0, 0, math.nan], "has a number that is not finite as a float32"),
        (BOX, [0, 0, 0, math.inf], "has a number that is not finite as a float32"),
        (BOX, [0, 0, 0, 1e300], "has a number that is not finite as a float32"),
        (BOX, ["0", "0", "0", "0"], "is of <U1, but its space says numbers"),
        (BOX, None, r"has shape \(\), but"),
        (BOX, [None] * 4, "is of object, but its space says numbers"),
        (BOX, [1j] * 4, "is of complex128, but its space says numbers"),
        (BOX, [[0, 0], [0]], "its rows have different lengths"),
        (BYTES, np.zeros((9, 9, 3)), "is of float64, but its space says uint8, 0 to 255"),
        (BYTES, np.zeros((9, 9, 3), int), "is of int64, but its space says uint8, 0 to 255"),
        (BYTES, np.zeros((3, 9, 9), np.uint8), r"has shape \(3, 9, 9\), but its space says \(9, 9, 3\)"),
        (BYTES, np.zeros((9, 9), np.uint8), r"has shape \(9, 9\), but"),
        (spaces.Discrete(3), 3, r"the observation 3 is outside its space Discrete\(3\)"),
        (spaces.Discrete(3, start=5), 4, r"the observation 4 is outside its space Discrete\(3, start=5\)"),
        (spaces.Discrete(3), 1.0, "the observation 1.0 is outside its space"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], r"is outside its space MultiDiscrete\(\[2, 3\]\)"),
        (spaces.MultiDiscrete([2, 3]), [1], r"has shape \(1,\), but its space says \(2,\)"),
        (DICT, {"a": 1}, "has no part 'b', which its space has"),
        (DICT, [1, 2], "has no part 'a', which its space has"),
        (DICT, {"a": [1, 1], "b": [0, 0]}, "are batches of different sizes"),
        (spaces.Tuple([BOX, BOX]), (np.zeros(4),), "has no part 1, which its space has"),
    ],
    ids=str,
)
def test_both_engines_refuse_with_the_same_sentence(space, value, sentence):
    agent = agent_for(space, spaces.Discrete(2), simplest)
    said = []
    for policy in (agent, agent.to_numpy()):
        with pytest.raises(ValueError, match=sentence) as refusal:
            policy.act(value)
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]


def simplest(strategy):
    """In place of `draw`: the first that a strategy has to choose from, false of true and false."""
    return getattr(strategy, "elements", (False,))[0]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_policies_can_be_copied_and_pickled(copied):
    agent = agent_for(DICT, spaces.MultiDiscrete([2, 3], start=[1, 1]), simplest)
    value = {"a": 1, "b": np.zeros(2, np.float32)}
    agent.act(value)
    for policy in (agent, agent.to_numpy()):
        again = copied(policy)
        for turn in range(10):
            mine, other = (each.act(value, rng=np.random.default_rng(turn)) for each in (policy, again))
            np.testing.assert_array_equal(mine, other)


class Anything(gymnasium.Env):
    """Gives what its observation space has, and insists on actions of its action space. Five steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = 5
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


USED = [
    spaces.Discrete(6), spaces.Discrete(6, start=-2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4), DICT,
    spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)]), spaces.Box(-1, 1, ()), spaces.Box(-1, 1, (3,)),
    spaces.Box(-1, 1, (3,), np.float64), spaces.Box(-10, 10, (3,), np.int64), spaces.Box(0, 255, (16,), np.uint8),
    BYTES, spaces.Box(0, 1, (6, 6, 2), np.bool_), spaces.Box(0, 1, (2, 6, 7)), spaces.Box(0, 1, (3, 8, 8, 1)),
]  # fmt: skip
TAKEN = [
    spaces.Discrete(3), spaces.Discrete(3, start=1), spaces.Discrete(3, start=-1), spaces.Discrete(1),
    spaces.MultiDiscrete([2, 3], start=[4, -1]), spaces.MultiBinary(2), spaces.MultiBinary((2, 2)),
    spaces.Box(-1, 1, ()), spaces.Box(-1, 1, (2, 3)), spaces.Box(-1, 1, (2,), np.float64),
    spaces.Box(-1, 1, (2,), np.float16), spaces.Box(0, np.inf, (2,)), spaces.Box(-np.inf, np.inf, (2,)),
    spaces.Box(np.array([-3, 5], np.float32), np.array([100, 6], np.float32)),
    spaces.Box(np.array([1, -1], np.float32), np.array([1, 1], np.float32)), spaces.Box(0.1, 0.7, (2,), np.float64),
    spaces.Box(-1e300, 1e300, (2,), np.float64), spaces.Box(-3e38, 3e38, (2,)),
]  # fmt: skip
PAIRS = [(seen, TAKEN[i % len(TAKEN)]) for i, seen in enumerate(USED)] + [(USED[7], taken) for taken in TAKEN]


@pytest.mark.parametrize("taken", [taken for taken in TAKEN if "1e+300" not in str(taken)], ids=str)
def test_an_action_becomes_parts_and_back(taken):
    actions = Actions(taken)
    taken.seed(1)
    for _ in range(20):
        action = taken.sample()
        assert actions.decode(actions.encode(action)) == pytest.approx(action, rel=1e-6)  # parts are float32


@pytest.mark.parametrize(
    ("taken", "action"),
    [
        (spaces.Discrete(2), 7777), (spaces.Discrete(2), -1), (spaces.Discrete(3, start=1), 0),
        (spaces.Discrete(2), 0.5), (spaces.Discrete(2), [0, 1]), (spaces.Discrete(2), "up"),
        (spaces.Discrete(2), None), (spaces.Discrete(2), np.nan), (TAKEN[-2], [1e300, 0.0]),
        (spaces.MultiDiscrete([2, 3]), [1, 3]), (spaces.MultiDiscrete([2, 3]), [1]),
        (spaces.MultiDiscrete([2, 3]), [[1], [1, 0]]), (spaces.MultiBinary(2), [1, 2]),
        (spaces.Box(-1, 1, (2,)), [0.0]), (spaces.Box(-1, 1, (2,)), [0.0, np.nan]), (spaces.Box(-1, 1, (2,)), "up"),
    ],
)  # fmt: skip
def test_an_action_outside_its_space_is_refused(taken, action):
    with pytest.raises(ValueError, match=r"^the action .* is none of these .*: it must be one of the action space$"):
        Actions(taken).encode(action)


@pytest.mark.parametrize(("seen", "taken"), PAIRS, ids=str)
def test_a_user_s_loop(seen, taken, tmp_path):
    """Train, save and load; then what `reset` and `step` give goes into `act`, and what it answers into `step`."""
    agent = nbrl.train(
        lambda: Anything(seen, taken), actors=2, threads=1, seed=1, steps=64, rollout_length=8, network=[["dense", 4]]
    )
    agent.save(tmp_path / "policy")
    environment = Anything(seen, taken)
    for policy in (agent, Agent.load(tmp_path / "policy"), NumpyPolicy.load(tmp_path / "policy")):
        observation, _ = environment.reset(seed=1)
        for step in range(5):
            action = policy.act(observation, greedy=step == 0)
            observation, *_ = environment.step(action)
    learner = OnlineLearner({"seed": 1, "rollout_length": 8, "network": [["dense", 4]]}, seen, taken)
    observation, reward, ended = environment.reset(seed=2)[0], 0.0, False
    for _ in range(40):
        action = learner.step(observation, reward, ended)
        if ended:
            observation, reward, ended = environment.reset()[0], 0.0, False
        else:
            observation, reward, ended, _, _ = environment.step(action)
    assert learner.steps > 0
    assert nbrl.evaluate(agent, lambda: Anything(seen, taken), episodes=2, threads=1).returns == [5.0, 5.0]


@pytest.mark.parametrize(
    ("space", "layout", "shape"),
    [
        (spaces.Box(0, 255, (84, 84), np.uint8), "HW", (84, 84)),
        (spaces.Box(0, 255, (210, 160, 3), np.uint8), "HWC", (210, 160, 3)),
        (spaces.Box(0, 255, (3, 210, 160), np.uint8), "CHW", (3, 210, 160)),
        (spaces.Box(0, 1, (8, 8, 111), np.bool_), "HWC", (8, 8, 111)),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), "HWC", (7, 7, 3)),
        (spaces.Box(0, 1, (10, 10, 4), np.float32), "HWC", (10, 10, 4)),
        (spaces.Box(0, 1, (84, 84), np.float32), "HW", (84, 84)),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), "CHW", (4, 84, 84)),
        (spaces.Box(0, 255, (4, 84, 84, 3), np.uint8), "HWC", (84, 84, 12)),
        (spaces.Box(0, 255, (4, 84, 84, 1), np.uint8), "HWC", (84, 84, 4)),
        (spaces.Box(0, 255, (4, 3, 84, 84), np.uint8), "CHW", (12, 84, 84)),
        (spaces.Box(-np.inf, np.inf, (30, 30, 4)), "vector", (30, 30, 4)),
        (spaces.Box(-1, 1, (4, 4)), "vector", (4, 4)),
        (spaces.Box(0, 255, (128,), np.uint8), "vector", (128,)),
        (spaces.Box(-1, 1, (2, 3, 4)), "vector", (2, 3, 4)),
    ],
    ids=str,
)
def test_what_is_an_image(space, layout, shape):
    observations = Observations(space)
    assert (observations.layout, observations.shape) == (layout, shape)
    assert gymnasium_space(observations.space) == space
    assert Observations.from_json(observations.to_json()).format == observations.format


@pytest.mark.parametrize("shape", [(9, 9, 9), (10, 20, 10), (10, 5, 20), (4, 9, 9, 9)])
def test_channels_that_could_be_on_either_side_are_asked_for(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    with pytest.raises(ValueError, match="could have their channels first or last: set observation_layout to HWC"):
        Observations(space)
    assert Observations(space, "HWC").layout == "HWC"
    assert Observations(space, "CHW").layout == "CHW"
    assert not Observations(space, "vector").image


@pytest.mark.parametrize(
    ("shape", "layout", "sentence"),
    [
        ((4,), "HWC", "observation_layout is 'HWC', but an observation of shape \\(4,\\) is no image"),
        ((9, 9), "HWC", "observation_layout is 'HWC', but observations have the shape"),
        ((9, 9, 3), "HW", "observation_layout is 'HW', but observations have the shape"),
        ((9, 9, 3), "WHC", "observation_layout is 'WHC': it must be one of auto, vector, HW, HWC, CHW"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(shape, layout, sentence):
    with pytest.raises(ValueError, match=sentence):
        Observations(spaces.Box(0, 255, shape, np.uint8), layout)


def test_a_stack_becomes_channels_of_each_pixel():
    space = spaces.Box(0, 255, (2, 5, 6, 3), np.uint8)
    value = np.random.default_rng(0).integers(0, 256, space.shape, np.uint8)
    row = Observations(space).rows(value)[0][0]
    assert row.shape == (5, 6, 6)
    np.testing.assert_array_equal(row[..., :3], value[0])
    np.testing.assert_array_equal(row[..., 3:], value[1])
    np.testing.assert_array_equal(Observations(space).picture(row), value[1])


@pytest.mark.parametrize("n", [MOST_VALUES + 1, 10**7])
def test_a_discrete_space_too_large_for_one_hot_is_refused(n):
    with pytest.raises(ValueError, match=r"values cannot be used: each is an input of its own, at most 100,000"):
        nbrl.train(lambda: Anything(spaces.Discrete(n), spaces.Discrete(2)), steps=10)
    with pytest.raises(ValueError, match="values cannot be used"):
        OnlineLearner({}, spaces.Discrete(n), spaces.Discrete(2))


@pytest.mark.parametrize(
    ("shape", "pick"),
    [
        ((5, 7), lambda image: np.stack([image] * 3, axis=2)),
        ((5, 7, 1), lambda image: image.repeat(3, axis=2)),
        ((5, 7, 3), lambda image: image),
        ((5, 7, 4), lambda image: image[:, :, 3:].repeat(3, axis=2)),
        ((3, 5, 7), lambda image: image.transpose(1, 2, 0)),
        ((4, 5, 7), lambda image: image[3][:, :, None].repeat(3, axis=2)),
    ],
)
def test_the_picture_of_an_image(shape, pick):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = Observations(spaces.Box(0, 255, shape, np.uint8)).picture(image)
    np.testing.assert_array_equal(picture, pick(image))
    assert picture.flags.c_contiguous
    assert Observations.vector(5).picture(np.zeros(5, np.float32)) is None
