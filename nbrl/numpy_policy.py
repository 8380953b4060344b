"""A policy in NumPy alone, for hosts without numba: slower, and the same to a few last places.

It needs this file and `nbrl.checkpoint` to load one, NumPy and the standard library.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nbrl.checkpoint import CheckpointError, read_tensors

EPSILON = 0.01  # probability of a random action where a policy of Q values is not greedy: it ends loops


class NumpyPolicy(NamedTuple):
    """A trained policy as plain arrays.

    Parameters
    ----------
    layers : list of list
        From the observation up: ``["conv", filters, kernel, stride, activation]``, ``["dense", units, activation]`` or
        ``["lstm", units]``.
    arrays : dict of str to numpy.ndarray
        float32 parameters: ``conv1/weights`` (taps, filters), ``dense3/bias`` (units,), ``policy/weights`` and so on.
        Taps lie as the observation does; above the first layer as (row, column, channel).
    heads : list of str
        ["policy", "value"] or ["q"].
    """

    layers: list[list[Any]]
    arrays: dict[str, np.ndarray]
    heads: list[str]

    @classmethod
    def load(cls, source: str | os.PathLike | bytes) -> "NumpyPolicy":
        """Read what `Agent.save` or a run's checkpoint wrote.

        Raises
        ------
        CheckpointError
            The file is damaged or holds no policy.
        """
        arrays, metadata = read_tensors(source)
        try:
            return cls.from_tensors(arrays, metadata)
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"the file holds no policy that can be used: it lacks {error}") from error

    @classmethod
    def from_tensors(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> "NumpyPolicy":
        """The policy within a file's arrays; those of other names are left out."""
        layers, heads = json.loads(metadata["network"]), list(json.loads(metadata["heads"]))
        parts = [f"{name}/{part}" for name in heads for part in ("weights", "bias")]
        for place, layer in enumerate(layers, start=1):
            names = ("weights", "recurrent", "bias") if layer[0] == "lstm" else ("weights", "bias")
            parts += [f"{layer[0]}{place}/{part}" for part in names]
        return cls(layers, {name: np.array(arrays[name]) for name in parts}, heads)

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32, two for each LSTM cell."""
        return np.zeros(2 * sum(layer[1] for layer in self.layers if layer[0] == "lstm"), np.float32)

    def outputs(self, observation: Any, state: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The heads' outputs for one observation: "policy", logits, and "value", (1,), or "q", values (actions,).

        `state`, for a recurrent policy, is brought up to date.
        """
        x = np.asarray(observation)
        x = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
        check_state(state, self.initial_state().size)
        rest = np.zeros(0, np.float32) if state is None else state
        for place, (kind, *shape, activation) in enumerate(self.layers, start=1):
            weights, bias = (self.arrays[f"{kind}{place}/{part}"] for part in ("weights", "bias"))
            if kind == "lstm":
                units = activation
                h, c, rest = rest[:units], rest[units : 2 * units], rest[2 * units :]
                z = x.reshape(-1) @ weights + h @ self.arrays[f"{kind}{place}/recurrent"] + bias
                i, f, g, o = z.reshape(4, units)
                c[:] = _sigmoid(f + 1) * c + _sigmoid(i) * np.tanh(g)
                h[:] = _sigmoid(o) * np.tanh(c)
                x = h.copy()
                continue
            if kind == "conv":
                _, kernel, stride = shape
                channels_first = place == 1 and x.ndim == 3 and x.shape[0] < x.shape[2]
                image = np.moveaxis(x, 0, 2) if channels_first else x.reshape(*x.shape[:2], -1)
                windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), (0, 1))[::stride, ::stride]
                if not channels_first:  # (row, column, channel, window row, window column): the channel comes last
                    windows = np.moveaxis(windows, 2, 4)
                y = windows.reshape(*windows.shape[:2], -1) @ weights + bias
            else:
                y = x.reshape(-1) @ weights + bias
            x = np.maximum(y, 0) if activation == "relu" else np.tanh(y) if activation == "tanh" else y
        x = x.reshape(-1)
        return {head: x @ self.arrays[f"{head}/weights"] + self.arrays[f"{head}/bias"] for head in self.heads}

    def act(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        *,
        greedy: bool = False,
        rng: np.random.Generator | None = None,
    ) -> int:
        """An action for one observation, as `Agent.act` chooses it."""
        values = self.outputs(observation, state)[self.heads[0]].astype(np.float64)
        u = 0.0 if greedy else (rng or np.random.default_rng()).random()
        if greedy or (self.heads[0] == "q" and u >= EPSILON):
            return int(values.argmax())
        if self.heads[0] == "q":
            return int(u / EPSILON * values.size)
        weights = np.exp(values - values.max()).cumsum()
        return int(np.searchsorted(weights, u * weights[-1], side="right"))


def check_state(state: Any, size: int) -> None:
    """Raise ``ValueError`` for what is no state of a policy that remembers `size` numbers; where it is 0, None is one.

    Compiled code reads it and writes to it, as an array without gaps.
    """
    if state is None and not size:
        return
    whole = isinstance(state, np.ndarray) and state.dtype == np.float32 and state.flags.carray
    if not whole or state.shape != (size,):
        raise ValueError(
            f"state must be a whole, writable array of {size} float32, as from initial_state() at the start of an "
            "episode: this policy remembers"
            if size
            else "state is given, but this policy remembers nothing: leave it out"
        )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2
