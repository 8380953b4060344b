"""The float64 oracles against themselves: gradients as differences of losses, sums written out by hand."""

import math

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrl.nets.layers import Conv, Dense, Gru, LayerNorm, Lstm


@given(data=st.data(), seed=strategies.seeds)
@settings(max_examples=25)
def test_the_gradient_of_a_whole_network_is_the_slope_of_its_loss(data, seed):
    shape = data.draw(st.one_of(strategies.vector_shapes(10), strategies.image_shapes(5, 8)))
    table = data.draw(
        strategies.tables(Dense, Conv, shape, recurrent=(Lstm, Gru), norm=LayerNorm, most_convolutions=2, most_dense=2)
    )
    # Smooth, so that the difference is exact.
    layers = [layer if isinstance(layer, Lstm | Gru) else layer._replace(activation="tanh") for layer in table]
    rng = np.random.default_rng(seed)
    shapes = oracles.parameter_shapes(layers, shape, {"policy": 3, "value": 1})
    parameters = {name: rng.normal(size=size) / math.sqrt(size[0]) for name, size in shapes.items()}
    direction = {name: rng.normal(size=size) for name, size in shapes.items()}
    observations, actions, returns = rng.normal(size=(6, *shape)), np.array([0, 2, 1, 1, 0, 2]), rng.normal(size=6)
    k, continues = data.draw(st.sampled_from([1, 2, 3])), rng.random(6) < 0.7
    memory = {"k": k, "continues": continues, "states": rng.normal(size=(6, oracles.state_size(layers)))}
    weights = {"entropy_weight": 0.3, "value_weight": 0.7}

    outputs, tape = oracles.network_forward(layers, parameters, observations, **memory)
    values = outputs["value"][:, 0]
    dlogits, dvalues = oracles.a3c_gradient(outputs["policy"], values, actions, returns, **weights)
    gradient = oracles.network_backward(layers, tape, {"policy": dlogits, "value": dvalues[:, None]})

    def loss(step):
        moved = {name: parameters[name] + step * direction[name] for name in parameters}
        outputs, _ = oracles.network_forward(layers, moved, observations, **memory)
        advantages = returns - values  # the policy's term holds them constant
        return oracles.a3c_loss(
            outputs["policy"], outputs["value"][:, 0], actions, returns, advantages=advantages, **weights
        )

    step = 1e-5
    slope = (loss(step) - loss(-step)) / (2 * step)
    inner = sum((gradient[name] * direction[name]).sum() for name in gradient)
    assert gradient.keys() == parameters.keys()
    assert inner == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_a_convolution_written_out():
    image = np.arange(12.0).reshape(1, 12)  # 3 x 4, one channel
    weights = np.array([[1.0], [10.0], [100.0], [1000.0]])
    out = oracles.conv_forward(image, oracles.patches((3, 4), False, kernel=2, stride=1), weights, np.array([0.5]))
    assert out[0, 0] == 0 * 1 + 1 * 10 + 4 * 100 + 5 * 1000 + 0.5
    assert out[0, 5] == 6 * 1 + 7 * 10 + 10 * 100 + 11 * 1000 + 0.5
    assert out.shape == (1, 6)


def test_taps_follow_the_memory_of_the_observation():
    first = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert oracles.channels_first(first.shape)
    assert oracles.patches(first.shape, True, 2, 1)[1].tolist() == first[:, 0:2, 1:3].ravel().tolist()  # c, dy, dx
    last = np.arange(4 * 3 * 2).reshape(4, 3, 2)
    assert not oracles.channels_first(last.shape)
    assert oracles.patches(last.shape, False, 2, 1)[1].tolist() == last[0:2, 1:3, :].ravel().tolist()  # dy, dx, c
    assert not oracles.channels_first((3, 5, 3))  # equal ends count as channels last


def test_a_cell_written_out():
    # One cell, two actors, three steps; every gate's weights are 0 but the candidate's, of tanh. s(1) is the forget
    # gate with its 1 added; the others are s(0) = 1/2.
    layers, remembers = [Lstm(1)], 1 / (1 + math.exp(-1))
    parameters = {
        "lstm1/weights": [[0, 0, 1, 0]],
        "lstm1/recurrent": [[0, 0, 10, 0]],
        "lstm1/bias": [0, 0, 0.5, 0],
        "value/weights": [[2]],
        "value/bias": [1],
    }
    assert {name: np.shape(value) for name, value in parameters.items()} == oracles.parameter_shapes(
        layers, (1,), {"value": 1}
    )

    def cell(x, h, c):
        c = remembers * c + math.tanh(x + 10 * h + 0.5) / 2
        return math.tanh(c) / 2, c

    states = np.arange(12.0).reshape(6, 2)
    outputs, tape = oracles.network_forward(
        layers, parameters, np.array([[1], [2], [3], [4], [5], [6]]), 2, [False, False, True, False, True, True], states
    )
    first, other = cell(1, 0, 1), cell(2, 2, 3)
    second, again = cell(3, *first), cell(4, 6, 7)  # the second actor's other episode
    third, last = cell(5, *second), cell(6, *again)
    expected = [first, other, second, again, third, last]
    np.testing.assert_allclose(oracles.left_states(tape), expected)
    np.testing.assert_allclose(outputs["value"][:, 0], [2 * h + 1 for h, _ in expected])


