"""Learning where the host owns the loop: games and simulators that cannot be handed over as an environment."""

import os
import threading
from collections.abc import Mapping
from typing import Any

import numba
from gymnasium import spaces

from nbrl import snapshot
from nbrl.actions import to_env
from nbrl.agent import Agent
from nbrl.checkpoint import write_tensors
from nbrl.config import Config, configure
from nbrl.envs.interface import STEPPED, TERMINATED, TRUNCATED, EnvSpec, read_number
from nbrl.kernels.compile import jit
from nbrl.learner import Learner
from nbrl.methods import driver
from nbrl.methods.driver import GO_ON
from nbrl.run import FAILURES


@jit
def _act(method, policy, shared, worker, t):
    """What a rollout begins with, and the action of step t, of a worker of one actor."""
    if t == 0:
        driver.begin_rollout(method, shared, worker)  # theta' = theta
    if not worker.actors.begun[0]:
        driver.begin_episode(worker.actors, 0)
    code = driver.observe(policy, worker, 0, t)
    if code == GO_ON:
        driver.act(method, policy, shared, worker, 0, t)
        to_env(policy, t)
    return code


@jit
def _record(method, policy, shared, worker, t, reward, status):
    """What the action of step t led to."""
    code = driver.record_step(method, worker, 0, t, 0, reward, status)
    return code if code != GO_ON else driver.end_values(method, policy, shared, worker, 0, t)


@jit
def _learn(method, policy, shared, worker):
    """What a rollout ends with."""
    return driver.finish_rollout(method, policy, shared, worker, 0)


FOR_LIFE = 10**15  # steps, of which no share is ever noticed


