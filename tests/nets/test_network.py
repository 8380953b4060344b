"""Networks of any table against the float64 oracle, and their gradients against the slope of their own outputs."""

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import (
    Sequence,
    act,
    check_against_the_oracle,
    close,
    draw_gradients,
    draw_sequence,
    fill_gradients,
    heads_of,
    load,
    networks,
    oracle,
)
from policies import observed

from nbrl.nets.affine import tanh
from nbrl.nets.layers import NETWORKS, Conv, Dense, Lstm
from nbrl.nets.network import Network
from nbrl.nets.table import (
    backward,
    copy_inputs,
    forward,
    load_state,
    observations,
    output_gradients,
    outputs,
)


@given(drawn=networks(), steps=st.integers(1, 4), k=st.integers(1, 3))
@settings(max_examples=80)
def test_every_layer_forward_and_every_gradient_equal_the_oracle(drawn, steps, k):
    network, parameters, rng = drawn
    shapes = oracles.parameter_shapes(
        network.layers, network.observations.shape, network.heads, separate=network.separate, constant=network.constant
    )
    assert list(network.shapes().items()) == list(shapes.items())
    sequence = draw_sequence(rng, network, steps, k)
    check_against_the_oracle(network, parameters, sequence, draw_gradients(rng, network, steps * k))


@pytest.mark.parametrize(
    ("shape", "table"),
    [
        ((5,), [Lstm(7)]),
        ((5,), [Lstm(1)]),
        ((5,), [Lstm(16), Lstm(3), Lstm(9)]),
        ((5,), [Dense(6), Lstm(8), Dense(4, "tanh"), Lstm(5), Dense(11)]),
        ((6, 7), [Lstm(4)]),
        ((2, 8, 9), [Conv(3, 3, 2), Lstm(8)]),
        ((9, 8, 2), [Conv(3, 3, 2), Conv(5, 2, 1, "tanh"), Lstm(17), Dense(6, "none")]),
    ],
    ids=str,
)
@given(seed=strategies.seeds, k=st.integers(1, 3))
@settings(max_examples=8)
def test_lstm_layers_anywhere_in_a_table_equal_the_oracle(shape, table, seed, k):
    network, rng = Network(table, observed(shape), {"policy": 3, "value": 1}), np.random.default_rng(seed)
    sequence = draw_sequence(rng, network, 5, k)
    check_against_the_oracle(network, network.initial(seed), sequence, draw_gradients(rng, network, 5 * k))


@given(drawn=networks(activations=("none", "tanh")), steps=st.integers(1, 4), k=st.integers(1, 2))
@settings(max_examples=60)
def test_the_gradient_is_the_slope_of_the_network_s_own_outputs(drawn, steps, k):
    # f = sum of outputs * c along a random direction d of unit length: (f(+h) - f(-h)) / 2h against <gradient, d>. f is
    # uncertain by about 1e-6 of its terms, and bends by h^2 times its third derivative: at h = 0.02 both leave 1e-3.
    network, parameters, rng = drawn
    sequence = draw_sequence(rng, network, steps, k)
    doutputs = draw_gradients(rng, network, steps * k)
    direction = np.zeros_like(parameters)
    for view in network.layout.views(direction).values():
        view[...] = rng.standard_normal(view.shape)
    direction /= np.linalg.norm(direction)
    work = load(network, parameters, sequence)

    def evaluate(step):
        work.theta[:] = parameters + np.float32(step) * direction
        act(work, sequence)  # through time: a step begins with what the one before it leaves now
        found = heads_of(network, work, steps * k)
        terms = [found[name].astype(float) * doutputs[name] for name in doutputs]
        return sum(term.sum() for term in terms), sum(np.abs(term).sum() for term in terms)

    step = 0.02
    (above, magnitude), (below, _) = evaluate(step), evaluate(-step)
    evaluate(0)
    fill_gradients(network, work, doutputs)
    backward(work, steps * k, k)
    inner = float((work.dtheta.astype(float) * direction).sum())
    length = float(np.linalg.norm(work.dtheta))
    noise = 1e-6 * (magnitude + 1) / step
    assert inner == pytest.approx((above - below) / (2 * step), abs=noise + 2e-3 * length)


