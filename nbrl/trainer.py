"""One training run: its threads, its reports, its checkpoints. The embedding point.

The threads spend their time in the method's compiled loop and come back about twice a second. Nothing here prints,
handles signals or starts processes.
"""

import collections
import dataclasses
import logging
import math
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from nbrl import checkpoint, envs
from nbrl.agent import Agent, Preprocessing
from nbrl.config import Config, configure
from nbrl.envs.interface import Environment, Instance
from nbrl.kernels.random import ROW, seed_row
from nbrl.methods import rollout
from nbrl.methods.a3c import a3c
from nbrl.methods.rollout import Settings, Shared, Worker
from nbrl.metrics import MetricsFile, Report, RunDirectory
from nbrl.nets.layout import aligned_zeros
from nbrl.nets.network import Network
from nbrl.optimisers import CODES, STATISTICS

logger = logging.getLogger(__name__)

LOOPS = {"a3c": a3c}
CALL_SECONDS = 0.5  # how long a thread stays in compiled code
GRACE = 0.5  # seconds that a rollout has to end after a stop, before it is abandoned
EXIT_SECONDS = 2.0  # how long a host that exits waits for a run that it forgot
CHECKPOINTS_KEPT = 3
RECENT_EPISODES = 100
FAILURES = {
    rollout.BAD_OBSERVATION: "an observation has a number that is not finite",
    rollout.BAD_REWARD: "a reward is not finite",
    rollout.BAD_GRADIENT: "the gradient is not finite: a lower learning_rate or gradient_clip may help",
}


