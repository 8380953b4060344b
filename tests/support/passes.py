"""Networks of any table, forward and backward, beside the float64 oracle.

Tolerances: a float32 sum of n terms is within n * 2^-24 of the sum of magnitudes, in practice near the square root of
that. With weights of U(-1/sqrt(n), 1/sqrt(n)) and inputs around 1 that makes some 1e-6 of the largest output a layer,
and at most a few layers are drawn, each forward and backward: 2e-5 of the largest element of an array is allowed. The
sums that these networks make are of about 0.05 to 5; an array of one element or two may come out smaller because they
cancelled, which makes no rounding smaller, so 2e-5 of 0.05 is always allowed.
"""

from typing import NamedTuple

import numpy as np
import oracles
import strategies
from hypothesis import assume
from hypothesis import strategies as st
from policies import observed

from nbrl.nets.layers import Conv, Dense, Gru, LayerNorm, Lstm
from nbrl.nets.network import Network
from nbrl.nets.table import backward, forward, load_state, observations, output_gradients, outputs, store_state

RELATIVE, SMALLEST = 2e-5, 0.05
KINK = 1e-4  # of a ReLU: nearer to it, float32 and float64 may disagree on the slope

shapes = st.one_of(strategies.vector_shapes(), strategies.image_shapes())


@st.composite
def networks(draw, activations=None):
    """(network, parameters by its own initial draw, rng)."""
    shape = draw(shapes)
    table = draw(strategies.tables(Dense, Conv, shape, recurrent=(Lstm, Gru), norm=LayerNorm))
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
    network, rng = (
        Network(table, observed(shape), heads, separate=separate, constant=constant),
        np.random.default_rng(seed),
    )
    parameters = network.initial(seed)
    for name in constant:  # which begin with 0
        view = network.layout.view(parameters, f"{name}/bias")
        assert not view.any()
        view[...] = rng.standard_normal(view.shape)
    return network, parameters, rng


def smooth(table, activations):
    """The table with other activations, where a layer has one."""
    return tuple(
        layer if isinstance(layer, Lstm | Gru) else layer._replace(activation=activation)
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
        rng.standard_normal((steps * k, *network.observations.shape)).astype(np.float32),
        continues.reshape(-1),
        rng.standard_normal((steps * k, network.state_size)).astype(np.float32),
    )


def draw_gradients(rng, network, samples):
    return {name: rng.standard_normal((samples, units)).astype(np.float32) for name, units in network.heads.items()}


def close(actual, expected, relative=RELATIVE, smallest=SMALLEST):
    """Within `relative` of the largest element, or of `smallest`."""
    scale = max(np.abs(expected).max(initial=0), smallest)
    return np.isfinite(actual).all() and np.abs(actual - expected).max(initial=0) <= relative * scale


def smallest_sums(doutputs):
    """What the gradients of the heads' biases are at least to be judged by, by their names.

    They are sums over the samples, and a head of one unit has a single one, which may cancel out altogether: then its
    rounding is still that of its terms. Independent terms add up to the root of the sum of their squares.
    """
    return {f"{name}/bias": np.linalg.norm(doutput, axis=0).max() for name, doutput in doutputs.items()}


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
            load_state(work, s, left[s - sequence.k] if sequence.continues[s] else sequence.states[s])
        forward(work, first, sequence.k)
        for s in samples:
            store_state(work, s, left[s])
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
    smallest = smallest_sums(doutputs)
    for name, values in gradient.items():
        assert close(actual[name], values, smallest=smallest.get(name, SMALLEST)), name
