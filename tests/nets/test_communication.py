"""Layers by which agents talk, beside a plain float64 forward pass and its numerical gradient, and by hand.

The gradient of the float64 pass is taken by central differences, 1e-6 each way: within some 1e-9 of the true one, where
all activations are smooth. So nothing is derived twice in the same way.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import close
from policies import observed

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
INPUTS = 4


class Talk(NamedTuple):
    """What agents see over some steps: axes steps, environments, agents, then numbers."""

    x: np.ndarray
    continues: np.ndarray  # bool: whether its state is what the step before left
    states: np.ndarray  # where it does not
    speaks: np.ndarray  # bool
    hears: np.ndarray  # bool
    noise: np.ndarray


def draw_talk(rng, network, steps, environments, agents, bits):
    shape = (steps, environments, agents)
    continues = rng.random(shape) < 0.7
    continues[0] = False
    return Talk(
        rng.standard_normal((*shape, INPUTS)).astype(np.float32),
        continues,
        # What was said is 0 where nobody spoke, as layers leave it; here it may be anything.
        rng.standard_normal((*shape, network.state_size)).astype(np.float32),
        rng.random(shape) < 0.7,
        rng.random(shape) < 0.7,
        rng.standard_normal((*shape, bits)).astype(np.float32),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mean_of_others(said, spoke, hears):
    """Of agents (agents, numbers) what each hears."""
    heard = np.zeros_like(said)
    for a in range(len(said)):
        others = [b for b in range(len(said)) if b != a and spoke[b]]
        if hears[a] and others:
            heard[a] = sum(said[b] for b in others) / len(others)
    return heard


def plain_step(layer, p, x, state, noise, speaks, hears, learns):
    """One step of the agents of one environment, float64: outputs, and the state that it leaves."""
    squash = {"tanh": np.tanh, "none": lambda z: z, "relu": lambda z: np.maximum(z, 0)}
    if isinstance(layer, Dense):
        return squash[layer.activation](x @ p["weights"] + p["bias"]), state
    if isinstance(layer, Communicate):
        c = mean_of_others(x, speaks, hears)
        return squash[layer.activation](x @ p["weights"] + c @ p["messages"] + p["bias"]), state
    u = layer.units
    if isinstance(layer, Lstm):
        z = x @ p["weights"] + state[:, :u] @ p["recurrent"] + p["bias"]
        c = sigmoid(z[:, u : 2 * u] + 1) * state[:, u:] + sigmoid(z[:, :u]) * np.tanh(z[:, 2 * u : 3 * u])
        h = sigmoid(z[:, 3 * u :]) * np.tanh(c)
        return h, np.concatenate([h, c], axis=1)
    h = state[:, :u]
    enters, before = x @ p["weights"] + p["bias"], h @ p["recurrent"]
    if isinstance(layer, Channel):
        said, spoke = state[:, u : u + layer.bits], state[:, -1] > 0
        # A message counts where it was said; a state that was drawn may have one elsewhere too.
        enters = enters + mean_of_anything(said, spoke, hears) @ p["heard"]
    r, z = sigmoid(enters[:, :u] + before[:, :u]), sigmoid(enters[:, u : 2 * u] + before[:, u : 2 * u])
    n = np.tanh(enters[:, 2 * u :] + r * before[:, 2 * u :])
    h = (1 - z) * n + z * h
    if isinstance(layer, Gru):
        return h, h
    m = h @ p["speak"] + p["speak_bias"]
    m = np.tanh((m + 2 * noise) / 2) if learns else np.where(m > 0, 1.0, -1.0)
    return h, np.concatenate([h, m * speaks[:, None], 1.0 * speaks[:, None]], axis=1)


def mean_of_anything(said, spoke, hears):
    return mean_of_others(said * spoke[:, None], spoke, hears)


def plain_forward(network, parameters, talk, learns=True):
    """The heads' outputs (steps, environments, agents, units) by name, and the states that are left, float64."""
    named: dict[str, dict[str, Any]] = {}
    for name in network.layout.names:
        layer, part = name.split("/")
        named.setdefault(layer, {})[part] = network.layout.view(parameters, name)
    sizes = [plan.state for plan in network.plans]
    steps, environments, agents = talk.continues.shape
    left = np.zeros((steps, environments, agents, network.state_size))
    found = {head: np.zeros((steps, environments, agents, units)) for head, units in network.heads.items()}
    for t in range(steps):
        for e in range(environments):
            before = talk.states[t, e].astype(np.float64)
            if t:
                before = np.where(talk.continues[t, e][:, None], left[t - 1, e], before)
            y, at = talk.x[t, e].astype(np.float64), 0
            for plan, layer in zip(network.plans, network.layers, strict=False):
                state = before[:, at : at + sizes[network.plans.index(plan)]]
                y, after = plain_step(
                    layer, named[plan.name], y, state, talk.noise[t, e], talk.speaks[t, e], talk.hears[t, e], learns
                )
                left[t, e, :, at : at + state.shape[1]] = after
                at += state.shape[1]
            for head in network.heads:
                found[head][t, e] = y @ named[head]["weights"] + named[head]["bias"]
    return found, left


def silence(network, talk):
    """The talk with states as layers leave them: nothing said where nobody spoke."""
    states, at = talk.states.copy(), 0
    for plan, layer in zip(network.plans, network.layers, strict=False):
        if isinstance(layer, Channel):
            spoke = states[..., at + plan.state - 1] > 0
            states[..., at + plan.state - 1] = spoke
            states[..., at + layer.units : at + plan.state - 1] *= spoke[..., None]
        at += plan.state
    return talk._replace(states=states)


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
    places = network.layout.views(np.arange(parameters.size, dtype=np.float32)).values()  # arrays have room between them
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
    # All is 0 but the bias of what is said, so a bit is tanh(2 / 2) = 0.7615942 in learning and 1 in use, and the weight
    # of what is heard on n, 1: h' = (1 - z) tanh(heard) with z = 1/2.
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
