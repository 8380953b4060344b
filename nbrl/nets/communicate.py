"""What agents of one environment say to each other within a step (Sukhbaatar et al., 2016, CommNet), both ways.

    c_a = the mean of x_b over the others b that speak, where a hears; else 0
    y = activation(x w + c u + b)

Several such layers, one above the other, are several rounds of talk.

Shapes: x and c (samples, inputs); w and u (inputs, units), b (units); y (samples, units). The agents of one step of one
environment are `work.agents` samples, one behind the other. Everything is a float32 span of a flat array, C order.
Gradients of parameters are overwritten.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.gemm import call_gemm, call_gemm_transposed
from nbrl.kernels.native import address_at, span
from nbrl.nets.affine import activate, activation_backward, product, product_backward
from nbrl.nets.dense import dense_backward_inputs, dense_plan, row_starts
from nbrl.nets.table import (
    ACTIVATION,
    FILTERS,
    FROM_OBSERVATION,
    INPUT,
    INPUTS,
    KEPT,
    OUTPUT,
    OWN,
    PARAMETERS,
    Plan,
    Workspace,
)

WEIGHTS, BIAS, MESSAGES = range(PARAMETERS, PARAMETERS + 3)


class Communicate(NamedTuple):
    """A fully connected layer of ``units`` outputs that also reads the mean of what the other agents have."""

    units: int
    activation: str = "relu"

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: object) -> Plan:
        """The layer above an output of some shape."""
        units, inputs = self.units, int(np.prod(shape))
        return dense_plan(name, units, self.activation, inputs)._replace(
            forward=communicate_forward,
            backward=communicate_backward,
            parameters=(("weights", (inputs, units)), ("bias", (units,)), ("messages", (inputs, units))),
            own=partial(row_starts, inputs),
            kept=(inputs,),
            scratch=inputs,
            communicates=True,
        )


@routine(Workspace)
def communicate_forward(work, i, first, samples, _, __):
    """Fill c and y."""
    line, units, inputs = work.table[i], work.table[i, FILTERS], work.table[i, INPUTS]
    x = span(work.activations, line[INPUT] + first * inputs, samples * inputs)
    c = span(work.activations, line[KEPT] + first * inputs, samples * inputs)
    y = span(work.activations, line[OUTPUT] + first * units, samples * units)
    total = span(work.scratch, 0, inputs)
    for begin in range(0, samples, work.agents):
        speakers = 0
        total[:] = 0
        for s in range(begin, begin + work.agents):
            if work.speaks[first + s]:
                speakers += 1
                for j in range(inputs):
                    total[j] += x[s * inputs + j]
        for s in range(begin, begin + work.agents):
            own, c_s, x_s = work.speaks[first + s], span(c, s * inputs, inputs), span(x, s * inputs, inputs)
            share = share_of(work, first + s, speakers)
            for j in range(inputs):
                c_s[j] = share * (total[j] - x_s[j] if own else total[j])
    product(work, line, first, samples, line[WEIGHTS], units, address_at(y, 0))
    call_gemm(
        work.gemm, samples, inputs, units, address_at(c, 0), address_at(work.indices, line[OWN]),
        address_at(work.indices, 0), address_at(work.theta, line[MESSAGES]), units, address_at(y, 0), units, 1,
    )  # fmt: skip
    activate(y, samples, span(work.theta, line[BIAS], units), line[ACTIVATION])


@jit
def share_of(work, sample, speakers):
    """What each other's part is in the mean that a sample hears, of so many that speak, perhaps itself."""
    others = speakers - 1 if work.speaks[sample] else speakers
    return np.float32(1.0) / np.float32(others) if work.hears[sample] and others > 0 else np.float32(0.0)


@routine(Workspace)
def communicate_backward(work, i, samples, k, inputs_from, _):
    """dw, du, db, and dx = dz w^T and of what it said to others."""
    line, units, inputs = work.table[i], work.table[i, FILTERS], work.table[i, INPUTS]
    c, dc = span(work.activations, line[KEPT], samples * inputs), span(work.dactivations, line[KEPT], samples * inputs)
    y, dy = (
        span(work.activations, line[OUTPUT], samples * units),
        span(work.dactivations, line[OUTPUT], samples * units),
    )
    activation_backward(y, dy, line[ACTIVATION])
    product_backward(work, line, samples, units, dy, line[WEIGHTS], line[BIAS])
    call_gemm(
        work.gemm, inputs, samples, units, address_at(c, 0), address_at(work.indices, 0),
        address_at(work.indices, line[OWN]), address_at(dy, 0), units,
        address_at(work.dtheta, line[MESSAGES]), units, 0,
    )  # fmt: skip
    if line[FROM_OBSERVATION]:
        return
    dense_backward_inputs(work, line, samples, units, dy, 0)
    call_gemm_transposed(
        work.gemm_transposed, inputs, units, samples, address_at(work.theta, line[MESSAGES]), address_at(dy, 0),
        address_at(dc, 0), inputs, 0,
    )  # fmt: skip
    dx, total = span(work.dactivations, line[INPUT], samples * inputs), span(work.scratch, 0, inputs)
    for begin in range(0, samples, work.agents):
        speakers = 0
        for s in range(begin, begin + work.agents):
            speakers += work.speaks[s]
        total[:] = 0
        for s in range(begin, begin + work.agents):
            share, dc_s = share_of(work, s, speakers), span(dc, s * inputs, inputs)
            for j in range(inputs):
                dc_s[j] *= share
                total[j] += dc_s[j]
        for s in range(begin, begin + work.agents):
            if work.speaks[s]:
                for j in range(inputs):
                    dx[s * inputs + j] += total[j] - dc[s * inputs + j]
