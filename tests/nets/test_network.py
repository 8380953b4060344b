"""Networks of any table against the float64 oracle, and their gradients against the slope of their own outputs.

Tolerances: a float32 sum of n terms is within n * 2^-24 of the sum of magnitudes, in practice near the square root of
that. With weights of U(-1/sqrt(n), 1/sqrt(n)) and inputs around 1 that makes some 1e-6 of the largest output a layer,
and at most a few layers are drawn, each forward and backward: 2e-5 of the largest element of an array is allowed. The
sums that these networks make are of about 0.05 to 5; an array of one element or two may come out smaller because they
cancelled, which makes no rounding smaller, so 2e-5 of 0.05 is always allowed.
"""

import math
from typing import NamedTuple

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import near_multiples

from nbrl.nets.affine import tanh
from nbrl.nets.layers import NETWORKS, Conv, Dense, Lstm
from nbrl.nets.network import Network
from nbrl.nets.workspace import (
    NO_INPUTS,
    Workspace,
    actions,
    backward,
    backward_part,
    copy_inputs,
    enter,
    enter_state,
    enter_vector,
    forward,
    forward_part,
    input_gradients,
    leave_state,
    observations,
    output_gradients,
    outputs,
)

RELATIVE, SMALLEST = 2e-5, 0.05
KINK = 1e-4  # of a ReLU: nearer to it, float32 and float64 may disagree on the slope

shapes = st.one_of(strategies.vector_shapes(), strategies.image_shapes())


@st.composite
def networks(draw, activations=None):
    """(network, parameters by its own initial draw, rng)."""
    shape = draw(shapes)
    table = draw(strategies.tables(Dense, Conv, shape, lstm=Lstm))
    if activations is not None:
        table = smooth(table, [draw(st.sampled_from(activations)) for _ in table])
    heads = draw(
        st.sampled_from(
            [{"policy": 3, "value": 1}, {"policy": 18, "value": 1}, {"q": 5}, {"mean": 2, "variance": 2, "value": 1}]
        )
    )
    separate = "value" in heads and draw(st.booleans())
    constant = ("variance",) if "variance" in heads and draw(st.booleans()) else ()
    seed = draw(strategies.seeds)
    network, rng = Network(table, shape, heads, separate=separate, constant=constant), np.random.default_rng(seed)
    parameters = network.initial(seed)
    for name in constant:  # which begin with 0
        view = network.layout.view(parameters, f"{name}/bias")
        assert not view.any()
        view[...] = rng.standard_normal(view.shape)
    return network, parameters, rng


def smooth(table, activations):
    """The table with other activations, where a layer has one."""
    return tuple(
        layer if isinstance(layer, Lstm) else layer._replace(activation=activation)
        for layer, activation in zip(table, activations, strict=True)
    )


class Sequence(NamedTuple):
    """What a group of k actors sees: sample t * k + i is step t of actor i."""

    k: int
    inputs: np.ndarray  # float32 (samples, *observation_shape)
    continues: np.ndarray  # bool (samples,): whether it is the step after sample s - k
    states: np.ndarray  # float32 (samples, state_size): what was there before, where it is not


def draw_sequence(rng, network, steps, k):
    """`steps` steps of `k` actors; about every third begins an episode."""
    continues = rng.random((steps, k)) < 2 / 3
    continues[0] = False
    return Sequence(
        k,
        rng.standard_normal((steps * k, *network.observation_shape)).astype(np.float32),
        continues.reshape(-1),
        rng.standard_normal((steps * k, network.state_size)).astype(np.float32),
    )


def draw_gradients(rng, network, samples):
    return {name: rng.standard_normal((samples, units)).astype(np.float32) for name, units in network.heads.items()}


def close(actual, expected, relative=RELATIVE):
    """Within `relative` of the largest element, or of SMALLEST."""
    scale = max(np.abs(expected).max(initial=0), SMALLEST)
    return np.isfinite(actual).all() and np.abs(actual - expected).max(initial=0) <= relative * scale


def load(network, parameters, sequence, capacity=None):
    """A workspace with everything entered but the states that the steps before leave."""
    samples = len(sequence.inputs)
    work = network.workspace(capacity or samples)
    work.theta[:] = parameters
    work.continues[:samples] = sequence.continues
    observations(work, 0, samples)[...] = sequence.inputs.reshape(samples, -1)
    return work


