"""How good a policy is: whole episodes in environments of their own, raw rewards, every return kept."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nbrl import envs
from nbrl.actions import any_legal
from nbrl.agent import Agent, chosen, draw_action
from nbrl.config import available_cores
from nbrl.envs.atari import human_normalised
from nbrl.envs.gym import called
from nbrl.envs.interface import TERMINATED, TRUNCATED, VOID, Env, EnvSpec, succeeded
from nbrl.kernels.compile import jit
from nbrl.kernels.native import address_at, atomic_load, call_reset, call_step
from nbrl.kernels.random import ROW, next_uint64, seed_row
from nbrl.numpy_policy import NOT_FINITE
from nbrl.settings import whole
from nbrl.spaces import ALIVE

logger = logging.getLogger(__name__)

MAX_EPISODE_STEPS = 100_000
STREAM = 1 << 32  # random streams of evaluation begin here, far from those of training's actors
ENDED, STOPPED, FAILED, CANNOT_ACT, NOTHING_LEGAL = range(5)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The episodes of one evaluation.

    Attributes
    ----------
    environment : str
    returns : list of float
        Sum of the raw rewards of each episode; of several agents the mean of theirs.
    lengths : list of int
        Agent steps of each episode.
    greedy : bool
        Whether actions were the most likely ones instead of sampled ones.
    agent_returns : list of list of float
        Of several agents each one's return, episode by episode; empty where there is one.
    """

    environment: str
    returns: list[float]
    lengths: list[int]
    greedy: bool
    agent_returns: list[list[float]] = field(default_factory=list)

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" (standard error {self.standard_error:.2g})"
        return (
            f"Evaluation({self.environment!r}, mean return {self.mean_return:.4g}{error}, {len(self.returns)} episodes)"
        )

    @property
    def mean_return(self) -> float:
        """Mean of the returns."""
        return float(np.mean(self.returns))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean return; None for a single episode."""
        if len(self.returns) < 2:
            return None
        return float(np.std(self.returns, ddof=1) / math.sqrt(len(self.returns)))

    @property
    def human_normalised(self) -> float | None:
        """In percent, 0 random play and 100 a human tester, from no-op starts; None where there is no such score."""
        return human_normalised(self.environment, self.mean_return)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it; `human_normalised` only where there is one."""
        result: dict[str, Any] = {
            "environment": self.environment,
            "mean_return": self.mean_return,
            "standard_error": self.standard_error,
            "episodes": len(self.returns),
            "greedy": self.greedy,
            "returns": self.returns,
            "lengths": self.lengths,
        }
        if self.agent_returns:
            result["agent_returns"] = self.agent_returns
        if self.human_normalised is not None:
            result["human_normalised"] = self.human_normalised
        return result


@jit
def _play_episode(
    policy, actor, masked, functions, observation, state, reward, returns, acts, row, greedy, control, limit
):
    """One episode of at most `limit` steps: how it went, the mean return of its agents, its length."""
    reset, step, environment = functions
    total, length, n = 0.0, 0, observation.shape[0]
    state[:] = 0
    returns[:] = 0
    seen, mask = address_at(observation, 0), address_at(actor.mask, 0) if masked else 0
    alive = address_at(actor.alive, 0) if n > 1 else 0
    if not succeeded(call_reset(reset, environment, next_uint64(row), seen, mask, alive)):
        return FAILED, total, length
    while True:
        if atomic_load(control.ctypes.data):
            return STOPPED, total, length
        for agent in range(n):
            if actor.alive[agent] & ALIVE != 0 and not any_legal(policy, actor.mask[agent]):
                return NOTHING_LEGAL, total, length
            acts[agent] = actor.alive[agent] & ALIVE != 0
        if not draw_action(policy, actor, observation, state, greedy, row):
            return CANNOT_ACT, total, length
        status = call_step(step, environment, chosen(policy), seen, address_at(reward, 0), mask, alive)
        if not succeeded(status):
            return FAILED, total, length
        if status & VOID:  # the episode begins with what is seen now
            state[:] = 0
            continue
        for agent in range(n):
            if acts[agent]:
                returns[agent] += reward[agent]
                total += reward[agent] / n
        length += 1
        if status & (TERMINATED | TRUNCATED) or length == limit:
            return ENDED, total, length


