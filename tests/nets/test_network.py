"""Networks of any table against the float64 oracle, and their gradients against the slope of their own outputs.

Tolerances: a float32 sum of n terms is within n * 2^-24 of the sum of magnitudes, in practice near the square root of
that. With weights of U(-1/sqrt(n), 1/sqrt(n)) and inputs around 1 that makes some 1e-6 of the largest output a layer,
and at most a few layers are drawn, each forward and backward: 2e-5 of the largest element of an array is allowed. The
sums that these networks make are of about 0.05 to 5; an array of one element or two may come out smaller because they
cancelled, which makes no rounding smaller, so 2e-5 of 0.05 is always allowed.
"""

import math

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nbrl.nets.affine import tanh
from nbrl.nets.layers import Conv, Dense
from nbrl.nets.network import Network, Workspace, backward, enter, forward, observations, output_gradients, outputs

RELATIVE, SMALLEST = 2e-5, 0.05
KINK = 1e-4  # of a ReLU: nearer to it, float32 and float64 may disagree on the slope

shapes = st.one_of(strategies.vector_shapes(), strategies.image_shapes())


@st.composite
def networks(draw, activations=None):
    """(network, parameters by its own initial draw, rng)."""
    shape = draw(shapes)
    table = draw(strategies.tables(Dense, Conv, shape))
    if activations is not None:
        table = tuple(layer._replace(activation=draw(st.sampled_from(activations))) for layer in table)
    heads = draw(st.sampled_from([{"policy": 3, "value": 1}, {"policy": 18, "value": 1}, {"q": 5}]))
    seed = draw(strategies.seeds)
    network = Network(table, shape, heads)
    return network, network.initial(seed), np.random.default_rng(seed)


def close(actual, expected, relative=RELATIVE):
    """Within `relative` of the largest element, or of SMALLEST."""
    scale = max(np.abs(expected).max(), SMALLEST)
    return np.isfinite(actual).all() and np.abs(actual - expected).max() <= relative * scale


def load(network, parameters, inputs, capacity=None):
    work = network.workspace(capacity or len(inputs))
    work.theta[:] = parameters
    observations(work, 0, len(inputs))[...] = inputs.reshape(len(inputs), -1)
    return work


def draw_inputs(rng, network, samples):
    return rng.standard_normal((samples, *network.observation_shape)).astype(np.float32)


def heads_of(network, work, samples):
    return {name: outputs(work, network.head(name), 0, samples) for name in network.heads}


@given(drawn=networks(), samples=st.integers(1, 5))
@settings(max_examples=60)
def test_every_layer_forward_and_every_gradient_equal_the_oracle(drawn, samples):
    network, parameters, rng = drawn
    inputs = draw_inputs(rng, network, samples)
    doutputs = {name: rng.standard_normal((samples, units)).astype(np.float32) for name, units in network.heads.items()}

    named = network.layout.views(parameters)
    expected, tape = oracles.network_forward(network.layers, named, inputs)
    for layer, (*_, z, _) in zip(network.layers, tape[1], strict=True):
        assume(layer.activation != "relu" or np.abs(z).min() > KINK * np.abs(z).max())

    work = load(network, parameters, inputs)
    forward(work, 0, samples)
    for i, (*_, y) in enumerate(tape[1]):
        assert close(outputs(work, i, 0, samples), y), f"layer {i + 1}"
    for name, actual in heads_of(network, work, samples).items():
        assert close(actual, expected[name]), name

    for name, doutput in doutputs.items():
        output_gradients(work, network.head(name), 0, samples)[...] = doutput
    work.dtheta[:] = np.nan  # to be overwritten
    backward(work, samples, 1)
    gradient = oracles.network_backward(network.layers, tape, doutputs)
    actual = network.layout.views(work.dtheta)
    assert actual.keys() == gradient.keys()
    for name, values in gradient.items():
        assert close(actual[name], values), name


@given(drawn=networks(activations=("none", "tanh")), samples=st.integers(1, 4))
@settings(max_examples=40)
def test_the_gradient_is_the_slope_of_the_network_s_own_outputs(drawn, samples):
    # f = sum of outputs * c along a random direction d of unit length: (f(+h) - f(-h)) / 2h against <gradient, d>. f is
    # uncertain by about 1e-6 of its terms, and bends by h^2 times its third derivative: at h = 0.02 both leave 1e-3.
    network, parameters, rng = drawn
    inputs = draw_inputs(rng, network, samples)
    doutputs = {name: rng.standard_normal((samples, units)).astype(np.float32) for name, units in network.heads.items()}
    direction = np.zeros_like(parameters)
    for view in network.layout.views(direction).values():
        view[...] = rng.standard_normal(view.shape)
    direction /= np.linalg.norm(direction)
    work = load(network, parameters, inputs)

    def evaluate(step):
        work.theta[:] = parameters + np.float32(step) * direction
        forward(work, 0, samples)
        terms = [heads_of(network, work, samples)[name].astype(float) * doutputs[name] for name in doutputs]
        return sum(term.sum() for term in terms), sum(np.abs(term).sum() for term in terms)

    step = 0.02
    (above, magnitude), (below, _) = evaluate(step), evaluate(-step)
    evaluate(0)
    for name, doutput in doutputs.items():
        output_gradients(work, network.head(name), 0, samples)[...] = doutput
    backward(work, samples, 1)
    inner = float((work.dtheta.astype(float) * direction).sum())
    length = float(np.linalg.norm(work.dtheta))
    noise = 1e-6 * (magnitude + 1) / step
    assert inner == pytest.approx((above - below) / (2 * step), abs=noise + 2e-3 * length)


