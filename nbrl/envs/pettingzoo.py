"""PettingZoo's parallel environments: theirs behind the environment interface, and ours as such.

Agents of unequal spaces share one network: observations are laid out as vectors with zeros up to the longest, and
numbers that an agent's discrete action cannot be are masked. By the setting agent_index the network is told which agent
it acts for.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from nbrl import envs
from nbrl.envs.gym import SEEDS
from nbrl.envs.interface import (
    STEPPED,
    TERMINATED,
    TRUNCATED,
    Env,
    EnvSpec,
    EnvStepper,
    PythonEnvironment,
    Views,
    python_instance,
    read_number,
)
from nbrl.space_descriptions import gymnasium_space
from nbrl.spaces import ALIVE, PRESENT, STOPPED, Actions, Observations

try:
    from pettingzoo import ParallelEnv
except ImportError as problem:  # as whoever made such an environment has it
    raise ValueError('agents of PettingZoo need its package: pip install "nbrl[pettingzoo]"') from problem

PREFIX = "pettingzoo:"


def build(environment: str, arguments: Mapping[str, Any]) -> ParallelEnv:
    """The parallel environment of a module's name, such as ``pettingzoo:mpe2.simple_spread_v3``.

    Raises
    ------
    ValueError
        There is no such module, or it has no parallel environment, or not with these keywords.
    """
    name = environment.removeprefix(PREFIX)
    try:
        module = importlib.import_module(name)
    except ImportError as problem:
        raise ValueError(f"{environment} needs a module that is not installed: {problem}") from None
    if not callable(getattr(module, "parallel_env", None)):
        raise ValueError(f"{environment}: the module {name} has no parallel_env, which PettingZoo's environments have")
    try:
        return module.parallel_env(**arguments)
    except TypeError as problem:
        raise ValueError(f"{environment} cannot be made with {dict(arguments)}: {problem}") from None


class PettingZooEnvironment(EnvSpec):
    """A parallel environment of PettingZoo, by a function that returns a new one at each call.

    Parameters
    ----------
    name : str
    build : callable
    probe : pettingzoo.ParallelEnv, optional
        What the function returned at a first call, to read its spaces from; it is closed.
    observation_layout : str, optional
        As in `nbrl.spaces.Observations`, where all agents have one space.

    Attributes
    ----------
    agent_names : tuple of str
        In the order of their rows.

    Raises
    ------
    ValueError
        Its agents have actions that one network cannot choose.
    """

    converts = True

    def __init__(
        self,
        name: str,
        build: Callable[[], ParallelEnv],
        probe: ParallelEnv | None = None,
        *,
        observation_layout: str = "auto",
    ) -> None:
        self._build = build
        probe = build() if probe is None else probe
        try:
            agents = list(probe.possible_agents)
            if not agents:
                raise ValueError(f"{name} has no possible_agents")
            seen = [probe.observation_space(agent) for agent in agents]
            acts = [probe.action_space(agent) for agent in agents]
        finally:
            probe.close()
        self.agent_names = tuple(str(agent) for agent in agents)
        self.alike = all(space == seen[0] for space in seen)
        each = [Observations(space, observation_layout if self.alike else "vector") for space in seen]
        observations = each[0] if self.alike else Observations.vector(max(one.size for one in each))
        self.each = each
        self.actions_of = [Actions(space) for space in acts]
        if all(space == acts[0] for space in acts):
            action_space = acts[0]
        elif all(isinstance(space, spaces.Discrete) for space in acts):
            action_space = spaces.Discrete(max(int(space.n) for space in acts))
        else:
            raise ValueError(
                f"{name}: its agents have the actions {', '.join(map(str, acts))}: they must have one space, or each "
                "be Discrete"
            )
        super().__init__(
            name,
            observations,
            action_space,
            action_mask=not isinstance(action_space, spaces.Box),
            agents=len(agents),
            agents_come_and_go=False,
        )

    def make(self) -> Env:
        return python_instance(_Adapter(self, self._build()))


class _Adapter(PythonEnvironment):
    """One parallel environment behind the callbacks."""

    alive: np.ndarray

    def __init__(self, spec: PettingZooEnvironment, environment: ParallelEnv) -> None:
        observations, actions, n = spec.observations, spec.actions, spec.agents
        self._spec, self._environment, self._agents = spec, environment, list(environment.possible_agents)
        self._observations = Views((n, *observations.shape), observations.dtype)
        self._rewards = Views((n,), np.float32)
        self._actions = Views((n, actions.parts), np.int32 if actions.discrete else np.float32)
        self.alive = np.full(n, PRESENT, np.uint8)

    def _observe(self, call: str, seen: Mapping[Any, Any], infos: Mapping[Any, Any], observation: int) -> None:
        rows, masks = self._observations[observation], []
        for agent, row, reader in zip(self._agents, rows, self._spec.each, strict=True):
            if agent in seen:
                try:
                    if self._spec.alike:
                        reader.write(seen[agent], row)
                    else:
                        vector = np.zeros(reader.shape, reader.dtype)
                        reader.write(seen[agent], vector)
                        row[:] = 0
                        row[: reader.size] = vector.reshape(-1) * np.float32(1 / reader.high)
                except ValueError as problem:
                    raise ValueError(f"{self._spec.name}.{call}, agent {agent}: {problem}") from None
        if self._spec.action_mask:
            for agent, actions in zip(self._agents, self._spec.actions_of, strict=True):
                given = infos.get(agent, {}).get("action_mask") if agent in seen else None
                legal = np.ones(actions.outputs, np.uint8) if given is None else actions.mask(given, ended=True)
                masks.append(np.pad(legal, (0, self._spec.actions.outputs - legal.size)))
            self.mask = np.concatenate(masks)

    def reset(self, seed: int, observation: int) -> None:
        seen, infos = self._environment.reset(seed=seed % SEEDS)
        self._observe("reset", seen, infos, observation)
        self.alive[:] = [PRESENT if agent in self._environment.agents else 0 for agent in self._agents]

    def step(self, action: int, observation: int, reward: int) -> int:
        playing = list(self._environment.agents)
        parts = self._actions[action]
        told = {
            agent: actions.decode(parts[i])
            for i, (agent, actions) in enumerate(zip(self._agents, self._spec.actions_of, strict=True))
            if agent in playing
        }
        seen, rewards, terminations, truncations, infos = self._environment.step(told)
        self._observe("step", seen, infos, observation)
        got = self._rewards[reward]
        for i, agent in enumerate(self._agents):
            what = f"the reward that {self._spec.name}.step gave {agent}"
            got[i] = read_number(what, rewards.get(agent, 0.0)) if agent in playing else 0.0
            over = agent in playing and (terminations.get(agent, False) or truncations.get(agent, False))
            if agent not in playing:
                self.alive[i] = 0
            elif over:
                self.alive[i] = 0 if terminations.get(agent, False) else STOPPED
        if self._environment.agents:
            return STEPPED
        stopped = self.alive & STOPPED > 0
        self.alive[stopped] = PRESENT
        return STEPPED | (TRUNCATED if stopped.any() else TERMINATED)

    def picture(self, observation: np.ndarray) -> np.ndarray | None:
        if getattr(self._environment, "render_mode", None) != "rgb_array":
            return None
        return np.asarray(self._environment.render())

    def close(self) -> None:
        self._environment.close()


class NativeParallelEnv(ParallelEnv):
    """What is compiled here with several agents as a parallel environment: the same functions, called one by one.

    All agents play until the episode ends. Where they come and go, an agent is a place: ``infos[agent]["alive"]`` has
    what who is there does, bits as in `nbrl.envs.interface`, 0 for nobody. Legal actions are in
    ``infos[agent]["action_mask"]``, where there are masks.

    Parameters
    ----------
    environment : str or EnvSpec
    render_mode : str, optional
        None or "rgb_array".
    **settings
        Keywords that the environment is made with.

    Raises
    ------
    ValueError
        There is no such environment, or it does not take the settings.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "name": "nbrl"}  # noqa: RUF012 - as PettingZoo has it

    def __init__(self, environment: str | EnvSpec, *, render_mode: str | None = None, **settings: Any) -> None:
        self._spec = envs.make(environment, arguments=settings)
        self.metadata = self.metadata | {"name": self._spec.name}
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{i}" for i in range(self._spec.agents)]
        self.agents: list[str] = []
        self._player, self._random = EnvStepper(self._spec), np.random.default_rng()
        self._seen: np.ndarray | None = None

    @functools.cached_property
    def _spaces(self) -> dict[str, tuple[spaces.Space, spaces.Space]]:
        spec = self._spec
        return {
            agent: (gymnasium_space(spec.observations.space), gymnasium_space(spec.actions.space))
            for agent in self.possible_agents
        }

    def observation_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent][1]

    def _rows(self, values: Any) -> dict[str, Any]:
        return dict(
            zip(self.possible_agents, np.reshape(values, (self._spec.agents, *np.shape(values)[1:])), strict=True)
        )

    def _infos(self) -> dict[str, dict[str, Any]]:
        spec, player = self._spec, self._player
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.possible_agents}
        for i, info in enumerate(infos.values()):
            if spec.agents_come_and_go:
                info["alive"] = int(player.alive[i])
            if player.mask.size:
                info["action_mask"] = spec.actions.as_sample_mask(player.mask.reshape(spec.agents, -1)[i])
        return infos

    def _observations(self) -> dict[str, Any]:
        assert self._seen is not None
        return self._rows(self._seen.reshape(self._spec.agents, *self._spec.observations.shape))

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._seen = self._player.reset(int(self._random.integers(SEEDS)) if seed is None else seed)
        return self._observations(), self._infos()

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        told = [self._spec.actions.encode(actions[agent]) for agent in self.possible_agents]
        acted = self._player.alive & ALIVE > 0
        self._seen, _, status = self._player.step(told)
        rewards = self._rows(np.where(acted, self._player.rewards, 0).astype(float))
        ended, cut = (dict.fromkeys(self.possible_agents, bool(status & bit)) for bit in (TERMINATED, TRUNCATED))
        if status & (TERMINATED | TRUNCATED):
            self.agents = []
        return self._observations(), rewards, ended, cut, self._infos()

    def render(self) -> np.ndarray | None:
        if self.render_mode is None or self._seen is None:
            return None
        return self._player.instance.picture(self._seen)

    def close(self) -> None:
        self._player.close()
