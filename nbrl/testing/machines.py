"""Stateful machines of hypothesis: what a host may do with a trainer or a learner, in any order."""

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nbrl.agent import Agent
from nbrl.config import configure
from nbrl.envs import make
from nbrl.online import OnlineLearner
from nbrl.space_descriptions import gymnasium_space
from nbrl.testing.strategies import observations
from nbrl.trainer import Trainer

PATIENCE = 60.0  # seconds that nothing takes, unless it waits for ever


def trainer_machine(environment: Any, **settings: Any) -> type[RuleBasedStateMachine]:
    """A machine that starts, pauses, resumes, stops, joins, saves and restores a `Trainer` of an environment.

    ``Test = trainer_machine("Catch-v0").TestCase`` is a test. What must hold after each step: steps never grow less, a
    run that was stopped has no threads, a snapshot acts, and the folder has a policy that loads.

    Parameters
    ----------
    environment : str, callable or EnvSpec
    **settings
        As for `nbrl.configure`; by default one thread and 10**9 steps.
    """
    config = configure(environment, **{"threads": 1, "actors": 1, "steps": 10**9, "report_interval": 0.01} | settings)
    object_ = None if isinstance(environment, str) else environment

    class TrainerMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = tempfile.TemporaryDirectory()
            self.started = False
            self.last = 0

        @initialize()
        def make(self) -> None:
            self.threads = threading.active_count()
            self.trainer = Trainer(config, object_, directory=Path(self.folder.name, "run"))

        @property
        def alive(self) -> bool:
            return self.started and self.trainer.running

        @precondition(lambda self: not self.started)
        @rule()
        def start(self) -> None:
            self.trainer.start()
            self.started = True

        @precondition(lambda self: not self.started)
        @rule()
        def pause_too_early(self) -> None:
            for call in (self.trainer.pause, self.trainer.resume):
                try:
                    call()
                except RuntimeError:
                    continue
                raise AssertionError("a trainer that was not started took a pause")

        @precondition(lambda self: self.alive)
        @rule()
        def pause(self) -> None:
            self.trainer.pause()
            steps = self.trainer.steps
            assert self.trainer.paused or not self.trainer.running
            assert self.trainer.steps == steps

        @precondition(lambda self: self.alive)
        @rule()
        def resume(self) -> None:
            self.trainer.resume()
            assert not self.trainer.paused

        @precondition(lambda self: self.alive)
        @rule()
        def wait_a_little(self) -> None:
            self.trainer.join(0.02)

        @rule()
        def snapshot(self) -> None:
            agent = self.trainer.snapshot()
            state = agent.initial_state() if agent.recurrent else None
            agent.act(agent.observation_space.sample(), state)

        @precondition(lambda self: self.started)
        @rule()
        def stop(self) -> None:
            assert self.trainer.stop(PATIENCE)
            assert self.trainer.error is None
            assert not self.trainer.running
            assert self.trainer.join(PATIENCE)
            assert threading.active_count() <= self.threads
            assert Agent.load(self.folder.name + "/run")

        @precondition(lambda self: self.started and not self.trainer.running)
        @rule()
        def go_on(self) -> None:
            steps = self.trainer.steps
            self.trainer = Trainer.from_run(self.folder.name + "/run", object_)
            assert self.trainer.steps == steps
            self.started = False

        @invariant()
        def steps_never_grow_less(self) -> None:
            if hasattr(self, "trainer"):
                steps = self.trainer.steps
                assert steps >= self.last
                self.last = steps

        def teardown(self) -> None:
            if hasattr(self, "trainer"):
                assert self.trainer.stop(PATIENCE)
            self.folder.cleanup()

    return TrainerMachine


def online_learner_machine(environment: Any, **settings: Any) -> type[RuleBasedStateMachine]:
    """A machine that tells an `OnlineLearner` of an environment's spaces whatever may happen: steps of any reward, ends
    of both kinds, wrong calls, snapshots, saving and restoring.

    Parameters
    ----------
    environment : str, callable or EnvSpec
        Whose spaces are taken.
    **settings
        As for `nbrl.configure`.
    """
    spec = make(environment)
    space, actions = gymnasium_space(spec.observations.space), gymnasium_space(spec.actions.space)

    class OnlineLearnerMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.learner = OnlineLearner({"rollout_length": 3, **settings}, space, actions)
            self.acted = False
            self.returns: list[float] = []
            self.total = 0.0

        @rule(observation=observations(space), reward=st.floats(-10, 10, width=32))
        def step(self, observation: Any, reward: float) -> None:
            action = self.learner.step(observation, reward if self.acted else 0.0)
            assert actions.contains(action), f"{action!r} is not of {actions}"
            self.total += reward if self.acted else 0.0
            self.acted = True

        @precondition(lambda self: self.acted)
        @rule(observation=observations(space), reward=st.floats(-10, 10, width=32), truncated=st.booleans())
        def end(self, observation: Any, reward: float, truncated: bool) -> None:
            assert self.learner.step(observation, reward, not truncated, truncated) is None
            self.returns.append(self.total + reward)
            self.total, self.acted = 0.0, False

        @precondition(lambda self: not self.acted)
        @rule(observation=observations(space))
        def end_too_early(self, observation: Any) -> None:
            try:
                self.learner.step(observation, terminated=True)
            except ValueError:
                return
            raise AssertionError("an episode ended with its first observation")

        @precondition(lambda self: self.acted)
        @rule(observation=observations(space))
        def no_number(self, observation: Any) -> None:
            try:
                self.learner.step(observation, float("nan"))
            except FloatingPointError:
                self.acted, self.total = False, 0.0
                assert np.isfinite(self.learner.snapshot().parameters).all()
                return
            raise AssertionError("a reward that is no number was taken")

        @rule()
        def collect(self) -> None:
            found = self.learner.returns()
            assert len(found) == len(self.returns)
            assert np.allclose(found, self.returns, rtol=1e-5, atol=1e-5)
            self.returns = []

        @rule(observation=observations(space))
        def snapshot(self, observation: Any) -> None:
            agent = self.learner.snapshot()
            state = agent.initial_state() if agent.recurrent else None
            assert actions.contains(agent.act(observation, state))

        @rule()
        def save_and_restore(self) -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "learner.safetensors")
                self.learner.save(path)
                before = self.learner
                self.learner = OnlineLearner(before.config, space, actions, restore=path)
            assert self.learner.steps == before.steps
            same = self.learner.snapshot().parameters == before.snapshot().parameters
            assert same.all()
            self.acted, self.total, self.returns = False, 0.0, []

    return OnlineLearnerMachine
