"""What a worker owns of a network, and how samples pass through it: forward, backward, and what enters and leaves.

Activations of all samples of a rollout stay in one flat array until the backward pass has used them: block 0 holds the
observations (an actor-critic's with an action after each, see network.py), block i + 1 the outputs of layer i, each
(capacity, size); then come what LSTM layers keep. The state of a network is one row of `state_size` float32, h and c of
each LSTM layer; each sample has that of the step before it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from nbrl import numpy_policy
from nbrl.kernels.compile import announce, cfunction, computed_once, jit
from nbrl.kernels.native import call_words, copy, pointer_to
from nbrl.nets.affine import (
    activation_backward,
    affine_backward_parameters,
    affine_forward,
    conv_backward_inputs,
    dense_backward_inputs,
)
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


# `forward` and `backward` are compiled once, as C functions that are called by address: code that is linked into a loop
# is optimised anew in that loop, and there are many. What they need is put down in words, in this order.
(
    TABLE_AT, LAYERS, INDICES_AT, INDICES, THETA_AT, DTHETA_AT, PARAMETERS, ACTIVATIONS_AT, DACTIVATIONS_AT,
    ACTIVATIONS, SCRATCH_AT, SCRATCH, CONTINUES_AT, CAPACITY, FIRST, SAMPLES, GROUP, INPUTS_FROM, WORDS,
) = range(19)  # fmt: skip
FORWARD, BACKWARD = 0, 1
NO_INPUTS = -1  # of INPUTS_FROM: a backward pass for the gradients of parameters, not of what the network was given
_pointer = pointer_to(None)


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
    code: np.ndarray  # int64 (2,): addresses of the functions FORWARD and BACKWARD, the latter 0 where it only acts
    words: np.ndarray  # int64 (WORDS,): what they are called with
    normal: np.ndarray  # float32 (2, observation, 1 or 0): MEAN and SCALE, one over the standard deviation


@jit
def _slice(array, start, size):
    return array[start : start + size]


@jit
def _write_words(work, layer, end, first, samples, k, inputs_from):
    words = work.words
    words[TABLE_AT], words[LAYERS] = work.table[layer:].ctypes.data, end - layer
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
    words[FIRST], words[SAMPLES], words[GROUP], words[INPUTS_FROM] = first, samples, k, inputs_from


@jit
def _workspace_of(words):
    """The workspace that words describe."""
    return Workspace(
        carray(_pointer(words[TABLE_AT]), (words[LAYERS], COLUMNS), np.int64),
        carray(_pointer(words[INDICES_AT]), words[INDICES], np.int32),
        carray(_pointer(words[THETA_AT]), words[PARAMETERS], np.float32),
        carray(_pointer(words[DTHETA_AT]), words[PARAMETERS], np.float32),
        carray(_pointer(words[ACTIVATIONS_AT]), words[ACTIVATIONS], np.float32),
        carray(_pointer(words[DACTIVATIONS_AT]), words[ACTIVATIONS], np.float32),
        carray(_pointer(words[SCRATCH_AT]), words[SCRATCH], np.float32),
        carray(_pointer(words[CONTINUES_AT]), words[CAPACITY], np.bool_),
        words,
        words,
        carray(_pointer(words[SCRATCH_AT]), (2, 0), np.float32),  # observations were normalised as they came
    )


def _forward_words(pointer):
    words = carray(pointer, WORDS)
    _forward(_workspace_of(words), words[FIRST], words[SAMPLES])


def _backward_words(pointer):
    words = carray(pointer, WORDS)
    _backward(_workspace_of(words), words[SAMPLES], words[GROUP], words[INPUTS_FROM])


@computed_once
def _compiled(function: Callable[..., None]) -> Any:
    announce(_forward)
    return cfunction("void(CPointer(int64))")(function)


def compiled_passes(*, learns: bool) -> np.ndarray:
    """Addresses of the functions FORWARD and, unless it only acts, BACKWARD: compiled or read from disk when new."""
    functions = (_forward_words, _backward_words) if learns else (_forward_words,)
    code = np.zeros(2, np.int64)
    code[: len(functions)] = [_compiled(function).address for function in functions]
    return code


@jit
def forward(work, first, samples):
    """Fill the activations of `samples` samples from number `first` on, whose observations and states were entered."""
    forward_part(work, 0, work.table.shape[0], first, samples)


@jit
def forward_part(work, layer, end, first, samples):
    """As `forward`, for the layers of the table's rows from `layer` to `end` - 1 alone."""
    _write_words(work, layer, end, first, samples, 1, NO_INPUTS)
    call_words(work.code[FORWARD], work.words.ctypes.data)