def evaluate(
    agent: Agent,
    environment: Any = None,
    *,
    environment_arguments: Mapping[str, Any] | None = None,
    episodes: int = 30,
    greedy: bool = False,
    threads: int | None = None,
    seed: int = 0,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    on_episode: Callable[[int, float, int], None] | None = None,
) -> Evaluation:
    """Play whole episodes. Each has a seed of its own, so the result does not depend on the number of threads.

    Parameters
    ----------
    agent : Agent
    environment : str, callable or EnvSpec, optional
        By default what the policy was trained on.
    environment_arguments : mapping, optional
        Keywords that it is made with, by default those of training where it is the same.
    episodes : int, optional
    greedy : bool, optional
        Take the most likely action instead of sampling one.
    threads : int, optional
        By default the cores that this process may use.
    seed : int, optional
    max_episode_steps : int, optional
        Steps after which an episode ends here, since some never do by themselves.
    on_episode : callable, optional
        Called with the number of episodes done, the return and the length of each, from several threads in turn.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        An environment that the policy does not fit, a count below 1, or a seed that is none.
    BaseException
        What the environment raised.
    """
    if not isinstance(agent, Agent):
        raise ValueError(f"the agent is {agent!r}: it must be an Agent, as nbrl.Agent.load(path) gives it")
    counts = {"episodes": episodes, "threads": 1 if threads is None else threads}
    counts["max_episode_steps"] = max_episode_steps
    for name, value in counts.items():
        if (whole(value) or 0) < 1:
            raise ValueError(f"{name} is {value!r}: it must be a whole number of at least 1")
    check_seed(seed)
    episodes, seed = int(episodes), int(seed)
    spec = environment_for(agent, environment, arguments=environment_arguments)
    thread_count, limit = min(int(threads or available_cores()), episodes), int(max_episode_steps)
    control = np.zeros(1, np.int64)
    returns, lengths, by_agent = _play(agent, spec, episodes, greedy, thread_count, seed, on_episode, control, limit)
    if limit in lengths:
        logger.info("%d of %d episodes had %s steps, where they were ended", (lengths == limit).sum(), episodes, limit)
    return Evaluation(
        spec.name, returns.tolist(), lengths.tolist(), greedy, by_agent.tolist() if spec.agents > 1 else []
    )


