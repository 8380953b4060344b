"""What a worker owns of a network, and how samples pass through it: forward, backward, and what enters and leaves.

A network is a table of int64, a row a layer, so one compiled walk serves every network: it calls the two routines of
each row. Activations of all samples of a rollout stay in one flat array until the backward pass has used them: block 0
holds the observations (with an action or an agent's index after each, see network.py), block i + 1 the outputs of layer
i, each (capacity, size); then come what layers keep besides. The state of a network is one row of `state_size` float32,
that of each layer which remembers, in their order; each sample has that of the step before it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, int32, int64

from nbrl import numpy_policy
from nbrl.kernels.compile import jit
from nbrl.kernels.native import block, call_routine, copy, span
from nbrl.kernels.random import normal
from nbrl.kernels.struct import Struct

# Columns of the table. FORWARD and BACKWARD are addresses of routines, INPUTS to FILTERS sizes. Offsets of PARAMETERS
# count in the flat parameters, of INPUT to NOISE in the activations, of ROW to OWN in the indices. A layer has up to
# six arrays of parameters and three of what it keeps of each sample, in its own order, and one table of its own.
(
    FORWARD, BACKWARD, ACTIVATION, INPUTS, TAPS, PIXELS, FILTERS, PARAMETERS, _, _, _, _, _, INPUT, OUTPUT, STATE,
    AFTER, STATE_SIZE, KEPT, _, _, NOISE, NOISE_SIZE, ROW, TAP, OWN, RUN, FROM_OBSERVATION, ACCUMULATE, COLUMNS,
) = range(30)  # fmt: skip
MEAN, SCALE = 0, 1  # rows of what observations are normalised by
CLIP = np.float32(numpy_policy.CLIP)
NO_INPUTS = -1  # a backward pass for the gradients of parameters, not of what the network was given


class Workspace(Struct):
    """A worker's own copy of everything a network needs: allocated once, never shared."""

    table = int64[:, ::1]  # (layers, COLUMNS)
    indices = int32[::1]  # 0, 1, 2, ..., then the offset tables of the layers
    theta = float32[::1]  # parameters
    dtheta = float32[::1]  # their gradient
    activations = float32[::1]
    dactivations = float32[::1]  # laid out like activations
    scratch = float32[::1]
    continues = boolean[::1]  # (capacity,): its state is what the sample k before it left, in `backward`
    void = boolean[::1]  # (capacity,): nothing is learnt from it
    agents = int64  # samples of one step of one environment, one behind the other, among which layers communicate
    speaks = boolean[::1]  # (capacity,): whether others hear what this one says
    hears = boolean[::1]  # (capacity,): whether it hears others
    learns = boolean  # whether what is said is noisy, so that `backward` finds a gradient; elsewhere it is exact
    normal = float32[:, ::1]  # (2, observation, 1 or 0): MEAN and SCALE, one over the standard deviation
    observation_size = int64  # numbers in an observation; where block 0 has more, an action or an index follows it
    indexed = boolean  # whether each observation is followed by which of the agents it is of, one-hot
    of_bytes = boolean  # whether these are uint8, else float32
    scale = float64  # a float32 that they are multiplied by
    gemm = int64  # addresses of the products
    gemm_transposed = int64


class Plan(NamedTuple):
    """One layer, before it is known how many samples there will be. It takes no memory, whatever a file claims."""

    name: str
    forward: Any  # routines of a workspace: (row of the table, first sample, samples, ...), see `forward_part`
    backward: Any  # and (row of the table, samples, k, inputs from, ...), see `backward_part`
    shape: tuple[int, ...]  # of one sample's output
    parameters: tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes
    inputs: int  # size of one sample of the block that it reads
    filters: int  # outputs of each of its rows
    rows: int = 1  # output rows a sample
    taps: int = 0  # inputs of each row
    strides: tuple[int, int, int] | None = None  # of the output where it is an image: from row to row, column, channel
    offsets: Any = None  # () -> offsets of one sample's rows, and of the taps
    own: Any = None  # (capacity) -> a table of the layer's own
    run: int = 0  # taps that lie side by side
    activation: int = 0
    gain: float = 2**0.5  # of orthogonal first weights
    fan_in: int = 0  # of uniform ones
    first: tuple[tuple[str, float], ...] = ()  # parameters that begin with one number
    state: int = 0  # numbers that it remembers from a step to the next
    kept: tuple[int, ...] = ()  # numbers that it keeps of each sample
    noise: int = 0  # normal numbers that it is given with each sample
    communicates: bool = False  # whether it reads what others' samples of the same step have
    scratch: int = 0
    block: int = 0  # that it reads


@jit
def forward(work, first, samples):
    """Fill the activations of `samples` samples from number `first` on, whose observations and states were loaded."""
    forward_part(work, 0, work.table.shape[0], first, samples)


@jit
def forward_part(work, layer, end, first, samples):
    """As `forward`, for the layers of the table's rows from `layer` to `end` - 1 alone."""
    for i in range(layer, end):
        call_routine(work.table[i, FORWARD], work, i, first, samples, 0, 0)


@jit
def backward(work, samples, k):
    """Fill dtheta from the heads' gradients (`output_gradients`) of samples 0 to `samples` - 1, after `forward`.

    Through a layer that remembers the gradient flows from sample s to sample s - k where `work.continues` says so.
    Void samples add nothing.
    """
    for sample in range(samples):
        if work.void[sample]:
            for layer in range(work.table.shape[0]):
                output_gradients(work, layer, sample, 1)[0, :] = 0
    _backward(work, 0, work.table.shape[0], samples, k, NO_INPUTS)


