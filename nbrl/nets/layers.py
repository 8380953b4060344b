"""The kinds of layers, and the form of a table of them in JSON. Each kind is a file of this folder."""

import contextlib
import json
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from nbrl.nets.affine import ACTIVATIONS
from nbrl.nets.channel import Channel
from nbrl.nets.communicate import Communicate
from nbrl.nets.conv import Conv
from nbrl.nets.dense import Dense
from nbrl.nets.gru import Gru
from nbrl.nets.layer_norm import LayerNorm
from nbrl.nets.lstm import Lstm

KINDS: dict[str, Any] = {
    "dense": Dense,
    "conv": Conv,
    "lstm": Lstm,
    "gru": Gru,
    "layer_norm": LayerNorm,
    "communicate": Communicate,
    "channel": Channel,
}
Layer: TypeAlias = Any  # of one of these classes


def normalised(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The layers, each with layer normalisation before its activation."""
    return tuple(each for layer in layers for each in (layer._replace(activation="none"), LayerNorm(layer.activation)))


# The tables that have a name. "paper": Mnih et al. (2016), section 8; "dqn": Mnih et al. (2015), the paper's for its 57
# games; "gamma": five small convolutions in the place of its three (arXiv 2608.07335).
# A name that ends in -lstm has 256 cells after the last layer, one in -norm has layer normalisation.
_PAPER = (Conv(16, 8, 4), Conv(32, 4, 2), Dense(256))
_DQN = (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1), Dense(512))
_GAMMA = (Conv(32, 3, 2), Conv(48, 3, 2), Conv(64, 3, 1), Conv(64, 3, 2), Conv(64, 3, 1), Dense(512))
_MLP = (Dense(64, "tanh"), Dense(64, "tanh"))
NETWORKS: dict[str, tuple[Layer, ...]] = {
    "paper": _PAPER,
    "paper-lstm": (*_PAPER, Lstm(256)),
    "paper-norm": normalised(_PAPER),
    "dqn": _DQN,
    "dqn-lstm": (*_DQN, Lstm(256)),
    "dqn-norm": normalised(_DQN),
    "gamma": _GAMMA,
    "gamma-norm": normalised(_GAMMA),
    "small": (Conv(16, 3, 1), Dense(128)),
    "mlp": _MLP,
    "mlp-norm": normalised(_MLP),
}


def kind_of(layer: Layer) -> str:
    """The word for a layer's kind in files and in names of parameters.

    >>> kind_of(Lstm(256))
    'lstm'
    """
    return next(kind for kind, layer_type in KINDS.items() if isinstance(layer, layer_type))


def is_layer(row: object) -> bool:
    """Whether something is a layer."""
    return isinstance(row, tuple(KINDS.values()))


def layers_to_list(layers: Iterable[Layer]) -> list[list[str | int]]:
    """Return the table as lists that JSON can hold.

    >>> layers_to_list([Conv(16, 8, 4), Dense(256, "tanh")])
    [['conv', 16, 8, 4, 'relu'], ['dense', 256, 'tanh']]
    """
    return [[kind_of(layer), *layer] for layer in layers]


def read_text(text: str) -> Any:
    """What a text says of a network, for `layers_from_list`: a name, or a table as JSON.

    Words of a table need no quotes, which a shell takes away.

    >>> read_text("[[dense,64,relu]]"), read_text("paper-lstm")
    ([['dense', 64, 'relu']], 'paper-lstm')
    """
    for written in (text, re.sub(r"[A-Za-z_]\w*", r'"\g<0>"', text)):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(written)
    return text


def layers_from_list(rows: Iterable[object]) -> tuple[Layer, ...]:
    """Return the checked table of layers from its name, or from rows: layers or lists as in JSON.

    Raises
    ------
    ValueError
        There is no network of this name, or a row is not a layer; the sentence names it by its position, from 1.

    >>> layers_from_list([["dense", 64, "tanh"], Dense(32)])
    (Dense(units=64, activation='tanh'), Dense(units=32, activation='relu'))
    """
    if isinstance(rows, str):
        if rows not in NETWORKS:
            raise ValueError(f"network is {rows!r}: it must be one of {', '.join(NETWORKS)}, or a table of layers")
        return NETWORKS[rows]
    if is_layer(rows) or not isinstance(rows, Iterable):
        raise ValueError(f"network is {rows!r}: it must be a table of layers such as (Dense(64), Dense(64))")
    layers = tuple(_layer(row, position) for position, row in enumerate(rows, start=1))
    if not layers:
        raise ValueError("network has no layer: it needs at least one")
    return layers


def _layer(row: object, position: int) -> Layer:
    if isinstance(row, list | tuple) and not is_layer(row):
        kind = KINDS.get(row[0]) if row and isinstance(row[0], str) else None
        arguments = list(row[1:])
        if kind is None or not len(kind._fields) - len(kind._field_defaults) <= len(arguments) <= len(kind._fields):
            forms = (f"['{name}', {', '.join(each._fields)}]" for name, each in KINDS.items())
            raise ValueError(f"layer {position} of the network is {row!r}: it must be {' or '.join(forms)}")
        row = kind(*arguments)
    if not is_layer(row):
        names = " or ".join(each.__name__ for each in KINDS.values())
        raise ValueError(f"layer {position} of the network is {row!r}: it must be a {names}")
    layer: Layer = row
    for name, value in layer._asdict().items():
        if name == "activation":
            if value not in ACTIVATIONS:
                raise ValueError(
                    f"layer {position} of the network has activation {value!r}: "
                    f"it must be one of {', '.join(ACTIVATIONS)}"
                )
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"layer {position} of the network has {name} {value!r}: it must be a whole number above 0")
    return layer
