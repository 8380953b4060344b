"""A policy in NumPy alone, for hosts without numba: slower, and the same to a few last places.

It needs this file and `nbrl.checkpoint` to load one, NumPy and the standard library.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nbrl.checkpoint import CheckpointError, read_tensors


class NumpyPolicy(NamedTuple):
    """A trained policy as plain arrays.

    Parameters
    ----------
    layers : list of list
        From the observation up: ``["conv", filters, kernel, stride, activation]`` or ``["dense", units, activation]``.
    arrays : dict of str to numpy.ndarray
        float32 parameters: ``conv1/weights`` (taps, filters), ``dense3/bias`` (units,), ``policy/weights`` and so on.
        Taps lie as the observation does; above the first layer as (row, column, channel).
    """

    layers: list[list[Any]]
    arrays: dict[str, np.ndarray]

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
        layers = json.loads(metadata["network"])
        names = [f"{layer[0]}{place}" for place, layer in enumerate(layers, start=1)] + list(
            json.loads(metadata["heads"])
        )
        parts = [f"{name}/{part}" for name in names for part in ("weights", "bias")]
        return cls(layers, {name: np.array(arrays[name]) for name in parts})

    def outputs(self, observation: Any) -> dict[str, np.ndarray]:
        """The heads' outputs for one observation: "policy", the logits (actions,), and "value", (1,)."""
        x = np.asarray(observation)
        x = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
        for place, (kind, *shape, activation) in enumerate(self.layers, start=1):
            weights, bias = (self.arrays[f"{kind}{place}/{part}"] for part in ("weights", "bias"))
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
        heads = [name.removesuffix("/bias") for name in self.arrays if name.endswith("/bias")][len(self.layers) :]
        return {head: x.reshape(-1) @ self.arrays[f"{head}/weights"] + self.arrays[f"{head}/bias"] for head in heads}

    def act(self, observation: Any, *, greedy: bool = False, rng: np.random.Generator | None = None) -> int:
        """An action for one observation: sampled, or the most likely one."""
        logits = self.outputs(observation)["policy"].astype(np.float64)
        if greedy:
            return int(logits.argmax())
        weights = np.exp(logits - logits.max()).cumsum()
        return int(np.searchsorted(weights, (rng or np.random.default_rng()).random() * weights[-1], side="right"))
