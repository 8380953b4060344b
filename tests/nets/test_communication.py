"""Layers by which agents talk, beside a plain float64 forward pass and its numerical gradient, and by hand.

The gradient of the float64 pass is taken by central differences, 1e-6 each way: within some 1e-9 of the true one, where
all activations are smooth. So nothing is derived twice in the same way.
"""

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import close
from policies import observed
from talk import INPUTS, Talk, draw_talk, plain_forward, silence

from nbrl.nets.channel import Channel
from nbrl.nets.communicate import Communicate
from nbrl.nets.layers import Dense, Gru, Lstm
from nbrl.nets.network import Network
from nbrl.nets.table import (
    NOISE,
    NOISE_SIZE,
    backward,
    copy_inputs,
    draw_noise,
    forward,
    load_state,
    observations,
    output_gradients,
    outputs,
    store_state,
)

HEADS = {"policy": 3, "value": 1}


def load(network, parameters, talk, learns=True):
    """A workspace with all of it passed forward, step by step, and the states that were left."""
    steps, environments, agents = talk.continues.shape
    k, samples = environments * agents, steps * environments * agents
    work = network.workspace(samples, agents=agents, learns=learns)
    work.theta[:] = parameters
    observations(work, 0, samples)[:, :INPUTS] = talk.x.reshape(samples, INPUTS)
    for name in ("continues", "speaks", "hears"):
        getattr(work, name)[:] = getattr(talk, name).reshape(-1)
    for row in work.table:
        if row[NOISE_SIZE]:
            work.activations[row[NOISE] : row[NOISE] + talk.noise.size] = talk.noise.reshape(-1)
    states, left = talk.states.reshape(samples, -1), np.zeros((samples, network.state_size), np.float32)
    for first in range(0, samples, k):
        for s in range(first, first + k):
            load_state(work, s, left[s - k] if work.continues[s] else states[s])
        forward(work, first, k)
        for s in range(first, first + k):
            store_state(work, s, left[s])
    return work, left


TABLES = [
    (Communicate(3, "tanh"),),
    (Dense(5, "tanh"), Communicate(4, "tanh"), Communicate(3, "none")),
    (Dense(3, "tanh"), Communicate(4, "tanh"), Lstm(3), Communicate(20, "tanh")),
    (Channel(4, 2),),
    (Dense(3, "tanh"), Channel(5, 1), Dense(4, "tanh")),
    (Dense(3, "tanh"), Channel(3, 2), Communicate(3, "tanh"), Gru(3)),
]


@given(
    table=st.sampled_from(TABLES),
    seed=strategies.seeds,
    steps=st.integers(1, 4),
    environments=st.integers(1, 2),
    agents=st.integers(1, 4),
)
@settings(max_examples=60)
def test_talk_is_that_of_the_plain_pass_and_its_gradient_the_numerical_one(table, seed, steps, environments, agents):
    network, rng = Network(table, observed((INPUTS,)), HEADS), np.random.default_rng(seed)
    assert network.passes_together
    bits = max((layer.bits for layer in table if isinstance(layer, Channel)), default=0)
    talk = silence(network, draw_talk(rng, network, steps, environments, agents, bits))
    parameters = network.initial(seed)
    doutputs = {
        head: rng.standard_normal((*talk.continues.shape, units)).astype(np.float32) for head, units in HEADS.items()
    }
    work, left = load(network, parameters, talk)
    expected, expected_left = plain_forward(network, parameters.astype(np.float64), talk)
    samples = talk.continues.size
    for head, values in expected.items():
        assert close(outputs(work, network.head(head), 0, samples), values.reshape(samples, -1)), head
        output_gradients(work, network.head(head), 0, samples)[...] = doutputs[head].reshape(samples, -1)
    assert close(left, expected_left.reshape(left.shape))

    def loss(theta):
        found = plain_forward(network, theta, talk)[0]
        return sum((doutputs[head] * found[head]).sum() for head in HEADS)

    work.dtheta[:] = np.nan  # to be overwritten
    backward(work, samples, environments * agents)
    gradient, step = np.zeros(parameters.size), 1e-6
    places = network.layout.views(
        np.arange(parameters.size, dtype=np.float32)
    ).values()  # arrays have room between them
    for i in rng.permutation(np.concatenate([place.reshape(-1) for place in places]).astype(int))[:40]:
        sides = []
        for sign in (1, -1):
            moved = parameters.astype(np.float64)
            moved[i] += sign * step
            sides.append(loss(moved))
        gradient[i] = (sides[0] - sides[1]) / (2 * step)
        assert work.dtheta[i] == pytest.approx(gradient[i], abs=1e-4 * max(1.0, np.abs(gradient).max())), i


def one_way(table):
    """A network of these layers above one number, and its parameters, all 0, by name."""
    network = Network(table, observed((1,)), {"value": 1})
    parameters = np.zeros(network.layout.size, np.float32)
    return network, parameters, network.layout.views(parameters)


