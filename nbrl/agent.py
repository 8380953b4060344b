"""A policy that acts: load it, give it observations, save it. No training code."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import int64, uint8

from nbrl.actions import (
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
    to_env,
)
from nbrl.checkpoint import policy_file, read_tensors, write_tensors
from nbrl.kernels.compile import jit
from nbrl.kernels.struct import Struct, reference
from nbrl.nets.layers import layers_from_list, layers_to_list
from nbrl.nets.network import Network
from nbrl.nets.table import Workspace, forward_part, load_observation, load_state, outputs, store_state
from nbrl.numpy_policy import EPSILON, NOT_FINITE, NumpyPolicy, read_input, together
from nbrl.policy_file import FORMAT, read_policy
from nbrl.space_descriptions import gymnasium_space
from nbrl.spaces import Actions

KINDS: tuple[type[Any], ...] = (Categorical, EpsilonGreedy, Gaussian, Deterministic)
CRITICS = ("value", "q")  # heads of one unit that no action is chosen by


def kind_of(heads: Mapping[str, int]) -> type[Any]:
    """The kind of policy that acts by such heads, those of the policy first; ValueError where there is none."""
    names = tuple(heads)
    for kind in KINDS:
        own = len(kind.heads)
        if names[:own] == kind.heads and all(name in CRITICS and heads[name] == 1 for name in names[own:]):
            return kind
    raise ValueError(f"no kind of policy has the heads {dict(heads)}")


class Actor(Struct):
    """What a thread needs to act besides its policy: scratch with the parameters in place."""

    work = reference(Workspace)
    layers = int64  # those that choose: what comes after values actions
    mask = uint8[::1]  # (outputs,): which discrete actions are legal


@jit
def choose_action(policy, actor, observation, state, greedy):
    """Choose the action for one observation, given as bytes; whether that, and what the policy makes of it, is finite.
    The noise was drawn before.

    `state` (state_size,) is what a recurrent policy remembers, and is brought up to date. The action is
    ``policy.action[0, 0]``.
    """
    work = actor.work
    if not load_observation(work, 0, observation):
        return False
    load_state(work, 0, state)
    forward_part(work, 0, actor.layers, 0, 1)
    values = outputs(work, policy.head, 0, 1)[0]
    for i in range(values.size):
        if not np.isfinite(values[i]):
            return False
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
    to_env(policy, 0)
    return env_address(policy, 0, 0)


class Agent:
    """A trained policy.

    Parameters
    ----------
    network : Network
        With heads "policy" (one logit for each number that a part of an action may be) and "value", with the head "q"
        (one value an action), with heads "mean" and "variance" (one number for each part of a continuous action) and
        "value", or with heads "action" (the same) and "q" (its value).
    parameters : numpy.ndarray
        float32 (network.layout.size,); copied.
    actions : Actions
    environment : str, optional
        The id of what it was trained on.
    sticky_actions : float, optional
        The probability, there, that an Atari frame repeats the action before.
    environment_arguments : mapping, optional
        The keywords that it was made with.
    normal : numpy.ndarray, optional
        float32 (2, observation): means of the observation's numbers, and one over their standard deviations; (2, 1)
        for all pixels of an image.

    Examples
    --------
    ``Agent.load("runs/pong/policy.safetensors").act(observation)`` is an action for what ``env.reset`` or ``env.step``
    gave, to be given to ``env.step``.
    """

    def __init__(
        self,
        network: Network,
        parameters: np.ndarray,
        actions: Actions,
        *,
        environment: str = "",
        sticky_actions: float = 0.0,
        environment_arguments: Mapping[str, Any] | None = None,
        normal: np.ndarray | None = None,
    ) -> None:
        self.network, self.actions, self.environment = network, actions, environment
        self.sticky_actions, self.environment_arguments = sticky_actions, dict(environment_arguments or {})
        self.kind = kind_of(network.heads)
        self.normal = np.zeros((2, 0), np.float32) if normal is None else normal
        self.parameters = np.array(parameters, np.float32)
        if self.parameters.shape != (network.layout.size,):
            raise ValueError(f"the parameters have shape {parameters.shape}: they must be ({network.layout.size},)")
        if not self.kind.takes(actions) or network.heads[self.kind.heads[0]] != actions.outputs:
            raise ValueError(f"a network with the heads {network.heads} cannot choose among {actions}")
        self.parameters.flags.writeable = False
        self._local = threading.local()

    def __repr__(self) -> str:
        remembers = ", recurrent" if self.recurrent else ""
        return f"Agent({self.environment!r}, {self.network.observations}, {self.actions}{remembers})"

    def __reduce__(self) -> tuple[Callable[..., "Agent"], tuple[Any, ...]]:
        return Agent.from_tensors, (self.arrays(), self.metadata())

    @property
    def observation_space(self) -> Any:
        """The gymnasium space of the observations that it takes."""
        return gymnasium_space(self.network.observations.space)

    @property
    def action_space(self) -> Any:
        """The gymnasium space of the actions that it answers with."""
        return gymnasium_space(self.actions.space)

    @property
    def recurrent(self) -> bool:
        """Whether it remembers: then `act` needs a state."""
        return self.network.state_size > 0

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32 (state_size,), for `act` to bring up to date."""
        return np.zeros(self.network.state_size, np.float32)

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
        observation
            One observation of the space that the policy was trained on, or a batch: with one more dimension in front,
            in each part of a Dict or Tuple.
        state : numpy.ndarray, optional
            What a recurrent policy remembers of the episode: `initial_state` at its start, then what `act` left there;
            of a batch float32 (observations, state_size). Other policies need none.
        action_mask : optional
            Of discrete actions which are legal now, as for the action space's `sample`; of a batch one for each. By
            default all are. Illegal ones are never chosen.
        greedy : bool, optional
            Take the best action, instead of sampling one (or, of Q values, taking one at random now and then). A
            deterministic policy always does.
        rng : numpy.random.Generator, optional
            Source of the sampled action; by default a generator of the calling thread, freshly seeded.
        out : numpy.ndarray, optional
            Where a continuous action, or a batch of them, is put, of the action space's dtype; by default a new array.

        Returns
        -------
        int or numpy.ndarray
            An action of the action space; of a batch an array with one more dimension in front.

        Raises
        ------
        ValueError
            An observation that is not of its space, or not finite; a recurrent policy without its state; a mask that
            is none. The state is then as it was. Or the policy's own numbers overflow.
        """
        given = read_input(
            self.network.observations, self.actions, self.network.state_size, observation, state, action_mask
        )
        if out is not None:
            self._check_out(out, given.batch, len(given.rows))
        local = self._local
        if not hasattr(local, "actor"):
            local.actor, local.rng = self.actor(), np.random.default_rng()
        (policy, actor), rng = local.actor, local.rng if rng is None else rng
        actions = []
        for row, mask, remembered in zip(given.rows, given.masks, given.states, strict=True):
            if self.actions.discrete:
                rng.random(out=policy.noise)
            else:
                rng.standard_normal(out=policy.noise)
            actor.mask[:] = mask
            if not choose_action(policy, actor, row.reshape(-1).view(np.uint8), remembered, greedy):
                raise ValueError(NOT_FINITE)
            chosen(policy)
            actions.append(self.actions.decode(policy.taken(0)))
        if out is None:
            return together(actions, given.batch)
        out[...] = together(actions, given.batch)
        return out

    def _check_out(self, out: Any, batch: bool, observations: int) -> None:
        if self.actions.discrete:
            raise ValueError("out is given, but this policy's actions are discrete: leave it out")
        shape, dtype = (observations, *self.actions.shape)[not batch :], np.dtype(self.actions.space["dtype"])
        if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (shape, dtype) or not out.flags.writeable:
            raise ValueError(f"out must be a writable {dtype} array of shape {shape}, as the actions are")

    def to_numpy(self) -> NumpyPolicy:
        """The policy as plain arrays, with a forward pass in NumPy, for hosts without numba."""
        return NumpyPolicy.from_tensors(self.arrays(), self.metadata())

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_tensors` needs: the parameters by name, and what observations are normalised by."""
        normal = {"observations/normal": self.normal} if self.normal.size else {}
        return self.network.layout.views(self.parameters) | normal

    def metadata(self) -> dict[str, str]:
        """What `from_tensors` needs besides the parameters, as text."""
        return {
            "format": FORMAT,
            "network": json.dumps(layers_to_list(self.network.layers)),
            "heads": json.dumps(self.network.heads),
            "separate": json.dumps(self.network.separate),
            "constant": json.dumps(self.network.constant),
            "observations": json.dumps(self.network.observations.to_json()),
            "actions": json.dumps(self.actions.space),
            "environment": self.environment,
            "sticky_actions": json.dumps(self.sticky_actions),
            "environment_arguments": json.dumps(self.environment_arguments),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the policy alone, as one safetensors file: parameters by name, network, spaces."""
        write_tensors(path, self.arrays(), self.metadata())

    @classmethod
    def load(cls, source: str | os.PathLike | bytes) -> "Agent":
        """Read a policy from what `save` or a run's checkpoint wrote: its file, its bytes, or a run's directory.

        Raises
        ------
        CheckpointError
            Anything that is not a whole policy, with one sentence.
        """
        return cls.from_tensors(*read_tensors(policy_file(source)))

    @classmethod
    def from_tensors(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> "Agent":
        """The policy within a file's arrays; those of other names are passed over. Raises as `load`."""
        policy = read_policy(arrays, metadata)
        network = Network(
            layers_from_list(policy.layers),
            policy.observations,
            policy.heads,
            separate=policy.separate,
            constant=policy.constant,
        )
        parameters = np.zeros(network.layout.size, np.float32)
        for name, view in network.layout.views(parameters).items():
            view[...] = arrays[name]
        return cls(
            network,
            parameters,
            policy.actions,
            environment=policy.environment,
            sticky_actions=policy.sticky_actions,
            environment_arguments=policy.environment_arguments,
            normal=np.array(policy.normal),
        )