class Trainer:
    """Trains in threads of its own, in the background.

    Parameters
    ----------
    config : Config
        As `nbrl.configure` makes it.
    environment : str, callable or Environment, optional
        What to train on, where it is more than the id in `config`: a function that makes a gymnasium environment, or a
        `NativeEnvironment`.
    directory : path, optional
        A new run directory: settings, metrics, checkpoints and the final policy go there. None keeps nothing.
    on_report : callable, optional
        Called with each `Report`, about once a second, in the run's own thread.
    restore : path, optional
        A checkpoint to go on from; `directory` is then the run that it belongs to.

    Raises
    ------
    ValueError
        A setting, environment or directory that cannot be used, in one sentence.

    Examples
    --------
    >>> from nbrl import Trainer, configure
    >>> trainer = Trainer(configure("Catch-v0", steps=1000, threads=1, seed=1))
    >>> trainer.start()
    >>> trainer.join()
    >>> trainer.steps
    1000
    """

    def __init__(
        self,
        config: Config,
        environment: Any = None,
        *,
        directory: str | os.PathLike | None = None,
        on_report: Callable[[Report], None] | None = None,
        restore: str | os.PathLike | None = None,
    ) -> None:
        self._run = _Run(config, environment, directory, on_report, restore)
        # A host that forgets to stop: at exit, or when the trainer is dropped, its threads are stopped.
        self._finaliser = weakref.finalize(self, _Run.stop, self._run, EXIT_SECONDS)

    @property
    def config(self) -> Config:
        """The settings, the seed filled in."""
        return self._run.config

    @property
    def steps(self) -> int:
        """Agent steps taken so far, by all actors."""
        return self._run.steps

    @property
    def running(self) -> bool:
        """Whether threads are at work."""
        return self._run.running

    def start(self) -> None:
        """Compile what must be compiled (seconds, the first time), start the threads and return.

        Raises
        ------
        RuntimeError
            The trainer was started before.
        """
        self._run.start()

    def stop(self) -> None:
        """End the run where it is, save it if it has a directory, and wait for that. Safe at any time, from any thread."""
        self._run.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended; whether it has.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        BaseException
            What ended the run, if it was an error: the environment's own exception, for example.
        """
        return self._run.join(timeout)

    def agent(self) -> Agent:
        """The policy of this moment."""
        return self._run.agent()


def train(
    environment: Any,
    *,
    directory: str | os.PathLike | None = None,
    preset: str | None = None,
    on_report: Callable[[Report], None] | None = None,
    **settings: Any,
) -> Agent:
    """Train to the end and return the policy.

    Parameters
    ----------
    environment : str, callable or Environment
        An id such as ``"CartPole-v1"``, a function that makes a gymnasium environment, or a `NativeEnvironment`.
    directory, on_report
        As for `Trainer`.
    preset, **settings
        As for `nbrl.configure`.
    """
    config = configure(environment, preset=preset, **settings)
    trainer = Trainer(config, environment, directory=directory, on_report=on_report)
    trainer.start()
    try:
        trainer.join()
    except BaseException:
        trainer.stop()
        raise
    return trainer.agent()


class _Run:
    """What the threads share. They hold this and not the `Trainer`, so that a dropped trainer ends its run."""

    def __init__(
        self,
        config: Config,
        environment: Any,
        directory: str | os.PathLike | None,
        on_report: Callable[[Report], None] | None,
        restore: str | os.PathLike | None,
    ) -> None:
        if config.seed is None:
            config = dataclasses.replace(config, seed=secrets.randbits(63))
        elif config.threads > 1:
            logger.info("with %d threads the order of updates is not reproducible, seed or not", config.threads)
        assert config.seed is not None
        self.config = config
        self.environment = envs.make(
            config.environment if environment is None else environment,
            sticky_actions=config.sticky_actions,
            cut_on_life_loss=config.cut_on_life_loss,
        )
        if self.environment.action_count == 0:
            raise ValueError(f"{config.environment} has continuous actions: a3c takes discrete ones")
        heads = {"policy": self.environment.action_count, "value": 1}
        self.network = Network(config.network, self.environment.observation_shape, heads)
        size = self.network.layout.size
        self.shared = Shared(
            theta=aligned_zeros(size, np.float32),
            statistics=aligned_zeros((len(STATISTICS[config.optimiser]), size), np.float32),
            steps=aligned_zeros((config.threads, rollout.LINE), np.int64),
            updates=aligned_zeros(rollout.LINE, np.int64),
            control=aligned_zeros(rollout.LINE, np.int64),
        )
        self.shared.theta[:] = self.network.initial(config.seed)
        clip = math.inf if config.reward_clip is None else config.reward_clip
        values = {name: getattr(config, name) for name in Settings._fields if hasattr(config, name)}
        values |= {"total_steps": config.steps, "optimiser": CODES[config.optimiser], "reward_clip": clip}
        self.settings = Settings(**values)
        self.loop = LOOPS[config.method]
        groups = np.arange(config.actors).reshape(-1, config.lockstep)
        self.actors = [groups[thread :: config.threads].reshape(-1) for thread in range(config.threads)]
        self.workers = [self._worker(thread, actors) for thread, actors in enumerate(self.actors)]
        self.seconds_before = 0.0
        if restore is not None:
            self._restore(restore)
        self.directory = None
        if directory is not None:
            self.directory = RunDirectory(directory) if restore else RunDirectory.create(directory, config)
        self.on_report = on_report

        self.instances: list[list[Instance]] = []
        self.threads: list[threading.Thread] = []
        self.error: BaseException | None = None
        self.state = "new"  # then "running", "parked" for moments, "stopping", "ended"
        self.changed = threading.Condition()  # guards state and the two counts
        self.active = 0
        self.parked = 0
        self.recent: collections.deque[float] = collections.deque(maxlen=RECENT_EPISODES)

    def _worker(self, thread: int, actors: np.ndarray) -> Worker:
        config, n = self.config, actors.size
        t_max, k = config.rollout_length, config.lockstep
        bytes_seen = math.prod(self.environment.observation_shape) * self.environment.observation_dtype.itemsize
        random = aligned_zeros((n, ROW), np.uint64)
        for row, actor in zip(random, actors, strict=True):
            seed_row(row, np.uint64(config.seed), np.uint64(1 + actor))
        per_step = {"action": np.int32, "reward": np.float32, "discount": np.float32, "ended": np.bool_}
        per_step |= {"truncated": np.bool_, "last_value": np.float32}
        return Worker(
            work=self.network.workspace((t_max + 1) * k),
            thread=thread,
            group=np.zeros(1, np.int64),
            functions=np.zeros((n, 3), np.int64),
            observation=aligned_zeros((n, bytes_seen), np.uint8),
            random=random,
            begun=np.zeros(n, np.bool_),
            episode_return=np.zeros(n, np.float64),
            episode_length=np.zeros(n, np.int64),
            **{name: np.zeros((t_max, k), dtype) for name, dtype in per_step.items()},
            ring=np.zeros((rollout.RING_SIZE, rollout.EPISODE), np.float64),
            ring_ends=aligned_zeros(3 * rollout.LINE, np.int64),
            sums=np.zeros(rollout.SUMS, np.float64),
            raw_reward=np.zeros(1, np.float32),
            failed=np.zeros(1, np.int64),
        )

    @property
    def steps(self) -> int:
        return int(self.shared.steps[:, 0].sum())

    @property
    def running(self) -> bool:
        return self.state not in ("new", "ended")

    def agent(self) -> Agent:
        seen = Preprocessing(
            self.config.environment,
            self.environment.observation_shape,
            self.environment.observation_dtype.name,
            self.config.sticky_actions,
        )
        return Agent(self.network, self.shared.theta, seen)

    # Start, stop and wait

    def start(self) -> None:
        with self.changed:
            if self.state != "new":
                raise RuntimeError("this trainer was started before: a run that goes on needs a new one")
            self.state = "running"
            self.active = self.config.threads
        try:
            for worker, actors in zip(self.workers, self.actors, strict=True):
                instances = [self.environment.make() for _ in actors]
                self.instances.append(instances)
                for functions, instance in zip(worker.functions, instances, strict=True):
                    functions[:] = instance.reset_address, instance.step_address, instance.state_address
            self.loop(self.shared, self.workers[0], self.settings, 0)  # compiles
        except BaseException:
            self.state = "ended"
            raise
        names = [(self._work, f"nbrl worker {thread}", (thread,)) for thread in range(self.config.threads)]
        self.threads = [
            threading.Thread(target=target, name=name, args=arguments, daemon=True)
            for target, name, arguments in [*names, (self._watch, "nbrl watcher", ())]
        ]
        for thread in self.threads:
            thread.start()

    def stop(self, timeout: float | None = None) -> None:
        with self.changed:
            if self.state == "new":
                self.state = "ended"
            if self.state == "ended":
                return
            self._ask_to_stop()
        if threading.current_thread() in self.threads:
            return  # a callback asked; the watcher goes on to end the run
        self._wait_for_workers(GRACE)
        self.shared.control[0] = rollout.ABANDON
        for thread in self.threads:
            thread.join(timeout)

    def _ask_to_stop(self) -> None:
        self.state = "stopping"
        self.shared.control[0] = max(self.shared.control[0], rollout.PARK)
        self.changed.notify_all()

    def _wait_for_workers(self, timeout: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.active == 0, timeout)

    def join(self, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self.threads:
            # In slices, so that a main thread sees Ctrl-C on every platform.
            while thread.is_alive():
                left = 0.2 if end is None else min(0.2, end - time.monotonic())
                if left <= 0:
                    return False
                thread.join(left)
        if self.error is not None:
            raise self.error
        return self.state == "ended"

    # Worker threads

    def _work(self, thread: int) -> None:
        worker, rollouts = self.workers[thread], 1
        try:
            while True:
                began = time.perf_counter()
                code = self.loop(self.shared, worker, self.settings, rollouts)
                if code in (rollout.FINISHED, rollout.ABANDONED):
                    break
                if code != rollout.PAUSED:
                    raise self._failure(code, thread)
                if self.shared.control[0] != rollout.RUN:
                    if not self._park():
                        break
                else:
                    lasted = max(time.perf_counter() - began, 1e-6)
                    rollouts = max(1, min(2 * rollouts, int(rollouts * CALL_SECONDS / lasted)))
        except BaseException as error:
            with self.changed:
                if self.error is None:
                    self.error = error
                self._ask_to_stop()
        finally:
            with self.changed:
                self.active -= 1
                self.changed.notify_all()

    def _failure(self, code: int, thread: int) -> BaseException:
        actor = int(self.workers[thread].failed[0])
        where = f"in actor {self.actors[thread][actor]} of worker thread {thread}"
        if code == rollout.FAILED_ENVIRONMENT:
            error = self.instances[thread][actor].error
            if error is not None:
                error.add_note(f"raised {where} of the run")
                return error
            return RuntimeError(f"the environment {self.environment.name} reported a failure {where}")
        if code == rollout.BAD_GRADIENT:
            where = f"in worker thread {thread}"
        return FloatingPointError(f"{FAILURES[code]} ({where}); the parameters are as they were before it")

    def _park(self) -> bool:
        """Wait at a rollout's start until the run goes on; False when it ends instead."""
        with self.changed:
            self.parked += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.state != "parked")
            self.parked -= 1
            return self.state == "running"

    # The watcher: reports and checkpoints

    def _watch(self) -> None:
        self.began = self.last_time = time.perf_counter()
        self.first_steps = self.last_steps = self.steps
        self.last_sums = sum(worker.sums for worker in self.workers)
        metrics = MetricsFile(self.directory.metrics_file) if self.directory else None
        next_checkpoint = self.began + self.config.checkpoint_interval
        try:
            while not self._wait_for_workers(self.config.report_interval):
                self._report(metrics)
                if self.directory and time.perf_counter() >= next_checkpoint:
                    self._save_checkpoint()
                    next_checkpoint = time.perf_counter() + self.config.checkpoint_interval
            self._report(metrics)
            if self.directory:
                self._save_checkpoint()
                self.agent().save(self.directory.policy_file)
        except BaseException as error:  # a full disk, or the host's callback
            with self.changed:
                self.error = self.error or error
                self._ask_to_stop()
            self._wait_for_workers(GRACE)
            self.shared.control[0] = rollout.ABANDON
            self._wait_for_workers(math.inf)
        finally:
            if metrics:
                metrics.close()
            for instance in (instance for group in self.instances for instance in group):
                instance.close()
            with self.changed:
                self.state = "ended"

    def _seconds(self, now: float) -> float:
        return self.seconds_before + now - self.began

    def _report(self, metrics: MetricsFile | None) -> None:
        now, steps = time.perf_counter(), self.steps
        sums = sum(worker.sums for worker in self.workers)
        new: Any = sums - self.last_sums
        episodes = self._new_episodes()
        returns = [episode[rollout.RETURN] for episode in episodes]
        self.recent.extend(returns)
        speed = (steps - self.last_steps) / max(now - self.last_time, 1e-9)
        samples, updates = new[rollout.SAMPLES], new[rollout.UPDATES]
        report = Report(
            steps=steps,
            frames=steps * self.environment.frames_per_step,
            seconds=self._seconds(now),
            total_steps=self.config.steps,
            steps_per_second=speed,
            frames_per_second=speed * self.environment.frames_per_step,
            episodes=len(episodes),
            return_mean=float(np.mean(returns)) if episodes else None,
            return_minimum=min(returns, default=None),
            return_maximum=max(returns, default=None),
            length_mean=float(np.mean([episode[rollout.LENGTH] for episode in episodes])) if episodes else None,
            recent_return=float(np.mean(self.recent)) if self.recent else None,
            policy_loss=float(new[rollout.POLICY_LOSS] / samples) if samples else None,
            value_loss=float(new[rollout.VALUE_LOSS] / samples) if samples else None,
            entropy=float(new[rollout.ENTROPY] / samples) if samples else None,
            gradient_norm=float(new[rollout.GRADIENT_NORM] / updates) if updates else None,
            learning_rate=self.config.learning_rate * max(0.0, 1 - steps / self.config.steps),
            dropped_episodes=sum(int(worker.ring_ends[rollout.DROPPED]) for worker in self.workers),
        )
        self.last_time, self.last_steps, self.last_sums = now, steps, sums
        if metrics:
            metrics.append(report)
        if self.on_report:
            self.on_report(report)

    def _new_episodes(self) -> list[list[float]]:
        episodes = []
        for worker in self.workers:
            read, written = int(worker.ring_ends[rollout.READ]), int(worker.ring_ends[rollout.WRITTEN])
            episodes += [worker.ring[number % rollout.RING_SIZE].tolist() for number in range(read, written)]
            worker.ring_ends[rollout.READ] = written
        return episodes

    # Checkpoints

    def _save_checkpoint(self) -> None:
        assert self.directory is not None
        with self.changed:
            if self.state == "running":
                self.state = "parked"
                self.shared.control[0] = rollout.PARK
            self.changed.wait_for(lambda: self.parked == self.active or self.state == "stopping", timeout=None)
            arrays, metadata = self._snapshot()
            if self.state == "parked":
                self.state = "running"
                self.shared.control[0] = rollout.RUN
            self.changed.notify_all()
        path = checkpoint.checkpoint_path(self.directory.checkpoints, int(metadata["steps"]))
        checkpoint.write_tensors(path, arrays, metadata)
        for old in sorted(self.directory.checkpoints.glob("step-*.safetensors"))[:-CHECKPOINTS_KEPT]:
            old.unlink(missing_ok=True)

    def _snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """One moment's state: the policy as `Agent` reads it, and what training needs besides."""
        agent, layout = self.agent(), self.network.layout
        arrays = layout.views(agent.parameters)
        for name, row in zip(STATISTICS[self.config.optimiser], self.shared.statistics.copy(), strict=True):
            arrays |= {f"{name}/{part}": view for part, view in layout.views(row).items()}
        random = np.zeros((self.config.actors, ROW), np.uint64)
        for worker, actors in zip(self.workers, self.actors, strict=True):
            random[actors] = worker.random
        arrays["random"] = random
        metadata = agent.metadata() | {
            "steps": str(self.steps),
            "updates": str(int(self.shared.updates[0])),
            "seconds": repr(self._seconds(time.perf_counter())),
        }
        return arrays, metadata

    def _restore(self, path: str | os.PathLike) -> None:
        arrays, metadata = checkpoint.read_tensors(path)
        agent = Agent.from_tensors(arrays, metadata)
        layout = self.network.layout
        if [(n, agent.network.layout.shape(n)) for n in agent.network.layout.names] != [
            (n, layout.shape(n)) for n in layout.names
        ]:
            raise checkpoint.CheckpointError(f"{path} holds another network than the run's settings")
        try:
            self.shared.theta[:] = agent.parameters
            for name, row in zip(STATISTICS[self.config.optimiser], self.shared.statistics, strict=True):
                for part, view in layout.views(row).items():
                    view[...] = arrays[f"{name}/{part}"]
            for worker, actors in zip(self.workers, self.actors, strict=True):
                worker.random[:] = arrays["random"][actors]
            self.shared.steps[0, 0] = int(metadata["steps"])
            self.shared.updates[0] = int(metadata["updates"])
            self.seconds_before = float(metadata["seconds"])
        except (KeyError, ValueError, IndexError) as error:
            raise checkpoint.CheckpointError(f"{path} cannot be gone on from: {error}") from error
