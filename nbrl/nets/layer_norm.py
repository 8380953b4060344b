"""Layer normalisation (Ba, Kiros and Hinton, 2016): y = activation(scale (x - mean) / std + bias).

Mean and standard deviation are those of one row of the layer below: its units, or the filters at one pixel. It belongs
between a layer's sum and its activation, so the layer below has the activation "none".

Shapes: x, y, dx and dy (rows, units), moments (rows, 2), the mean and one over the standard deviation; scale and bias
(units,). Everything is a float32 span of a flat array, C order. Gradients of parameters are overwritten.
"""

import math
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import routine
from nbrl.kernels.native import span
from nbrl.nets.affine import ACTIVATIONS, RELU, TANH, activation_backward, tanh
from nbrl.nets.table import ACCUMULATE, ACTIVATION, FILTERS, INPUT, KEPT, OUTPUT, PARAMETERS, PIXELS, Plan, Workspace

SCALE, BIAS = PARAMETERS, PARAMETERS + 1
EPSILON = np.float32(1e-5)  # added to the variance


class LayerNorm(NamedTuple):
    """Normalises what the layer below gives for a sample: its units, or the filters at each pixel."""

    activation: str = "relu"

    def plan(self, name: str, place: int, shape: tuple[int, ...], strides: tuple[int, int, int] | None) -> Plan:
        """The layer above an output of some shape; ValueError where that is an observation with channels first."""
        if strides is not None and strides[2] != 1:
            raise ValueError(
                f"layer {place} of the network is a layer_norm, but images enter it channels first: "
                "it comes after a convolution or a dense layer"
            )
        rows, units = math.prod(shape[:-1]), shape[-1]
        return Plan(
            name,
            layer_norm_forward,
            layer_norm_backward,
            shape=shape,
            parameters=(("scale", (units,)), ("bias", (units,))),
            inputs=rows * units,
            filters=units,
            rows=rows,
            taps=units,
            strides=strides,
            activation=ACTIVATIONS[self.activation],
            first=(("scale", 1.0), ("bias", 0.0)),
            kept=(2 * rows,),
        )


@routine(Workspace)
def layer_norm_forward(work, i, first, samples, _, __):
    """Fill y and the moments."""
    line, units = work.table[i], work.table[i, FILTERS]
    rows, begin, activation = samples * line[PIXELS], first * line[PIXELS], line[ACTIVATION]
    x = span(work.activations, line[INPUT] + begin * units, rows * units)
    y = span(work.activations, line[OUTPUT] + begin * units, rows * units)
    moments = span(work.activations, line[KEPT] + 2 * begin, 2 * rows)
    scale, bias = span(work.theta, line[SCALE], units), span(work.theta, line[BIAS], units)
    n, zero = np.float32(units), np.float32(0.0)
    for row in range(rows):
        x_r, y_r = span(x, row * units, units), span(y, row * units, units)
        mean, variance = zero, zero
        for j in range(units):
            mean += x_r[j]
        mean /= n
        for j in range(units):
            variance += (x_r[j] - mean) * (x_r[j] - mean)
        inverse = np.float32(1.0) / np.float32(math.sqrt(variance / n + EPSILON))
        moments[2 * row], moments[2 * row + 1] = mean, inverse
        for j in range(units):
            y_r[j] = scale[j] * ((x_r[j] - mean) * inverse) + bias[j]
        if activation == RELU:
            for j in range(units):
                y_r[j] = max(y_r[j], zero)
        elif activation == TANH:
            for j in range(units):
                y_r[j] = tanh(y_r[j])


@routine(Workspace)
def layer_norm_backward(work, i, samples, k, inputs_from, _):
    """dscale = sum over rows of dy z, dbias = sum over rows of dy, dx (+)= (g - mean(g) - z mean(g z)) / std.

    Here z = (x - mean) / std and g = dy scale.
    """
    line, units = work.table[i], work.table[i, FILTERS]
    rows = samples * line[PIXELS]
    x, dx = span(work.activations, line[INPUT], rows * units), span(work.dactivations, line[INPUT], rows * units)
    y, dy = span(work.activations, line[OUTPUT], rows * units), span(work.dactivations, line[OUTPUT], rows * units)
    moments, scale = span(work.activations, line[KEPT], 2 * rows), span(work.theta, line[SCALE], units)
    dscale, dbias = span(work.dtheta, line[SCALE], units), span(work.dtheta, line[BIAS], units)
    activation_backward(y, dy, line[ACTIVATION])
    n, zero = np.float32(units), np.float32(0.0)
    for j in range(units):
        dscale[j] = dbias[j] = zero
    if not line[ACCUMULATE]:
        for j in range(dx.size):
            dx[j] = zero
    for row in range(rows):
        x_r, dx_r, dy_r = span(x, row * units, units), span(dx, row * units, units), span(dy, row * units, units)
        mean, inverse = moments[2 * row], moments[2 * row + 1]
        g_mean, gz_mean = zero, zero
        for j in range(units):
            z, g = (x_r[j] - mean) * inverse, dy_r[j] * scale[j]
            g_mean += g
            gz_mean += g * z
            dscale[j] += dy_r[j] * z
            dbias[j] += dy_r[j]
        g_mean /= n
        gz_mean /= n
        for j in range(units):
            z = (x_r[j] - mean) * inverse
            dx_r[j] += inverse * (dy_r[j] * scale[j] - g_mean - z * gz_mean)