def act(work, sequence):
    """Step by step forward, as actors go; the state that each sample left, (samples, state_size)."""
    left = np.full_like(sequence.states, np.nan)
    for first in range(0, len(sequence.inputs), sequence.k):
        samples = range(first, first + sequence.k)
        for s in samples:
            enter_state(work, s, left[s - sequence.k] if sequence.continues[s] else sequence.states[s])
        forward(work, first, sequence.k)
        for s in samples:
            leave_state(work, s, left[s])
    return left


def fill_gradients(network, work, doutputs):
    for name, doutput in doutputs.items():
        output_gradients(work, network.head(name), 0, len(doutput))[...] = doutput


def heads_of(network, work, samples):
    return {name: outputs(work, network.head(name), 0, samples) for name in network.heads}


def oracle(network, parameters, sequence):
    """(outputs, tape) by the float64 oracle."""
    named = network.layout.views(parameters)
    _, inputs, continues, states = sequence
    return oracles.network_forward(network.layers, named, inputs, sequence.k, continues, states)


def check_against_the_oracle(network, parameters, sequence, doutputs):
    samples = len(sequence.inputs)
    expected, tape = oracle(network, parameters, sequence)
    layer_tape = tape[1]
    for layer, (*_, z, _) in zip(network.layers * (1 + network.separate), layer_tape, strict=True):
        if getattr(layer, "activation", None) == "relu":
            assume(np.abs(z).min() > KINK * np.abs(z).max())

    work = load(network, parameters, sequence)
    left = act(work, sequence)
    for i, (*_, y) in enumerate(layer_tape):
        assert close(outputs(work, i, 0, samples), y), f"layer {i + 1}"
    for name, actual in heads_of(network, work, samples).items():
        assert close(actual, expected[name]), name
    assert close(left, oracles.left_states(tape))

    work.dtheta[:] = work.dactivations[:] = np.nan  # to be overwritten
    fill_gradients(network, work, doutputs)
    backward(work, samples, sequence.k)
    gradient = oracles.network_backward(network.layers, tape, doutputs)
    actual = network.layout.views(work.dtheta)
    assert actual.keys() == gradient.keys()
    for name, values in gradient.items():
        assert close(actual[name], values), name


