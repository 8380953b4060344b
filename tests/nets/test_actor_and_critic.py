"""The networks of a deterministic policy: an actor, and a critic of its actions."""

import numpy as np
import oracles
import pytest
import strategies
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from passes import KINK, SMALLEST, close, smallest_sums
from policies import observed
from strategies import near_multiples

from nbrl.nets.layers import Conv, Dense, Lstm
from nbrl.nets.network import Network
from nbrl.nets.table import (
    NO_INPUTS,
    actions,
    backward_part,
    forward_part,
    input_gradients,
    load_observation,
    load_vector,
    observations,
    output_gradients,
    outputs,
)


@given(
    size=near_multiples(20), parts=st.integers(1, 18), samples=near_multiples(40), seed=strategies.seeds,
    table=st.lists(st.builds(Dense, near_multiples(40), strategies.activations), max_size=3),
)  # fmt: skip
@settings(max_examples=80)
def test_an_actor_and_a_critic_equal_the_oracle(size, parts, samples, seed, table):
    network, rng = Network(table, observed((size,)), {"action": parts, "q": 1}), np.random.default_rng(seed)
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
    smallest = smallest_sums({"action": dmu, "q": dq[:, None]})
    work.dtheta[:] = work.dactivations[:] = np.nan
    for from_, to, row, doutputs in ((half, 2 * half, 2 * half - 1, dq[:, None]), (0, half, half - 1, dmu)):
        before = work.dtheta.copy()
        output_gradients(work, row, 0, samples)[:] = doutputs
        backward_part(work, from_, to, samples, NO_INPUTS)
        own = [name for name in named if name.startswith("q") == (from_ > 0)]
        for name, values in network.layout.views(work.dtheta).items():
            if name in own:
                assert close(values, gradient[name], smallest=smallest.get(name, SMALLEST)), name
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
    work = Network((Dense(5),), observed((1,)), {"action": 3, "q": 1}).workspace(2, scales=1)
    work.normal[:] = [[1.0], [0.5]]
    actions(work, 0, 2)[:] = [[1, 2, 3], [4, 5, 6]]
    assert load_observation(work, 1, np.array([7.0], np.float32).view(np.uint8))
    assert load_vector(work, 0, np.array([2.0], np.float32))
    assert observations(work, 0, 2).tolist() == [[0.5, 1, 2, 3], [3.0, 4, 5, 6]]
    assert not load_vector(work, 0, np.array([np.nan], np.float32))


@pytest.mark.parametrize("layer", [Conv(4, 3, 1), Lstm(5)])
def test_an_actor_has_dense_layers_alone(layer):
    with pytest.raises(
        ValueError, match=r"layer 2 of the network is .*: a deterministic policy takes dense layers alone"
    ):
        Network((Dense(4), layer), observed((9, 9)), {"action": 2, "q": 1})
