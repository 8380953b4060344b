"""What LSTM layers remember, and where a gradient through time ends."""

import math

import numpy as np
import oracles
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import Sequence, act, close, draw_gradients, draw_sequence, fill_gradients, load, oracle
from policies import observed

from nbrl.nets.layers import Dense, Lstm
from nbrl.nets.network import Network
from nbrl.nets.table import (
    backward,
    copy_inputs,
    forward,
    load_state,
    observations,
    output_gradients,
    outputs,
    store_state,
)

RECURRENT_TABLES = [[Lstm(6)], [Dense(5, "tanh"), Lstm(4), Lstm(7)], [Lstm(9), Dense(3, "tanh")]]


@given(table=st.sampled_from(RECURRENT_TABLES), seed=strategies.seeds, k=st.integers(1, 3))
@settings(max_examples=30)
def test_the_gradient_ends_where_an_episode_begins(table, seed, k):
    # Two episodes one after the other have the sum of their gradients, and one that goes on has another.
    network = Network(table, observed((4,)), {"policy": 3, "value": 1})
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
    network = Network([Dense(4), Lstm(5), Lstm(3)], observed((4,)), {"value": 1})
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
    network = Network([Lstm(1)], observed((1,)), {"value": 1})
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
        load_state(work, 0, state)
        forward(work, 0, 1)
        store_state(work, 0, state)
        cell = 2 * (1 / (1 + math.exp(-1))) ** step
        np.testing.assert_allclose(state, [0.5 * math.tanh(cell), cell], rtol=1e-5)


def test_states_are_entered_copied_and_left_sample_by_sample():
    # The state is h and c of the first LSTM layer, then of the second; a cell keeps what it is given.
    network = Network([Lstm(2), Dense(5), Lstm(3)], observed((4,)), {"value": 1})
    assert network.state_size == 10
    rng, samples = np.random.default_rng(0), 4
    inputs = rng.standard_normal((samples, 4)).astype(np.float32)
    states = rng.standard_normal((samples, 10)).astype(np.float32)
    work, other = network.workspace(samples), network.workspace(samples)
    observations(work, 0, samples)[...] = inputs
    for s in rng.permutation(samples):
        load_state(work, s, states[s])
    entered = work.activations.copy()
    copy_inputs(other, 1, work, 1, 2)
    for both in (work, other):
        both.theta[:] = network.initial(0)
        forward(both, 0, samples)
    left, copied = np.zeros((2, samples, 10), np.float32)
    for s in range(samples):
        store_state(work, s, left[s])
        store_state(other, s, copied[s])
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
    copy_inputs(again, 0, work, 0, samples)  # forward has changed neither observations nor states
    assert np.array_equal(again.activations, entered)


def test_a_network_without_memory_has_an_empty_state():
    network = Network([Dense(3)], observed((4,)), {"value": 1})
    work, state = network.workspace(2), np.zeros(0, np.float32)
    before = work.activations.copy()
    load_state(work, 1, state)
    store_state(work, 1, state)
    assert network.state_size == 0
    assert np.array_equal(work.activations, before)
