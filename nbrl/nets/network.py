"""A network is a table of layers; forward and backward walk the table.

The table is a plain int64 array, so one compiled function serves every network. Activations of all samples of a
rollout stay in one flat array until the backward pass has used them: block 0 holds the observations, block i + 1 the
outputs of layer i, each (capacity, size); then come what LSTM layers keep. The state of a network is one row of
`state_size` float32, h and c of each LSTM layer; each sample has that of the step before it.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import carray

from nbrl import numpy_policy
from nbrl.kernels.compile import announce, cfunction, jit
from nbrl.kernels.native import call_words, copy, void_pointer
from nbrl.kernels.random import seed_row, uniform
from nbrl.nets.affine import (
    NONE,
    RELU,
    TANH,
    activation_backward,
    affine_backward_parameters,
    affine_forward,
    conv_backward_inputs,
    dense_backward_inputs,
)
from nbrl.nets.layers import Conv, Layer, Lstm, kind_of
from nbrl.nets.layout import Layout, aligned_zeros
from nbrl.nets.lstm import GATES, lstm_backward, lstm_forward

# Columns of the table. Offsets of weights count in the flat parameters, of inputs, outputs, states, gates and cells in
# the activations, of tables in the indices. From RECURRENT on they are the LSTM's.
(
    KIND, ACTIVATION, INPUTS, TAPS, PIXELS, FILTERS, WEIGHTS, BIAS, INPUT, OUTPUT, ROW, TAP, BACK_ROW, RUN,
    FROM_OBSERVATION, ACCUMULATE, RECURRENT, STATE, STATE_ROW, GATE, CELL, COLUMNS,
) = range(22)  # fmt: skip
DENSE, CONV, LSTM, CONSTANT = 0, 1, 2, 3  # CONSTANT: a bias alone
MEAN, SCALE = 0, 1  # rows of what observations are normalised by
FARTHEST = np.float32(numpy_policy.FARTHEST)
PIXEL_SCALE = np.float32(1 / 255)
ACTIVATION_CODES = {"none": NONE, "relu": RELU, "tanh": TANH}


# `forward` and `backward` are compiled once, as C functions that are called by address: code that is linked into a loop
# is optimised anew in that loop, and there are many. What they need is put down in words, in this order.
(
    TABLE_AT, LAYERS, INDICES_AT, INDICES, THETA_AT, DTHETA_AT, PARAMETERS, ACTIVATIONS_AT, DACTIVATIONS_AT,
    ACTIVATIONS, SCRATCH_AT, SCRATCH, CONTINUES_AT, CAPACITY, FIRST, SAMPLES, GROUP, WORDS,
) = range(18)  # fmt: skip
FORWARD, BACKWARD = 0, 1


class Workspace(NamedTuple):
    """A worker's own copy of everything a network needs: allocated once, never shared."""

    table: np.ndarray  # int64 (layers, COLUMNS)
    indices: np.ndarray  # int32: 0, 1, 2, ..., then the offset tables of the layers
    theta: np.ndarray  # float32: parameters
    dtheta: np.ndarray  # float32: their gradient
    activations: np.ndarray  # float32
    dactivations: np.ndarray  # float32, laid out like activations
    scratch: np.ndarray  # float32
    continues: np.ndarray  # bool (capacity,): its state is what the sample k before it left, in `backward`
    code: np.ndarray  # int64 (2,): addresses of the functions FORWARD and BACKWARD
    words: np.ndarray  # int64 (WORDS,): what they are called with
    normal: np.ndarray  # float32 (2, observation or 0): MEAN and SCALE, one over the standard deviation


