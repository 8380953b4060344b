"""Long short-term memory (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000), both ways.

    i, f, o = sigmoid(x w + h u + b), with 1 added for the forget gate f, so that a new cell remembers
    g = tanh(x w + h u + b)
    c' = f c + i g
    h' = o tanh(c')

Shapes: x (samples, inputs); w (inputs, 4 units), u (units, 4 units), b (4 units), gates in the order i, f, g, o; state
(samples, 2 units), h and c of the step before; gates (samples, 4 units) after their activations; cell (samples, units),
the new c; y (samples, units), the new h. Everything is a float32 slice of a flat array, C order. Gradients of
parameters are overwritten.
"""

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import HOST_WIDTH, gemm, gemm_transposed
from nbrl.nets.affine import affine_backward_parameters, tanh

GATES = 4


@jit
def _sigmoid(x):
    half = np.float32(0.5)
    return half * tanh(half * x) + half


@jit
def lstm_forward(x, row, tap, state, state_row, unit, w, u, b, gates, cell, y):
    """Fill gates, cell and y. `state_row` holds s * 2 units, `unit` 0, 1, ..., units - 1."""
    samples, units = row.size, unit.size
    width = GATES * units
    gemm(
        HOST_WIDTH, samples, tap.size, width,
        x.ctypes.data, row.ctypes.data, tap.ctypes.data, w.ctypes.data, width, gates.ctypes.data, width, 0,
    )  # fmt: skip
    gemm(
        HOST_WIDTH, samples, units, width,
        state.ctypes.data, state_row.ctypes.data, unit.ctypes.data, u.ctypes.data, width, gates.ctypes.data, width, 1,
    )  # fmt: skip
    one = np.float32(1.0)
    for s in range(samples):
        z = gates[s * width : (s + 1) * width]
        i, f, g, o = z[:units], z[units : 2 * units], z[2 * units : 3 * units], z[3 * units :]
        c, c_new, h_new = state[(2 * s + 1) * units :], cell[s * units :], y[s * units :]
        for j in range(units):
            i[j] = _sigmoid(i[j] + b[j])
            f[j] = _sigmoid(f[j] + b[units + j] + one)
            g[j] = tanh(g[j] + b[2 * units + j])
            o[j] = _sigmoid(o[j] + b[3 * units + j])
            c_new[j] = f[j] * c[j] + i[j] * g[j]
            h_new[j] = o[j] * tanh(c_new[j])


@jit
def lstm_backward(x, row, tap, state, state_row, unit, u, gates, cell, dy, dgates, dstate, du, dw, db, k, continues):
    """Back-propagate through time: fill dgates (before their activations) and the gradients of the parameters.

    Sample s followed on sample s - k where continues[s]; elsewhere the gradient ends. `dstate` is scratch like `state`.
    """
    samples, units = row.size, unit.size
    width, one = GATES * units, np.float32(1.0)
    for first in range(samples - k, -1, -k):
        for s in range(first, first + k):
            z, dz = gates[s * width : (s + 1) * width], dgates[s * width : (s + 1) * width]
            i, f, g, o = z[:units], z[units : 2 * units], z[2 * units : 3 * units], z[3 * units :]
            di, df, dg, do = dz[:units], dz[units : 2 * units], dz[2 * units : 3 * units], dz[3 * units :]
            c, c_new, dh = state[(2 * s + 1) * units :], cell[s * units :], dy[s * units :]
            dc_old = dstate[(2 * s + 1) * units :]
            goes_on = s + k < samples and continues[s + k]
            dh_next, dc_next = dstate[2 * (s + k) * units :], dstate[(2 * (s + k) + 1) * units :]
            for j in range(units):
                dh_j, dc_j = dh[j], np.float32(0.0)
                if goes_on:
                    dh_j += dh_next[j]
                    dc_j = dc_next[j]
                tanh_c = tanh(c_new[j])
                dc_j += dh_j * o[j] * (one - tanh_c * tanh_c)
                di[j] = dc_j * g[j] * i[j] * (one - i[j])
                df[j] = dc_j * c[j] * f[j] * (one - f[j])
                dg[j] = dc_j * i[j] * (one - g[j] * g[j])
                do[j] = dh_j * tanh_c * o[j] * (one - o[j])
                dc_old[j] = dc_j * f[j]
        gemm_transposed(
            HOST_WIDTH, units, width, k,
            u.ctypes.data, dgates[first * width :].ctypes.data, dstate[2 * first * units :].ctypes.data, 2 * units, 0,
        )  # fmt: skip
    affine_backward_parameters(x, row, tap, dgates, dw, db)
    gemm(
        HOST_WIDTH, units, samples, width,
        state.ctypes.data, unit.ctypes.data, state_row.ctypes.data, dgates.ctypes.data, width,
        du.ctypes.data, width, 0,
    )  # fmt: skip
