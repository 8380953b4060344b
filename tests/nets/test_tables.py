"""Tables of layers: which are refused, and the parameters that a network begins with."""

import math

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import example, given, settings
from hypothesis import strategies as st
from policies import observed

from nbrl.nets.layers import Conv, Dense, Gru, LayerNorm, Lstm
from nbrl.nets.network import Network


@pytest.mark.parametrize(
    ("table", "shape", "sentence"),
    [
        ([Conv(4, 3, 1)], (7,), r"layer 1 .*convolution.*\(7,\).*image"),
        ([Dense(8), Conv(4, 3, 1)], (9, 9), r"layer 2 .*convolution.*before dense"),
        ([Conv(4, 3, 1), Dense(8), Conv(4, 1, 1)], (9, 9), r"layer 3 .*convolution.*before dense"),
        ([Conv(4, 10, 1)], (9, 12), r"layer 1 .*10x10.*9x12.*at most 9"),
        ([Conv(4, 3, 2), Conv(4, 3, 2), Conv(4, 3, 2)], (9, 9, 3), r"layer 3 .*3x3.*1x1.*at most 1"),
        ([Conv(4, 5, 1)], (2, 4, 9), r"layer 1 .*5x5.*4x9.*at most 4"),  # channels first
        ([Conv(4, 5, 1)], (9, 4, 2), r"layer 1 .*5x5.*9x4.*at most 4"),  # channels last
        ([Conv(4, 2, 1)], (2, 3, 4, 5), r"layer 1 .*convolution.*\(2, 3, 4, 5\)"),
    ],
)
def test_an_impossible_table_is_refused_with_a_sentence_that_names_the_layer(table, shape, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        Network(table, observed(shape), {"policy": 2, "value": 1})
    assert "\n" not in str(refusal.value)


@given(data=st.data())
@settings(max_examples=60)
def test_a_table_that_outgrows_its_image_is_refused_at_the_first_such_layer(data):
    shape = data.draw(strategies.image_shapes())
    fitting = data.draw(strategies.tables(Dense, Conv, shape, most_dense=0))
    size, in_front = shape, oracles.channels_first(shape)
    for layer in fitting:
        size, in_front = oracles.conv_shape(size, in_front, layer.filters, layer.kernel, layer.stride), False
    smallest = min(oracles.image_sizes(size, in_front)[1:])
    too_large = Conv(2, smallest + data.draw(st.integers(1, 5)), 1)
    Network(fitting, observed(shape), {"value": 1})
    with pytest.raises(ValueError, match=f"layer {len(fitting) + 1} "):
        Network((*fitting, too_large, Dense(3)), observed(shape), {"value": 1})


@example(table=(Dense(64, "tanh"), Dense(64, "tanh")), seed=0)
@example(table=(Dense(64, "tanh"), Lstm(32)), seed=0)
@given(table=strategies.tables(Dense, Conv, (4, 12, 13), recurrent=(Lstm, Gru), norm=LayerNorm), seed=strategies.seeds)
@settings(max_examples=30)
def test_initial_parameters_fill_their_ranges(table, seed):
    network = Network(table, observed((4, 12, 13)), {"policy": 40, "value": 1})
    parameters = network.initial(seed)
    assert parameters.dtype == np.float32
    assert parameters.shape == (network.layout.size,)
    assert np.array_equal(network.initial(seed), parameters)
    assert not np.array_equal(network.initial(seed + 1), parameters)
    named = network.layout.views(parameters)
    for name, values in named.items():
        layer, part = name.split("/")
        if layer.startswith("layer_norm"):
            assert (values == (part == "scale")).all()  # which changes nothing but the mean and the deviation
            continue
        fan_in = named[f"{layer}/weights"].shape[0]
        if layer.startswith(("lstm", "gru")):  # a cell reads the inputs and all cells
            fan_in += named[f"{layer}/recurrent"].shape[0]
        bound, count = 1 / math.sqrt(fan_in), values.size
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert abs(values.mean()) < 6 * bound / math.sqrt(3 * count)
        if count >= 100:
            assert np.abs(values).max() > 0.8 * bound  # 0.8^100 is 2e-10
            assert abs((values**2).mean() / bound**2 - 1 / 3) < 6 * math.sqrt(4 / 45 / count)
    drawn = [values for name, values in named.items() if not name.startswith("layer_norm")]
    used = sum(values.size for values in drawn)
    everywhere = np.concatenate([values.ravel() for values in drawn])
    assert np.count_nonzero(parameters) <= sum(values.size for values in named.values())
    assert np.unique(everywhere[everywhere != 0]).size > 0.99 * used  # no weights shared by accident


def test_orthogonal_parameters():
    table = (Conv(16, 8, 4), Conv(40, 2, 2), Dense(30), Lstm(10), Gru(4))
    network = Network(table, observed((1, 40, 40)), {"policy": 6, "value": 1})
    parameters = network.initial(3, "orthogonal")
    assert np.array_equal(network.initial(3, "orthogonal"), parameters)
    assert not np.array_equal(network.initial(4, "orthogonal"), parameters)
    gains = {
        "conv1": 2**0.5,
        "conv2": 2**0.5,
        "dense3": 2**0.5,
        "lstm4": 1.0,
        "gru5": 1.0,
        "policy": 0.01,
        "value": 1.0,
    }
    for name, values in network.layout.views(parameters).items():
        layer, part = name.split("/")
        if part == "bias":
            assert not values.any()
        else:
            product = (values.T if values.shape[0] >= values.shape[1] else values).astype(float)
            expected = gains[layer] ** 2 * np.eye(min(values.shape))
            np.testing.assert_allclose(product @ product.T, expected, rtol=0, atol=3e-6 * gains[layer] ** 2)