class Network:
    """A table of layers over one flat parameter array.

    Parameters
    ----------
    layers : sequence of Dense, Conv or Lstm
        From the observation up. Convolutions are without padding and come before other layers.
    observation_shape : tuple of int
        (features,), (height, width), (channels, height, width) or (height, width, channels); of three sizes the first
        is the channels if it is smaller than the last.
    heads : mapping of str to int
        Dense layers without activation on top of the last layer: name and units.
    separate : bool, optional
        The head "value" has layers of its own, alike.
    constant : collection of str, optional
        Heads that are the same for every observation.

    Attributes
    ----------
    layout : Layout
        Names such as ``conv1/weights`` (taps, filters), ``dense3/bias`` (units,), ``policy/weights``.
    heads : dict of str to int
    state_size : int
        Numbers that it remembers from step to step; 0 without an LSTM layer.

    Raises
    ------
    ValueError
        A layer that cannot follow the one before it, named by its place in the table.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        observation_shape: Sequence[int],
        heads: Mapping[str, int],
        *,
        separate: bool = False,
        constant: Collection[str] = (),
    ) -> None:
        self.layers, self.observation_shape, self.heads = tuple(layers), tuple(observation_shape), dict(heads)
        self.separate, self.constant = separate, tuple(constant)
        self._plans: list[_Plan] = []
        shape, block = self._add_layers("")
        own_shape, own_block = self._add_layers("value_") if separate else (shape, block)
        for name, units in self.heads.items():
            if name == "value":
                plan = _dense_plan(name, units, "none", math.prod(own_shape), own_block)
            else:
                plan = _dense_plan(name, units, "none", math.prod(shape), block)
            self._plans.append(plan._replace(kind=CONSTANT) if name in self.constant else plan)
        self.layout = Layout((f"{plan.name}/{part}", shape) for plan in self._plans for part, shape in plan.parts())
        self.state_size = sum(2 * plan.filters for plan in self._plans if plan.kind == LSTM)

    def _add_layers(self, prefix: str) -> tuple[tuple[int, ...], int]:
        """Add the layers, from the observation up; the shape of the last one's output, and its block."""
        shape: tuple[int, ...] = self.observation_shape
        strides = _image_strides(shape)
        block = 0
        for place, layer in enumerate(self.layers, start=1):
            name = f"{prefix}{kind_of(layer)}{place}"
            if isinstance(layer, Lstm):
                plan = _dense_plan(name, layer.units, "none", math.prod(shape), block)._replace(kind=LSTM)
                shape, strides = plan.shape, None
            elif isinstance(layer, Conv):
                plan = _conv_plan(name, place, layer, shape, strides, block)
                shape = plan.shape
                strides = (shape[1] * shape[2], shape[2], 1)
            else:
                plan = _dense_plan(name, layer.units, layer.activation, math.prod(shape), block)
                shape, strides = plan.shape, None
            self._plans.append(plan)
            block = len(self._plans)
        return shape, block

    def initial(self, seed: int, initialisation: str = "uniform") -> np.ndarray:
        """The first parameters, float32 (layout.size,).

        "uniform" draws weights and biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), Torch's default of the paper's time.
        "orthogonal" (Saxe et al., 2014) makes each layer's weights sqrt(2) times orthonormal, so that a signal keeps
        its size through ReLUs, the heads' once and a policy's 0.01 times, so that it begins almost even; biases are 0,
        and so are constant heads.
        """
        parameters, row = np.zeros(self.layout.size, np.float32), np.zeros(4, np.uint64)
        if initialisation == "orthogonal":
            rng = np.random.default_rng(seed)
            for plan in self._plans:
                once = plan.name in self.heads or plan.kind == LSTM
                gain = 0.01 if plan.name in ("policy", "mean") else 1.0 if once else math.sqrt(2)
                for part, shape in plan.parts():
                    if part != "bias":
                        self.layout.view(parameters, f"{plan.name}/{part}")[...] = gain * _orthogonal(shape, rng)
            return parameters
        seed_row(row, np.uint64(seed), np.uint64(0))
        for plan in self._plans:
            if plan.kind == CONSTANT:
                continue
            fan_in = plan.taps + (plan.filters if plan.kind == LSTM else 0)
            bound = 1 / math.sqrt(fan_in)
            for part, _ in plan.parts():
                _fill_uniform(self.layout.view(parameters, f"{plan.name}/{part}").reshape(-1), bound, row)
        return parameters

    def workspace(self, capacity: int, *, normalised: bool = False) -> Workspace:
        """Arrays for up to `capacity` samples at once; ValueError where that is more than int32 offsets reach.

        `normalised` is for vectors: it makes room for `Workspace.normal`, which begins with means of 0 and scales of 1.
        """
        table = np.zeros((len(self._plans), COLUMNS), np.int64)
        sizes = [math.prod(self.observation_shape)] + [plan.rows * plan.filters for plan in self._plans]
        # An LSTM of u units needs 2 u of state, 4 u of gates and u of cells for each sample.
        kept = {i: plan.filters for i, plan in enumerate(self._plans) if plan.kind == LSTM}
        sizes += [size * units for units in kept.values() for size in (2, GATES, 1)]
        blocks = np.cumsum([0] + [-(-size * capacity // 16) * 16 for size in sizes])
        if blocks[-1] > np.iinfo(np.int32).max:
            raise ValueError(
                f"{capacity:,} samples at once are too many for this network: lower rollout_length or lockstep"
            )
        longest = max(max(plan.taps, plan.filters) for plan in self._plans)
        indices = [np.arange(longest)]
        used, scratch, fed = longest, 0, set()
        for i in reversed(range(len(self._plans))):
            plan, line = self._plans[i], table[i]
            first_row, tap = plan.offsets()
            line[KIND], line[ACTIVATION] = plan.kind, ACTIVATION_CODES[plan.activation]
            line[INPUTS], line[TAPS], line[PIXELS], line[FILTERS] = plan.inputs, plan.taps, plan.rows, plan.filters
            if plan.kind != CONSTANT:
                line[WEIGHTS] = self.layout.offset(f"{plan.name}/weights")
            line[BIAS] = self.layout.offset(f"{plan.name}/bias")
            line[INPUT], line[OUTPUT] = blocks[plan.input], blocks[i + 1]
            line[RUN], line[FROM_OBSERVATION] = plan.run, plan.input == 0
            # Going backward, the first layer to reach an input overwrites its gradient; the others add to it.
            line[ACCUMULATE] = plan.input in fed
            if plan.kind != CONSTANT:
                fed.add(plan.input)
            row = (np.arange(capacity)[:, None] * plan.inputs + first_row).reshape(-1)
            back_row = np.arange(plan.rows) * plan.filters
            for column, values in ((ROW, row), (TAP, tap), (BACK_ROW, back_row)):
                line[column] = used
                indices.append(values)
                used += values.size
            if plan.kind == LSTM:
                line[RECURRENT] = self.layout.offset(f"{plan.name}/recurrent")
                at = 1 + len(self._plans) + 3 * list(kept).index(i)
                line[STATE], line[GATE], line[CELL] = blocks[at : at + 3]
                line[STATE_ROW] = used
                indices.append(np.arange(capacity) * 2 * plan.filters)
                used += capacity
            if plan.kind == CONV:
                scratch = max(scratch, (plan.filters + plan.rows) * plan.taps)
        activations = int(blocks[-1])
        return Workspace(
            table=table,
            indices=np.concatenate(indices).astype(np.int32),
            theta=aligned_zeros(self.layout.size, np.float32),
            dtheta=aligned_zeros(self.layout.size, np.float32),
            activations=aligned_zeros(activations, np.float32),
            dactivations=aligned_zeros(activations, np.float32),
            scratch=aligned_zeros(scratch, np.float32),
            continues=np.zeros(capacity, np.bool_),
            code=_compiled(),
            words=np.zeros(WORDS, np.int64),
            normal=self.normal(normalised),
        )

    def normal(self, normalised: bool) -> np.ndarray:
        """What observations are normalised by at first, float32 (2, observation), or (2, 0) where they are not."""
        normal = np.zeros((2, math.prod(self.observation_shape) if normalised else 0), np.float32)
        normal[SCALE] = 1
        return normal

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter array by name."""
        return {name: self.layout.shape(name) for name in self.layout.names}

    def head(self, name: str) -> int:
        """The table's row of a head, for `outputs`."""
        return len(self._plans) - len(self.heads) + list(self.heads).index(name)

    def describe(self) -> str:
        """One line a layer: name, output shape, number of parameters."""
        return "\n".join(
            f"{plan.name:10} {'x'.join(map(str, plan.shape)):>12} "
            f"{sum(math.prod(shape) for _, shape in plan.parts()):>10,}"
            for plan in self._plans
        )


class _Plan(NamedTuple):
    """One layer, before it is known how many samples there will be. It takes no memory, whatever a file claims."""

    name: str
    kind: int
    activation: str
    input: int  # block that it reads
    inputs: int  # size of one sample of it
    rows: int  # output rows a sample
    filters: int
    taps: int
    offsets: Callable[[], tuple[np.ndarray, np.ndarray]]  # of one sample's output rows, and of the taps
    run: int  # taps that lie side by side
    shape: tuple[int, ...]  # of one sample's output

    def parts(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of its parameters."""
        taps, filters = self.taps, self.filters
        if self.kind == CONSTANT:
            return [("bias", (filters,))]
        if self.kind == LSTM:
            filters *= GATES
            return [("weights", (taps, filters)), ("recurrent", (self.filters, filters)), ("bias", (filters,))]
        return [("weights", (taps, filters)), ("bias", (filters,))]


def _dense_plan(name: str, units: int, activation: str, inputs: int, block: int) -> _Plan:
    return _Plan(
        name, DENSE, activation, block, inputs, 1, units, inputs, partial(_dense_offsets, inputs), inputs, (units,)
    )


def _dense_offsets(inputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(1, np.int64), np.arange(inputs)


def _image_strides(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Elements from one row, column and channel of an observation to the next; None where it is no image."""
    if len(shape) == 2:
        return shape[1], 1, 1
    if len(shape) == 3:
        if shape[0] < shape[2]:
            return shape[2], 1, shape[1] * shape[2]
        return shape[1] * shape[2], shape[2], 1
    return None


def _conv_plan(
    name: str, place: int, layer: Conv, shape: tuple[int, ...], strides: tuple[int, int, int] | None, block: int
) -> _Plan:
    if strides is None:
        raise ValueError(
            f"layer {place} of the network is a convolution, but what enters it has shape {shape}: "
            "convolutions need an image and come before dense layers"
        )
    deep = strides[2]
    if len(shape) == 2:
        height, width, channels = shape[0], shape[1], 1
    elif deep == 1:
        height, width, channels = shape
    else:
        channels, height, width = shape
    if layer.kernel > min(height, width):
        raise ValueError(
            f"layer {place} of the network is a convolution of {layer.kernel}x{layer.kernel} pixels, but only "
            f"{height}x{width} enter it: its kernel must be at most {min(height, width)}"
        )
    out_height, out_width = ((size - layer.kernel) // layer.stride + 1 for size in (height, width))
    rows, taps, inputs = out_height * out_width, layer.kernel**2 * channels, height * width * channels
    offsets = partial(_conv_offsets, layer, strides, out_height, out_width, channels)
    run = layer.kernel * (channels if deep == 1 else 1)
    shape = (out_height, out_width, layer.filters)
    return _Plan(name, CONV, layer.activation, block, inputs, rows, layer.filters, taps, offsets, run, shape)


def _conv_offsets(
    layer: Conv, strides: tuple[int, int, int], out_height: int, out_width: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    down, right, deep = strides
    y, x = np.arange(out_height)[:, None] * layer.stride, np.arange(out_width) * layer.stride
    row = (y * down + x * right).reshape(-1)
    dy, dx, channel = np.arange(layer.kernel) * down, np.arange(layer.kernel) * right, np.arange(channels) * deep
    if deep == 1:
        tap = (dy[:, None, None] + dx[:, None] + channel).reshape(-1)
    else:
        tap = (channel[:, None, None] + dy[:, None] + dx).reshape(-1)
    return row, tap


def _orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A matrix with orthonormal columns, or rows where there are fewer, from a uniform distribution of such."""
    normal = rng.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T


@jit
def _fill_uniform(array, bound, row):
    for i in range(array.size):
        array[i] = np.float32((2 * uniform(row) - 1) * bound)


@jit
def _slice(array, start, size):
    return array[start : start + size]


@jit
def _write_words(work, first, samples, k):
    words = work.words
    words[TABLE_AT], words[LAYERS] = work.table.ctypes.data, work.table.shape[0]
    words[INDICES_AT], words[INDICES] = work.indices.ctypes.data, work.indices.size
    words[THETA_AT], words[DTHETA_AT], words[PARAMETERS] = (
        work.theta.ctypes.data,
        work.dtheta.ctypes.data,
        work.theta.size,
    )
    words[ACTIVATIONS_AT], words[DACTIVATIONS_AT] = work.activations.ctypes.data, work.dactivations.ctypes.data
    words[ACTIVATIONS] = work.activations.size
    words[SCRATCH_AT], words[SCRATCH] = work.scratch.ctypes.data, work.scratch.size
    words[CONTINUES_AT], words[CAPACITY] = work.continues.ctypes.data, work.continues.size
    words[FIRST], words[SAMPLES], words[GROUP] = first, samples, k


@jit
def _workspace_of(words):
    """The workspace that words describe."""
    return Workspace(
        carray(void_pointer(words[TABLE_AT]), (words[LAYERS], COLUMNS), np.int64),
        carray(void_pointer(words[INDICES_AT]), words[INDICES], np.int32),
        carray(void_pointer(words[THETA_AT]), words[PARAMETERS], np.float32),
        carray(void_pointer(words[DTHETA_AT]), words[PARAMETERS], np.float32),
        carray(void_pointer(words[ACTIVATIONS_AT]), words[ACTIVATIONS], np.float32),
        carray(void_pointer(words[DACTIVATIONS_AT]), words[ACTIVATIONS], np.float32),
        carray(void_pointer(words[SCRATCH_AT]), words[SCRATCH], np.float32),
        carray(void_pointer(words[CONTINUES_AT]), words[CAPACITY], np.bool_),
        words,
        words,
        carray(void_pointer(words[SCRATCH_AT]), (2, 0), np.float32),  # observations were normalised as they came
    )


def _forward_words(pointer):
    words = carray(pointer, WORDS)
    _forward(_workspace_of(words), words[FIRST], words[SAMPLES])


def _backward_words(pointer):
    words = carray(pointer, WORDS)
    _backward(_workspace_of(words), words[SAMPLES], words[GROUP])


@functools.cache
def _compiled() -> np.ndarray:
    """Addresses of the functions FORWARD and BACKWARD, which are compiled or read from disk at the first call."""
    announce(_forward)
    functions = [cfunction("void(CPointer(int64))")(function) for function in (_forward_words, _backward_words)]
    return np.array([function.address for function in functions], np.int64)


@jit
def forward(work, first, samples):
    """Fill the activations of `samples` samples from number `first` on, whose observations and states were entered."""
    _write_words(work, first, samples, 1)
    call_words(work.code[FORWARD], work.words.ctypes.data)


@jit
def backward(work, samples, k):
    """Fill dtheta from the heads' gradients (`output_gradients`) of samples 0 to `samples` - 1, after `forward`.

    Through an LSTM layer the gradient flows from sample s to sample s - k where `work.continues` says so.
    """
    _write_words(work, 0, samples, k)
    call_words(work.code[BACKWARD], work.words.ctypes.data)


@jit
def _forward(work, first, samples):
    for i in range(work.table.shape[0]):
        line = work.table[i]
        inputs, taps, pixels, filters = line[INPUTS], line[TAPS], line[PIXELS], line[FILTERS]
        x = work.activations[line[INPUT] + first * inputs :]
        row, tap = _slice(work.indices, line[ROW], samples * pixels), _slice(work.indices, line[TAP], taps)
        if line[KIND] == LSTM:
            lstm_forward(
                x, row, tap,
                _slice(work.activations, line[STATE] + first * 2 * filters, samples * 2 * filters),
                _slice(work.indices, line[STATE_ROW], samples), work.indices[:filters],
                _slice(work.theta, line[WEIGHTS], taps * GATES * filters),
                _slice(work.theta, line[RECURRENT], filters * GATES * filters),
                _slice(work.theta, line[BIAS], GATES * filters),
                _slice(work.activations, line[GATE] + first * GATES * filters, samples * GATES * filters),
                _slice(work.activations, line[CELL] + first * filters, samples * filters),
                _slice(work.activations, line[OUTPUT] + first * filters, samples * filters),
            )  # fmt: skip
            continue
        if line[KIND] == CONSTANT:
            for sample in range(first, first + samples):
                copy(
                    _slice(work.activations, line[OUTPUT] + sample * filters, filters),
                    _slice(work.theta, line[BIAS], filters),
                )
            continue
        affine_forward(
            x,
            row,
            tap,
            _slice(work.theta, line[WEIGHTS], taps * filters),
            _slice(work.theta, line[BIAS], filters),
            _slice(work.activations, line[OUTPUT] + first * pixels * filters, samples * pixels * filters),
            line[ACTIVATION],
        )


@jit
def _backward(work, samples, k):
    for i in range(work.table.shape[0] - 1, -1, -1):
        line = work.table[i]
        inputs, taps, pixels, filters = line[INPUTS], line[TAPS], line[PIXELS], line[FILTERS]
        x = _slice(work.activations, line[INPUT], samples * inputs)
        row = _slice(work.indices, line[ROW], samples * pixels)
        tap = _slice(work.indices, line[TAP], taps)
        y = _slice(work.activations, line[OUTPUT], samples * pixels * filters)
        dy = _slice(work.dactivations, line[OUTPUT], samples * pixels * filters)
        if line[KIND] == CONSTANT:
            db = _slice(work.dtheta, line[BIAS], filters)
            db[:] = 0
            for sample in range(samples):
                for j in range(filters):
                    db[j] += dy[sample * filters + j]
            continue
        numbers = work.indices[:filters]
        columns = GATES * filters if line[KIND] == LSTM else filters
        w, dw = _slice(work.theta, line[WEIGHTS], taps * columns), _slice(work.dtheta, line[WEIGHTS], taps * columns)
        db = _slice(work.dtheta, line[BIAS], columns)
        if line[KIND] == LSTM:
            dgates = _slice(work.dactivations, line[GATE], samples * columns)
            lstm_backward(
                x, row, tap,
                _slice(work.activations, line[STATE], samples * 2 * filters),
                _slice(work.indices, line[STATE_ROW], samples), numbers,
                _slice(work.theta, line[RECURRENT], filters * columns),
                _slice(work.activations, line[GATE], samples * columns),
                _slice(work.activations, line[CELL], samples * filters),
                dy, dgates,
                _slice(work.dactivations, line[STATE], samples * 2 * filters),
                _slice(work.dtheta, line[RECURRENT], filters * columns), dw, db, k, work.continues,
            )  # fmt: skip
            dy = dgates
        else:
            activation_backward(y, dy, line[ACTIVATION])
            affine_backward_parameters(x, row, tap, dy, dw, db)
        if line[FROM_OBSERVATION]:
            continue
        dx = _slice(work.dactivations, line[INPUT], samples * inputs)
        if line[KIND] != CONV:
            dense_backward_inputs(w, dy, dx, inputs, columns, samples, line[ACCUMULATE])
        else:
            pixel_row = _slice(work.indices, line[BACK_ROW], pixels)
            conv_backward_inputs(
                w, row[:pixels], tap, line[RUN], pixel_row, numbers, dy, dx, samples, work.scratch, line[ACCUMULATE]
            )


@jit
def enter(work, sample, observation):
    """Put one observation, as bytes, into block 0: uint8 images scaled to [0, 1], float32 vectors normalised.

    Returns whether every number is finite.
    """
    x = observations(work, sample, 1)[0]
    if observation.size == x.size:
        for i in range(x.size):
            x[i] = np.float32(observation[i]) * PIXEL_SCALE
        return True
    vector = observation.view(np.float32)
    finite = True
    for i in range(x.size):
        x[i] = vector[i]
        finite = finite and np.isfinite(vector[i])
    for i in range(work.normal.shape[1]):
        z = (x[i] - work.normal[MEAN, i]) * work.normal[SCALE, i]
        x[i] = min(max(z, -FARTHEST), FARTHEST)
    return finite


@jit
def enter_state(work, sample, state):
    """Put a state (state_size,) before one sample."""
    at = 0
    for i in range(work.table.shape[0]):
        line = work.table[i]
        if line[KIND] == LSTM:
            size = 2 * line[FILTERS]
            copy(_slice(work.activations, line[STATE] + sample * size, size), _slice(state, at, size))
            at += size


@jit
def leave_state(work, sample, state):
    """Fill a state (state_size,) with what one sample left, after `forward`."""
    at = 0
    for i in range(work.table.shape[0]):
        line = work.table[i]
        if line[KIND] == LSTM:
            units = line[FILTERS]
            copy(_slice(state, at, units), _slice(work.activations, line[OUTPUT] + sample * units, units))
            copy(_slice(state, at + units, units), _slice(work.activations, line[CELL] + sample * units, units))
            at += 2 * units


@jit
def copy_inputs(target, work, first, samples):
    """Enter what `work` has for some samples, observations and states, into another workspace of the same network."""
    copy(observations(target, first, samples).reshape(-1), observations(work, first, samples).reshape(-1))
    for i in range(work.table.shape[0]):
        line = work.table[i]
        if line[KIND] == LSTM:
            at, size = line[STATE] + first * 2 * line[FILTERS], samples * 2 * line[FILTERS]
            copy(_slice(target.activations, at, size), _slice(work.activations, at, size))


@jit
def observations(work, first, samples):
    """Block 0 of the activations: where the observations of some samples are put, (samples, size)."""
    size = work.table[0, INPUTS]
    return _slice(work.activations, first * size, samples * size).reshape((samples, size))


@jit
def outputs(work, layer, first, samples):
    """The outputs of a layer (a row of the table) for some samples: a view, (samples, units)."""
    size = work.table[layer, PIXELS] * work.table[layer, FILTERS]
    start = work.table[layer, OUTPUT] + first * size
    return _slice(work.activations, start, samples * size).reshape((samples, size))


@jit
def output_gradients(work, layer, first, samples):
    """The gradient with respect to `outputs`, to be filled before `backward`: a view, (samples, units)."""
    size = work.table[layer, PIXELS] * work.table[layer, FILTERS]
    start = work.table[layer, OUTPUT] + first * size
    return _slice(work.dactivations, start, samples * size).reshape((samples, size))
