"""Hypothesis strategies that several test files share: shapes of products, tables of layers, rollouts."""

import math
from typing import NamedTuple

import numpy as np
import oracles
from gymnasium import spaces
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)


class Product(NamedTuple):
    """One indirect product: X and B live in larger arrays whose other elements nobody may read."""

    x: np.ndarray  # float32, flat, NaN where no tap points
    row: np.ndarray  # int32 (m,)
    tap: np.ndarray  # int32 (k,)
    b: np.ndarray  # float32 (k, n), a view into rows of b_stride >= n elements, NaN beyond n
    c: np.ndarray  # float32 (m, n), likewise in rows of c_stride elements, a mark beyond n
    accumulate: bool


MARK = np.float32(-12345.5)


def guarded(values, stride, fill, before=32, after=32):
    """`values` (rows, columns) copied into rows of `stride` elements, with `fill` in every gap and around the whole."""
    rows, columns = values.shape
    whole = np.full(before + rows * stride + after, fill, np.float32)
    view = whole[before : before + rows * stride].reshape(rows, stride)[:, :columns]
    view[...] = values
    return view


def near_multiples(limit):
    """Sizes from 1 to `limit`, most of them at or beside a multiple of a vector's width."""
    edges = {size + d for width in (4, 8, 16) for size in range(0, limit + 1, width) for d in (-1, 0, 1)}
    return st.one_of(st.sampled_from(sorted(size for size in edges if 1 <= size <= limit)), st.integers(1, limit))


@st.composite
def products(draw):
    """Any small indirect product, with arbitrary tables."""
    m, n, k = draw(st.one_of(st.just(1), near_multiples(35))), draw(near_multiples(150)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(seeds))
    row, tap = rng.integers(0, 200, m).astype(np.int32), rng.integers(0, 200, k).astype(np.int32)
    x = np.full(420, np.nan, np.float32)
    used = np.unique(row[:, None] + tap[None, :])
    x[used] = rng.standard_normal(used.size)
    b = guarded(rng.standard_normal((k, n)), n + draw(st.integers(0, 20)), np.nan)
    c = guarded(rng.standard_normal((m, n)), n + draw(st.integers(0, 20)), MARK)
    return Product(x, row, tap, b, c, draw(st.booleans()))


activations = st.sampled_from(["none", "relu", "tanh"])


def vector_shapes(limit=40):
    """Shapes of observations that are vectors."""
    return st.tuples(st.integers(1, limit))


@st.composite
def image_shapes(draw, low=5, high=14):
    """Shapes of observations with two or three dimensions, channels first or last."""
    height, width, channels = draw(st.integers(low, high)), draw(st.integers(low, high)), draw(st.integers(1, 4))
    return draw(st.sampled_from([(height, width), (channels, height, width), (height, width, channels)]))


@st.composite
def tables(draw, dense, conv, observation_shape, *, recurrent=(), norm=None, most_convolutions=2, most_dense=2):
    """A table of layers that fits `observation_shape`; `dense`, `conv`, `recurrent` and `norm` make one layer each.

    Layers that remember stand anywhere above the convolutions and count as dense ones. One that normalises stands
    between a layer's sums, of at least four units so that they seldom are almost alike, and its activation.
    """

    def normalised(layer, units):
        if norm is None or units < 4 or not draw(st.booleans()):
            return [layer]
        return [layer._replace(activation="none"), norm(layer.activation)]

    layers, shape, in_front = [], observation_shape, oracles.channels_first(observation_shape)
    if len(observation_shape) > 1:
        for _ in range(draw(st.integers(0, most_convolutions))):
            _, height, width = oracles.image_sizes(shape, in_front)
            kernel = draw(st.integers(1, min(height, width, 5)))
            stride = draw(st.integers(1, kernel + 1))
            layer = conv(draw(st.integers(1, 20)), kernel, stride, draw(activations))
            layers += normalised(layer, layer.filters)
            shape, in_front = oracles.conv_shape(shape, in_front, layer.filters, kernel, stride), False
    for _ in range(draw(st.integers(0 if layers or not most_dense else 1, most_dense))):
        if recurrent and draw(st.booleans()):
            layers.append(draw(st.sampled_from(recurrent))(draw(near_multiples(20))))
        else:
            layer = dense(draw(near_multiples(40)), draw(activations))
            layers += normalised(layer, layer.units)
    assert math.prod(shape) > 0
    return tuple(layers)


# Spaces of gymnasium


@st.composite
def boxes(draw):
    """Boxes of up to four dimensions: vectors, images of either layout and of any range, stacks, single numbers."""
    dtype = draw(st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]))
    sides, channels = st.integers(1, 9), st.integers(1, 4)
    height, width, depth = draw(sides), draw(sides), draw(channels)
    shape = draw(
        st.sampled_from(
            [(), (height,), (height, width), (height, height, depth + 9), (depth, width + 4, width + 4),
             (2, width + 4, width + 4, depth), (3, 1, height + 4, height + 4), (24, 21)]
        )
    )  # fmt: skip
    if dtype == np.bool_:
        return spaces.Box(0, 1, shape, dtype)
    high = draw(st.sampled_from([1, 3, 100, 255] if dtype == np.uint8 else [1, 3, 100]))
    low = 0 if dtype == np.uint8 else draw(st.sampled_from([0, -high]))
    unbounded = np.issubdtype(dtype, np.floating) and draw(st.booleans())
    return spaces.Box(-np.inf, np.inf, shape, dtype) if unbounded else spaces.Box(low, high, shape, dtype)


discretes = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), st.integers(-3, 3))


@st.composite
def multi_discretes(draw):
    """Several discrete numbers, in one or two dimensions, from any number on."""
    counts = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    start = np.array([draw(st.integers(-2, 2)) for _ in counts])
    if draw(st.booleans()):
        counts, start = counts[None], start[None]
    return spaces.MultiDiscrete(counts, start=start)


multi_binaries = st.sampled_from([1, 3, (2, 2)]).map(spaces.MultiBinary)
observation_spaces = st.recursive(
    boxes() | discretes | multi_discretes() | multi_binaries,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=5,
)


@st.composite
def action_boxes(draw):
    """Boxes of floats: bounded, half bounded, unbounded, of one number or several."""
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    bound = st.sampled_from([(-1, 1), (0.1, 0.7), (-3, 100), (0, np.inf), (-np.inf, np.inf), (-np.inf, 5), (2, 2)])
    bounds = np.array([draw(bound) for _ in range(math.prod(shape))]).reshape(*shape, 2).astype(dtype)
    return spaces.Box(bounds[..., 0], bounds[..., 1], dtype=dtype)


action_spaces = st.one_of(discretes, multi_discretes(), multi_binaries, action_boxes())
