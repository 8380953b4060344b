"""A policy that acts: load it, give it observations, save it. No training code."""

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nbrl.checkpoint import CheckpointError, read_tensors, write_tensors
from nbrl.kernels.compile import jit
from nbrl.nets.heads import argmax, categorical_sample, epsilon_greedy
from nbrl.nets.layers import layers_from_list, layers_to_list
from nbrl.nets.network import Network, Workspace, enter, enter_state, forward, leave_state, outputs
from nbrl.numpy_policy import EPSILON, NumpyPolicy, check_state

FORMAT = "nbrl policy 1"
LARGEST_OBSERVATION = 1 << 24  # numbers; what a file claims beyond that is damage
CATEGORICAL, Q_VALUES = 0, 1
KINDS = {("policy", "value"): CATEGORICAL, ("q",): Q_VALUES}  # of policies, by the names of their heads


class Policy(NamedTuple):
    """What a thread needs to act: scratch with the parameters in place, and how outputs become actions."""

    work: Workspace
    layer: int  # the table's row of the head that actions are chosen by
    kind: int


@jit
def choose(policy, observation, state, u, greedy):
    """The action for one observation, given as bytes; -1 if it is not finite. `u` is uniform in [0, 1).

    `state` (state_size,) is what a recurrent policy remembers, and is brought up to date.
    """
    work = policy.work
    if not enter(work, 0, observation):
        return -1
    enter_state(work, 0, state)
    forward(work, 0, 1)
    leave_state(work, 0, state)
    values = outputs(work, policy.layer, 0, 1)[0]
    if greedy:
        return argmax(values)
    return epsilon_greedy(values, EPSILON, u) if policy.kind == Q_VALUES else categorical_sample(values, u)


@dataclass(frozen=True)
class Preprocessing:
    """What a policy expects: the environment that it was trained on, and what its observations look like."""

    environment: str
    observation_shape: tuple[int, ...]
    observation_dtype: str  # "uint8" (an image, scaled by 1/255 in the network) or "float32"
    sticky_actions: float = 0.0


class Agent:
    """A trained policy.

    Parameters
    ----------
    network : Network
        With heads "policy" (one logit an action) and "value", or with the head "q" (one value an action).
    parameters : numpy.ndarray
        float32 (network.layout.size,); copied.
    preprocessing : Preprocessing

    Examples
    --------
    ``Agent.load("runs/pong").act(observation)`` is an action for one observation.
    """

    def __init__(self, network: Network, parameters: np.ndarray, preprocessing: Preprocessing) -> None:
        self.network, self.preprocessing = network, preprocessing
        self.parameters = np.array(parameters, np.float32)
        if self.parameters.shape != (network.layout.size,):
            raise ValueError(f"the parameters have shape {parameters.shape}: they must be ({network.layout.size},)")
        self.parameters.flags.writeable = False
        self._dtype = np.dtype(preprocessing.observation_dtype)
        self._local = threading.local()

    @property
    def action_count(self) -> int:
        """How many actions it chooses from."""
        return self.network.heads[next(iter(self.network.heads))]

    @property
    def recurrent(self) -> bool:
        """Whether it remembers: then `act` needs a state."""
        return self.network.state_size > 0

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32 (state_size,), for `act` to bring up to date."""
        return np.zeros(self.network.state_size, np.float32)

    def policy(self) -> Policy:
        """What one thread acts with, in compiled code."""
        work = self.network.workspace(1)
        work.theta[:] = self.parameters
        heads = tuple(self.network.heads)
        return Policy(work, self.network.head(heads[0]), KINDS[heads])

    def act(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        *,
        greedy: bool = False,
        rng: np.random.Generator | None = None,
    ) -> int:
        """Choose an action. Threads may share an agent: each has its own scratch and random numbers.

        Parameters
        ----------
        observation : array-like
            One observation, of the shape and type that the policy was trained on.
        state : numpy.ndarray, optional
            What a recurrent policy remembers of the episode: `initial_state` at its start, then what `act` left there.
            Other policies need none.
        greedy : bool, optional
            Take the best action, instead of sampling one (or, of Q values, taking one at random now and then).
        rng : numpy.random.Generator, optional
            Source of the sampled action; by default a generator of the calling thread, freshly seeded.

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
        if not hasattr(local, "policy"):
            local.policy, local.rng, local.no_state = self.policy(), np.random.default_rng(), np.zeros(0, np.float32)
        check_state(state, self.network.state_size)
        if state is None:
            state = local.no_state
        u = (local.rng if rng is None else rng).random()
        action = choose(local.policy, array.reshape(-1).view(np.uint8), state, u, greedy)
        if action < 0:
            raise ValueError("the observation has a number that is not finite")
        return int(action)

    def to_numpy(self) -> NumpyPolicy:
        """The policy as plain arrays, with a forward pass in NumPy, for hosts without numba."""
        return NumpyPolicy.from_tensors(self.network.layout.views(self.parameters), self.metadata())

    def metadata(self) -> dict[str, str]:
        """What `from_tensors` needs besides the parameters, as text."""
        return {
            "format": FORMAT,
            "network": json.dumps(layers_to_list(self.network.layers)),
            "heads": json.dumps(self.network.heads),
            "environment": self.preprocessing.environment,
            "observation_shape": json.dumps(self.preprocessing.observation_shape),
            "observation_dtype": self.preprocessing.observation_dtype,
            "sticky_actions": json.dumps(self.preprocessing.sticky_actions),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the policy alone, as one safetensors file: parameters by name, network, preprocessing."""
        write_tensors(path, self.network.layout.views(self.parameters), self.metadata())

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
            preprocessing = Preprocessing(metadata["environment"], tuple(shape), dtype, sticky)
            if math.prod(shape) > LARGEST_OBSERVATION:
                raise ValueError("its observations are too large")
            network = Network(layers, preprocessing.observation_shape, heads)
            # Before memory is taken: the file holds all that its network claims.
            for name, expected in network.shapes().items():
                if arrays[name].shape != expected or arrays[name].dtype != np.float32:
                    raise ValueError(f"{name} has shape {arrays[name].shape}, not {expected} of float32")
            parameters = np.zeros(network.layout.size, np.float32)
            for name, view in network.layout.views(parameters).items():
                view[...] = arrays[name]
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            missing = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"the file holds no policy that can be used: {missing}") from error
        if not np.isfinite(parameters).all():
            raise CheckpointError("the file holds no policy that can be used: a parameter is not finite")
        return cls(network, parameters, preprocessing)
