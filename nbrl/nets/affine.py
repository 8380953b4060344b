"""The products of layers, y = x w + b, forward and backward, and their activations: of dense layers and convolutions.

Both gather their inputs through two tables of offsets (see kernels/gemm.py): output row i of a layer reads
``x[row[i] + tap[k]]``, k < taps. A dense layer has one output row a sample, a convolution one a pixel, so only the
gradient with respect to the inputs differs between the two.

Shapes: x (samples, inputs), y and dy (rows, filters), w and dw (taps, filters), b and db (filters). Everything is a
float32 span of a flat array, C order; `line` is a row of the table. Gradients of parameters are overwritten.
"""

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import call_gemm
from nbrl.kernels.native import address_at, span
from nbrl.nets.table import ACTIVATION, FILTERS, INPUT, INPUTS, OUTPUT, PARAMETERS, PIXELS, ROW, TAP, TAPS

NONE, RELU, TANH = 0, 1, 2
ACTIVATIONS = {"none": NONE, "relu": RELU, "tanh": TANH}
WEIGHTS, BIAS = PARAMETERS, PARAMETERS + 1


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
def product(work, line, first, samples, weights, columns, y):
    """y = x w, (rows, columns), of a layer's inputs and the weights at an offset of theta."""
    x = address_at(work.activations, line[INPUT] + first * line[INPUTS])
    row, tap = address_at(work.indices, line[ROW]), address_at(work.indices, line[TAP])
    w = address_at(work.theta, weights)
    call_gemm(work.gemm, samples * line[PIXELS], line[TAPS], columns, x, row, tap, w, columns, y, columns, 0)


@jit
def product_backward(work, line, samples, columns, dy, weights, bias):
    """dw = sum over rows of x dy, the product with its tables swapped, and db = sum over rows of dy."""
    rows = samples * line[PIXELS]
    x, dw = address_at(work.activations, line[INPUT]), address_at(work.dtheta, weights)
    row, tap = address_at(work.indices, line[ROW]), address_at(work.indices, line[TAP])
    call_gemm(work.gemm, line[TAPS], rows, columns, x, tap, row, address_at(dy, 0), columns, dw, columns, 0)
    sum_rows(dy, rows, span(work.dtheta, bias, columns))


@jit
def sum_rows(dy, rows, db):
    """db = the sum of `rows` rows of dy."""
    for j in range(db.size):
        db[j] = 0
    for i in range(rows):
        line = span(dy, i * db.size, db.size)
        for j in range(db.size):
            db[j] += line[j]


@jit
def transpose(a, rows, columns, out):
    """out (columns, rows) = a (rows, columns)."""
    for i in range(rows):
        line = span(a, i * columns, columns)
        for j in range(columns):
            out[j * rows + i] = line[j]


@jit
def affine_forward(work, line, first, samples):
    """y = activation(x w + b) of `samples` samples from number `first` on."""
    rows, filters = samples * line[PIXELS], line[FILTERS]
    y = span(work.activations, line[OUTPUT] + first * line[PIXELS] * filters, rows * filters)
    product(work, line, first, samples, line[WEIGHTS], filters, address_at(y, 0))
    activate(y, rows, span(work.theta, line[BIAS], filters), line[ACTIVATION])


@jit
def activate(y, rows, b, activation):
    """y = activation(y + b) of each row of y."""
    filters, zero = b.size, np.float32(0.0)
    for i in range(rows):
        y_i = span(y, i * filters, filters)
        if activation == RELU:
            for j in range(filters):
                y_i[j] = max(y_i[j] + b[j], zero)
        elif activation == TANH:
            for j in range(filters):
                y_i[j] = tanh(y_i[j] + b[j])
        else:
            for j in range(filters):
                y_i[j] += b[j]


@jit
def affine_backward(work, line, samples, learns):
    """Turn dy into the gradient before the activation, and fill dw and db where it `learns`: dy."""
    filters, size = line[FILTERS], samples * line[PIXELS] * line[FILTERS]
    y, dy = span(work.activations, line[OUTPUT], size), span(work.dactivations, line[OUTPUT], size)
    activation_backward(y, dy, line[ACTIVATION])
    if learns:
        product_backward(work, line, samples, filters, dy, line[WEIGHTS], line[BIAS])
    return dy


@jit
def activation_backward(y, dy, activation):
    """Turn dy, the gradient after the activation, into that before it."""
    if activation == RELU:
        for i in range(y.size):
            dy[i] = dy[i] if y[i] > 0 else np.float32(0.0)
    elif activation == TANH:
        for i in range(y.size):
            dy[i] *= np.float32(1.0) - y[i] * y[i]