@given(drawn=networks(), steps=st.integers(1, 4), k=st.integers(1, 3))
@settings(max_examples=80)
def test_every_layer_forward_and_every_gradient_equal_the_oracle(drawn, steps, k):
    network, parameters, rng = drawn
    shapes = oracles.parameter_shapes(
        network.layers, network.observation_shape, network.heads, separate=network.separate, constant=network.constant
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
    network, rng = Network(table, shape, {"policy": 3, "value": 1}), np.random.default_rng(seed)
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
    guarded = [guard(array) for array in load(network, parameters, sequence)]
    work = Workspace(*(inside for inside, _, _ in guarded))
    left = []
    for used in (plain, work):
        left.append(act(used, sequence))
        for name in network.heads:
            output_gradients(used, network.head(name), 0, steps * k)[...] = 1
        backward(used, steps * k, k)
    for field, (inside, whole, mark) in zip(Workspace._fields, guarded, strict=True):
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
        copy_inputs(work, acted, 0, capacity)
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
        enter_state(roomy, s, np.full(network.state_size, 1e3, np.float32))
    forward(roomy, samples, more)
    roomy.dactivations[:] = 1e3
    for name in network.heads:
        output_gradients(roomy, network.head(name), 0, samples + more)[...] = 1e3
        for work in (exact, roomy):
            output_gradients(work, network.head(name), 0, samples)[...] = 0.5
    backward(exact, samples, k)
    backward(roomy, samples, k)
    assert close(roomy.dtheta, exact.dtheta)


# Memory


RECURRENT_TABLES = [[Lstm(6)], [Dense(5, "tanh"), Lstm(4), Lstm(7)], [Lstm(9), Dense(3, "tanh")]]


@given(table=st.sampled_from(RECURRENT_TABLES), seed=strategies.seeds, k=st.integers(1, 3))
@settings(max_examples=30)
def test_the_gradient_ends_where_an_episode_begins(table, seed, k):
    # Two episodes one after the other have the sum of their gradients, and one that goes on has another.
    network = Network(table, (4,), {"policy": 3, "value": 1})
    parameters, rng = network.initial(seed), np.random.default_rng(seed)
    whole = draw_sequence(rng, network, 4, k)
    doutputs = draw_gradients(rng, network, 4 * k)

    def gradient(sequence, part):
        work = load(network, parameters, sequence)
        act(work, sequence)
        fill_gradients(network, work, {name: doutput[part] for name, doutput in doutputs.items()})
        backward(work, len(sequence.inputs), k)
        return work.dtheta.copy()

    def through(boundary):
        continues = np.repeat([False, True, boundary, True], k)
        return gradient(whole._replace(continues=continues), slice(None))

    continues = np.repeat([False, True], k)
    halves = [
        gradient(Sequence(k, whole.inputs[part], continues, whole.states[part]), part)
        for part in (slice(0, 2 * k), slice(2 * k, 4 * k))
    ]
    assert close(through(False), halves[0] + halves[1])
    assert not close(through(True), halves[0] + halves[1], 1e-3)


def test_one_actor_of_a_group_does_not_reach_another():
    network = Network([Dense(4), Lstm(5), Lstm(3)], (4,), {"value": 1})
    parameters, rng, k = network.initial(0), np.random.default_rng(0), 3
    group = draw_sequence(rng, network, 6, k)
    work = load(network, parameters, group)
    left = act(work, group)
    output_gradients(work, network.head("value"), 0, 6 * k)[...] = 1
    backward(work, 6 * k, k)
    total = np.zeros_like(work.dtheta)
    for i in range(k):
        alone = Sequence(1, *(part[i::k] for part in group[1:]))
        one = load(network, parameters, alone)
        assert close(act(one, alone), left[i::k])
        output_gradients(one, network.head("value"), 0, 6)[...] = 1
        backward(one, 6, 1)
        total += one.dtheta
    assert close(work.dtheta, total)


def one_cell():
    """A network of one cell above one number, and its parameters by name: w and u hold the gates i, f, g, o."""
    network = Network([Lstm(1)], (1,), {"value": 1})
    parameters = np.zeros(network.layout.size, np.float32)
    named = network.layout.views(parameters)
    named["lstm1/weights"][...] = [[math.log(3), 0, math.log(2), 0]]
    named["lstm1/recurrent"][...] = [[0, 0, 1, 2]]
    named["value/weights"][...] = 1
    return network, parameters


def test_a_cell_by_hand():
    # s(x) = 1 / (1 + e^-x), and s(ln 3) = 3/4, tanh(ln 2) = 3/5. The forget gate has 1 added: s(1) = 0.7310586.
    #   x = 1, h = c = 0:  i = s(ln 3) = 0.75, f = s(1), g = tanh(ln 2) = 0.6, o = s(0) = 0.5
    #     c1 = f 0 + 0.75 * 0.6 = 0.45                  h1 = 0.5 tanh(0.45) = 0.5 * 0.4218990 = 0.2109495
    #   x = 0, h1, c1:     i = s(0) = 0.5, f = s(1), g = tanh(h1) = 0.2078752, o = s(2 h1) = 0.6039376
    #     c2 = 0.7310586 * 0.45 + 0.5 * 0.2078752 = 0.4329139
    #     h2 = 0.6039376 * tanh(0.4329139) = 0.6039376 * 0.4077536 = 0.2462577
    # The gradient of h2, backward:
    #   do2 = tanh(c2) o (1 - o) = 0.4077536 * 0.2391970 = 0.0975334
    #   dc2 = o (1 - tanh(c2)^2) = 0.6039376 * 0.8337370 = 0.5035251
    #   dg2 = dc2 i (1 - g^2) = 0.5035251 * 0.5 * 0.9567879 = 0.2408834
    #   di2 = dc2 g i (1 - i) = 0.5035251 * 0.2078752 * 0.25 = 0.0261676
    #   df2 = dc2 c1 f (1 - f) = 0.5035251 * 0.45 * 0.1966119 = 0.0445496
    #   dh1 = u dz2 = 1 * 0.2408834 + 2 * 0.0975334 = 0.4359502
    #   do1 = dh1 tanh(c1) o (1 - o) = 0.4359502 * 0.4218990 * 0.25 = 0.0459817
    #   dc1 = dc2 f + dh1 o (1 - tanh(c1)^2) = 0.5035251 * 0.7310586 + 0.4359502 * 0.5 * 0.8220012 = 0.5472821
    #   dg1 = dc1 i (1 - g^2) = 0.5472821 * 0.75 * 0.64 = 0.2626954
    #   di1 = dc1 g i (1 - i) = 0.5472821 * 0.6 * 0.1875 = 0.0615692
    #   df1 = dc1 0 = 0
    # dw is that of step 1, where x = 1; du is h1 times that of step 2; db is the sum of both.
    network, parameters = one_cell()
    sequence = Sequence(1, np.array([[1], [0]], np.float32), np.array([False, True]), np.zeros((2, 2), np.float32))
    work = load(network, parameters, sequence)
    np.testing.assert_allclose(act(work, sequence), [[0.2109495, 0.45], [0.2462577, 0.4329139]], atol=1e-6)
    output_gradients(work, network.head("value"), 0, 2)[:, 0] = [0, 1]
    backward(work, 2, 1)
    found = network.layout.views(work.dtheta)
    first = np.array([0.0615692, 0, 0.2626954, 0.0459817])
    second = np.array([0.0261676, 0.0445496, 0.2408834, 0.0975334])
    np.testing.assert_allclose(found["lstm1/weights"][0], first, atol=1e-6)
    np.testing.assert_allclose(found["lstm1/recurrent"][0], 0.2109495 * second, atol=1e-6)
    np.testing.assert_allclose(found["lstm1/bias"], first + second, atol=1e-6)
    np.testing.assert_allclose(found["value/weights"], [[0.2462577]], atol=1e-6)

    # Where the second step begins an episode, the first one has no part in it: h = c = 0, and x = 0.
    apart = sequence._replace(continues=np.array([False, False]))
    work = load(network, parameters, apart)
    np.testing.assert_allclose(act(work, apart), [[0.2109495, 0.45], [0, 0]], atol=1e-6)
    output_gradients(work, network.head("value"), 0, 2)[:, 0] = [0, 1]
    backward(work, 2, 1)
    found = network.layout.views(work.dtheta)
    assert not found["lstm1/weights"].any()
    assert not found["lstm1/recurrent"].any()
    # dc = o = 0.5 and i = 0.5: only dg = 0.25 is not 0, since tanh(c), g and the old c are.
    np.testing.assert_allclose(found["lstm1/bias"], [0, 0, 0.25, 0], atol=1e-6)


def test_a_new_cell_remembers():
    # With all parameters 0 the forget gate is s(1), the others s(0), and g is 0: c falls by s(1) a step.
    network, parameters = one_cell()
    work = load(network, 0 * parameters, Sequence(1, np.zeros((1, 1)), np.zeros(1, bool), None))
    state = np.array([7, 2], np.float32)  # h, which nothing reads, then c
    for step in range(1, 6):
        enter_state(work, 0, state)
        forward(work, 0, 1)
        leave_state(work, 0, state)
        cell = 2 * (1 / (1 + math.exp(-1))) ** step
        np.testing.assert_allclose(state, [0.5 * math.tanh(cell), cell], rtol=1e-5)


def test_states_are_entered_copied_and_left_sample_by_sample():
    # The state is h and c of the first LSTM layer, then of the second; a cell keeps what it is given.
    network = Network([Lstm(2), Dense(5), Lstm(3)], (4,), {"value": 1})
    assert network.state_size == 10
    rng, samples = np.random.default_rng(0), 4
    inputs = rng.standard_normal((samples, 4)).astype(np.float32)
    states = rng.standard_normal((samples, 10)).astype(np.float32)
    work, other = network.workspace(samples), network.workspace(samples)
    observations(work, 0, samples)[...] = inputs
    for s in rng.permutation(samples):
        enter_state(work, s, states[s])
    entered = work.activations.copy()
    copy_inputs(other, work, 1, 2)
    for both in (work, other):
        both.theta[:] = network.initial(0)
        forward(both, 0, samples)
    left, copied = np.zeros((2, samples, 10), np.float32)
    for s in range(samples):
        leave_state(work, s, left[s])
        leave_state(other, s, copied[s])
    untouched = Sequence(samples, 0 * inputs, np.zeros(samples, bool), 0 * states)
    named = network.initial(0)
    for found, sequence, rows in (
        (left, untouched._replace(inputs=inputs, states=states), slice(None)),
        (copied, untouched._replace(inputs=inputs, states=states), slice(1, 3)),
        (copied, untouched, [0, 3]),  # which were not copied
    ):
        expected = oracles.left_states(oracle(network, named, sequence)[1])
        assert close(found[rows], expected[rows])
    place = {name: slice(at, at + size) for name, at, size in (("h1", 0, 2), ("c1", 2, 2), ("h3", 4, 3), ("c3", 7, 3))}
    assert np.array_equal(left[:, place["h1"]], outputs(work, 0, 0, samples))
    assert np.array_equal(left[:, place["h3"]], outputs(work, 2, 0, samples))
    again = network.workspace(samples)
    copy_inputs(again, work, 0, samples)  # forward has changed neither observations nor states
    assert np.array_equal(again.activations, entered)


def test_a_network_without_memory_has_an_empty_state():
    network = Network([Dense(3)], (4,), {"value": 1})
    work, state = network.workspace(2), np.zeros(0, np.float32)
    before = work.activations.copy()
    enter_state(work, 1, state)
    leave_state(work, 1, state)
    assert network.state_size == 0
    assert np.array_equal(work.activations, before)


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


def normalised():
    """A workspace whose three numbers have the means 1, -2, 0 and the deviations 2, 1/2, 1/10."""
    work = Network((Dense(2),), (3,), {"value": 1}).workspace(2, scales=3)
    assert work.normal.tolist() == [[0, 0, 0], [1, 1, 1]]
    work.normal[...] = [[1, -2, 0], [0.5, 2, 10]]
    return work


def test_pixels_of_an_image_are_normalised_alike():
    work = Network((Conv(1, 2, 1),), (2, 2), {"value": 1}).workspace(1, scales=1)
    work.normal[...] = [[0.5], [4]]
    assert enter(work, 0, np.array([0, 51, 102, 255], np.uint8))
    # (0 - 0.5) * 4, (0.2 - 0.5) * 4, (0.4 - 0.5) * 4, (1 - 0.5) * 4
    assert observations(work, 0, 1)[0] == pytest.approx([-2, -1.2, -0.4, 2], abs=1e-6)
    work.normal[...] = [[0.5], [30]]
    assert enter(work, 0, np.array([0, 51, 102, 255], np.uint8))
    assert observations(work, 0, 1)[0] == pytest.approx([-10, -9, -3, 10], abs=1e-5)  # no farther than 10 from 0


def test_vectors_are_normalised_as_they_enter():
    # (3 - 1) / 2, (-2.5 + 2) * 2, 0.4 * 10; and no farther than 10 from 0 on either side.
    work = normalised()
    for numbers, expected in (
        ([3, -2.5, 0.4], [1, -1, 4]),
        ([1, -2, 0], [0, 0, 0]),
        ([21, -7, 1], [10, -10, 10]),
        ([21.5, -7.5, 1e30], [10, -10, 10]),
        ([-3e38, 3e38, -1.5], [-10, 10, -10]),
    ):
        assert enter(work, 1, np.array(numbers, np.float32).view(np.uint8))
        assert observations(work, 1, 1)[0] == pytest.approx(expected, rel=1e-6)
        assert not observations(work, 0, 1).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(3))
