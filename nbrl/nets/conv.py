"""A convolution without padding, over images whose pixels lie in any order."""

from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.gemm import call_gemm
from nbrl.kernels.native import address_at, span
from nbrl.nets.affine import ACTIVATIONS, WEIGHTS, affine_backward, affine_forward, transpose
from nbrl.nets.table import (
    ACCUMULATE,
    FILTERS,
    FROM_OBSERVATION,
    INPUT,
    INPUTS,
    OWN,
    PIXELS,
    ROW,
    RUN,
    TAP,
    TAPS,
    Plan,
    Workspace,
)


class Conv(NamedTuple):
    """A convolution without padding: ``filters`` square windows of ``kernel`` pixels, moved by ``stride`` pixels."""

    filters: int
    kernel: int
    stride: int
    activation: str = "relu"

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: tuple[int, int, int] | None) -> Plan:
        """The layer above an output of some shape; ValueError where that is no image, or too small."""
        if strides is None:
            raise ValueError(
                f"layer {place} of the network is a convolution, but what enters it has shape {shape}: "
                "convolutions need an image and come before dense layers"
            )
        height, width, channels = shape
        deep = strides[2]
        if self.kernel > min(height, width):
            raise ValueError(
                f"layer {place} of the network is a convolution of {self.kernel}x{self.kernel} pixels, but only "
                f"{height}x{width} enter it: its kernel must be at most {min(height, width)}"
            )
        out_height, out_width = ((size - self.kernel) // self.stride + 1 for size in (height, width))
        rows, taps = out_height * out_width, self.kernel**2 * channels
        return Plan(
            name,
            conv_forward,
            conv_backward,
            shape=(out_height, out_width, self.filters),
            parameters=(("weights", (taps, self.filters)), ("bias", (self.filters,))),
            inputs=height * width * channels,
            filters=self.filters,
            rows=rows,
            taps=taps,
            strides=(out_width * self.filters, self.filters, 1),
            offsets=partial(_offsets, self, strides, out_height, out_width, channels),
            own=partial(_row_starts, rows, self.filters),
            run=self.kernel * (channels if deep == 1 else 1),
            activation=ACTIVATIONS[self.activation],
            fan_in=taps,
            scratch=(self.filters + rows) * taps,
        )


def _offsets(
    layer: Conv, strides: tuple[int, int, int], out_height: int, out_width: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    down, right, deep = strides
    y, x = np.arange(out_height)[:, None] * layer.stride, np.arange(out_width) * layer.stride
    row = (y * down + x * right).reshape(-1)
    dy, dx, channel = np.arange(layer.kernel) * down, np.arange(layer.kernel) * right, np.arange(channels) * deep
    if deep == 1:
        tap = (dy[:, None, None] + dx[:, None] + channel).reshape(-1)
    else:
        tap = (channel[:, None, None] + dy[:, None] + dx).reshape(-1)
    return row, tap


def _row_starts(rows: int, filters: int, capacity: int) -> np.ndarray:
    return np.arange(rows) * filters


@routine(Workspace)
def conv_forward(work, i, first, samples, _, __):
    """y = activation(x w + b), x by patches."""
    affine_forward(work, work.table[i], first, samples)


@routine(Workspace)
def conv_backward(work, i, samples, k, inputs_from, _):
    """dw, db and dx."""
    line = work.table[i]
    dy = affine_backward(work, line, samples, True)
    if not line[FROM_OBSERVATION]:
        _backward_inputs(work, line, samples, dy)


@jit
def _backward_inputs(work, line, samples, dy):
    """dx (+)= for each sample, dy w^T by patches, and each patch added where it was taken from.

    Taps lie in memory in unbroken runs of `run`.
    """
    inputs, pixels, taps, filters, run = line[INPUTS], line[PIXELS], line[TAPS], line[FILTERS], line[RUN]
    row, tap = span(work.indices, line[ROW], pixels), span(work.indices, line[TAP], taps)
    row_start, filter_ = address_at(work.indices, line[OWN]), address_at(work.indices, 0)
    dx = span(work.dactivations, line[INPUT], samples * inputs)
    w_t, patches = span(work.scratch, 0, filters * taps), span(work.scratch, filters * taps, pixels * taps)
    transpose(span(work.theta, line[WEIGHTS], taps * filters), taps, filters, w_t)
    if not line[ACCUMULATE]:
        for j in range(dx.size):
            dx[j] = 0
    for s in range(samples):
        dx_s = span(dx, s * inputs, inputs)
        call_gemm(
            work.gemm, pixels, filters, taps, address_at(dy, s * pixels * filters), row_start, filter_,
            address_at(w_t, 0), taps, address_at(patches, 0), taps, 0,
        )  # fmt: skip
        for i in range(pixels):
            for first in range(0, taps, run):
                source = span(patches, i * taps + first, run)
                target = span(dx_s, row[i] + tap[first], run)
                for j in range(run):
                    target[j] += source[j]