def test_returns_by_hand():
    rewards, values = [1.0, 2.0, 4.0, 8.0], [10.0, 20.0, 30.0, 40.0]
    stepped = oracles.STEPPED

    def returns(*ends):
        return oracles.discounted_returns(rewards, [stepped | end for end in ends], 0.5, values, 100.0).tolist()

    assert returns(0, 0, 0, 0) == [10.25, 18.5, 33.0, 58.0]
    assert returns(0, oracles.TERMINATED, 0, 0) == [2.0, 2.0, 33.0, 58.0]
    assert returns(0, oracles.CUT, 0, 0) == [2.0, 2.0, 33.0, 58.0]
    assert returns(0, oracles.TRUNCATED, 0, 0) == [7.0, 12.0, 33.0, 58.0]
    assert returns(0, 0, 0, oracles.TERMINATED) == [4.0, 6.0, 8.0, 8.0]
    assert returns(0, 0, 0, oracles.TRUNCATED) == [6.5, 11.0, 18.0, 28.0]
    assert returns(0, oracles.TERMINATED | oracles.TRUNCATED, 0, 0) == [2.0, 2.0, 33.0, 58.0]


def test_optimisers_by_hand():
    one = {"learning_rate": 0.1, "decay": 0.9, "epsilon": 0.01}
    theta, g = oracles.rmsprop(np.array([1.0]), np.array([0.0]), np.array([3.0]), **one)
    assert g[0] == pytest.approx(0.9)
    assert theta[0] == pytest.approx(1 - 0.3 / math.sqrt(0.91))
    theta, m, v = oracles.adam(
        np.array([1.0]),
        np.zeros(1),
        np.zeros(1),
        1,
        np.array([3.0]),
        learning_rate=0.1,
        beta1=0.9,
        beta2=0.99,
        epsilon=0,
    )
    assert (m[0], v[0]) == (pytest.approx(0.3), pytest.approx(0.09))
    assert theta[0] == pytest.approx(0.9)  # the first step of Adam is the learning rate, whatever the gradient
    clipped, norm = oracles.clip_norm(np.array([3.0, 4.0]), 2.5)
    assert (clipped.tolist(), norm) == ([1.5, 2.0], 5.0)
    assert oracles.clip_norm(np.array([3.0, 4.0]), 5.0)[0].tolist() == [3.0, 4.0]


def test_entropy_and_log_softmax_by_hand():
    logits = np.log([[0.5, 0.25, 0.25]]) + 7
    assert oracles.log_softmax(logits)[0] == pytest.approx(np.log([0.5, 0.25, 0.25]))
    assert oracles.entropy(logits)[0] == pytest.approx(1.5 * math.log(2))


@given(seed=strategies.seeds)
@settings(max_examples=25)
def test_the_gradient_of_separate_networks_of_a_gaussian_policy_is_the_slope_of_its_loss(seed):
    layers, heads, rng = (
        [Dense(4, "tanh"), Lstm(3)],
        {"mean": 2, "variance": 2, "value": 1},
        np.random.default_rng(seed),
    )
    shapes = oracles.parameter_shapes(layers, (3,), heads, separate=True, constant=("variance",))
    assert "value_lstm2/recurrent" in shapes
    assert "variance/weights" not in shapes
    parameters = {name: rng.normal(size=size) for name, size in shapes.items()}
    direction = {name: rng.normal(size=size) for name, size in shapes.items()}
    observations, actions, advantages = rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), rng.normal(size=4)
    memory = {"k": 1, "continues": [False, True, False, True], "states": rng.normal(size=(4, 12))}

    def loss(step):
        moved = {name: parameters[name] + step * direction[name] for name in parameters}
        outputs, _ = oracles.network_forward(layers, moved, observations, **memory)
        log_pi = oracles.gaussian_log_pi(outputs["mean"], outputs["variance"], actions)
        entropy = oracles.gaussian_entropy(outputs["variance"])
        return -(log_pi * advantages).sum() - 0.3 * entropy.sum() + (outputs["value"] ** 2).sum() / 2

    outputs, tape = oracles.network_forward(layers, parameters, observations, **memory)
    dmean, ds = oracles.gaussian_gradient(outputs["mean"], outputs["variance"], actions, advantages, 0.3)
    gradient = oracles.network_backward(layers, tape, {"mean": dmean, "variance": ds, "value": outputs["value"]})
    assert gradient.keys() == parameters.keys()
    step = 1e-6
    slope = (loss(step) - loss(-step)) / (2 * step)
    inner = sum((gradient[name] * direction[name]).sum() for name in gradient)
    size = math.sqrt(sum((values**2).sum() for values in gradient.values()))
    assert inner == pytest.approx(slope, rel=1e-4, abs=1e-5 * (1 + size))
