"""A policy in NumPy alone, for hosts without numba: slower, and the same to a few last places.

It needs this file, `numpy_layers`, `policy_file`, `checkpoint`, `spaces` and `space_descriptions`; NumPy and the
standard library.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nbrl.checkpoint import policy_file, read_tensors
from nbrl.numpy_layers import LAYERS
from nbrl.policy_file import read_policy
from nbrl.spaces import ALIVE, HEARS, NEW, PRESENT, SPEAKS, STOPPED, Actions, Observations

EPSILON = 0.01  # probability of a random action where a policy of Q values is not greedy: it ends loops
MIN_VARIANCE = 1e-4  # of a Gaussian policy
NOT_FINITE = "the policy's outputs are not finite: its parameters are too large"
CLIP = 10.0  # a normalised observation is no farther from 0
DOES = [does | more for does in (0, *range(ALIVE, PRESENT + 1, SPEAKS)) for more in (0, NEW, STOPPED, NEW | STOPPED)]


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
        has are named ``value_dense1`` and so on. ``observations/normal`` is what observations are normalised by.
    heads : list of str
        ["policy", "value"], ["q"], ["mean", "variance", "value"] or ["action"], whose policy is deterministic.
    observations : Observations
    actions : Actions
    agents : int
        How many act by it in one environment.
    indexed : bool
        Whether it is told which of them an observation is of.
    """

    layers: list[list[Any]]
    arrays: dict[str, np.ndarray]
    heads: list[str]
    observations: Observations
    actions: Actions
    agents: int = 1
    indexed: bool = False

    def __repr__(self) -> str:
        size = sum(array.size for array in self.arrays.values())
        return f"NumpyPolicy({self.layers}, {size:,} parameters, heads {', '.join(self.heads)})"

    @classmethod
    def load(cls, source: str | os.PathLike | bytes) -> "NumpyPolicy":
        """Read what `Agent.load` reads.

        Raises
        ------
        CheckpointError
            The file is damaged or holds no policy.
        """
        return cls.from_tensors(*read_tensors(policy_file(source)))

    @classmethod
    def from_tensors(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> "NumpyPolicy":
        """The policy within a file's arrays; those of other names are left out. Raises as `load`."""
        policy = read_policy(arrays, metadata)
        # Without what values actions.
        heads = ["action"] if "action" in policy.heads else list(policy.heads)
        names = [name for name in policy.shapes if "action" not in policy.heads or not name.startswith("q")]
        names += ["observations/normal"] if policy.normal.size else []
        own = {name: np.array(arrays[name]) for name in names}
        return cls(policy.layers, own, heads, policy.observations, policy.actions, policy.agents, policy.indexed)

    def _prefixes(self) -> tuple[str, ...]:
        """What the names of layers begin with: of those that all heads have, and of those that the value has alone."""
        return ("", "value_") if any(name.startswith("value_") for name in self.arrays) else ("",)

    @property
    def state_size(self) -> int:
        """Numbers that it remembers from step to step."""
        return sum(LAYERS[kind].state(row) for kind, *row in self.layers) * len(self._prefixes())

    @property
    def unit(self) -> int:
        """How many observations pass together: of agents that communicate, or are told which they are, all."""
        return self.agents if self.indexed or any(LAYERS[kind].communicates for kind, *_ in self.layers) else 1

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32."""
        return np.zeros((self.state_size,) if self.agents == 1 else (self.agents, self.state_size), np.float32)

    def outputs(self, observation: Any, state: np.ndarray | None = None, *, alive: Any = None) -> dict[str, np.ndarray]:
        """The heads' outputs by name, each (units,); of a batch of observations (observations, units).

        "policy", logits, and "value"; or "q", values; or "mean" and "variance", before its softplus, and "value"; or
        "action", after its tanh.
        `state`, for a recurrent policy, is brought up to date. Raises as `act`.
        """
        given = read_input(self.observations, self.actions, self.state_size, observation, state)
        found = self._outputs(given, read_alive(alive, len(given.rows), given.batch, self.unit))
        return found if given.batch else {head: rows[0] for head, rows in found.items()}

    def _outputs(self, given: "Input", alive: np.ndarray) -> dict[str, np.ndarray]:
        """Of all observations, by head (observations, units)."""
        given.states[alive & NEW > 0] = 0
        units = [slice(first, first + self.unit) for first in range(0, len(given.rows), self.unit)]
        each = [self._forward(given.rows[unit], given.states[unit], alive[unit]) for unit in units]
        values = (
            {head: np.concatenate([outputs[head] for outputs in each]) for head in self.heads}
            if each
            else {head: np.zeros((0, self.arrays[f"{head}/bias"].size), np.float32) for head in self.heads}
        )
        if not np.isfinite(values[self.heads[0]]).all():
            raise ValueError(NOT_FINITE)
        given.states[alive & ALIVE == 0] = 0
        return values

    def _forward(self, rows: np.ndarray, rest: np.ndarray, alive: np.ndarray) -> dict[str, np.ndarray]:
        x = rows.astype(np.float32) * np.float32(1 / self.observations.high)
        if "observations/normal" in self.arrays:
            normal = self.arrays["observations/normal"]
            mean, scale = normal if normal.shape[1] == 1 else normal.reshape(2, *x.shape[1:])
            x = np.clip((x - mean) * scale, -CLIP, CLIP)
        if self.observations.image:  # the channels last
            x = np.moveaxis(x, 1, 3) if self.observations.layout == "CHW" else x.reshape(*x.shape[:3], -1)
        if self.indexed:
            x = np.concatenate([x.reshape(len(x), -1), np.eye(len(x), dtype=np.float32)], axis=1)
        found = {}
        for prefix in self._prefixes():
            found[prefix], rest = self._walk(prefix, x, rest, alive)
        values = {}
        for head in self.heads:
            y = found[self._prefixes()[-1] if head == "value" else ""]
            values[head] = np.tile(self.arrays[f"{head}/bias"], (len(rows), 1))
            if f"{head}/weights" in self.arrays:
                values[head] += y @ self.arrays[f"{head}/weights"]
            if head == "action":
                values[head] = np.tanh(values[head])
        return values

    def _walk(self, prefix: str, x: np.ndarray, rest: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of the last layer, and the part of the states that the layers left over."""
        does = [(alive & bit > 0) & (alive & ALIVE > 0) for bit in (SPEAKS, HEARS)]
        for place, (kind, *row) in enumerate(self.layers, start=1):
            layer, name = LAYERS[kind], f"{prefix}{kind}{place}/"
            if place == 1 and self.observations.layout == "CHW":  # whose rows and weights lie channels first
                row = [*row, "channels first"] if kind == "conv" else row
                x = x if kind == "conv" else np.moveaxis(x, 3, 1)
            parameters = {key.removeprefix(name): p for key, p in self.arrays.items() if key.startswith(name)}
            size = layer.state(row)
            if layer.communicates:
                x = layer.forward(row, parameters, x.reshape(len(x), -1), rest[:, :size], does)
            else:
                each = zip(x, rest[:, :size], strict=True)
                x = np.array([layer.forward(row, parameters, x_i, state) for x_i, state in each])
            rest = rest[:, size:]
        return x.reshape(len(x), -1), rest

    def act(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        *,
        action_mask: Any = None,
        alive: Any = None,
        greedy: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """An action for one observation, or for each of a batch, as `Agent.act` chooses and refuses them."""
        given = read_input(self.observations, self.actions, self.state_size, observation, state, action_mask)
        rng = np.random.default_rng() if rng is None else rng
        outputs = self._outputs(given, read_alive(alive, len(given.rows), given.batch, self.unit))
        actions = [
            self.actions.decode(self._parts({head: rows[i] for head, rows in outputs.items()}, mask, greedy, rng))
            for i, mask in enumerate(given.masks)
        ]
        return together(actions, given.batch)

    def _parts(
        self, outputs: dict[str, np.ndarray], mask: np.ndarray, greedy: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """The parts of an action, int32 or float32 (parts,)."""
        values = outputs[self.heads[0]].astype(np.float64)
        if self.actions.discrete:
            values[mask == 0] = -np.inf
            parts = np.split(values, np.cumsum(self.actions.counts)[:-1])
            return np.array([self._choose(part, greedy, rng) for part in parts], np.int32)
        if self.heads[0] == "mean" and not greedy:
            variance = np.logaddexp(0, outputs["variance"]) + MIN_VARIANCE
            values += np.sqrt(variance) * rng.standard_normal(values.size)
        centre, half, low, high = self.actions.bounds
        return np.clip(centre + half * values, low, high).astype(np.float32)

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


class Input(NamedTuple):
    """What a policy is given for some observations."""

    rows: np.ndarray  # (observations, *shape)
    masks: np.ndarray  # uint8 (observations, outputs): which discrete actions are legal
    states: np.ndarray  # float32 (observations, state_size): those that were given, to be brought up to date
    batch: bool


def read_input(
    observations: Observations,
    actions: Actions,
    state_size: int,
    observation: Any,
    state: Any = None,
    action_mask: Any = None,
) -> Input:
    """Check what a policy is given; ValueError with one sentence for what it cannot use."""
    rows, batch = observations.rows(observation)
    expected = (len(rows), state_size) if batch else (state_size,)
    if state is None and not state_size:
        states = np.zeros((len(rows), 0), np.float32)
    elif isinstance(state, np.ndarray) and state.dtype == np.float32 and state.flags.carray and state.shape == expected:
        states = state.reshape(len(rows), state_size)
    else:
        raise ValueError(
            f"state must be a whole, writable array of float32 with shape {expected}, as from initial_state() at the "
            "start of an episode: this policy remembers"
            if state_size
            else "state is given, but this policy remembers nothing: leave it out"
        )
    return Input(rows, actions.masks(action_mask, len(rows), batch), states, batch)


def read_alive(alive: Any, observations: int, batch: bool, unit: int) -> np.ndarray:
    """What each agent of a batch does, uint8 (observations,); ValueError where whole environments are not there."""
    if observations % unit:
        raise ValueError(
            f"{observations} observations are given: this policy's {unit} agents act together, so a batch must have "
            "one of each"
        )
    if alive is None:
        return np.full(observations, PRESENT, np.uint8)
    given = np.asarray(alive)
    if not batch or given.shape != (observations,) or given.dtype.kind not in "uib" or not np.isin(given, DOES).all():
        raise ValueError(
            f"alive is {alive!r:.60}: it must have a number for each of the {observations} observations of a batch, 1 "
            "for alive, plus 2 for speaking, plus 4 for hearing"
        )
    return given.astype(np.uint8)


def together(actions: list[Any], batch: bool) -> Any:
    """The actions of a batch in one array, or the only one."""
    return np.array(actions) if batch else actions[0]
