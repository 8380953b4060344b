"""Gated recurrent units whose agents say a few bits to each other, heard a step later (Foerster et al., 2016, DIAL).

    heard_a = the mean of m_b over the others b that spoke at the step before, where a hears; else 0
    r, z = sigmoid(x w + heard v + h u + b)
    n = tanh(x w + heard v + b + r (h u))
    h' = (1 - z) n + z h
    m' = tanh((h' s + d + sigma noise) / 2) where it learns, else its sign

So a bit is -1 or 1 in use; the noise of learning drives it far from 0, and gradients flow from who hears to who spoke.
(The paper has 0 and 1, by a sigmoid.)

Shapes: x (samples, inputs), heard, m and noise (samples, bits); w (inputs, 3 units), u (units, 3 units), b (3 units),
v (bits, 3 units), s (units, bits), d (bits); gates as in gru.py; the state before and after a step (samples,
units + bits + 1), h, m, and whether it spoke. Gradients of parameters are overwritten.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.gemm import call_gemm, call_gemm_transposed
from nbrl.kernels.native import address_at, span
from nbrl.nets.affine import product, product_backward, tanh
from nbrl.nets.dense import dense_backward_inputs, dense_plan, row_starts
from nbrl.nets.gru import gru_gates, gru_step, gru_step_backward
from nbrl.nets.table import (
    AFTER,
    FILTERS,
    FROM_OBSERVATION,
    KEPT,
    NOISE,
    NOISE_SIZE,
    OUTPUT,
    OWN,
    PARAMETERS,
    STATE,
    STATE_SIZE,
    Plan,
    Workspace,
)

WEIGHTS, RECURRENT, BIAS, HEARD, SPEAK, SPEAK_BIAS = range(PARAMETERS, PARAMETERS + 6)
SIGMA = np.float32(2.0)  # of the noise in learning: the paper's


class Channel(NamedTuple):
    """Gated recurrent units, ``units`` of them, whose agents say ``bits`` bits to each other, heard a step later."""

    units: int
    bits: int

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: object) -> Plan:
        """The layer above an output of some shape."""
        (units, bits), inputs = self, int(np.prod(shape))
        return dense_plan(name, units, "none", inputs)._replace(
            forward=channel_forward,
            backward=channel_backward,
            parameters=(
                ("weights", (inputs, 3 * units)),
                ("recurrent", (units, 3 * units)),
                ("bias", (3 * units,)),
                ("heard", (bits, 3 * units)),
                ("speak", (units, bits)),
                ("speak_bias", (bits,)),
            ),
            own=partial(row_starts, units + bits + 1),
            gain=1.0,
            fan_in=inputs + units,
            state=units + bits + 1,
            kept=(4 * units, 3 * units, bits),
            noise=bits,
            communicates=True,
        )


@jit
def _rows(array, line, column, s, size):
    """A layer's numbers of sample s in what a column of its table row points to."""
    return span(array, line[column] + s * size, size)


@jit
def _speakers(array, line, begin, n):
    """How many of n samples spoke at the step before."""
    size, count = line[STATE_SIZE], 0
    for s in range(begin, begin + n):
        count += array[line[STATE] + (s + 1) * size - 1] > 0
    return count


@jit
def _share(work, line, s, speakers):
    """What each other's part is in the mean that sample s hears, of so many that spoke, perhaps itself."""
    size = line[STATE_SIZE]
    others = speakers - 1 if work.activations[line[STATE] + (s + 1) * size - 1] > 0 else speakers
    return np.float32(1.0) / np.float32(others) if work.hears[s] and others > 0 else np.float32(0.0)


@routine(Workspace)
def channel_forward(work, layer, first, samples, _, __):
    """Fill what is heard, the gates, the state after each sample and y."""
    line, units, bits = work.table[layer], work.table[layer, FILTERS], work.table[layer, NOISE_SIZE]
    width, size, one = 3 * units, line[STATE_SIZE], np.float32(1.0)
    a, b, v = work.activations, span(work.theta, line[BIAS], width), span(work.theta, line[HEARD], bits * width)
    speak, speak_bias = span(work.theta, line[SPEAK], units * bits), span(work.theta, line[SPEAK_BIAS], bits)
    sums = span(a, line[KEPT + 1] + first * width, samples * width)  # h u, then what enters
    call_gemm(
        work.gemm, samples, units, width,
        address_at(a, line[STATE] + first * size), address_at(work.indices, line[OWN]), address_at(work.indices, 0),
        address_at(work.theta, line[RECURRENT]), width, address_at(sums, 0), width, 0,
    )  # fmt: skip
    for s in range(first, first + samples):
        g, hu = _rows(a, line, KEPT, s, 4 * units), _rows(a, line, KEPT + 1, s, width)
        gru_gates(g, hu, b)
    product(work, line, first, samples, line[WEIGHTS], width, address_at(sums, 0))
    for begin in range(first, first + samples, work.agents):
        speakers = _speakers(a, line, begin, work.agents)
        for s in range(begin, begin + work.agents):
            heard, xw = _rows(a, line, KEPT + 2, s, bits), _rows(a, line, KEPT + 1, s, width)
            share = _share(work, line, s, speakers)
            for i in range(bits):
                total = np.float32(0.0)
                for other in range(begin, begin + work.agents):
                    if other != s:  # who did not speak has 0 there
                        total += a[line[STATE] + other * size + units + i]
                heard[i] = share * total
                for j in range(width):
                    xw[j] += heard[i] * v[i * width + j]
    for s in range(first, first + samples):
        gates, xw, y = (
            _rows(a, line, KEPT, s, 4 * units),
            _rows(a, line, KEPT + 1, s, width),
            _rows(a, line, OUTPUT, s, units),
        )
        h, h_new = span(a, line[STATE] + s * size, units), span(a, line[AFTER] + s * size, units)
        gru_step(gates, xw, h, h_new)
        for j in range(units):
            y[j] = h_new[j]
        noise, said = _rows(a, line, NOISE, s, bits), span(a, line[AFTER] + s * size + units, bits + 1)
        for i in range(bits):
            total = speak_bias[i]
            for j in range(units):
                total += h_new[j] * speak[j * bits + i]
            if work.learns:
                said[i] = tanh(np.float32(0.5) * (total + SIGMA * noise[i]))
            else:
                said[i] = one if total > 0 else -one
            if not work.speaks[s]:
                said[i] = 0
        said[bits] = one if work.speaks[s] else np.float32(0.0)


