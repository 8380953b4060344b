"""The rows of a network's table of layers, and their form in JSON."""

from collections.abc import Iterable
from typing import NamedTuple

ACTIVATIONS = ("none", "relu", "tanh")


class Dense(NamedTuple):
    """A fully connected layer of ``units`` outputs."""

    units: int
    activation: str = "relu"


class Conv(NamedTuple):
    """A convolution without padding: ``filters`` square windows of ``kernel`` pixels, moved by ``stride`` pixels."""

    filters: int
    kernel: int
    stride: int
    activation: str = "relu"


Layer = Dense | Conv
_KINDS: dict[str, type[Dense] | type[Conv]] = {"dense": Dense, "conv": Conv}


def layers_to_list(layers: Iterable[Layer]) -> list[list[str | int]]:
    """Return the table as lists that JSON can hold.

    >>> layers_to_list([Conv(16, 8, 4), Dense(256, "tanh")])
    [['conv', 16, 8, 4, 'relu'], ['dense', 256, 'tanh']]
    """
    return [["conv" if isinstance(layer, Conv) else "dense", *layer] for layer in layers]


def layers_from_list(rows: Iterable[object]) -> tuple[Layer, ...]:
    """Return the checked table of layers from rows, each a ``Dense``, a ``Conv`` or a list as in JSON.

    Raises
    ------
    ValueError
        A row is not a layer; the sentence names it by its position, from 1.

    >>> layers_from_list([["dense", 64, "tanh"], Dense(32)])
    (Dense(units=64, activation='tanh'), Dense(units=32, activation='relu'))
    """
    if isinstance(rows, str | Dense | Conv) or not isinstance(rows, Iterable):
        raise ValueError(f"network is {rows!r}: it must be a table of layers such as (Dense(64), Dense(64))")
    layers = tuple(_layer(row, position) for position, row in enumerate(rows, start=1))
    if not layers:
        raise ValueError("network has no layer: it needs at least one")
    return layers


def _layer(row: object, position: int) -> Layer:
    if isinstance(row, list | tuple) and not isinstance(row, Dense | Conv):
        kind = _KINDS.get(row[0]) if row and isinstance(row[0], str) else None
        arguments = list(row[1:])
        if kind is None or not len(kind._fields) - 1 <= len(arguments) <= len(kind._fields):
            raise ValueError(
                f"layer {position} of the network is {row!r}: it must be ['dense', units, activation] "
                "or ['conv', filters, kernel, stride, activation]"
            )
        row = kind(*arguments)
    if not isinstance(row, Dense | Conv):
        raise ValueError(f"layer {position} of the network is {row!r}: it must be a Dense or a Conv")
    for name, value in zip(row._fields[:-1], row[:-1], strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"layer {position} of the network has {name} {value!r}: it must be a whole number above 0")
    if row.activation not in ACTIVATIONS:
        raise ValueError(
            f"layer {position} of the network has activation {row.activation!r}: "
            f"it must be one of {', '.join(ACTIVATIONS)}"
        )
    return row