@jit
def backward_part(work, layer, end, samples, inputs_from):
    """As `backward`, for the layers of the table's rows from `layer` to `end` - 1 alone, none of which remembers.

    Where `inputs_from` is not NO_INPUTS, it fills no parameter's gradient, but that of block 0 (`input_gradients`) from
    this number of each sample on.
    """
    _backward(work, layer, end, samples, 1, inputs_from)


@jit
def _backward(work, layer, end, samples, k, inputs_from):
    for i in range(end - 1, layer - 1, -1):
        call_routine(work.table[i, BACKWARD], work, i, samples, k, inputs_from, 0)


@jit
def load_observation(work, sample, observation):
    """Put one observation, a row as bytes, into block 0, scaled and normalised; whether every number is finite."""
    if not work.of_bytes:
        return load_vector(work, sample, observation.view(np.float32))
    x = observations(work, sample, 1)[0]
    scale = np.float32(work.scale)
    for i in range(work.observation_size):
        x[i] = np.float32(observation[i]) * scale
    _normalise(work, x)
    if work.indexed:
        _index(work, sample, x)
    return True


@jit
def load_vector(work, sample, vector):
    """As `load_observation`, of float32."""
    x = observations(work, sample, 1)[0]
    finite, scale = True, np.float32(work.scale)
    for i in range(work.observation_size):
        x[i] = vector[i] * scale
        finite = finite and np.isfinite(vector[i])
    _normalise(work, x)
    if work.indexed:
        _index(work, sample, x)
    return finite


@jit
def _index(work, sample, x):
    """Say which agent an observation is of."""
    for agent in range(work.agents):
        x[work.observation_size + agent] = agent == sample % work.agents


@jit
def _normalise(work, x):
    """Normalise each number of an observation by its own mean and scale, or all by one."""
    features = work.normal.shape[1]
    if features == 1:
        mean, scale = work.normal[MEAN, 0], work.normal[SCALE, 0]
        for i in range(work.observation_size):
            x[i] = min(max((x[i] - mean) * scale, -CLIP), CLIP)
    else:
        for i in range(features):
            x[i] = min(max((x[i] - work.normal[MEAN, i]) * work.normal[SCALE, i], -CLIP), CLIP)


@jit
def load_state(work, sample, state):
    """Put a state (state_size,) before one sample."""
    at = 0
    for i in range(work.table.shape[0]):
        size = work.table[i, STATE_SIZE]
        copy(span(work.activations, work.table[i, STATE] + sample * size, size), span(state, at, size))
        at += size


@jit
def draw_noise(work, sample, row):
    """Give one sample the noise that its layers learn with, from a random row."""
    for i in range(work.table.shape[0]):
        size = work.table[i, NOISE_SIZE]
        for j in range(work.table[i, NOISE] + sample * size, work.table[i, NOISE] + (sample + 1) * size):
            work.activations[j] = np.float32(normal(row))


@jit
def store_state(work, sample, state):
    """Fill a state (state_size,) with what one sample left, after `forward`."""
    at = 0
    for i in range(work.table.shape[0]):
        size = work.table[i, STATE_SIZE]
        copy(span(state, at, size), span(work.activations, work.table[i, AFTER] + sample * size, size))
        at += size


@jit
def carry_state(work, before, sample):
    """Put what one sample left before another, after `forward` of the first."""
    for i in range(work.table.shape[0]):
        size = work.table[i, STATE_SIZE]
        after = span(work.activations, work.table[i, AFTER] + before * size, size)
        copy(span(work.activations, work.table[i, STATE] + sample * size, size), after)


@jit
def copy_inputs(target, at, work, first, samples):
    """Load what `work` has for some samples, observations, states and noise, as those from number `at` on of another
    workspace of the same network."""
    size = work.table[0, INPUTS]
    seen = span(work.activations, first * size, samples * size)
    copy(span(target.activations, at * size, samples * size), seen)
    for i in range(samples):
        target.speaks[at + i], target.hears[at + i] = work.speaks[first + i], work.hears[first + i]
    for i in range(work.table.shape[0]):
        size, start = work.table[i, STATE_SIZE], work.table[i, STATE] + first * work.table[i, STATE_SIZE]
        state = span(work.activations, start, samples * size)
        copy(span(target.activations, target.table[i, STATE] + at * size, samples * size), state)
        size, start = work.table[i, NOISE_SIZE], work.table[i, NOISE] + first * work.table[i, NOISE_SIZE]
        noise = span(work.activations, start, samples * size)
        copy(span(target.activations, target.table[i, NOISE] + at * size, samples * size), noise)


@jit
def observations(work, first, samples):
    """Block 0 of the activations: where the observations of some samples are put, (samples, size)."""
    return block(work.activations, first * work.table[0, INPUTS], samples, work.table[0, INPUTS])


@jit
def actions(work, first, samples):
    """Where an action follows each observation in block 0: a view, (samples, parts)."""
    return observations(work, first, samples)[:, work.observation_size :]


@jit
def input_gradients(work, first, samples):
    """The gradient with respect to `observations`, after `backward_part`: a view, (samples, size)."""
    return block(work.dactivations, first * work.table[0, INPUTS], samples, work.table[0, INPUTS])


@jit
def outputs(work, layer, first, samples):
    """The outputs of a layer (a row of the table) for some samples: a view, (samples, units)."""
    size = work.table[layer, PIXELS] * work.table[layer, FILTERS]
    return block(work.activations, work.table[layer, OUTPUT] + first * size, samples, size)


@jit
def output_gradients(work, layer, first, samples):
    """The gradient with respect to `outputs`, to be filled before `backward`: a view, (samples, units)."""
    size = work.table[layer, PIXELS] * work.table[layer, FILTERS]
    return block(work.dactivations, work.table[layer, OUTPUT] + first * size, samples, size)