@routine(Workspace)
def channel_backward(work, layer, samples, k, inputs_from, _):
    """Back-propagate through time and from who heard to who spoke: the gradients of parameters and of x.

    Sample s followed on sample s - k where `work.continues` says so; elsewhere the gradient ends.
    """
    line, units, bits = work.table[layer], work.table[layer, FILTERS], work.table[layer, NOISE_SIZE]
    width, size, one, continues = 3 * units, line[STATE_SIZE], np.float32(1.0), work.continues
    a, d, half = work.activations, work.dactivations, np.float32(0.5)
    v, speak = span(work.theta, line[HEARD], bits * width), span(work.theta, line[SPEAK], units * bits)
    dv, dspeak = span(work.dtheta, line[HEARD], bits * width), span(work.dtheta, line[SPEAK], units * bits)
    dspeak_bias = span(work.dtheta, line[SPEAK_BIAS], bits)
    dv[:], dspeak[:], dspeak_bias[:] = 0, 0, 0
    dsums, u = span(d, line[KEPT + 1], samples * width), address_at(work.theta, line[RECURRENT])
    for first in range(samples - k, -1, -k):
        for s in range(first, first + k):
            g, dg, du = (
                _rows(a, line, KEPT, s, 4 * units),
                _rows(d, line, KEPT, s, 4 * units),
                _rows(d, line, KEPT + 1, s, width),
            )
            h, dy = span(a, line[STATE] + s * size, units), _rows(d, line, OUTPUT, s, units)
            if s + k < samples and continues[s + k]:
                dnext = span(d, line[STATE] + (s + k) * size, size)
                said, h_new = span(a, line[AFTER] + s * size + units, bits), span(a, line[AFTER] + s * size, units)
                for j in range(units):
                    dy[j] += dnext[j]
                for i in range(bits):
                    if work.speaks[s]:
                        dm = dnext[units + i] * half * (one - said[i] * said[i])
                        dspeak_bias[i] += dm
                        for j in range(units):
                            dspeak[j * bits + i] += h_new[j] * dm
                            dy[j] += speak[j * bits + i] * dm
            gru_step_backward(g, h, dy, dg, du)
        call_gemm_transposed(
            work.gemm_transposed, units, width, k, u,
            address_at(dsums, first * width), address_at(d, line[STATE] + first * size), size, 0,
        )  # fmt: skip
        for begin in range(first, first + k, work.agents):
            speakers = _speakers(a, line, begin, work.agents)
            for s in range(begin, begin + work.agents):
                dstate, dg = _rows(d, line, STATE, s, size), _rows(d, line, KEPT, s, 4 * units)
                for j in range(units):
                    dstate[j] += dg[3 * units + j]
                for i in range(bits):
                    dstate[units + i] = 0
            for s in range(begin, begin + work.agents):
                share, dg = _share(work, line, s, speakers), _rows(d, line, KEPT, s, 4 * units)
                heard = _rows(a, line, KEPT + 2, s, bits)
                for i in range(bits if share > 0 else 0):
                    total = np.float32(0.0)
                    for j in range(width):
                        dv[i * width + j] += heard[i] * dg[j]
                        total += v[i * width + j] * dg[j]
                    for other in range(begin, begin + work.agents):
                        if other != s:
                            d[line[STATE] + other * size + units + i] += share * total
    call_gemm(
        work.gemm, units, samples, width, address_at(a, line[STATE]), address_at(work.indices, 0),
        address_at(work.indices, line[OWN]), address_at(dsums, 0), width,
        address_at(work.dtheta, line[RECURRENT]), width, 0,
    )  # fmt: skip
    for s in range(samples):
        dg = _rows(d, line, KEPT, s, 4 * units)
        for j in range(width):
            dsums[s * width + j] = dg[j]
    product_backward(work, line, samples, width, dsums, line[WEIGHTS], line[BIAS])
    if not line[FROM_OBSERVATION]:
        dense_backward_inputs(work, line, samples, width, dsums, 0)