def guard(array):
    """A copy of an array in the middle of a larger one that is filled with a mark, and the larger one."""
    mark = np.float32(-7e7) if array.dtype == np.float32 else array.dtype.type(-(2**30))
    whole = np.full(array.size + 256, mark, array.dtype)
    inside = whole[128 : 128 + array.size]
    inside[:] = array.reshape(-1)
    return inside.reshape(array.shape), whole, mark


@given(drawn=networks(), capacity=st.integers(1, 6))
@settings(max_examples=40)
def test_nothing_is_written_outside_the_workspace(drawn, capacity):
    network, parameters, rng = drawn
    inputs = draw_inputs(rng, network, capacity)
    plain = load(network, parameters, inputs)
    guarded = [guard(array) for array in load(network, parameters, inputs)]
    work = Workspace(*(inside for inside, _, _ in guarded))
    for used in (plain, work):
        forward(used, 0, capacity)
        for name in network.heads:
            output_gradients(used, network.head(name), 0, capacity)[...] = 1
        backward(used, capacity)
    for field, (inside, whole, mark) in zip(Workspace._fields, guarded, strict=True):
        assert (whole[:128] == mark).all(), field
        assert (whole[128 + inside.size :] == mark).all(), field
    assert np.isfinite(plain.dtheta).all()
    assert work.dtheta.tobytes() == plain.dtheta.tobytes()  # nothing of the marks was read
    assert work.theta.tobytes() == parameters.tobytes()
    assert np.array_equal(work.table, plain.table)
    assert np.array_equal(work.indices, plain.indices)


@given(drawn=networks(), capacity=st.integers(2, 6))
@settings(max_examples=30)
def test_samples_one_at_a_time_equal_all_at_once(drawn, capacity):
    # An actor acts sample by sample, and the backward pass then takes all of them.
    network, parameters, rng = drawn
    inputs = draw_inputs(rng, network, capacity)
    together, apart = load(network, parameters, inputs), load(network, parameters, inputs)
    forward(together, 0, capacity)
    for i in rng.permutation(capacity):
        before = apart.activations.copy()
        forward(apart, i, 1)
        for name in network.heads:  # no other sample is touched
            others = np.arange(capacity) != i
            assert np.array_equal(
                outputs(apart, network.head(name), 0, capacity)[others],
                outputs(apart._replace(activations=before), network.head(name), 0, capacity)[others],
            )
    for name in network.heads:
        for work in (together, apart):
            output_gradients(work, network.head(name), 0, capacity)[...] = 0.5
        assert close(
            outputs(apart, network.head(name), 0, capacity), outputs(together, network.head(name), 0, capacity)
        )
    backward(together, capacity)
    backward(apart, capacity)
    assert close(apart.dtheta, together.dtheta)


@given(drawn=networks(), samples=st.integers(1, 3))
@settings(max_examples=30)
def test_unused_samples_of_a_workspace_do_not_count(drawn, samples):
    network, parameters, rng = drawn
    inputs = draw_inputs(rng, network, samples)
    exact, roomy = load(network, parameters, inputs), load(network, parameters, inputs, capacity=samples + 3)
    observations(roomy, samples, 3)[...] = 1e3
    forward(roomy, 0, samples + 3)
    forward(exact, 0, samples)
    for name in network.heads:
        output_gradients(roomy, network.head(name), 0, samples + 3)[...] = 1e3
        for work in (exact, roomy):
            output_gradients(work, network.head(name), 0, samples)[...] = 0.5
    backward(exact, samples)
    backward(roomy, samples)
    assert close(roomy.dtheta, exact.dtheta)


def test_bytes_enter_as_fractions_and_numbers_as_they_are():
    image = Network((Dense(2),), (2, 3), {"value": 1}).workspace(2)
    assert enter(image, 1, np.array([0, 1, 51, 102, 254, 255], np.uint8))
    expected = np.array([0, 1 / 255, 0.2, 0.4, 254 / 255, 1], np.float32)
    assert observations(image, 1, 1)[0] == pytest.approx(expected, rel=2e-7)
    assert (observations(image, 0, 1) == 0).all()

    vector = Network((Dense(2),), (3,), {"value": 1}).workspace(2)
    numbers = np.array([-0.1, 1e30, 255], np.float32)
    assert enter(vector, 0, numbers.view(np.uint8))
    assert np.array_equal(observations(vector, 0, 1)[0], numbers)
    for bad in (np.nan, np.inf, -np.inf):
        for place in range(3):
            numbers = np.ones(3, np.float32)
            numbers[place] = bad
            assert not enter(vector, 1, numbers.view(np.uint8))


