"""A policy that acts: load it, give it observations, save it. No training code."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import float64, int64, uint8

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
from nbrl.kernels.native import copy
from nbrl.kernels.struct import Struct, reference
from nbrl.nets.layers import layers_from_list, layers_to_list
from nbrl.nets.network import Network
from nbrl.nets.table import AFTER, INPUT, Workspace, forward_part, load_observation, load_state, outputs, store_state
from nbrl.numpy_policy import EPSILON, NOT_FINITE, NumpyPolicy, read_alive, read_input, together
from nbrl.policy_file import FORMAT, read_policy
from nbrl.space_descriptions import gymnasium_space
from nbrl.spaces import ALIVE, HEARS, NEW, PRESENT, SPEAKS, Actions

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
    """What a thread needs to act besides its policy: scratch with the parameters in place, a row for each agent."""

    work = reference(Workspace)
    layers = int64  # those that choose: what comes after values actions
    mask = uint8[:, ::1]  # (agents, outputs): which discrete actions are legal
    alive = uint8[::1]  # (agents,): what each does now, see the environment interface
    noise = float64[:, ::1]  # (agents, parts): what chance decides by


@jit
def choose_action(policy, actor, observation, state, greedy):
    """Choose the actions of agents by what each observes, bytes (agents, size); whether all is finite, what is observed
    and what the policy makes of it. The noise was drawn before.

    `state` (agents, state_size) is what a recurrent policy remembers, and is brought up to date: who is not alive has
    nothing in mind. The actions are ``policy.action[0]``.
    """
    work, n = actor.work, observation.shape[0]
    for agent in range(n):
        if not load_observation(work, agent, observation[agent]):
            return False
        does = actor.alive[agent]
        if does & NEW:
            state[agent, :] = 0
        load_state(work, agent, state[agent])
        work.speaks[agent] = does & ALIVE != 0 and does & SPEAKS != 0
        work.hears[agent] = does & ALIVE != 0 and does & HEARS != 0
    forward_part(work, 0, actor.layers, 0, n)
    for values in outputs(work, policy.head, 0, n):
        for i in range(values.size):
            if not np.isfinite(values[i]):
                return False
    for agent in range(n):
        mask_outputs(policy, work, agent, actor.mask[agent])
        if actor.alive[agent] & ALIVE:
            store_state(work, agent, state[agent])
        else:
            state[agent, :] = 0
        copy(policy.noise, actor.noise[agent])
        if greedy:
            most_likely(policy, work, agent, policy.action[0, agent])
        else:
            choose(policy, work, agent, policy.action[0, agent])
    return True


@jit
def draw_action(policy, actor, observation, state, greedy, row):
    """As `choose_action`, by the chance of a random row."""
    for agent in range(observation.shape[0]):
        draw(policy, row)
        copy(actor.noise[agent], policy.noise)
    return choose_action(policy, actor, observation, state, greedy)


@jit
def chosen(policy):
    """Where the environment finds what `choose_action` chose."""
    to_env(policy, 0)
    return env_address(policy, 0, 0)


def said(network: Network, actor: Actor) -> np.ndarray:
    """What agents said as they chose last, a colour each, uint8 (agents, 3): like messages look alike, black is none.

    It is what enters the first layer by which they talk within a step, or the bits for the next one.
    """
    work = actor.work
    colours = np.zeros((work.agents, 3), np.uint8)
    for plan, line in zip(network.plans, work.table, strict=True):
        if plan.communicates:
            first, size = (INPUT, plan.inputs) if not plan.noise else (AFTER, plan.state)
            rows = work.activations[line[first] :][: work.agents * size].reshape(work.agents, size)
            rows = rows[:, -1 - plan.noise : -1] if plan.noise else rows
            directions = np.random.default_rng(0).standard_normal((rows.shape[1], 3))
            shade = rows @ (directions / np.linalg.norm(directions, axis=0))
            shade /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
            colours[:] = np.where(work.speaks[: work.agents, None], 140 + 110 * shade, 0)
            break
    return colours


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
    agents : int, optional
        How many acted in it, all by this policy.
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
        agents: int = 1,
        normal: np.ndarray | None = None,
    ) -> None:
        self.network, self.actions, self.environment, self.agents = network, actions, environment, agents
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
        more = f", {self.agents} agents" if self.agents > 1 else ""
        more += ", recurrent" if self.recurrent else ""
        return f"Agent({self.environment!r}, {self.network.observations}, {self.actions}{more})"

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

    @property
    def unit(self) -> int:
        """How many observations pass together: of agents that communicate, or are told which they are, all."""
        return self.agents if self.network.passes_together else 1

    def initial_state(self) -> np.ndarray:
        """What the policy remembers before an episode: zeros, float32 (state_size,), for `act` to bring up to date; of
        several agents (agents, state_size)."""
        size = self.network.state_size
        return np.zeros((size,) if self.agents == 1 else (self.agents, size), np.float32)

    def actor(self) -> tuple[Policy, Actor]:
        """What one thread acts with, in compiled code."""
        n = self.agents
        work = self.network.workspace(n, scales=self.normal.shape[1], learns=False, agents=n)
        work.theta[:] = self.parameters
        work.normal[:] = self.normal
        more = {"epsilon": EPSILON} if self.kind is EpsilonGreedy else {}
        policy = self.kind.make(self.network.head(self.kind.heads[0]), (1, n), self.actions, **more)
        return policy, Actor(
            work=work,
            layers=policy.head + 1 if self.kind is Deterministic else len(work.table),
            mask=np.ones((n, sum(self.actions.counts)), np.uint8),
            alive=np.full(n, PRESENT, np.uint8),
            noise=np.zeros((n, policy.noise.size)),
        )

    def act(
        self,
        observation: Any,
        state: np.ndarray | None = None,
        *,
        action_mask: Any = None,
        alive: Any = None,
        greedy: bool = False,
        rng: np.random.Generator | None = None,
        out: np.ndarray | None = None,
    ) -> Any:
        """Choose an action. Threads may share an agent: each has its own scratch and random numbers.

        Where several agents communicate, a batch has an observation of each, in their order; a larger one those of one
        environment after those of another.

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
        alive : optional
            What each agent of a batch does, bits as in `nbrl.envs.interface`, where they come and go. By default all
            are alive, speak and hear.
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
        present = read_alive(alive, len(given.rows), given.batch, self.unit)
        if out is not None:
            self._check_out(out, given.batch, len(given.rows))
        local = self._local
        if not hasattr(local, "actor"):
            local.actor, local.rng = self.actor(), np.random.default_rng()
        (policy, actor), rng = local.actor, local.rng if rng is None else rng
        actions = []
        rows = given.rows.reshape(len(given.rows), -1).view(np.uint8)
        unit = self.unit
        for first in range(0, len(rows), unit):
            these = slice(first, first + unit)
            noise = actor.noise[:unit]
            if self.actions.discrete:
                rng.random(out=noise)
            else:
                rng.standard_normal(out=noise)
            actor.mask[:unit], actor.alive[:unit] = given.masks[these], present[these]
            if not choose_action(policy, actor, rows[these], given.states[these], greedy):
                raise ValueError(NOT_FINITE)
            chosen(policy)
            actions += [self.actions.decode(policy.taken(0, agent)) for agent in range(unit)]
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
            **(
                {"agents": str(self.agents), "indexed": json.dumps(self.network.indexed > 0)} if self.agents > 1 else {}
            ),
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
            indexed=policy.agents if policy.indexed else 0,
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
            agents=policy.agents,
            normal=np.array(policy.normal),
        )
