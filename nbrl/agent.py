"""A policy that acts: load it, give it observations, save it. No training code."""

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import int64, uint8

from nbrl.actions import (
    Actions,
    Categorical,
    Deterministic,
    EpsilonGreedy,
    Gaussian,
    Policy,
    choose,
    draw,
    env_address,
    mask_outputs,
    most_likely,
)
from nbrl.checkpoint import CheckpointError, read_tensors, write_tensors
from nbrl.kernels.compile import jit
from nbrl.kernels.struct import Struct, reference
from nbrl.nets.layers import layers_from_list, layers_to_list
from nbrl.nets.network import Network
from nbrl.nets.table import SCALE, Workspace, forward_part, load_observation, load_state, store_state
from nbrl.numpy_policy import EPSILON, NumpyPolicy, check_mask, check_state

FORMAT = "nbrl policy 1"
LARGEST_OBSERVATION = 1 << 24  # numbers; what a file claims beyond that is damage
KINDS: dict[tuple[str, ...], type[Any]] = {  # of policies, by the names of their networks' heads
    ("policy", "value"): Categorical,
    ("q",): EpsilonGreedy,
    ("mean", "variance", "value"): Gaussian,
    ("action", "q"): Deterministic,
}


class Actor(Struct):
    """What a thread needs to act besides its policy: scratch with the parameters in place."""

    work = reference(Workspace)
    layers = int64  # those that choose: what comes after values actions
    mask = uint8[::1]  # (outputs,): which discrete actions are legal


@jit
def choose_action(policy, actor, observation, state, greedy):
    """Choose the action for one observation, given as bytes; whether that is finite. The noise was drawn before.

    `state` (state_size,) is what a recurrent policy remembers, and is brought up to date. The action is
    ``policy.action[0, 0]``.
    """
    work = actor.work
    if not load_observation(work, 0, observation):
        return False
    load_state(work, 0, state)
    forward_part(work, 0, actor.layers, 0, 1)
    mask_outputs(policy, work, 0, actor.mask)
    store_state(work, 0, state)
    if greedy:
        most_likely(policy, work, 0, policy.action[0, 0])
    else:
        choose(policy, work, 0, policy.action[0, 0])
    return True


@jit
def draw_action(policy, actor, observation, state, greedy, row):
    """As `choose_action`, by the chance of a random row."""
    draw(policy, row)
    return choose_action(policy, actor, observation, state, greedy)


@jit
def chosen(policy):
    """Where the environment finds what `choose_action` chose."""
    return env_address(policy, policy.action[0, 0])


@dataclass(frozen=True)
class Preprocessing:
    """What a policy expects: the environment that it was trained on, and what its observations look like."""

    environment: str
    observation_shape: tuple[int, ...]
    observation_dtype: str  # "uint8" (an image, scaled by 1/255 in the network) or "float32"
    sticky_actions: float = 0.0
    action_shape: tuple[int, ...] = ()  # of an action, where it is no single number
    action_counts: tuple[int, ...] = ()  # of discrete actions: how many each part has; none says one part


