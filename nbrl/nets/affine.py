"""One layer, y = activation(W x + b), forward and backward: a dense layer and a convolution alike.

Both gather their inputs through two tables of offsets (see kernels/gemm.py): output row i of a layer reads
``x[row[i] + tap[k]]``, k < taps. A dense layer has one output row a sample, a convolution one a pixel, so only the
gradient with respect to the inputs differs between the two.

Shapes: x (samples, inputs), y and dy (samples, pixels, filters), w and dw (taps, filters), b and db (filters).
Everything is a float32 slice of a flat array, C order. Gradients of parameters are overwritten.
"""

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import HOST_WIDTH, gemm, gemm_transposed

NONE, RELU, TANH = 0, 1, 2  # activations


@jit
def tanh(x):
    """tanh of a float32 within 4e-7: a quotient of polynomials, fitted here, that loops can take 16 at a time.

    Beyond 8.5 it is 1 to the last bit but one.
    """
    limit, one = np.float32(8.5), np.float32(1.0)
    x = min(max(x, -limit), limit)
    z = x * x
    p = np.float32(2.072514499520794e-11)
    p = p * z + np.float32(-1.3719448972643247e-08)
    p = p * z + np.float32(9.573928192346474e-06)
    p = p * z + np.float32(2.95389957930892e-03)
    p = p * z + np.float32(1.2949912141825093e-01)
    p = p * z + one
    q = np.float32(2.3270617424648706e-04)
    q = q * z + np.float32(2.3898390820100868e-02)
    q = q * z + np.float32(4.628321555853679e-01)
    q = q * z + one
    return min(max(x * p / q, -one), one)


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
                line[j] = tanh(line[j] + b[j])
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
def dense_backward_inputs(w, dy, dx, number, first, inputs, units, samples, accumulate):
    """dx (+)= dy w^T, of each sample's inputs from number `first` on; `number` holds 0, 1, ..., samples - 1.

    The large w is read once and in order. Of a single unit it is its own transpose.
    """
    if units == 1:
        gemm(
            HOST_WIDTH, samples, 1, inputs - first,
            dy.ctypes.data, number.ctypes.data, number.ctypes.data,
            w[first:].ctypes.data, inputs, dx[first:].ctypes.data, inputs, accumulate,
        )  # fmt: skip
        return
    gemm_transposed(
        HOST_WIDTH, inputs - first, units, samples,
        w[first * units :].ctypes.data, dy.ctypes.data, dx[first:].ctypes.data, inputs, accumulate,
    )  # fmt: skip


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