@jit
def backward(work, samples, k):
    """Fill dtheta from the heads' gradients (`output_gradients`) of samples 0 to `samples` - 1, after `forward`.

    Through an LSTM layer the gradient flows from sample s to sample s - k where `work.continues` says so.
    """
    _write_words(work, 0, work.table.shape[0], 0, samples, k, NO_INPUTS)
    call_words(work.code[BACKWARD], work.words.ctypes.data)


@jit
def backward_part(work, layer, end, samples, inputs_from):
    """As `backward`, for the layers of the table's rows from `layer` to `end` - 1 alone, without LSTM layers.

    Where `inputs_from` is not NO_INPUTS, it fills no parameter's gradient, but that of block 0 (`input_gradients`) from
    this number of each sample on.
    """
    _write_words(work, layer, end, 0, samples, 1, inputs_from)
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
def _backward(work, samples, k, inputs_from):
    learns = inputs_from == NO_INPUTS
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
            if learns:
                affine_backward_parameters(x, row, tap, dy, dw, db)
        if line[FROM_OBSERVATION] and learns:
            continue
        dx = _slice(work.dactivations, line[INPUT], samples * inputs)
        if line[KIND] != CONV:
            wanted_from = inputs_from if line[FROM_OBSERVATION] else 0
            number = work.indices[:samples]
            dense_backward_inputs(w, dy, dx, number, wanted_from, inputs, columns, samples, line[ACCUMULATE])
        else:
            pixel_row = _slice(work.indices, line[BACK_ROW], pixels)
            conv_backward_inputs(
                w, row[:pixels], tap, line[RUN], pixel_row, numbers, dy, dx, samples, work.scratch, line[ACCUMULATE]
            )


@jit
def enter(work, sample, observation):
    """Put one observation, as bytes, into block 0: uint8 images scaled to [0, 1], both normalised.

    Returns whether every number is finite.
    """
    if observation.size != observation_size(work):
        return enter_vector(work, sample, observation.view(np.float32))
    x = observations(work, sample, 1)[0]
    for i in range(observation.size):
        x[i] = np.float32(observation[i]) * PIXEL_SCALE
    if work.normal.shape[1]:
        mean, scale = work.normal[MEAN, 0], work.normal[SCALE, 0]
        for i in range(observation.size):
            x[i] = min(max((x[i] - mean) * scale, -FARTHEST), FARTHEST)
    return True


@jit
def enter_vector(work, sample, vector):
    """Put one float32 vector into block 0, normalised; whether every number is finite."""
    x = observations(work, sample, 1)[0]
    finite = True
    for i in range(vector.size):
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
def observation_size(work):
    """Numbers in an observation. Where a dense first layer reads less than block 0 has, an action follows it."""
    line = work.table[0]
    return line[INPUTS] if line[KIND] == CONV else line[TAPS]


@jit
def observations(work, first, samples):
    """Block 0 of the activations: where the observations of some samples are put, (samples, size)."""
    size = work.table[0, INPUTS]
    return _slice(work.activations, first * size, samples * size).reshape((samples, size))


@jit
def actions(work, first, samples):
    """Where an action follows each observation in block 0: a view, (samples, parts)."""
    return observations(work, first, samples)[:, observation_size(work) :]


@jit
def input_gradients(work, first, samples):
    """The gradient with respect to `observations`, after `backward_part`: a view, (samples, size)."""
    size = work.table[0, INPUTS]
    return _slice(work.dactivations, first * size, samples * size).reshape((samples, size))


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
