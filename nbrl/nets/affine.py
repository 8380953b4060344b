"""One layer, y = activation(W x + b), forward and backward: a dense layer and a convolution alike.

Both gather their inputs through two tables of offsets (see kernels/gemm.py): output row i of a layer reads
``x[row[i] + tap[k]]``, k < taps. A dense layer has one output row a sample, a convolution one a pixel, so only the
gradient with respect to the inputs differs between the two.

Shapes: x (samples, inputs), y and dy (samples, pixels, filters), w and dw (taps, filters), b and db (filters).
Everything is a float32 slice of a flat array, C order. Gradients of parameters are overwritten.
"""

import math

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import HOST_WIDTH, gemm

NONE, RELU, TANH = 0, 1, 2  # activations


@jit
def affine_forward(x, row, tap, w, b, y, activation):
    """Fill y, (rows, filters) for ``row.size`` rows, from the x that the tables point into."""
    rows, filters = row.size, b.size
    gemm(
        HOST_WIDTH, rows, tap.size, filters,
        x.ctypes.data, row.ctypes.data, tap.ctypes.data, w.ctypes.data, filters, y.ctypes.data, filters, 0,
    )  # fmt: skip
    zero = np.float32(0.0)
    for i in range(rows):
        line = y[i * filters : (i + 1) * filters]
        if activation == RELU:
            for j in range(filters):
                line[j] = max(line[j] + b[j], zero)
        elif activation == TANH:
            for j in range(filters):
                line[j] = math.tanh(line[j] + b[j])
        else:
            for j in range(filters):
                line[j] += b[j]


@jit
def activation_backward(y, dy, activation):
    """Turn dy, the gradient after the activation, into that before it."""
    if activation == RELU:
        for i in range(y.size):
            dy[i] = dy[i] if y[i] > 0 else np.float32(0.0)
    elif activation == TANH:
        for i in range(y.size):
            dy[i] *= np.float32(1.0) - y[i] * y[i]


@jit
def affine_backward_parameters(x, row, tap, dy, dw, db):
    """dw = sum over rows of x dy, db = sum over rows of dy: the forward product with its tables swapped."""
    rows, filters = row.size, db.size
    gemm(
        HOST_WIDTH, tap.size, rows, filters,
        x.ctypes.data, tap.ctypes.data, row.ctypes.data, dy.ctypes.data, filters, dw.ctypes.data, filters, 0,
    )  # fmt: skip
    db[:] = 0
    for i in range(rows):
        line = dy[i * filters : (i + 1) * filters]
        for j in range(filters):
            db[j] += line[j]


@jit
def _transpose(a, rows, columns, out):
    for i in range(rows):
        line = a[i * columns : (i + 1) * columns]
        for j in range(columns):
            out[j * rows + i] = line[j]


@jit
def dense_backward_inputs(w, weight_row, unit, dy, dx, samples, scratch, accumulate):
    """dx (+)= dy w^T, as (w dy^T)^T, so that the large w is read once and in order.

    `weight_row` holds k * units, `unit` holds 0, 1, ..., units - 1; `scratch` (inputs + units) * samples floats.
    """
    inputs, units = weight_row.size, unit.size
    dy_t, dx_t = scratch[: units * samples], scratch[units * samples : (units + inputs) * samples]
    _transpose(dy, samples, units, dy_t)
    gemm(
        HOST_WIDTH, inputs, units, samples,
        w.ctypes.data, weight_row.ctypes.data, unit.ctypes.data,
        dy_t.ctypes.data, samples, dx_t.ctypes.data, samples, 0,
    )  # fmt: skip
    if accumulate:
        for s in range(samples):
            line = dx[s * inputs : (s + 1) * inputs]
            for k in range(inputs):
                line[k] += dx_t[k * samples + s]
    else:
        _transpose(dx_t, inputs, samples, dx)


@jit
def conv_backward_inputs(w, row, tap, run, pixel_row, filter_, dy, dx, samples, scratch, accumulate):
    """dx (+)= for each sample, dy w^T by patches, and each patch added where it was taken from.

    `row` and `tap` are one sample's tables, taps lying in memory in unbroken runs of `run`; `pixel_row` holds
    i * filters, `filter_` 0, 1, ..., filters - 1; `scratch` (filters + pixels) * taps floats.
    """
    pixels, taps, filters = row.size, tap.size, filter_.size
    inputs = dx.size // samples
    w_t, patches = scratch[: filters * taps], scratch[filters * taps : (filters + pixels) * taps]
    _transpose(w, taps, filters, w_t)
    if not accumulate:
        dx[:] = 0
    for s in range(samples):
        dy_s, dx_s = dy[s * pixels * filters : (s + 1) * pixels * filters], dx[s * inputs : (s + 1) * inputs]
        gemm(
            HOST_WIDTH, pixels, filters, taps,
            dy_s.ctypes.data, pixel_row.ctypes.data, filter_.ctypes.data,
            w_t.ctypes.data, taps, patches.ctypes.data, taps, 0,
        )  # fmt: skip
        for i in range(pixels):
            for first in range(0, taps, run):
                source = patches[i * taps + first : i * taps + first + run]
                at = row[i] + tap[first]
                target = dx_s[at : at + run]
                for k in range(run):
                    target[k] += source[k]