class Agent:
    """A trained policy.

    Parameters
    ----------
    network : Network
        With heads "policy" (one logit an action) and "value", with the head "q" (one value an action), with heads
        "mean" and "variance" (one number for each part of a continuous action) and "value", or with heads "action" (the
        same) and "q" (its value).
    parameters : numpy.ndarray
        float32 (network.layout.size,); copied.
    preprocessing : Preprocessing
    normal : numpy.ndarray, optional
        float32 (2, observation): means of the observation's numbers, and one over their standard deviations; (2, 1)
        for all pixels of an image.
    bounds : numpy.ndarray, optional
        Of a continuous action, as from `nbrl.actions.action_bounds`.

    Examples
    --------
    ``Agent.load("runs/pong").act(observation)`` is an action for one observation.
    """

    def __init__(
        self,
        network: Network,
        parameters: np.ndarray,
        preprocessing: Preprocessing,
        *,
        normal: np.ndarray | None = None,
        bounds: np.ndarray | None = None,
    ) -> None:
        self.network, self.preprocessing = network, preprocessing
        self.normal = np.zeros((2, 0), np.float32) if normal is None else normal
        self.bounds = np.zeros((4, 0), np.float32) if bounds is None else bounds
        self.parameters = np.array(parameters, np.float32)
        if self.parameters.shape != (network.layout.size,):
            raise ValueError(f"the parameters have shape {parameters.shape}: they must be ({network.layout.size},)")
        self.parameters.flags.writeable = False
        self._dtype = np.dtype(preprocessing.observation_dtype)
        self._local = threading.local()

    @property
    def action_count(self) -> int:
        """How many discrete actions it chooses from, all parts together; 0 where they are continuous."""
        return sum(self.actions.counts)

    @property
    def actions(self) -> Actions:
        """What it answers with."""
        one = () if self.bounds.size else (self.network.heads[next(iter(self.network.heads))],)
        return Actions(self.preprocessing.action_counts or one, self.bounds)

    @property
    def recurrent(self) -> bool:
        """Whether it remembers: then `act` needs a state."""
        return self.network.state_size > 0

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32 (state_size,), for `act` to bring up to date."""
        return np.zeros(self.network.state_size, np.float32)

    @property
    def kind(self) -> type[Any]:
        """The kind of policy, a class of `nbrl.actions`."""
        return KINDS[tuple(self.network.heads)]

    def actor(self) -> tuple[Policy, Actor]:
        """What one thread acts with, in compiled code."""
        work = self.network.workspace(1, scales=self.normal.shape[1], learns=False)
        work.theta[:] = self.parameters
        work.normal[:] = self.normal
        more = {"epsilon": EPSILON} if self.kind is EpsilonGreedy else {}
        policy = self.kind.make(self.network.head(self.kind.heads[0]), (1, 1), self.actions, **more)
        layers = policy.head + 1 if self.kind is Deterministic else len(work.table)
        return policy, Actor(work=work, layers=layers, mask=np.ones(sum(self.actions.counts), np.uint8))

    def act(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        *,
        action_mask: Any = None,
        greedy: bool = False,
        rng: np.random.Generator | None = None,
        out: np.ndarray | None = None,
    ) -> Any:
        """Choose an action. Threads may share an agent: each has its own scratch and random numbers.

        Parameters
        ----------
        observation : array-like
            One observation, of the shape and type that the policy was trained on.
        state : numpy.ndarray, optional
            What a recurrent policy remembers of the episode: `initial_state` at its start, then what `act` left there.
            Other policies need none.
        action_mask : array-like, optional
            Of discrete actions, 1 for each number that is legal now and 0 for the others; of several parts those of
            all, one after the other. By default all are legal. Illegal ones are never chosen.
        greedy : bool, optional
            Take the best action, instead of sampling one (or, of Q values, taking one at random now and then). A
            deterministic policy always does.
        rng : numpy.random.Generator, optional
            Source of the sampled action; by default a generator of the calling thread, freshly seeded.
        out : numpy.ndarray, optional
            Where a continuous action is put, float32 of the action space's shape; by default a new array.

        Returns
        -------
        int or numpy.ndarray
            A discrete action's number from 0 on, or a continuous action within its space.

        Raises
        ------
        ValueError
            An observation of another shape or kind, or one that is not finite; a recurrent policy without its state.
            The state is then as it was.
        """
        given = np.asarray(observation)
        if given.shape != self.preprocessing.observation_shape:
            raise ValueError(
                f"the observation has shape {given.shape}: this policy takes {self.preprocessing.observation_shape}"
            )
        if self._dtype == np.uint8 and given.dtype != np.uint8:  # a picture in [0, 1] would turn black
            raise ValueError(f"the observation is of {given.dtype}: this policy takes uint8, 0 to 255")
        array = np.ascontiguousarray(given, self._dtype)
        local = self._local
        if not hasattr(local, "actor"):
            local.actor, local.rng, local.no_state = self.actor(), np.random.default_rng(), np.zeros(0, np.float32)
        check_state(state, self.network.state_size)
        if state is None:
            state = local.no_state
        (policy, actor), rng = local.actor, local.rng if rng is None else rng
        shape = self.preprocessing.action_shape if self.bounds.size else ()
        if out is not None:
            whole = isinstance(out, np.ndarray) and out.dtype == np.float32 and out.flags.writeable
            if not shape or not whole or out.shape != shape:
                raise ValueError(
                    f"out must be a writable float32 array of shape {shape}, as the actions are"
                    if shape
                    else "out is given, but this policy's actions are numbers: leave it out"
                )
        if shape:
            rng.standard_normal(out=policy.noise)
        else:
            rng.random(out=policy.noise)
        actor.mask[:] = 1 if action_mask is None else check_mask(action_mask, self.actions.counts)
        if not choose_action(policy, actor, array.reshape(-1).view(np.uint8), state, greedy):
            raise ValueError("the observation has a number that is not finite")
        chosen(policy)
        action = policy.taken(0)
        if isinstance(action, int):
            return action
        if out is None:
            return action.reshape(self.preprocessing.action_shape).copy()
        out[...] = action.reshape(shape)
        return out

    def to_numpy(self) -> NumpyPolicy:
        """The policy as plain arrays, with a forward pass in NumPy, for hosts without numba."""
        return NumpyPolicy.from_tensors(self.arrays(), self.metadata())

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_tensors` needs: the parameters by name, and what observations and actions are scaled by."""
        scales = {"observations/normal": self.normal, "actions/bounds": self.bounds}
        return self.network.layout.views(self.parameters) | {name: a for name, a in scales.items() if a.size}

    def metadata(self) -> dict[str, str]:
        """What `from_tensors` needs besides the parameters, as text."""
        return {
            "format": FORMAT,
            "network": json.dumps(layers_to_list(self.network.layers)),
            "heads": json.dumps(self.network.heads),
            "separate": json.dumps(self.network.separate),
            "constant": json.dumps(self.network.constant),
            "environment": self.preprocessing.environment,
            "observation_shape": json.dumps(self.preprocessing.observation_shape),
            "observation_dtype": self.preprocessing.observation_dtype,
            "sticky_actions": json.dumps(self.preprocessing.sticky_actions),
            "action_shape": json.dumps(self.preprocessing.action_shape),
            "action_counts": json.dumps(self.preprocessing.action_counts),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the policy alone, as one safetensors file: parameters by name, network, preprocessing."""
        write_tensors(path, self.arrays(), self.metadata())

    @classmethod
    def load(cls, source: str | os.PathLike | bytes) -> "Agent":
        """Read a policy from a file that `save` or a run's checkpoint wrote, or from such a file's bytes.

        Raises
        ------
        CheckpointError
            Anything that is not a whole policy, with one sentence.
        """
        return cls.from_tensors(*read_tensors(source))

    @classmethod
    def from_tensors(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> "Agent":
        """The policy within a file's arrays; those of other names are passed over. Raises as `load`."""
        try:
            if metadata["format"] != FORMAT:
                raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
            layers = layers_from_list(json.loads(metadata["network"]))
            heads, shape = json.loads(metadata["heads"]), json.loads(metadata["observation_shape"])
            dtype, sticky = metadata["observation_dtype"], float(json.loads(metadata["sticky_actions"]))
            if dtype not in ("uint8", "float32") or not isinstance(heads, dict) or tuple(heads) not in KINDS:
                raise ValueError("its observations or heads are of no known kind")
            if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
                raise ValueError(f"its observations cannot have shape {shape}")
            if not all(type(units) is int and units > 0 for units in heads.values()) or not 0 <= sticky < 1:
                raise ValueError("its heads or its sticky_actions are no possible numbers")
            # Older files have none of these.
            absent = {"separate": "false", "constant": "[]", "action_shape": "[]", "action_counts": "[]"}
            separate, constant, action_shape, counts = (json.loads(metadata.get(name, absent[name])) for name in absent)
            if type(separate) is not bool or constant not in ([], ["variance"]) or (separate and "action" in heads):
                raise ValueError("its network is of no known kind")
            preprocessing = Preprocessing(
                metadata["environment"], tuple(shape), dtype, sticky, tuple(action_shape), tuple(counts)
            )
            if math.prod(shape) > LARGEST_OBSERVATION:
                raise ValueError("its observations are too large")
            network = Network(layers, preprocessing.observation_shape, heads, separate=separate, constant=constant)
            # Before memory is taken: the file holds all that its network claims.
            for name, expected in network.shapes().items():
                if arrays[name].shape != expected or arrays[name].dtype != np.float32:
                    raise ValueError(f"{name} has shape {arrays[name].shape}, not {expected} of float32")
            parameters = np.zeros(network.layout.size, np.float32)
            for name, view in network.layout.views(parameters).items():
                view[...] = arrays[name]
            normal = arrays.get("observations/normal", np.zeros((2, 0), np.float32))
            bounds = arrays.get("actions/bounds", np.zeros((4, 0), np.float32))
            _check_scales(normal, bounds, network, preprocessing)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            missing = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"the file holds no policy that can be used: {missing}") from error
        if not np.isfinite(parameters).all():
            raise CheckpointError("the file holds no policy that can be used: a parameter is not finite")
        return cls(network, parameters, preprocessing, normal=np.array(normal), bounds=np.array(bounds))