def guard(array):
    """A copy of an array in the middle of a larger one that is filled with a mark, and the larger one."""
    marks = {"f": np.float32(-7e7), "i": array.dtype.type(-(2**30)), "b": np.True_}
    mark = marks[array.dtype.kind]
    whole = np.full(array.size + 256, mark, array.dtype)
    inside = whole[128 : 128 + array.size]
    inside[:] = array.reshape(-1)
    return inside.reshape(array.shape), whole, mark


@given(drawn=networks(), steps=st.integers(1, 3), k=st.integers(1, 3))
@settings(max_examples=40)
def test_nothing_is_written_outside_the_workspace(drawn, steps, k):
    network, parameters, rng = drawn
    sequence = draw_sequence(rng, network, steps, k)
    plain = load(network, parameters, sequence)
    original = load(network, parameters, sequence)
    guarded = {name: guard(array) for name, array in original.arrays().items()}
    work = original.replace(**{name: inside for name, (inside, _, _) in guarded.items()})
    left = []
    for used in (plain, work):
        left.append(act(used, sequence))
        for name in network.heads:
            output_gradients(used, network.head(name), 0, steps * k)[...] = 1
        backward(used, steps * k, k)
    for field, (inside, whole, mark) in guarded.items():
        assert (whole[:128] == mark).all(), field
        assert (whole[128 + inside.size :] == mark).all(), field
    assert np.isfinite(plain.dtheta).all()
    assert work.dtheta.tobytes() == plain.dtheta.tobytes()  # nothing of the marks was read
    assert left[0].tobytes() == left[1].tobytes()
    assert work.theta.tobytes() == parameters.tobytes()
    assert np.array_equal(work.table, plain.table)
    assert np.array_equal(work.indices, plain.indices)
    assert np.array_equal(work.continues, sequence.continues)


@given(drawn=networks(), steps=st.integers(1, 3), k=st.integers(2, 3))
@settings(max_examples=30)
def test_samples_one_at_a_time_equal_all_at_once(drawn, steps, k):
    # An actor acts sample by sample, and the backward pass then takes all of them.
    network, parameters, rng = drawn
    sequence, capacity = draw_sequence(rng, network, steps, k), steps * k
    acted = load(network, parameters, sequence)
    act(acted, sequence)
    together, apart = (load(network, parameters, sequence) for _ in range(2))
    for work in (together, apart):
        copy_inputs(work, 0, acted, 0, capacity)
    forward(together, 0, capacity)
    for i in rng.permutation(capacity):
        before = apart.activations.copy()
        forward(apart, i, 1)
        for name in network.heads:  # no other sample is touched
            others = np.arange(capacity) != i
            assert np.array_equal(
                outputs(apart, network.head(name), 0, capacity)[others],
                outputs(apart.replace(activations=before), network.head(name), 0, capacity)[others],
            )
    for name in network.heads:
        for work in (acted, together, apart):
            output_gradients(work, network.head(name), 0, capacity)[...] = 0.5
        expected = outputs(together, network.head(name), 0, capacity)
        assert close(outputs(apart, network.head(name), 0, capacity), expected)
        assert close(outputs(acted, network.head(name), 0, capacity), expected)
    for work in (acted, together, apart):
        backward(work, capacity, k)
    assert close(apart.dtheta, together.dtheta)
    assert close(acted.dtheta, together.dtheta)


@given(drawn=networks(), steps=st.integers(1, 3), k=st.integers(1, 3))
@settings(max_examples=30)
def test_unused_samples_of_a_workspace_do_not_count(drawn, steps, k):
    # The step after a rollout's last, and one beyond.
    network, parameters, rng = drawn
    sequence, samples, more = draw_sequence(rng, network, steps, k), steps * k, 2 * k
    exact, roomy = load(network, parameters, sequence), load(network, parameters, sequence, samples + more)
    for work in (exact, roomy):
        act(work, sequence)
    observations(roomy, samples, more)[...] = 1e3
    roomy.continues[samples:] = True
    for s in range(samples, samples + more):
        load_state(roomy, s, np.full(network.state_size, 1e3, np.float32))
    forward(roomy, samples, more)
    roomy.dactivations[:] = 1e3
    for name in network.heads:
        output_gradients(roomy, network.head(name), 0, samples + more)[...] = 1e3
        for work in (exact, roomy):
            output_gradients(work, network.head(name), 0, samples)[...] = 0.5
    backward(exact, samples, k)
    backward(roomy, samples, k)
    assert close(roomy.dtheta, exact.dtheta)