def _play(
    agent: Agent,
    spec: EnvSpec,
    episodes: int,
    greedy: bool,
    threads: int,
    seed: int,
    on_episode: Callable[[int, float, int], None] | None,
    control: np.ndarray,
    limit: int = MAX_EPISODE_STEPS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The returns and lengths of some episodes, and each agent's returns (episodes, agents), unless `control` is set
    meanwhile: then they mean nothing."""
    if spec.vector:
        returns, lengths = _play_together(agent, spec, episodes, greedy, seed, on_episode, control, limit)
        return returns, lengths, returns[:, None]
    returns, lengths, by_agent = np.zeros(episodes), np.zeros(episodes, np.int64), np.zeros((episodes, spec.agents))
    lock, done = threading.Lock(), 0
    errors: list[BaseException] = []

    def play(thread: int) -> None:
        nonlocal done
        try:
            with contextlib.closing(spec.make()) as instance:
                player = _Player(agent, spec, instance, greedy, control, limit)
                for episode in range(thread, episodes, threads):
                    ended, returns[episode], lengths[episode] = player.play(seed, episode)
                    by_agent[episode] = player.returns
                    if not ended:
                        return
                    with lock:
                        done += 1
                        if on_episode:
                            on_episode(done, float(returns[episode]), int(lengths[episode]))
        except BaseException as error:
            errors.append(error)
            control[0] = 1

    workers = [threading.Thread(target=play, args=(thread,), daemon=True) for thread in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(0.2)  # in slices, so that Ctrl-C reaches the main thread
    except BaseException:
        control[0] = 1
        raise
    finally:
        for worker in workers:
            worker.join()
    if errors:
        raise errors[0]
    return returns, lengths, by_agent


def _play_together(
    agent: Agent,
    spec: Any,
    episodes: int,
    greedy: bool,
    seed: int,
    on_episode: Callable[[int, float, int], None] | None,
    control: np.ndarray,
    limit: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As `_play`, in a vector environment. Each of its k environments plays every k-th episode: were it those that end
    first, short ones would count for more."""
    returns, lengths, done = np.zeros(episodes), np.zeros(episodes, np.int64), 0
    k, rng = spec.group, np.random.default_rng(seed)
    playing = list(range(k))  # the episode of each environment
    states = [agent.initial_state() for _ in range(k)]
    with contextlib.closing(spec.stepper()) as vector:
        for i in range(k):
            vector.reset(i, seed)
        while min(playing) < episodes and not control[0]:
            actions = [
                agent.act(
                    seen,
                    state if agent.recurrent else None,
                    action_mask=None if mask is None else spec.actions.as_sample_mask(mask),
                    greedy=greedy,
                    rng=rng,
                )
                for seen, state, mask in zip(vector.observations, states, vector.masks, strict=True)
            ]
            vector.step(actions)
            for i, episode in enumerate(playing):
                _, reward, status = vector.result(i)
                if status & VOID:
                    states[i][:] = 0
                elif episode < episodes:
                    returns[episode] += reward
                    lengths[episode] += 1
                over = status & (TERMINATED | TRUNCATED) or (episode < episodes and lengths[episode] == limit)
                if over:
                    vector.reset(i, seed)
                    states[i][:] = 0
                    playing[i] += k
                    if episode < episodes:
                        done += 1
                        if on_episode:
                            on_episode(done, float(returns[episode]), int(lengths[episode]))
    return returns, lengths


class BackgroundEvaluation:
    """Evaluations beside training: one thread, its own environment and seeds, one policy at a time.

    Parameters
    ----------
    environment : str, callable or EnvSpec
    episodes : int
    limit : int, optional
        Steps after which an episode ends; by default `MAX_EPISODE_STEPS`.
    """

    def __init__(self, environment: Any, episodes: int, limit: int | None = None) -> None:
        self._environment, self._episodes, self._limit = environment, episodes, limit or MAX_EPISODE_STEPS
        self._control = np.zeros(1, np.int64)
        self._thread: threading.Thread | None = None
        self._result: tuple[Evaluation, Agent] | None = None

    def compile(self, agent: Agent) -> None:
        """Compile what a policy needs to play, so that the first evaluation does not."""
        _play(agent, environment_for(agent, self._environment), 1, False, 1, 0, None, np.ones(1, np.int64))

    def begin(self, agent: Agent) -> None:
        """Evaluate a policy, unless the one before is still at it."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._evaluate, args=(agent,), name="nbrl evaluation", daemon=True)
            self._thread.start()

    def _evaluate(self, agent: Agent) -> None:
        try:
            spec = environment_for(agent, self._environment)
            found = _play(agent, spec, self._episodes, False, 1, 0, None, self._control, self._limit)
        except Exception as error:  # training goes on without
            logger.warning("an evaluation beside training failed: %s", error)
            return
        if not self._control[0]:
            returns, lengths, by_agent = (each.tolist() for each in found)
            each_agent_s = by_agent if spec.agents > 1 else []
            self._result = Evaluation(spec.name, returns, lengths, False, each_agent_s), agent

    def take(self) -> tuple[Evaluation, Agent] | None:
        """The evaluation that has ended since the last call, and its policy."""
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """End an evaluation that is under way, and wait for it."""
        self._control[0] = 1
        if self._thread is not None:
            self._thread.join()


def check_seed(seed: Any) -> None:
    """Raise ``ValueError`` for what is no seed of an evaluation."""
    if not 0 <= (-1 if whole(seed) is None else int(seed)) < 2**63:
        raise ValueError(f"seed is {seed!r}: it must be a whole number of at least 0 and under 2**63")


def environment_for(
    agent: Agent, environment: Any = None, *, arguments: Mapping[str, Any] | None = None, pictures: bool = False
) -> EnvSpec:
    """The environment that a policy plays, by default what it was trained on; ``ValueError`` if it does not fit.

    `arguments` are the keywords that it is made with, by default those of training where it is the same.
    """
    seen = agent.network.observations
    if environment is None:
        envs.check_named_in_file(agent.environment)
    named = envs.description(environment, called(environment)) if callable(environment) else environment
    same = environment is None or named == agent.environment
    spec = envs.make(
        agent.environment if environment is None else environment,
        arguments=(agent.environment_arguments if same else {}) if arguments is None else arguments,
        sticky_actions=agent.sticky_actions,
        seed_every_reset=True,
        pictures=pictures,
        observation_layout=seen.layout,
    ).for_evaluation()
    if spec.observations.format != seen.format:
        raise ValueError(f"the policy takes {seen}, {spec.name} gives {spec.observations}")
    if (spec.actions.counts, spec.actions.shape) != (agent.actions.counts, agent.actions.shape):
        raise ValueError(f"the policy chooses among {agent.actions}, {spec.name} takes {spec.actions}")
    if spec.agents != agent.agents:
        raise ValueError(f"the policy is of {agent.agents} agents, {spec.name} has {spec.agents}")
    return spec


def not_finite(spec: EnvSpec, observation: np.ndarray) -> FloatingPointError:
    """What is wrong where a policy could not act on an observation, given as bytes."""
    if np.isfinite(observation.view(spec.observations.dtype)).all():
        return FloatingPointError(NOT_FINITE)
    return FloatingPointError(f"an observation of {spec.name} has a number that is not finite")


class _Player:
    """One thread's environment and scratch."""

    def __init__(
        self, agent: Agent, spec: EnvSpec, instance: Env, greedy: bool, control: np.ndarray, limit: int
    ) -> None:
        self.spec, self.instance, self.greedy, self.control, self.limit = spec, instance, greedy, control, limit
        n = spec.agents
        (self.policy, self.actor), self.state = agent.actor(), agent.initial_state().reshape(n, -1)
        self.observation, self.row = np.zeros((n, spec.observations.bytes), np.uint8), np.zeros(ROW, np.uint64)
        self.reward, self.returns, self.acts = np.zeros(n, np.float32), np.zeros(n), np.zeros(n, np.bool_)

    def play(self, seed: int, episode: int) -> tuple[bool, float, int]:
        seed_row(self.row, np.uint64(seed), np.uint64(STREAM + episode))
        functions = (self.instance.reset_address, self.instance.step_address, self.instance.state_address)
        outcome, total, length = _play_episode(
            self.policy, self.actor, self.spec.action_mask, functions, self.observation, self.state,
            self.reward, self.returns, self.acts, self.row, self.greedy, self.control, self.limit,
        )  # fmt: skip
        if outcome == FAILED:
            error = self.instance.error
            raise RuntimeError(f"the environment {self.spec.name} reported a failure") if error is None else error
        if outcome == CANNOT_ACT:
            raise not_finite(self.spec, self.observation)
        if outcome == NOTHING_LEGAL:
            raise ValueError(f"an action mask of {self.spec.name} allows no action")
        return outcome == ENDED, total, length