def test_the_paper_s_network_on_pixels_equals_the_oracle():
    table = (Conv(16, 8, 4), Conv(32, 4, 2), Dense(256))
    network = Network(table, (4, 84, 84), {"policy": 6, "value": 1})
    assert {name: network.layout.shape(name) for name in network.layout.names} == {
        "conv1/weights": (256, 16),
        "conv1/bias": (16,),
        "conv2/weights": (256, 32),
        "conv2/bias": (32,),
        "dense3/weights": (2592, 256),
        "dense3/bias": (256,),
        "policy/weights": (256, 6),
        "policy/bias": (6,),
        "value/weights": (256, 1),
        "value/bias": (1,),
    }
    rng, parameters = np.random.default_rng(0), network.initial(0)
    inputs = rng.random((2, 4, 84, 84)).astype(np.float32)
    expected, tape = oracles.network_forward(table, network.layout.views(parameters), inputs)
    work = load(network, parameters, inputs)
    forward(work, 0, 2)
    for name, actual in heads_of(network, work, 2).items():
        assert close(actual, expected[name])
    doutputs = {"policy": rng.standard_normal((2, 6)), "value": rng.standard_normal((2, 1))}
    for name, doutput in doutputs.items():
        output_gradients(work, network.head(name), 0, 2)[...] = doutput
    backward(work, 2, 1)
    gradient = oracles.network_backward(table, tape, doutputs)
    for name, actual in network.layout.views(work.dtheta).items():
        # Of 10,000 ReLUs a few stand within a rounding of their kink, where float32 may take the other side: one such
        # moves an element by its own small part.
        assert close(actual, gradient[name], relative=1e-3), name
        assert np.linalg.norm(actual - gradient[name]) <= 1e-4 * np.linalg.norm(gradient[name]), name


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
        Network(table, shape, {"policy": 2, "value": 1})
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
    Network(fitting, shape, {"value": 1})
    with pytest.raises(ValueError, match=f"layer {len(fitting) + 1} "):
        Network((*fitting, too_large, Dense(3)), shape, {"value": 1})


@example(table=(Dense(64, "tanh"), Dense(64, "tanh")), seed=0)
@given(table=strategies.tables(Dense, Conv, (4, 12, 13)), seed=strategies.seeds)
@settings(max_examples=30)
def test_initial_parameters_fill_their_ranges(table, seed):
    network = Network(table, (4, 12, 13), {"policy": 40, "value": 1})
    parameters = network.initial(seed)
    assert parameters.dtype == np.float32
    assert parameters.shape == (network.layout.size,)
    assert np.array_equal(network.initial(seed), parameters)
    assert not np.array_equal(network.initial(seed + 1), parameters)
    named = network.layout.views(parameters)
    for name, values in named.items():
        fan_in = named[name.replace("bias", "weights")].shape[0]
        bound, count = 1 / math.sqrt(fan_in), values.size
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert abs(values.mean()) < 6 * bound / math.sqrt(3 * count)
        if count >= 100:
            assert np.abs(values).max() > 0.8 * bound  # 0.8^100 is 2e-10
            assert abs((values**2).mean() / bound**2 - 1 / 3) < 6 * math.sqrt(4 / 45 / count)
    used = sum(values.size for values in named.values())
    assert np.count_nonzero(parameters) <= used
    assert np.unique(parameters[parameters != 0]).size > 0.99 * used  # no weights shared by accident


def test_orthogonal_parameters():
    network = Network((Conv(16, 8, 4), Conv(40, 2, 2), Dense(30)), (1, 40, 40), {"policy": 6, "value": 1})
    parameters = network.initial(3, "orthogonal")
    assert np.array_equal(network.initial(3, "orthogonal"), parameters)
    assert not np.array_equal(network.initial(4, "orthogonal"), parameters)
    gains = {"conv1": 2**0.5, "conv2": 2**0.5, "dense3": 2**0.5, "policy": 0.01, "value": 1.0}
    for name, values in network.layout.views(parameters).items():
        layer, part = name.split("/")
        if part == "bias":
            assert not values.any()
        else:
            product = (values.T if values.shape[0] >= values.shape[1] else values).astype(float)
            expected = gains[layer] ** 2 * np.eye(min(values.shape))
            np.testing.assert_allclose(product @ product.T, expected, rtol=0, atol=3e-6 * gains[layer] ** 2)


def test_tanh_is_right_to_a_few_last_places():
    x = np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-30, 0, 1000), [0.0, 1e30, -1e30]], dtype=np.float32)
    y = np.array([tanh(value) for value in x])
    exact = np.tanh(x.astype(float))
    assert (np.abs(y - exact) <= 4e-7 * np.abs(exact)).all()
    assert np.abs(y).max() <= 1


def test_more_samples_than_offsets_reach_are_refused():
    network = Network((Conv(16, 8, 4),), (4, 84, 84), {"policy": 2, "value": 1})
    with pytest.raises(ValueError, match=r"100,000 samples at once are too many .* lower rollout_length or lockstep"):
        network.workspace(100_000)