def test_a_message_by_hand():
    # y_a = x_a w + c_a u + b with w = 2, u = 3, b = 1. Of three agents 0 and 2 speak, and 1 and 2 hear:
    #   c_0 = 0, c_1 = (x_0 + x_2) / 2 = 3, c_2 = x_0 = 1:  y = (2 + 1, 8 + 9 + 1, 10 + 3 + 1) = (3, 18, 14)
    # With dy = (1, 10, 100):  dw = 1 + 40 + 500 = 541, du = 0 + 30 + 100 = 130, db = 111.
    network, parameters, named = one_way([Communicate(1, "none")])
    named["communicate1/weights"][...], named["communicate1/messages"][...] = 2, 3
    named["communicate1/bias"][...], named["value/weights"][...] = 1, 1
    work = network.workspace(3, agents=3)
    work.theta[:] = parameters
    observations(work, 0, 3)[:, 0] = 1, 4, 5
    work.speaks[:], work.hears[:] = [True, False, True], [False, True, True]
    forward(work, 0, 3)
    assert outputs(work, network.head("value"), 0, 3)[:, 0].tolist() == [3, 18, 14]
    output_gradients(work, network.head("value"), 0, 3)[:, 0] = 1, 10, 100
    backward(work, 3, 3)
    found = {name: view.reshape(-1).tolist() for name, view in network.layout.views(work.dtheta).items()}
    assert found["communicate1/weights"] == [541]
    assert found["communicate1/messages"] == [130]
    assert found["communicate1/bias"] == [111]


def test_who_speaks_is_taught_by_who_hears():
    # Below the layer is x = v s, with s = (1, 4, 5) and v = 1: dx_a = w dy_a + the shares of u dy of who hears a.
    #   dx_0 = 2 * 1 + 3 * 10 / 2 + 3 * 100 = 317, dx_1 = 20, dx_2 = 200 + 3 * 10 / 2 = 215
    # dv = 317 * 1 + 20 * 4 + 215 * 5 = 1472
    network, parameters, named = one_way([Dense(1, "none"), Communicate(1, "none")])
    named["dense1/weights"][...], named["communicate2/weights"][...], named["communicate2/messages"][...] = 1, 2, 3
    named["value/weights"][...] = 1
    work = network.workspace(3, agents=3)
    work.theta[:] = parameters
    observations(work, 0, 3)[:, 0] = 1, 4, 5
    work.speaks[:], work.hears[:] = [True, False, True], [False, True, True]
    forward(work, 0, 3)
    output_gradients(work, network.head("value"), 0, 3)[:, 0] = 1, 10, 100
    backward(work, 3, 3)
    assert network.layout.views(work.dtheta)["dense1/weights"].tolist() == [[1472]]


def test_a_bit_is_heard_a_step_later_and_only_by_others():
    # All is 0 but the bias of what is said, so a bit is tanh(2 / 2) = 0.7615942 in learning and 1 in use, and the
    # weight of what is heard on n, 1: h' = (1 - z) tanh(heard) with z = 1/2.
    network, parameters, named = one_way([Channel(1, 1)])
    named["channel1/speak_bias"][...], named["channel1/heard"][...] = 2, [[0, 0, 1]]
    for learns, said in ((True, 0.7615942), (False, 1.0)):
        work = network.workspace(2, agents=2, learns=learns)
        work.theta[:] = parameters
        work.speaks[:] = [True, False]
        states = np.zeros((2, network.state_size), np.float32)
        assert network.state_size == 3
        for step in range(2):
            for s in range(2):
                load_state(work, s, states[s])
            forward(work, 0, 2)
            for s in range(2):
                store_state(work, s, states[s])
            heard = np.tanh(said) / 2 if step else 0
            assert states == pytest.approx(np.array([[0, said, 1], [heard, 0, 0]]), abs=1e-6)
        work.hears[1] = False  # and remembers half of what it had
        for s in range(2):
            load_state(work, s, states[s])
        forward(work, 0, 2)
        assert outputs(work, 0, 1, 1)[0, 0] == pytest.approx(np.tanh(said) / 4, abs=1e-6)


def test_noise_is_drawn_for_each_sample_and_goes_along_with_it():
    network, row = Network([Dense(3), Channel(2, 3)], observed((4,)), HEADS), np.array([1, 2, 3, 4], np.uint64)
    work, other = network.workspace(4, agents=2), network.workspace(4, agents=2)
    for sample in range(4):
        draw_noise(work, sample, row)
    copy_inputs(other, 0, work, 2, 2)

    def noise(of):
        return of.activations[of.table[1, NOISE] : of.table[1, NOISE] + 12].reshape(4, 3)

    assert len(set(noise(work).reshape(-1).tolist())) == 12
    assert np.array_equal(noise(other)[:2], noise(work)[2:])


@pytest.mark.parametrize("table", [[Dense(3, "tanh"), Communicate(4, "tanh")], [Channel(3, 1)]])
def test_alone_nobody_is_heard(table):
    network, rng = Network(table, observed((INPUTS,)), HEADS), np.random.default_rng(0)
    parameters = network.initial(0)
    together = silence(network, draw_talk(rng, network, 3, 1, 3, 1))._replace(hears=np.zeros((3, 1, 3), bool))
    found, _ = load(network, parameters, together)
    for a in range(3):
        alone = Talk(*(part[:, :, a : a + 1] for part in together))
        one, _ = load(network, parameters, alone._replace(hears=np.ones((3, 1, 1), bool)))
        head = network.head("policy")
        assert np.allclose(outputs(found, head, 0, 9)[a::3], outputs(one, head, 0, 3), atol=1e-6)