def test_normalising_hides_no_number_that_is_not_finite(bad, place):
    numbers = np.ones(3, np.float32)
    numbers[place] = bad
    assert not enter(normalised(), 0, numbers.view(np.uint8))


def test_the_value_alone_learns_from_its_own_layers():
    network = Network((Dense(5, "tanh"),), (4,), {"mean": 2, "variance": 2, "value": 1}, separate=True)
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


# An actor and a critic


@given(
    size=near_multiples(20), parts=st.integers(1, 18), samples=near_multiples(40), seed=strategies.seeds,
    table=st.lists(st.builds(Dense, near_multiples(40), strategies.activations), max_size=3),
)  # fmt: skip
@settings(max_examples=80)
def test_an_actor_and_a_critic_equal_the_oracle(size, parts, samples, seed, table):
    network, rng = Network(table, (size,), {"action": parts, "q": 1}), np.random.default_rng(seed)
    half = len(table) + 1
    assert (network.head("action"), network.head("q")) == (half - 1, 2 * half - 1)
    work, capacity = network.workspace(samples + 3), samples + 3
    work.theta[:] = network.initial(seed)
    named = {name: array.astype(float) for name, array in network.layout.views(work.theta).items()}
    x = rng.standard_normal((samples, size + parts)).astype(np.float32)
    observations(work, 0, capacity)[:samples] = x
    observations(work, samples, 3)[:] = 1e3  # which nobody may read
    expected, tape = oracles.policy_forward(network.layers, named, x[:, :size])
    q, q_tape = oracles.critic_forward(network.layers, named, x[:, :size], x[:, size:])
    for layer, (*_, z, _) in zip(table * 2, tape[1] + q_tape[1], strict=True):
        assume(layer.activation != "relu" or np.abs(z).min() > KINK * np.abs(z).max())

    forward_part(work, half, 2 * half, 0, samples)
    assert close(outputs(work, 2 * half - 1, 0, samples)[:, 0], q)
    forward_part(work, 0, half, 0, samples)
    assert close(outputs(work, half - 1, 0, samples), expected)
    assert np.array_equal(actions(work, 0, samples), x[:, size:])

    dq = rng.standard_normal(samples).astype(np.float32)
    dmu = rng.standard_normal((samples, parts)).astype(np.float32)
    gradient, da = oracles.critic_backward(network.layers, q_tape, dq, parts)
    gradient |= oracles.policy_backward(network.layers, tape, dmu)
    work.dtheta[:] = work.dactivations[:] = np.nan
    for from_, to, row, doutputs in ((half, 2 * half, 2 * half - 1, dq[:, None]), (0, half, half - 1, dmu)):
        before = work.dtheta.copy()
        output_gradients(work, row, 0, samples)[:] = doutputs
        backward_part(work, from_, to, samples, NO_INPUTS)
        own = [name for name in named if name.startswith("q") == (from_ > 0)]
        for name, values in network.layout.views(work.dtheta).items():
            if name in own:
                assert close(values, gradient[name]), name
            else:  # the other's gradient is as it was
                assert values.tobytes() == network.layout.view(before, name).tobytes()
    assert np.isnan(input_gradients(work, 0, samples)).all()

    before = work.dtheta.copy()
    output_gradients(work, 2 * half - 1, 0, samples)[:, 0] = dq
    backward_part(work, half, 2 * half, samples, size)
    assert close(input_gradients(work, 0, samples)[:, size:], da)
    assert np.isnan(input_gradients(work, 0, samples)[:, :size]).all()  # nor was more computed than asked for
    assert work.dtheta.tobytes() == before.tobytes()


