"""A network is a table of layers over one flat parameter array: names, first weights, and the table itself.

The table is a plain int64 array, so one compiled function serves every network: see workspace.py, which walks it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.random import seed_row, uniform
from nbrl.nets.affine import NONE, RELU, TANH
from nbrl.nets.layers import Conv, Dense, Layer, Lstm, kind_of
from nbrl.nets.layout import Layout, aligned_zeros
from nbrl.nets.lstm import GATES
from nbrl.nets.workspace import (
    ACCUMULATE,
    ACTIVATION,
    BACK_ROW,
    BIAS,
    CELL,
    COLUMNS,
    CONSTANT,
    CONV,
    DENSE,
    FILTERS,
    FROM_OBSERVATION,
    GATE,
    INPUT,
    INPUTS,
    KIND,
    LSTM,
    OUTPUT,
    PIXELS,
    RECURRENT,
    ROW,
    RUN,
    SCALE,
    STATE,
    STATE_ROW,
    TAP,
    TAPS,
    WEIGHTS,
    WORDS,
    Workspace,
    compiled_passes,
)

ACTIVATION_CODES = {"none": NONE, "relu": RELU, "tanh": TANH}


class Network:
    """A table of layers over one flat parameter array.

    Parameters
    ----------
    layers : sequence of Dense, Conv or Lstm
        From the observation up. Convolutions are without padding and come before other layers.
    observation_shape : tuple of int
        (features,), (height, width), (channels, height, width) or (height, width, channels); of three sizes the first
        is the channels if it is smaller than the last.
    heads : mapping of str to int
        Dense layers without activation on top of the last layer: name and units. Of "action" and "q" the first is a
        deterministic policy, tanh of the last layer; the second values an action, with layers of its own, alike, that
        read the observation and the action after it (block 0, see workspace.py). Such a network has dense layers alone:
        first the actor's and "action", then the critic's, named ``q_dense1`` and so on, and "q".
    separate : bool, optional
        The head "value" has layers of its own, alike.
    constant : collection of str, optional
        Heads that are the same for every observation.

    Attributes
    ----------
    layout : Layout
        Names such as ``conv1/weights`` (taps, filters), ``dense3/bias`` (units,), ``policy/weights``.
    heads : dict of str to int
    state_size : int
        Numbers that it remembers from step to step; 0 without an LSTM layer.

    Raises
    ------
    ValueError
        A layer that cannot follow the one before it, named by its place in the table.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        observation_shape: Sequence[int],
        heads: Mapping[str, int],
        *,
        separate: bool = False,
        constant: Collection[str] = (),
    ) -> None:
        self.layers, self.observation_shape, self.heads = tuple(layers), tuple(observation_shape), dict(heads)
        self.separate, self.constant = separate, tuple(constant)
        self._plans: list[_Plan] = []
        if "action" in self.heads:
            self._add_actor_and_critic()
        else:
            self._add_layers_and_heads()
        self.layout = Layout((f"{plan.name}/{part}", shape) for plan in self._plans for part, shape in plan.parts())
        self.state_size = sum(2 * plan.filters for plan in self._plans if plan.kind == LSTM)

    def _add_layers_and_heads(self) -> None:
        shape, block = self._add_layers("", self.observation_shape)
        own_shape, own_block = shape, block
        if self.separate:
            own_shape, own_block = self._add_layers("value_", self.observation_shape)
        for name, units in self.heads.items():
            if name == "value":
                plan = _dense_plan(name, units, "none", math.prod(own_shape), own_block)
            else:
                plan = _dense_plan(name, units, "none", math.prod(shape), block)
            self._plans.append(plan._replace(kind=CONSTANT) if name in self.constant else plan)

    def _add_actor_and_critic(self) -> None:
        for place, layer in enumerate(self.layers, start=1):
            if not isinstance(layer, Dense):
                raise ValueError(
                    f"layer {place} of the network is {layer!r}: a deterministic policy takes dense layers alone"
                )
        both = math.prod(self.observation_shape) + self.heads["action"]
        for prefix, head, activation, shape in (
            ("", "action", "tanh", self.observation_shape),
            ("q_", "q", "none", (both,)),
        ):
            shape, block = self._add_layers(prefix, shape)
            self._plans.append(_dense_plan(head, self.heads[head], activation, math.prod(shape), block))
        self._plans[0] = self._plans[0]._replace(inputs=both)  # of which the actor reads the observation

    def _add_layers(self, prefix: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Add the layers, from what block 0 has up; the shape of the last one's output, and its block."""
        strides = _image_strides(shape)
        block = 0
        for place, layer in enumerate(self.layers, start=1):
            name = f"{prefix}{kind_of(layer)}{place}"
            if isinstance(layer, Lstm):
                plan = _dense_plan(name, layer.units, "none", math.prod(shape), block)._replace(kind=LSTM)
                shape, strides = plan.shape, None
            elif isinstance(layer, Conv):
                plan = _conv_plan(name, place, layer, shape, strides, block)
                shape = plan.shape
                strides = (shape[1] * shape[2], shape[2], 1)
            else:
                plan = _dense_plan(name, layer.units, layer.activation, math.prod(shape), block)
                shape, strides = plan.shape, None
            self._plans.append(plan)
            block = len(self._plans)
        return shape, block

    def initial(self, seed: int, initialisation: str = "uniform") -> np.ndarray:
        """The first parameters, float32 (layout.size,).

        "uniform" draws weights and biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), Torch's default of the paper's time.
        "orthogonal" (Saxe et al., 2014) makes each layer's weights sqrt(2) times orthonormal, so that a signal keeps
        its size through ReLUs, the heads' once and a policy's 0.01 times, so that it begins almost even; biases are 0,
        and so are constant heads.
        """
        parameters, row = np.zeros(self.layout.size, np.float32), np.zeros(4, np.uint64)
        if initialisation == "orthogonal":
            rng = np.random.default_rng(seed)
            for plan in self._plans:
                once = plan.name in self.heads or plan.kind == LSTM
                gain = 0.01 if plan.name in ("policy", "mean", "action") else 1.0 if once else math.sqrt(2)
                for part, shape in plan.parts():
                    if part != "bias":
                        self.layout.view(parameters, f"{plan.name}/{part}")[...] = gain * _orthogonal(shape, rng)
            return parameters
        seed_row(row, np.uint64(seed), np.uint64(0))
        for plan in self._plans:
            if plan.kind == CONSTANT:
                continue
            fan_in = plan.taps + (plan.filters if plan.kind == LSTM else 0)
            bound = 1 / math.sqrt(fan_in)
            for part, _ in plan.parts():
                _fill_uniform(self.layout.view(parameters, f"{plan.name}/{part}").reshape(-1), bound, row)
        return parameters

    def workspace(self, capacity: int, *, scales: int = 0, learns: bool = True) -> Workspace:
        """Arrays for up to `capacity` samples at once; ValueError where that is more than int32 offsets reach.

        `scales` is the size of `Workspace.normal`: 0, a vector's, or 1 for an image. Where it never `learns`,
        `backward` is not compiled and must not be called.
        """
        table = np.zeros((len(self._plans), COLUMNS), np.int64)
        sizes = [self._plans[0].inputs] + [plan.rows * plan.filters for plan in self._plans]
        # An LSTM of u units needs 2 u of state, 4 u of gates and u of cells for each sample.
        kept = {i: plan.filters for i, plan in enumerate(self._plans) if plan.kind == LSTM}
        sizes += [size * units for units in kept.values() for size in (2, GATES, 1)]
        blocks = np.cumsum([0] + [-(-size * capacity // 16) * 16 for size in sizes])
        if blocks[-1] > np.iinfo(np.int32).max:
            raise ValueError(
                f"{capacity:,} samples at once are too many for this network: "
                "lower rollout_length or lockstep, or batch_size"
            )
        longest = max(capacity, *(max(plan.taps, plan.filters) for plan in self._plans))
        indices = [np.arange(longest)]
        used, scratch, fed = longest, 0, set()
        for i in reversed(range(len(self._plans))):
            plan, line = self._plans[i], table[i]
            first_row, tap = plan.offsets()
            line[KIND], line[ACTIVATION] = plan.kind, ACTIVATION_CODES[plan.activation]
            line[INPUTS], line[TAPS], line[PIXELS], line[FILTERS] = plan.inputs, plan.taps, plan.rows, plan.filters
            if plan.kind != CONSTANT:
                line[WEIGHTS] = self.layout.offset(f"{plan.name}/weights")
            line[BIAS] = self.layout.offset(f"{plan.name}/bias")
            line[INPUT], line[OUTPUT] = blocks[plan.input], blocks[i + 1]
            line[RUN], line[FROM_OBSERVATION] = plan.run, plan.input == 0
            # Going backward, the first layer to reach an input overwrites its gradient; the others add to it.
            line[ACCUMULATE] = plan.input in fed
            if plan.kind != CONSTANT:
                fed.add(plan.input)
            row = (np.arange(capacity)[:, None] * plan.inputs + first_row).reshape(-1)
            back_row = np.arange(plan.rows) * plan.filters
            for column, values in ((ROW, row), (TAP, tap), (BACK_ROW, back_row)):
                line[column] = used
                indices.append(values)
                used += values.size
            if plan.kind == LSTM:
                line[RECURRENT] = self.layout.offset(f"{plan.name}/recurrent")
                at = 1 + len(self._plans) + 3 * list(kept).index(i)
                line[STATE], line[GATE], line[CELL] = blocks[at : at + 3]
                line[STATE_ROW] = used
                indices.append(np.arange(capacity) * 2 * plan.filters)
                used += capacity
            if plan.kind == CONV:
                scratch = max(scratch, (plan.filters + plan.rows) * plan.taps)
        activations = int(blocks[-1])
        return Workspace(
            table=table,
            indices=np.concatenate(indices).astype(np.int32),
            theta=aligned_zeros(self.layout.size, np.float32),
            dtheta=aligned_zeros(self.layout.size, np.float32),
            activations=aligned_zeros(activations, np.float32),
            dactivations=aligned_zeros(activations, np.float32),
            scratch=aligned_zeros(scratch, np.float32),
            continues=np.zeros(capacity, np.bool_),
            code=compiled_passes(learns=learns),
            words=np.zeros(WORDS, np.int64),
            normal=self.normal(scales),
        )

    @staticmethod
    def normal(scales: int) -> np.ndarray:
        """What observations are normalised by at first, means of 0 and scales of 1, float32 (2, scales)."""
        normal = np.zeros((2, scales), np.float32)
        normal[SCALE] = 1
        return normal

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter array by name."""
        return {name: self.layout.shape(name) for name in self.layout.names}

    def head(self, name: str) -> int:
        """The table's row of a head, for `outputs`."""
        return [plan.name for plan in self._plans].index(name)

    def describe(self) -> str:
        """One line a layer: name, output shape, number of parameters."""
        return "\n".join(
            f"{plan.name:10} {'x'.join(map(str, plan.shape)):>12} "
            f"{sum(math.prod(shape) for _, shape in plan.parts()):>10,}"
            for plan in self._plans
        )


class _Plan(NamedTuple):
    """One layer, before it is known how many samples there will be. It takes no memory, whatever a file claims."""

    name: str
    kind: int
    activation: str
    input: int  # block that it reads
    inputs: int  # size of one sample of it
    rows: int  # output rows a sample
    filters: int
    taps: int
    offsets: Callable[[], tuple[np.ndarray, np.ndarray]]  # of one sample's output rows, and of the taps
    run: int  # taps that lie side by side
    shape: tuple[int, ...]  # of one sample's output

    def parts(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of its parameters."""
        taps, filters = self.taps, self.filters
        if self.kind == CONSTANT:
            return [("bias", (filters,))]
        if self.kind == LSTM:
            filters *= GATES
            return [("weights", (taps, filters)), ("recurrent", (self.filters, filters)), ("bias", (filters,))]
        return [("weights", (taps, filters)), ("bias", (filters,))]


def _dense_plan(name: str, units: int, activation: str, inputs: int, block: int) -> _Plan:
    return _Plan(
        name, DENSE, activation, block, inputs, 1, units, inputs, partial(_dense_offsets, inputs), inputs, (units,)
    )


def _dense_offsets(inputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(1, np.int64), np.arange(inputs)


def _image_strides(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Elements from one row, column and channel of an observation to the next; None where it is no image."""
    if len(shape) == 2:
        return shape[1], 1, 1
    if len(shape) == 3:
        if shape[0] < shape[2]:
            return shape[2], 1, shape[1] * shape[2]
        return shape[1] * shape[2], shape[2], 1
    return None


def _conv_plan(
    name: str, place: int, layer: Conv, shape: tuple[int, ...], strides: tuple[int, int, int] | None, block: int
) -> _Plan:
    if strides is None:
        raise ValueError(
            f"layer {place} of the network is a convolution, but what enters it has shape {shape}: "
            "convolutions need an image and come before dense layers"
        )
    deep = strides[2]
    if len(shape) == 2:
        height, width, channels = shape[0], shape[1], 1
    elif deep == 1:
        height, width, channels = shape
    else:
        channels, height, width = shape
    if layer.kernel > min(height, width):
        raise ValueError(
            f"layer {place} of the network is a convolution of {layer.kernel}x{layer.kernel} pixels, but only "
            f"{height}x{width} enter it: its kernel must be at most {min(height, width)}"
        )
    out_height, out_width = ((size - layer.kernel) // layer.stride + 1 for size in (height, width))
    rows, taps, inputs = out_height * out_width, layer.kernel**2 * channels, height * width * channels
    offsets = partial(_conv_offsets, layer, strides, out_height, out_width, channels)
    run = layer.kernel * (channels if deep == 1 else 1)
    shape = (out_height, out_width, layer.filters)
    return _Plan(name, CONV, layer.activation, block, inputs, rows, layer.filters, taps, offsets, run, shape)


def _conv_offsets(
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


def _orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A matrix with orthonormal columns, or rows where there are fewer, from a uniform distribution of such."""
    normal = rng.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T


@jit
def _fill_uniform(array, bound, row):
    for i in range(array.size):
        array[i] = np.float32((2 * uniform(row) - 1) * bound)
