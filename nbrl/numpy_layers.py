"""The kinds of layers in NumPy alone, for hosts without numba: forms of a table's rows, shapes, forward passes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ACTIVATIONS = ("none", "relu", "tanh")
Shapes = tuple[dict[str, tuple[int, ...]], tuple[int, ...]]  # of parameters by name, and of the output


# Layers, for one sample: the row of the table without its kind, its parameters, what enters it, and its state, which it
# brings up to date. Those that communicate take a row for each agent of an environment.


def _activated(y: np.ndarray, activation: str) -> np.ndarray:
    return np.maximum(y, 0) if activation == "relu" else np.tanh(y) if activation == "tanh" else y


def _dense(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    return _activated(x.reshape(-1) @ p["weights"] + p["bias"], row[1])


def _conv(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    _, kernel, stride, activation, *channels_first = row
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (0, 1))[::stride, ::stride]
    if not channels_first:  # (row, column, channel, window row, window column): the channel comes last
        windows = np.moveaxis(windows, 2, 4)
    return _activated(windows.reshape(*windows.shape[:2], -1) @ p["weights"] + p["bias"], activation)


def _lstm(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    h, c = state.reshape(2, row[0])
    z = x.reshape(-1) @ p["weights"] + h @ p["recurrent"] + p["bias"]
    i, f, g, o = z.reshape(4, row[0])
    c[:] = _sigmoid(f + 1) * c + _sigmoid(i) * np.tanh(g)
    h[:] = _sigmoid(o) * np.tanh(c)
    return h.copy()


def _gru(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    xw, hu = (x.reshape(-1) @ p["weights"] + p["bias"]).reshape(3, -1), (state @ p["recurrent"]).reshape(3, -1)
    r, z = _sigmoid(xw[0] + hu[0]), _sigmoid(xw[1] + hu[1])
    state[:] = (1 - z) * np.tanh(xw[2] + r * hu[2]) + z * state
    return state.copy()


Does = tuple[np.ndarray, np.ndarray]  # who speaks and who hears, of the agents of an environment


def _communicate(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray, does: Does) -> np.ndarray:
    return _activated(x @ p["weights"] + mean_of_others(*does) @ x @ p["messages"] + p["bias"], row[1])


def _channel(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray, does: Does) -> np.ndarray:
    units, (speaks, hears) = row[0], does
    h, said, spoke = state[:, :units], state[:, units:-1], state[:, -1]
    entering = x @ p["weights"] + mean_of_others(spoke > 0, hears) @ said @ p["heard"] + p["bias"]
    (xr, xz, xn), (hr, hz, hn) = np.split(entering, 3, axis=1), np.split(h @ p["recurrent"], 3, axis=1)
    z = _sigmoid(xz + hz)
    h[:] = (1 - z) * np.tanh(xn + _sigmoid(xr + hr) * hn) + z * h
    said[:] = np.where(h @ p["speak"] + p["speak_bias"] > 0, 1, -1) * speaks[:, None]
    spoke[:] = speaks
    return h.copy()


def mean_of_others(speaks: np.ndarray, hears: np.ndarray) -> np.ndarray:
    """What each agent hears of the others, as a matrix of their weights, float32 (agents, agents)."""
    heard = hears[:, None] * speaks[None, :] * (1 - np.eye(len(speaks)))
    return (heard / np.maximum(heard.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def _layer_norm(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    z = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    return _activated(p["scale"] * z + p["bias"], row[0])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


# Shapes, from the row and the shape of one sample's input: (height, width, channels) of an image, (units,) of others.


def _dense_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    return {"weights": (math.prod(shape), row[0]), "bias": (row[0],)}, (row[0],)


def _conv_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    filters, kernel, stride, _ = row
    if len(shape) != 3 or kernel > min(shape[:2]):
        raise ValueError(f"a convolution of {kernel}x{kernel} cannot follow what has shape {shape}")
    height, width = ((side - kernel) // stride + 1 for side in shape[:2])
    return {"weights": (kernel**2 * shape[2], filters), "bias": (filters,)}, (height, width, filters)


def _lstm_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    units, columns = row[0], 4 * row[0]
    return {"weights": (math.prod(shape), columns), "recurrent": (units, columns), "bias": (columns,)}, (units,)


def _gru_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    units, columns = row[0], 3 * row[0]
    return {"weights": (math.prod(shape), columns), "recurrent": (units, columns), "bias": (columns,)}, (units,)


def _communicate_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    inputs, units = math.prod(shape), row[0]
    return {"weights": (inputs, units), "bias": (units,), "messages": (inputs, units)}, (units,)


def _channel_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    units, bits = row
    parameters, output = _gru_shapes(row, shape)
    return parameters | {"heard": (bits, 3 * units), "speak": (units, bits), "speak_bias": (bits,)}, output


def _layer_norm_shapes(row: list[Any], shape: tuple[int, ...]) -> Shapes:
    return {"scale": (shape[-1],), "bias": (shape[-1],)}, shape


class LayerTwin(NamedTuple):
    """A kind of layer: what a row of a table has after its name, how many numbers it remembers, its shapes, and its
    forward pass. That of one which `communicates` takes the agents of an environment together, and who speaks and
    hears."""

    fields: tuple[str, ...]
    state: Callable[[list[Any]], int]
    shapes: Callable[[list[Any], tuple[int, ...]], Shapes]
    forward: Callable[..., np.ndarray]
    communicates: bool = False


def _nothing(row: list[Any]) -> int:
    return 0


LAYERS = {
    "dense": LayerTwin(("units", "activation"), _nothing, _dense_shapes, _dense),
    "conv": LayerTwin(("filters", "kernel", "stride", "activation"), _nothing, _conv_shapes, _conv),
    "lstm": LayerTwin(("units",), lambda row: 2 * row[0], _lstm_shapes, _lstm),
    "gru": LayerTwin(("units",), lambda row: row[0], _gru_shapes, _gru),
    "layer_norm": LayerTwin(("activation",), _nothing, _layer_norm_shapes, _layer_norm),
    "communicate": LayerTwin(("units", "activation"), _nothing, _communicate_shapes, _communicate, communicates=True),
    "channel": LayerTwin(("units", "bits"), lambda row: sum(row) + 1, _channel_shapes, _channel, communicates=True),
}


def check_row(row: object) -> None:
    """Raise ``ValueError`` for what is no row of a table of layers as a file has it: the kind and all its numbers."""
    kind = LAYERS.get(row[0]) if isinstance(row, list) and row and isinstance(row[0], str) else None
    if kind is None or not isinstance(row, list) or len(row) != 1 + len(kind.fields):
        raise ValueError(f"{row!r:.60} is no layer")
    for name, value in zip(kind.fields, row[1:], strict=True):
        if name == "activation":
            right = isinstance(value, str) and value in ACTIVATIONS
        else:
            right = type(value) is int and value > 0
        if not right:
            raise ValueError(f"a layer has {name} {value!r:.60}")