def test_an_observation_leaves_the_action_after_it():
    # Of 1 number and 3 parts, an observation has as many bytes as block 0 has numbers.
    work = Network((Dense(5),), (1,), {"action": 3, "q": 1}).workspace(2, scales=1)
    work.normal[:] = [[1.0], [0.5]]
    actions(work, 0, 2)[:] = [[1, 2, 3], [4, 5, 6]]
    assert enter(work, 1, np.array([7.0], np.float32).view(np.uint8))
    assert enter_vector(work, 0, np.array([2.0], np.float32))
    assert observations(work, 0, 2).tolist() == [[0.5, 1, 2, 3], [3.0, 4, 5, 6]]
    assert not enter_vector(work, 0, np.array([np.nan], np.float32))


@pytest.mark.parametrize("layer", [Conv(4, 3, 1), Lstm(5)])
def test_an_actor_has_dense_layers_alone(layer):
    with pytest.raises(
        ValueError, match=r"layer 2 of the network is .*: a deterministic policy takes dense layers alone"
    ):
        Network((Dense(4), layer), (9, 9), {"action": 2, "q": 1})


@pytest.mark.parametrize("name", ["paper", "paper-lstm"])
def test_the_paper_s_networks_on_pixels_equal_the_oracle(name):
    table, memory = NETWORKS[name], name.endswith("lstm")
    network = Network(table, (4, 84, 84), {"policy": 6, "value": 1})
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
@example(table=(Dense(64, "tanh"), Lstm(32)), seed=0)
@given(table=strategies.tables(Dense, Conv, (4, 12, 13), lstm=Lstm), seed=strategies.seeds)
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
        layer, _ = name.split("/")
        fan_in = named[f"{layer}/weights"].shape[0]
        if layer.startswith("lstm"):  # a cell reads the inputs and all cells
            fan_in += named[f"{layer}/recurrent"].shape[0]
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
    table = (Conv(16, 8, 4), Conv(40, 2, 2), Dense(30), Lstm(10), Lstm(4))
    network = Network(table, (1, 40, 40), {"policy": 6, "value": 1})
    parameters = network.initial(3, "orthogonal")
    assert np.array_equal(network.initial(3, "orthogonal"), parameters)
    assert not np.array_equal(network.initial(4, "orthogonal"), parameters)
    gains = {
        "conv1": 2**0.5,
        "conv2": 2**0.5,
        "dense3": 2**0.5,
        "lstm4": 1.0,
        "lstm5": 1.0,
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
