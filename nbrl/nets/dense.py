"""A fully connected layer, y = activation(x w + b), and a head that is a bias alone."""

from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.gemm import call_gemm, call_gemm_transposed
from nbrl.kernels.native import address_at, copy, span
from nbrl.nets.affine import ACTIVATIONS, WEIGHTS, affine_backward, affine_forward, sum_rows, transpose
from nbrl.nets.table import (
    ACCUMULATE,
    FILTERS,
    FROM_OBSERVATION,
    INPUT,
    INPUTS,
    NO_INPUTS,
    OUTPUT,
    OWN,
    PARAMETERS,
    Plan,
    Workspace,
)

FEW = 16  # columns of weights


class Dense(NamedTuple):
    """A fully connected layer of ``units`` outputs."""

    units: int
    activation: str = "relu"

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: object) -> Plan:
        """The layer above an output of some shape."""
        return dense_plan(name, self.units, self.activation, int(np.prod(shape)))


def dense_plan(name: str, units: int, activation: str, inputs: int, taps: int | None = None) -> Plan:
    """A dense layer, which may read only the first `taps` of its inputs."""
    taps = inputs if taps is None else taps
    return Plan(
        name,
        dense_forward,
        dense_backward,
        shape=(units,),
        parameters=(("weights", (taps, units)), ("bias", (units,))),
        inputs=inputs,
        filters=units,
        taps=taps,
        offsets=partial(_offsets, taps),
        own=partial(row_starts, units) if units < FEW else None,
        activation=ACTIVATIONS[activation],
        fan_in=taps,
        scratch=inputs * units if units < FEW else 0,
    )


def row_starts(units: int, capacity: int) -> np.ndarray:
    """Where each sample's row of so many numbers begins."""
    return np.arange(capacity) * units


def _offsets(taps: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(1, np.int64), np.arange(taps)


def constant_plan(name: str, units: int, inputs: int) -> Plan:
    """A head that is the same for every observation."""
    return Plan(
        name,
        constant_forward,
        constant_backward,
        shape=(units,),
        parameters=(("bias", (units,)),),
        inputs=inputs,
        filters=units,
        first=(("bias", 0.0),),
    )


@routine(Workspace)
def dense_forward(work, i, first, samples, _, __):
    """y = activation(x w + b)."""
    affine_forward(work, work.table[i], first, samples)


@routine(Workspace)
def dense_backward(work, i, samples, k, inputs_from, _):
    """dw, db and dx = dy w^T."""
    line, learns = work.table[i], inputs_from == NO_INPUTS
    dy = affine_backward(work, line, samples, learns)
    if not (line[FROM_OBSERVATION] and learns):
        wanted_from = inputs_from if line[FROM_OBSERVATION] else 0
        if line[FILTERS] < FEW:
            _few_backward_inputs(work, line, samples, dy, wanted_from)
        else:
            dense_backward_inputs(work, line, samples, line[FILTERS], dy, wanted_from)


@jit
def dense_backward_inputs(work, line, samples, columns, dy, first):
    """dx (+)= dy w^T, of each sample's inputs from number `first` on; a large w is read once and in order."""
    inputs = line[INPUTS]
    w, dx = address_at(work.theta, line[WEIGHTS] + first * columns), address_at(work.dactivations, line[INPUT] + first)
    call_gemm_transposed(
        work.gemm_transposed, inputs - first, columns, samples, w, address_at(dy, 0), dx, inputs, line[ACCUMULATE]
    )


@jit
def _few_backward_inputs(work, line, samples, dy, first):
    """The same for a w of few columns, which is turned around: most lanes of a vector would be empty."""
    inputs, wanted, columns = line[INPUTS], line[INPUTS] - first, line[FILTERS]
    w, w_t = (
        span(work.theta, line[WEIGHTS] + first * columns, wanted * columns),
        span(work.scratch, 0, wanted * columns),
    )
    transpose(w, wanted, columns, w_t)
    row_start, unit = address_at(work.indices, line[OWN]), address_at(work.indices, 0)
    call_gemm(
        work.gemm, samples, columns, wanted, address_at(dy, 0), row_start, unit, address_at(w_t, 0), wanted,
        address_at(work.dactivations, line[INPUT] + first), inputs, line[ACCUMULATE],
    )  # fmt: skip


@routine(Workspace)
def constant_forward(work, i, first, samples, _, __):
    """y = b."""
    line, filters = work.table[i], work.table[i, FILTERS]
    b = span(work.theta, line[PARAMETERS], filters)
    for sample in range(first, first + samples):
        copy(span(work.activations, line[OUTPUT] + sample * filters, filters), b)


@routine(Workspace)
def constant_backward(work, i, samples, k, inputs_from, _):
    """db."""
    line, filters = work.table[i], work.table[i, FILTERS]
    dy = span(work.dactivations, line[OUTPUT], samples * filters)
    sum_rows(dy, samples, span(work.dtheta, line[PARAMETERS], filters))
