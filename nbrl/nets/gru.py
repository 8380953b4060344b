"""Gated recurrent units (Cho et al., 2014; here the candidate's reset is applied after its product, as in cuDNN).

    r, z = sigmoid(x w + h u + b)
    n = tanh(x w + b + r (h u))
    h' = (1 - z) n + z h

Shapes: x (samples, inputs); w (inputs, 3 units), u (units, 3 units), b (3 units), in the order r, z, n; the state
before and after a step (samples, units), h; gates (samples, 4 units), r, z and n after their activations, then n's h u;
y (samples, units), the new h. Everything is a float32 span of a flat array, C order. Gradients of parameters are
overwritten.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.gemm import call_gemm, call_gemm_transposed
from nbrl.kernels.native import address_at, span
from nbrl.nets.affine import product, product_backward, tanh
from nbrl.nets.dense import dense_backward_inputs, dense_plan, row_starts
from nbrl.nets.lstm import sigmoid
from nbrl.nets.table import AFTER, FILTERS, FROM_OBSERVATION, KEPT, OUTPUT, OWN, PARAMETERS, STATE, Plan, Workspace

WEIGHTS, RECURRENT, BIAS = range(PARAMETERS, PARAMETERS + 3)


class Gru(NamedTuple):
    """Gated recurrent units, ``units`` of them, which remember from step to step of an episode."""

    units: int

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: object) -> Plan:
        """The layer above an output of some shape."""
        units, inputs = self.units, int(np.prod(shape))
        return dense_plan(name, units, "none", inputs)._replace(
            forward=gru_forward,
            backward=gru_backward,
            parameters=(("weights", (inputs, 3 * units)), ("recurrent", (units, 3 * units)), ("bias", (3 * units,))),
            own=partial(row_starts, units),
            gain=1.0,
            fan_in=inputs + units,
            state=units,
            kept=(4 * units, 3 * units),
        )


@routine(Workspace)
def gru_forward(work, layer, first, samples, _, __):
    """Fill the gates, the state after each sample and y."""
    line, units = work.table[layer], work.table[layer, FILTERS]
    width = 3 * units
    state = span(work.activations, line[STATE] + first * units, samples * units)
    after = span(work.activations, line[AFTER] + first * units, samples * units)
    gates = span(work.activations, line[KEPT] + first * 4 * units, samples * 4 * units)
    sums = span(work.activations, line[KEPT + 1] + first * width, samples * width)  # h u, then x w
    y, b = span(work.activations, line[OUTPUT] + first * units, samples * units), span(work.theta, line[BIAS], width)
    call_gemm(
        work.gemm, samples, units, width, address_at(state, 0), address_at(work.indices, line[OWN]),
        address_at(work.indices, 0), address_at(work.theta, line[RECURRENT]), width, address_at(sums, 0), width, 0,
    )  # fmt: skip
    for s in range(samples):
        g, hu = span(gates, s * 4 * units, 4 * units), span(sums, s * width, width)
        gru_gates(g, hu, b)
    product(work, line, first, samples, line[WEIGHTS], width, address_at(sums, 0))
    for s in range(samples):
        h_new = span(after, s * units, units)
        gru_step(
            span(gates, s * 4 * units, 4 * units), span(sums, s * width, width), span(state, s * units, units), h_new
        )  # fmt: skip
        for j in range(units):
            y[s * units + j] = h_new[j]


@jit
def gru_gates(gates, hu, b):
    """Begin the gates of a sample with what does not depend on x: h u, of n apart, and the biases."""
    units = hu.size // 3
    for j in range(2 * units):
        gates[j] = hu[j] + b[j]
    for j in range(units):
        gates[2 * units + j] = b[2 * units + j]
        gates[3 * units + j] = hu[2 * units + j]


@jit
def gru_step(gates, xw, h, h_new):
    """Complete the gates, and fill the new h, from x w and the old h."""
    units, one = h.size, np.float32(1.0)
    r, z, n, m = (
        span(gates, 0, units), span(gates, units, units), span(gates, 2 * units, units), span(gates, 3 * units, units)
    )  # fmt: skip
    for j in range(units):
        r[j] = sigmoid(r[j] + xw[j])
        z[j] = sigmoid(z[j] + xw[units + j])
        n[j] = tanh(n[j] + xw[2 * units + j] + r[j] * m[j])
        h_new[j] = (one - z[j]) * n[j] + z[j] * h[j]


@jit
def gru_step_backward(g, h, dh, dg, du):
    """Fill the gradients by x w and then by h itself, in dg, and by h u, in du, from that of the new h."""
    units, one = h.size, np.float32(1.0)
    for j in range(units):
        r, z, n, m = g[j], g[units + j], g[2 * units + j], g[3 * units + j]
        dn = dh[j] * (one - z) * (one - n * n)
        dg[j] = du[j] = dn * m * r * (one - r)
        dg[units + j] = du[units + j] = dh[j] * (h[j] - n) * z * (one - z)
        dg[2 * units + j] = dn
        du[2 * units + j] = dn * r
        dg[3 * units + j] = dh[j] * z


@routine(Workspace)
def gru_backward(work, layer, samples, k, inputs_from, _):
    """Back-propagate through time: the gradients of the gates before their activations, of parameters and of x.

    Sample s followed on sample s - k where `work.continues` says so; elsewhere the gradient ends. The gradient
    of the candidate's sum has r as a factor with respect to h u, and none with respect to x w.
    """
    line, units = work.table[layer], work.table[layer, FILTERS]
    width, continues = 3 * units, work.continues
    state = span(work.activations, line[STATE], samples * units)
    dstate = span(work.dactivations, line[STATE], samples * units)
    gates = span(work.activations, line[KEPT], samples * 4 * units)
    dgates = span(work.dactivations, line[KEPT], samples * 4 * units)
    dsums = span(work.dactivations, line[KEPT + 1], samples * width)  # with respect to h u, then to x w
    dy, u = span(work.dactivations, line[OUTPUT], samples * units), address_at(work.theta, line[RECURRENT])
    for first in range(samples - k, -1, -k):
        for s in range(first, first + k):
            g, dg = span(gates, 4 * s * units, 4 * units), span(dgates, 4 * s * units, 4 * units)
            h, du = span(state, s * units, units), span(dsums, s * width, width)
            dh = span(dy, s * units, units)
            if s + k < samples and continues[s + k]:
                for j in range(units):
                    dh[j] += dstate[(s + k) * units + j]
            gru_step_backward(g, h, dh, dg, du)
        call_gemm_transposed(
            work.gemm_transposed, units, width, k, u,
            address_at(dsums, first * width), address_at(dstate, first * units), units, 0,
        )  # fmt: skip
        for s in range(first, first + k):
            for j in range(units):
                dstate[s * units + j] += dgates[(4 * s + 3) * units + j]
    call_gemm(
        work.gemm, units, samples, width, address_at(state, 0), address_at(work.indices, 0),
        address_at(work.indices, line[OWN]), address_at(dsums, 0), width,
        address_at(work.dtheta, line[RECURRENT]), width, 0,
    )  # fmt: skip
    for s in range(samples):
        for j in range(width):
            dsums[s * width + j] = dgates[4 * s * units + j]
    product_backward(work, line, samples, width, dsums, line[WEIGHTS], line[BIAS])
    if not line[FROM_OBSERVATION]:
        dense_backward_inputs(work, line, samples, width, dsums, 0)