def test_the_value_alone_learns_from_its_own_layers():
    network = Network((Dense(5, "tanh"),), observed((4,)), {"mean": 2, "variance": 2, "value": 1}, separate=True)
    work, rng = network.workspace(3), np.random.default_rng(0)
    work.theta[:] = network.initial(0)
    observations(work, 0, 3)[...] = rng.standard_normal((3, 4))
    for taught, learns in (("value", {"value_dense1", "value"}), ("mean", {"dense1", "mean"})):
        forward(work, 0, 3)
        fill_gradients(network, work, {name: np.zeros((3, units)) for name, units in network.heads.items()})
        output_gradients(work, network.head(taught), 0, 3)[...] = 1
        backward(work, 3, 1)
        found = {name.split("/")[0] for name, view in network.layout.views(work.dtheta).items() if view.any()}
        assert found == learns


@pytest.mark.parametrize("name", ["paper", "paper-lstm"])
def test_the_paper_s_networks_on_pixels_equal_the_oracle(name):
    table, memory = NETWORKS[name], name.endswith("lstm")
    network = Network(table, observed((4, 84, 84)), {"policy": 6, "value": 1})
    expected = {
        "conv1/weights": (256, 16),
        "conv1/bias": (16,),
        "conv2/weights": (256, 32),
        "conv2/bias": (32,),
        "dense3/weights": (2592, 256),
        "dense3/bias": (256,),
    }
    if memory:
        expected |= {"lstm4/weights": (256, 1024), "lstm4/recurrent": (256, 1024), "lstm4/bias": (1024,)}
    expected |= {"policy/weights": (256, 6), "policy/bias": (6,), "value/weights": (256, 1), "value/bias": (1,)}
    assert network.shapes() == expected
    assert network.state_size == (512 if memory else 0)

    rng, parameters = np.random.default_rng(0), network.initial(0)
    inputs = rng.random((3, 4, 84, 84)).astype(np.float32)
    states = rng.standard_normal((3, network.state_size)).astype(np.float32)
    sequence = Sequence(1, inputs, np.array([False, True, True]), states)
    expected, tape = oracle(network, parameters, sequence)
    work = load(network, parameters, sequence)
    act(work, sequence)
    for name, actual in heads_of(network, work, 3).items():
        assert close(actual, expected[name])
    doutputs = draw_gradients(rng, network, 3)
    fill_gradients(network, work, doutputs)
    backward(work, 3, 1)
    gradient = oracles.network_backward(table, tape, doutputs)
    for name, actual in network.layout.views(work.dtheta).items():
        # Of 10,000 ReLUs a few stand within a rounding of their kink, where float32 may take the other side: one such
        # moves an element by its own small part.
        assert close(actual, gradient[name], relative=1e-3), name
        assert np.linalg.norm(actual - gradient[name]) <= 1e-4 * np.linalg.norm(gradient[name]), name


def test_tanh_is_right_to_a_few_last_places():
    x = np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-30, 0, 1000), [0.0, 1e30, -1e30]], dtype=np.float32)
    y = np.array([tanh(value) for value in x])
    exact = np.tanh(x.astype(float))
    assert (np.abs(y - exact) <= 4e-7 * np.abs(exact)).all()
    assert np.abs(y).max() <= 1


def test_more_samples_than_offsets_reach_are_refused():
    network = Network((Conv(16, 8, 4),), observed((4, 84, 84)), {"policy": 2, "value": 1})
    with pytest.raises(
        ValueError, match=r"100,000 samples at once are too many .* lower rollout_length or envs_per_batch"
    ):
        network.workspace(100_000)