def _check_scales(normal: np.ndarray, bounds: np.ndarray, network: Network, seen: Preprocessing) -> None:
    """Raise ``ValueError`` for what a file's observations and actions cannot be scaled by."""
    size, heads = 1 if seen.observation_dtype == "uint8" else math.prod(seen.observation_shape), network.heads
    parts = heads.get("mean", heads.get("action", 0))
    if normal.shape not in ((2, 0), (2, size)) or normal.dtype != np.float32 or not np.isfinite(normal).all():
        raise ValueError(f"observations/normal is no array of (2, {size}) finite float32")
    if (normal[SCALE] <= 0).any():
        raise ValueError("observations/normal has a scale that is not above 0")
    if not all(type(n) is int and n > 0 for n in seen.action_shape):
        raise ValueError(f"its actions cannot have shape {seen.action_shape}")
    counts, shape = seen.action_counts, seen.action_shape
    if counts:
        first = heads[next(iter(heads))]
        whole = all(type(n) is int and n > 0 for n in counts) and len(counts) == math.prod(shape)
        fits = whole and parts == 0 and sum(counts) == first
    else:
        fits = parts == (math.prod(shape) if shape else 0) and heads.get("variance", parts) == parts
    if not fits:
        raise ValueError("its heads do not fit its actions")
    if bounds.shape != (4, parts) or bounds.dtype != np.float32 or np.isnan(bounds).any():
        raise ValueError(f"actions/bounds is no array of (4, {parts}) float32")
