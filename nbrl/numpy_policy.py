"""A policy in NumPy alone, for hosts without numba: slower, and the same to a few last places.

It needs this file and `nbrl.checkpoint` to load one, NumPy and the standard library.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbrl.checkpoint import CheckpointError, read_tensors

EPSILON = 0.01  # probability of a random action where a policy of Q values is not greedy: it ends loops
MIN_VARIANCE = 1e-4  # of a Gaussian policy
CLIP = 10.0  # a normalised observation is no farther from 0


class NumpyPolicy(NamedTuple):
    """A trained policy as plain arrays.

    Parameters
    ----------
    layers : list of list
        From the observation up: ``["conv", filters, kernel, stride, activation]``, ``["dense", units, activation]`` or
        ``["lstm", units]``.
    arrays : dict of str to numpy.ndarray
        float32 parameters: ``conv1/weights`` (taps, filters), ``dense3/bias`` (units,), ``policy/weights`` and so on.
        Taps lie as the observation does; above the first layer as (row, column, channel). Layers that only the value
        has are named ``value_dense1`` and so on. ``observations/normal`` and ``actions/bounds`` are what observations
        and continuous actions are scaled by.
    heads : list of str
        ["policy", "value"], ["q"], ["mean", "variance", "value"] or ["action"], whose policy is deterministic.
    action_shape : tuple of int
        Of an action that is no single number.
    action_counts : tuple of int, optional
        How many numbers each part of a discrete action has; none says that there is one part.
    """

    layers: list[list[Any]]
    arrays: dict[str, np.ndarray]
    heads: list[str]
    action_shape: tuple[int, ...]
    action_counts: tuple[int, ...] = ()

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
        if "action" in heads:
            heads = ["action"]  # without what values actions
        constant = json.loads(metadata.get("constant", "[]"))
        prefixes = ("", "value_") if json.loads(metadata.get("separate", "false")) else ("",)
        parts = [f"{name}/bias" for name in heads] + [f"{name}/weights" for name in heads if name not in constant]
        for place, layer in enumerate(layers, start=1):
            own = LAYERS[layer[0]].parameters
            parts += [f"{prefix}{layer[0]}{place}/{part}" for prefix in prefixes for part in own]
        continuous = heads[0] in ("mean", "action")
        parts += ["actions/bounds"] if continuous else []
        parts += ["observations/normal"] if "observations/normal" in arrays else []
        shape = tuple(json.loads(metadata.get("action_shape", "[]")))
        if continuous and arrays["actions/bounds"].shape != (4, math.prod(shape)):
            raise ValueError(f"actions/bounds of shape (4, {math.prod(shape)})")
        counts = tuple(json.loads(metadata.get("action_counts", "[]")))
        return cls(layers, {name: np.array(arrays[name]) for name in parts}, heads, shape, counts)

    def _prefixes(self) -> tuple[str, ...]:
        """What the names of layers begin with: of those that all heads have, and of those that the value has alone."""
        return ("", "value_") if any(name.startswith("value_") for name in self.arrays) else ("",)

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32."""
        size = sum(LAYERS[layer[0]].states * layer[1] for layer in self.layers if LAYERS[layer[0]].states)
        return np.zeros(size * len(self._prefixes()), np.float32)

    def outputs(self, observation: Any, state: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The heads' outputs for one observation, by name, each (units,).

        "policy", logits, and "value"; or "q", values; or "mean" and "variance", before its softplus, and "value"; or
        "action", after its tanh.
        `state`, for a recurrent policy, is brought up to date.
        """
        x = np.asarray(observation)
        x = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
        if "observations/normal" in self.arrays:
            normal = self.arrays["observations/normal"]
            mean, scale = normal if normal.shape[1] == 1 else normal.reshape(2, *x.shape)
            x = np.clip((x - mean) * scale, -CLIP, CLIP)
        check_state(state, self.initial_state().size)
        rest = np.zeros(0, np.float32) if state is None else state
        found = {}
        for prefix in self._prefixes():
            found[prefix], rest = self._walk(prefix, x, rest)
        values = {}
        for head in self.heads:
            y = found[self._prefixes()[-1] if head == "value" else ""]
            values[head] = self.arrays[f"{head}/bias"].copy()
            if f"{head}/weights" in self.arrays:
                values[head] += y @ self.arrays[f"{head}/weights"]
            if head == "action":
                values[head] = np.tanh(values[head])
        return values

    def _walk(self, prefix: str, x: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The output of the last layer, and the part of the state that the layers left over."""
        for place, (kind, *row) in enumerate(self.layers, start=1):
            layer, name = LAYERS[kind], f"{prefix}{kind}{place}"
            if kind == "conv" and place == 1 and x.ndim == 3 and x.shape[0] < x.shape[2]:
                row = [*row, "channels first"]
            parameters = {part: self.arrays[f"{name}/{part}"] for part in layer.parameters}
            size = layer.states * row[0] if layer.states else 0
            x = layer.forward(row, parameters, x, rest[:size])
            rest = rest[size:]
        return x.reshape(-1), rest

    def act(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        *,
        action_mask: Any = None,
        greedy: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """An action for one observation, as `Agent.act` chooses it."""
        outputs, rng = self.outputs(observation, state), rng or np.random.default_rng()
        values = outputs[self.heads[0]].astype(np.float64)
        if self.heads[0] == "mean" and not greedy:
            variance = np.logaddexp(0, outputs["variance"]) + MIN_VARIANCE
            values += np.sqrt(variance) * rng.standard_normal(values.size)
        if "actions/bounds" in self.arrays:
            centre, half, low, high = self.arrays["actions/bounds"]
            action = np.clip(centre + half * values, low, high)
            return action.astype(np.float32).reshape(self.action_shape)
        counts = self.action_counts or (values.size,)
        legal = np.ones(values.size, bool) if action_mask is None else check_mask(action_mask, counts) > 0
        values[~legal] = -np.inf
        chosen = [self._choose(part, greedy, rng) for part in np.split(values, np.cumsum(counts)[:-1])]
        return chosen[0] if len(chosen) == 1 else np.array(chosen, np.int32).reshape(self.action_shape)

    def _choose(self, values: np.ndarray, greedy: bool, rng: np.random.Generator) -> int:
        """One part of a discrete action from its logits or values."""
        u = 0.0 if greedy else rng.random()
        if greedy or (self.heads[0] == "q" and u >= EPSILON):
            return int(values.argmax())
        if self.heads[0] == "q":
            legal = np.flatnonzero(np.isfinite(values))
            return int(legal[int(u / EPSILON * legal.size)])
        weights = np.exp(values - values.max()).cumsum()
        return int(np.searchsorted(weights, u * weights[-1], side="right"))


def check_mask(mask: Any, counts: Sequence[int]) -> np.ndarray:
    """A mask of discrete actions as an array; ValueError for what is none of actions with parts of these sizes."""
    array = np.asarray(mask)
    if array.shape != (sum(counts),) or not np.isin(array, (0, 1)).all() or not counts:
        raise ValueError(
            f"action_mask must be {sum(counts)} numbers, 0 or 1, one for each number that an action may be"
            if counts
            else "action_mask is given, but this policy's actions are continuous: leave it out"
        )
    if not all(part.any() for part in np.split(array, np.cumsum(counts)[:-1])):
        raise ValueError("action_mask allows no action: at least one must be legal")
    return array


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


# Layers, for one sample: the row of the table without its kind, its parameters, what enters it, and its state, which it
# brings up to date.


def _activated(y: np.ndarray, activation: str) -> np.ndarray:
    return np.maximum(y, 0) if activation == "relu" else np.tanh(y) if activation == "tanh" else y


def _dense(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    return _activated(x.reshape(-1) @ p["weights"] + p["bias"], row[1])


def _conv(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    _, kernel, stride, activation, *channels_first = row
    image = np.moveaxis(x, 0, 2) if channels_first else x.reshape(*x.shape[:2], -1)
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), (0, 1))[::stride, ::stride]
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


def _layer_norm(row: list[Any], p: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    z = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    return _activated(p["scale"] * z + p["bias"], row[0])


class _Layer(NamedTuple):
    """A kind of layer: names of its parameters, numbers that it remembers for each unit, and its forward pass."""

    parameters: tuple[str, ...]
    states: int
    forward: Callable[[list[Any], dict[str, np.ndarray], np.ndarray, np.ndarray], np.ndarray]


LAYERS = {
    "dense": _Layer(("weights", "bias"), 0, _dense),
    "conv": _Layer(("weights", "bias"), 0, _conv),
    "lstm": _Layer(("weights", "recurrent", "bias"), 2, _lstm),
    "gru": _Layer(("weights", "recurrent", "bias"), 1, _gru),
    "layer_norm": _Layer(("scale", "bias"), 0, _layer_norm),
}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2