class OnlineLearner:
    """An actor-learner that is told what happens and answers with actions. It learns in the thread that calls it.

    Parameters
    ----------
    config : Config or mapping
        Settings; a mapping has those that differ from the defaults of this kind of observation, as for
        `nbrl.configure`. `actors` (in a mapping 1, unless it says otherwise) is how many learners may share the
        parameters; `threads` and `envs_per_batch` mean nothing here. Without `steps` in a mapping, or with None, it
        learns for life, at the rate that it begins with.
    observation_space : gymnasium.Space
        Box, Discrete, MultiDiscrete, or a Dict or Tuple of these.
    action_space : gymnasium.spaces.Discrete or gymnasium.spaces.Box
    restore : path, optional
        What `save` wrote, to go on from.

    Raises
    ------
    ValueError
        A setting or a space that cannot be used, in one sentence.
    CheckpointError
        The file is damaged, or of a learner with other settings.

    Examples
    --------
    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> learner = OnlineLearner({"seed": 1}, spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2))
    >>> action = learner.step(np.zeros(3))  # the first observation of an episode
    >>> action = learner.step(np.ones(3), reward=1.0)
    >>> print(learner.step(np.ones(3), reward=0.5, terminated=True))  # the last one needs no action
    None
    >>> learner.returns()
    [1.5]
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any],
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        restore: str | os.PathLike | None = None,
    ) -> None:
        masks = not isinstance(action_space, spaces.Box)
        layout = (
            dict(config).get("observation_layout", "auto") if isinstance(config, Mapping) else config.observation_layout
        )
        environment = EnvSpec("host", observation_space, action_space, action_mask=masks, observation_layout=layout)
        if isinstance(config, Mapping):
            given = {"actors": 1, "threads": None, "envs_per_batch": 1} | dict(config)
            steps = given.pop("steps", None)
            config = configure(environment, **given | ({} if steps is None else {"steps": steps}))
            config = config if steps is not None else config.replace(steps=FOR_LIFE)
        config = config.replace(threads=config.actors, envs_per_batch=1)
        self._learner = Learner(config, environment)
        if restore is not None:
            snapshot.restore(self._learner, restore)
        self._compile()
        self._taken = [True] + [False] * (config.actors - 1)
        self._taking = threading.Lock()
        self._begin(0)

    def _begin(self, worker: int) -> None:
        observations = self._learner.environment.observations
        self._arguments = _, self._policy, _, self._worker = self._learner.arguments(worker)
        row = self._worker.actors.observation[0].view(observations.dtype)
        self._observation = row.reshape(observations.shape)
        self._t = 0  # step of the rollout
        self._acted = False  # and waits for what comes of it

    def _compile(self) -> None:
        """Compile now all that a step calls, so that no later one waits for it."""
        arguments = self._learner.arguments(0)
        for function, *more in ((_act, 0), (_record, 0, 0.0, 0), (_learn,)):
            function.compile(tuple(numba.typeof(argument) for argument in (*arguments, *more)))

    def another(self) -> "OnlineLearner":
        """One more learner of the same parameters, for another thread and another course of episodes.

        Raises
        ------
        ValueError
            All of the settings' `actors` are in use.
        """
        with self._taking:
            if all(self._taken):
                raise ValueError(
                    f"all {len(self._taken)} learners are in use: set actors to how many share the parameters"
                )
            worker = self._taken.index(False)
            self._taken[worker] = True
        other = object.__new__(OnlineLearner)
        other.__dict__.update(self.__dict__)
        other._begin(worker)
        return other

    def step(
        self,
        observation: Any,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        *,
        action_mask: Any = None,
    ) -> Any:
        """Learn from what the last action led to, and choose the next one.

        Parameters
        ----------
        observation
            What is seen now, of the observation space.
        reward : float, optional
            For the last action; an episode's first observation has none.
        terminated, truncated : bool, optional
            Whether the episode ended here, by its own rules or by a limit from outside. The next call begins another.
        action_mask : optional
            Which discrete actions are legal now, as for the action space's `sample`; by default all are.

        Returns
        -------
        int, numpy.ndarray or None
            An action of the action space, discrete or continuous; None where the episode has ended.

        Raises
        ------
        ValueError
            The observation is not of its space, the reward is no number, or an episode would end before its first
            action.
        FloatingPointError
            An observation, a reward or a gradient is not finite. The parameters are as they were, of ppo and pqn as
            the minibatches before left them.
        """
        learner, reward = self._learner, read_number("the reward", reward)
        if not self._acted and (terminated or truncated):
            raise ValueError("an episode cannot end with its first observation: no action led there")
        learner.environment.observations.write(observation, self._observation)
        self._set_mask(action_mask)
        if self._acted:
            self._acted = False
            status = STEPPED | (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
            self._check(_record(*self._arguments, self._t, reward, status))
            self._t += 1
            if self._t == learner.config.rollout_length:
                self._t = 0
                if not self.finished:
                    self._check(_learn(*self._arguments))
        if terminated or truncated:
            return None
        self._check(_act(*self._arguments, self._t))
        self._acted = True
        return learner.environment.actions.decode(self._policy.taken(self._t))

    def _set_mask(self, action_mask: Any) -> None:
        if action_mask is None:
            self._worker.actors.mask[0] = 1
        else:
            self._worker.actors.mask[0] = self._learner.environment.actions.mask(action_mask)

    def _check(self, code: int) -> None:
        if code != GO_ON:
            self._t = 0
            self._worker.actors.begun[0] = False
            raise FloatingPointError(f"{FAILURES[code]}; the parameters are as they were before it")

    @property
    def config(self) -> Config:
        """The settings, the seed filled in."""
        return self._learner.config

    @property
    def steps(self) -> int:
        """Steps that were learnt from, by all that share the parameters."""
        return self._learner.steps

    @property
    def finished(self) -> bool:
        """Whether the settings' `steps` are reached: from then on it acts and learns no more."""
        return self.steps >= self.config.steps

    def returns(self) -> list[float]:
        """The returns of the episodes that ended since the last call, of all that share the parameters."""
        with self._taking:
            return [episode[0] for episode in self._learner.new_episodes().tolist()]

    def snapshot(self) -> Agent:
        """The policy of this moment."""
        return self._learner.agent()

    def save(self, path: str | os.PathLike) -> None:
        """Write what `restore` needs, one file that `Agent.load` reads as well. Episodes under way are not kept."""
        write_tensors(path, *snapshot.take(self._learner, with_episodes=False))
