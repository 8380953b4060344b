"""Long short-term memory (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000), both ways.

    i, f, o = sigmoid(x w + h u + b), with 1 added for the forget gate f, so that a new cell remembers
    g = tanh(x w + h u + b)
    c' = f c + i g
    h' = o tanh(c')

Shapes: x (samples, inputs); w (inputs, 4 units), u (units, 4 units), b (4 units), gates in the order i, f, g, o; the
state before and after a step (samples, 2 units), h and c; gates (samples, 4 units) after their activations; y (samples,
units), the new h. Everything is a float32 span of a flat array, C order. Gradients of parameters are overwritten.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.gemm import call_gemm, call_gemm_transposed
from nbrl.kernels.native import address_at, span
from nbrl.nets.affine import product, product_backward, tanh
from nbrl.nets.dense import dense_backward_inputs, dense_plan, row_starts
from nbrl.nets.table import AFTER, FILTERS, FROM_OBSERVATION, KEPT, OUTPUT, OWN, PARAMETERS, STATE, Plan, Workspace

GATES = 4
WEIGHTS, RECURRENT, BIAS = range(PARAMETERS, PARAMETERS + 3)


class Lstm(NamedTuple):
    """Long short-term memory of ``units`` cells, which remembers from step to step of an episode."""

    units: int

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: object) -> Plan:
        """The layer above an output of some shape."""
        units, inputs = self.units, int(np.prod(shape))
        columns = GATES * units
        return dense_plan(name, units, "none", inputs)._replace(
            forward=lstm_forward,
            backward=lstm_backward,
            parameters=(("weights", (inputs, columns)), ("recurrent", (units, columns)), ("bias", (columns,))),
            own=partial(row_starts, 2 * units),
            gain=1.0,
            fan_in=inputs + units,
            state=2 * units,
            kept=(columns,),
        )


@jit
def sigmoid(x):
    """1 / (1 + exp(-x)) of a float32."""
    half = np.float32(0.5)
    return half * tanh(half * x) + half


@routine(Workspace)
def lstm_forward(work, layer, first, samples, _, __):
    """Fill the gates, the state after each sample and y."""
    line, units = work.table[layer], work.table[layer, FILTERS]
    width, one = GATES * units, np.float32(1.0)
    state = span(work.activations, line[STATE] + first * 2 * units, samples * 2 * units)
    after = span(work.activations, line[AFTER] + first * 2 * units, samples * 2 * units)
    gates = span(work.activations, line[KEPT] + first * width, samples * width)
    y, b = span(work.activations, line[OUTPUT] + first * units, samples * units), span(work.theta, line[BIAS], width)
    z_at = address_at(gates, 0)
    product(work, line, first, samples, line[WEIGHTS], width, z_at)
    call_gemm(
        work.gemm, samples, units, width, address_at(state, 0), address_at(work.indices, line[OWN]),
        address_at(work.indices, 0), address_at(work.theta, line[RECURRENT]), width, z_at, width, 1,
    )  # fmt: skip
    for s in range(samples):
        z = span(gates, s * width, width)
        i, f, g, o = (span(z, 0, units), span(z, units, units), span(z, 2 * units, units), span(z, 3 * units, units))
        c, h_new, c_new = (span(state, (2 * s + 1) * units, units), span(after, 2 * s * units, units),
                           span(after, (2 * s + 1) * units, units))  # fmt: skip
        for j in range(units):
            i[j] = sigmoid(i[j] + b[j])
            f[j] = sigmoid(f[j] + b[units + j] + one)
            g[j] = tanh(g[j] + b[2 * units + j])
            o[j] = sigmoid(o[j] + b[3 * units + j])
            c_new[j] = f[j] * c[j] + i[j] * g[j]
            h_new[j] = o[j] * tanh(c_new[j])
        for j in range(units):
            y[s * units + j] = h_new[j]


@routine(Workspace)
def lstm_backward(work, layer, samples, k, inputs_from, _):
    """Back-propagate through time: the gradients of the gates before their activations, of parameters and of x.

    Sample s followed on sample s - k where `work.continues` says so; elsewhere the gradient ends.
    """
    line, units = work.table[layer], work.table[layer, FILTERS]
    width, one, continues = GATES * units, np.float32(1.0), work.continues
    state = span(work.activations, line[STATE], samples * 2 * units)
    dstate = span(work.dactivations, line[STATE], samples * 2 * units)
    after = span(work.activations, line[AFTER], samples * 2 * units)
    gates, dgates = (
        span(work.activations, line[KEPT], samples * width),
        span(work.dactivations, line[KEPT], samples * width),
    )
    dy, u = span(work.dactivations, line[OUTPUT], samples * units), address_at(work.theta, line[RECURRENT])
    for first in range(samples - k, -1, -k):
        for s in range(first, first + k):
            z, dz = span(gates, s * width, width), span(dgates, s * width, width)
            i, f, g, o = span(z, 0, units), span(z, units, units), span(z, 2 * units, units), span(z, 3 * units, units)
            di, df, dg, do = (
                span(dz, 0, units), span(dz, units, units), span(dz, 2 * units, units), span(dz, 3 * units, units)
            )  # fmt: skip
            c, c_new = span(state, (2 * s + 1) * units, units), span(after, (2 * s + 1) * units, units)
            dh, dc_old = span(dy, s * units, units), span(dstate, (2 * s + 1) * units, units)
            goes_on = s + k < samples and continues[s + k]
            dh_next, dc_next = span(dstate, 2 * (s + k) * units, units), span(dstate, (2 * (s + k) + 1) * units, units)
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
        call_gemm_transposed(
            work.gemm_transposed, units, width, k, u,
            address_at(dgates, first * width), address_at(dstate, 2 * first * units), 2 * units, 0,
        )  # fmt: skip
    product_backward(work, line, samples, width, dgates, line[WEIGHTS], line[BIAS])
    call_gemm(
        work.gemm, units, samples, width, address_at(state, 0), address_at(work.indices, 0),
        address_at(work.indices, line[OWN]), address_at(dgates, 0), width,
        address_at(work.dtheta, line[RECURRENT]), width, 0,
    )  # fmt: skip
    if not line[FROM_OBSERVATION]:
        dense_backward_inputs(work, line, samples, width, dgates, 0)
