"""What the threads of a training run do: learn, report, save, wait. `nbrl.trainer` is its face.

Workers spend their time in the method's compiled loop and come back about twice a second; a watcher writes reports and
checkpoints. Nothing here prints, handles signals or starts processes.
"""

import collections
import contextlib
import json
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbrl import checkpoint, snapshot
from nbrl.agent import Agent
from nbrl.callbacks import Callback, Episode
from nbrl.config import Config
from nbrl.evaluation import BackgroundEvaluation, Evaluation
from nbrl.learner import Learner
from nbrl.methods import driver, state
from nbrl.metrics import MetricsFile, Report, RunDirectory, more_metrics, read_metrics
from nbrl.symptoms import Symptoms
from nbrl.tensorboard import EventFile

if TYPE_CHECKING:
    from nbrl.trainer import Trainer

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.02  # between looks at the mean return, where there is a target
CALL_SECONDS = 0.5  # how long a thread stays in compiled code
MOST_ROLLOUTS = 1 << 40  # of one call
FIRST_CHECKPOINT = 10.0  # seconds after the start; the next intervals grow up to the setting
GRACE = 0.5  # seconds that a rollout has to end after a stop, before it is abandoned, ...
LONG_GRACE = 4.0  # ... or up to so many, where rollouts take longer than that
MAX_SECONDS = 1e10  # of a run
LONGEST_WAIT = 1e6  # seconds; the system's clocks take no arbitrary ones
CHECKPOINTS_KEPT = 3
RECENT_EPISODES = 100
FAILURES = {
    driver.BAD_OBSERVATION: "an observation has a number that is not finite",
    driver.BAD_REWARD: "a reward is not finite",
    driver.BAD_MASK: "an action mask allows no action",
    driver.BAD_GRADIENT: "the gradient is not finite: a lower learning_rate or gradient_clip may help",
}


_runs: "weakref.WeakSet[Run]" = weakref.WeakSet()


class Run:
    """What the threads share. They hold this and not the `Trainer`, so that a dropped trainer ends its run.

    Its state is "new", then "running", "parked" (for moments, while a checkpoint is taken) or "paused", then "stopping"
    and "ended".
    """

    def __init__(
        self,
        config: Config,
        environment: Any,
        directory: str | os.PathLike | None,
        callbacks: Sequence[Callback],
        restore: str | os.PathLike | None,
        init: Agent | None,
    ) -> None:
        self.seeded = config.seed is not None
        self.seconds_before = 0.0  # of training, before this process, and less what pauses took
        self.paused_since = 0.0
        self.directory = None
        self.recent: collections.deque[float] = collections.deque(maxlen=RECENT_EPISODES)  # returns, for reports
        self.unreported: list[np.ndarray] = []  # records of episodes
        try:
            if directory is not None and restore is not None:
                self.directory = RunDirectory(directory)
                self.directory.check_files()
                self.directory.hold()
            self.learner = Learner(config, environment)
            self.config, self.environment = self.learner.config, self.learner.environment
            if init is not None:
                snapshot.begin_from(self.learner, init)
            if restore is not None:
                self.seconds_before, returns = _so_far(snapshot.restore(self.learner, restore))
                self.recent.extend(returns)
            if self.directory is not None:
                self.directory.clear()
            elif directory is not None:
                self.directory = RunDirectory.create(directory, self.config)
                self.directory.hold()
                # So that a run that is killed at once can be gone on with.
                arrays, metadata = snapshot.take(self.learner, with_episodes=False)
                begin = checkpoint.checkpoint_path(self.directory.checkpoints, 0)
                checkpoint.write_tensors(begin, arrays, metadata | {"seconds": "0.0"})
        except BaseException:
            if self.directory is not None:
                self.directory.release()
            raise
        self.given, self.callbacks = environment, list(callbacks)
        self.trainer: Callable[[], Trainer | None] = lambda: None  # what callbacks are given, while the host has it
        self.learner.keeps_infos = self._hears("on_episode")
        has_id = environment is None or isinstance(environment, str)
        plays = (environment or self.config.environment) if has_id else self.environment
        self.evaluation = BackgroundEvaluation(plays, self.config.eval_episodes, self.config.max_episode_steps)
        self.best_return = -math.inf

        self.threads: list[threading.Thread] = []
        self.starter: threading.Thread | None = None  # who is inside `start`
        self.watcher: threading.Thread | None = None
        self.error: BaseException | None = None
        self.state = "new"
        self._make_lock()
        self.attached = 0  # workers whose environments are made
        self.active = 0
        self.parked = 0
        self.symptoms = Symptoms(self.learner)
        self.files: list[MetricsFile | EventFile] = []  # that reports are appended to
        self.metrics_failed = False  # and that was said
        self.saved = False  # at the end: environments may be closed
        _runs.add(self)

    def _make_lock(self) -> None:
        # Guards the state and the two counts. Not entered through `changed`: were a Ctrl-C to come then, it could stay
        # locked, since a condition's own `__enter__` is Python.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)

    # Start, stop and wait

    def start(self) -> None:
        with self.lock:
            if self.state != "new":
                raise RuntimeError("this trainer was started or stopped before: a run that goes on needs a new one")
            self.state, self.starter = "running", threading.current_thread()
        learner = self.learner
        try:
            logger.info("%s: %s, %s", self.environment.name, self.environment.observations, self.environment.actions)
            if self.seeded and self.config.threads > 1:
                logger.info("with %d threads the order of updates is not reproducible", self.config.threads)
            learner.loop(0, 0)  # compiles, as does the next
            _ = learner.learning_rate
            if self.config.eval_interval is not None:
                self.evaluation.compile(learner.agent())
            self._start_thread(self._watch, name="nbrl watcher")
            self._wait_for_environments()
        except BaseException:
            with self.lock:
                self._ask_to_stop()
                if not self.threads:
                    self._end()
            raise
        finally:
            self.starter = None

    def _wait_for_environments(self) -> None:
        """Return when all workers have theirs; raise what one of them met, once the run has ended."""
        with self.lock:
            while self.attached < self.config.threads and self.state not in ("stopping", "ended"):
                self.changed.wait(0.2)
            if self.attached == self.config.threads or self.error is None:
                return
            while self.state != "ended":
                self.changed.wait(0.2)
            raise self.error

    def _start_thread(self, target: Callable[..., None], *args: Any, name: str) -> None:
        thread = threading.Thread(target=target, name=name, args=args, daemon=True)
        self.threads.append(thread)  # before it runs: `stop` must know its caller
        try:
            thread.start()
        except RuntimeError:  # the system has no room for another
            self.threads.remove(thread)
            raise

    def stop(self, timeout: float | None = None) -> None:
        with self.lock:
            if self.state == "new":
                self._end()
            if self.state == "ended":
                return
            self._ask_to_stop()
            if not self._is_own_thread():  # else it must go on for the run to end
                self.changed.wait_for(lambda: self.state == "ended", timeout)

    def pause(self) -> None:
        with self.lock:
            if self.state == "new":
                raise RuntimeError("this trainer has not been started: there is nothing to pause")
            # Workers may have to go on before all are parked; who watches them need not.
            own = self._is_own_thread() and threading.current_thread() is not self.watcher
            if not own:
                self.changed.wait_for(lambda: self.state != "parked")
            if self.state in ("running", "parked"):
                self.state, self.paused_since = "paused", time.perf_counter()
                self.learner.shared.control[0] = state.PARK
                self.changed.notify_all()
            if not own:
                self.changed.wait_for(lambda: self.parked == self.active or self.state != "paused")

    def resume(self) -> None:
        with self.lock:
            if self.state == "new":
                raise RuntimeError("this trainer has not been started: there is nothing to go on with")
            if self.state == "paused":
                self._leave_pause()
                self.state = "running"
                self.learner.shared.control[0] = state.RUN
                self.changed.notify_all()

    def _leave_pause(self) -> None:
        if self.state == "paused":
            pause = time.perf_counter() - self.paused_since
            self.seconds_before -= pause
            self.symptoms.excuse(pause)

    def _is_own_thread(self) -> bool:
        return threading.current_thread() in (*self.threads, self.starter)

    def _ask_to_stop(self) -> None:
        if self.state == "ended":
            return
        self._leave_pause()
        self.state = "stopping"
        self.learner.shared.control[0] = max(self.learner.shared.control[0], state.PARK)
        self.changed.notify_all()

    def _end(self) -> None:
        self.state = "ended"
        if self.directory:
            self.directory.release()
        self.changed.notify_all()

    def _wait_for_workers(self, timeout: float | None) -> bool:
        with self.lock:
            return self.changed.wait_for(lambda: self.active == 0, timeout)

    def _grace(self) -> float:
        """Seconds after which a rollout should have ended, by how long rollouts have taken."""
        config, steps = self.config, self.learner.steps - self.first_steps
        if steps == 0:
            return GRACE
        rollouts = config.threads * config.rollout_length * config.envs_per_batch
        usual = 2 * rollouts / steps * (self._seconds(time.perf_counter()) - self.first_seconds)
        return max(usual, GRACE) if usual < LONG_GRACE else GRACE

    def _is_learning(self) -> bool:
        return any(worker.doing == state.LEARNS for worker in self.learner.workers)

    def join(self, timeout: float | None) -> bool:
        if self._is_own_thread():
            raise RuntimeError("a thread of the run cannot wait for the run's end")
        end = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            while self.state not in ("new", "ended"):
                # In slices, so that a main thread sees Ctrl-C on every platform.
                left = 0.2 if end is None else min(0.2, end - time.monotonic())
                if left <= 0:
                    return False
                self.changed.wait(left)
        for thread in self.threads:  # which have nothing left to do
            thread.join()
        if self.error is not None:
            raise self.error
        return self.state == "ended"

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        """An exception ends the run and is kept for `join`; of several the first."""
        try:
            yield
        except BaseException as error:
            with self.lock:
                if self.error is None:
                    self.error = error
                self._ask_to_stop()

    # Worker threads

    def _work(self, thread: int) -> None:
        with self._keeping_errors():
            self.learner.attach(thread)  # here, since some environments may be used in one thread alone
            with self.lock:
                self.attached += 1
                self.changed.notify_all()
                self.changed.wait_for(
                    lambda: self.attached == self.config.threads or self.state in ("stopping", "ended")
                )
            self._learn(thread)
        with self.lock:
            self.active -= 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.saved)
        for instance in self.learner.instances[thread]:
            try:
                instance.close()
            except BaseException as error:  # what was learnt is worth more
                logger.warning("an environment could not be closed: %s: %s", type(error).__name__, error)

    def _learn(self, thread: int) -> None:
        learner, rollouts = self.learner, 1
        while True:
            began = time.perf_counter()
            code = learner.loop(thread, rollouts)
            self._check_guards(thread)
            if code in (driver.FINISHED, driver.ABANDONED):
                return
            if code != driver.PAUSED:
                raise self._failure(code, thread)
            if learner.shared.control[0] != state.RUN:
                if not self._park():
                    return
            else:
                lasted = max(time.perf_counter() - began, 1e-6)
                rollouts = max(1, int(min(2 * rollouts, rollouts * CALL_SECONDS / lasted, MOST_ROLLOUTS)))

    def _check_guards(self, thread: int) -> None:
        """Raise ``RuntimeError`` if an environment has written beyond its state, where no one else's memory was yet."""
        environments = self.learner.environments_of(thread)
        for instance, actor in zip(self.learner.instances[thread], environments, strict=True):
            if not instance.guard_holds():
                raise RuntimeError(
                    f"the environment {self.environment.name} wrote beyond its state in actor {actor} of worker thread "
                    f"{thread}: its state_size must be larger"
                )

    def _failure(self, code: int, thread: int) -> BaseException:
        actor, agents = int(self.learner.workers[thread].at), self.environment.agents
        number = int(self.learner.actors[thread][actor])
        whose = f" for agent {number % agents}" if agents > 1 else ""
        where = f"in actor {number // agents} of worker thread {thread}{whose}"
        if code == driver.FAILED_ENVIRONMENT:
            error = self.learner.instances[thread][actor // agents].error
            if error is not None:
                error.add_note(f"raised {where} of the run")
                return error
            return RuntimeError(f"the environment {self.environment.name} reported a failure {where}")
        if code == driver.BAD_GRADIENT:
            where = f"in worker thread {thread}"
        kind = ValueError if code == driver.BAD_MASK else FloatingPointError
        return kind(f"{FAILURES[code]} ({where}); the parameters are as they were before it")

    def _park(self) -> bool:
        """Wait at a rollout's start until the run goes on; False when it ends instead."""
        with self.lock:
            self.parked += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.state not in ("parked", "paused"))
            self.parked -= 1
            return self.state == "running"

    # The watcher: reports and checkpoints

    def _watch(self) -> None:
        self.watcher = threading.current_thread()
        with self.lock:
            self.began = self.last_time = time.perf_counter()
            self.paused_since = max(self.paused_since, self.began)  # what was paused while it compiled
        self.last_steps, self.last_sums = self.learner.steps, self.learner.sums()
        self.first_steps, self.first_seconds = self.learner.steps, self._seconds(self.began)
        self.symptoms.expect(self.began)
        with self._keeping_errors():
            if self.directory:
                self.files.append(MetricsFile(self.directory.metrics_file, self.learner.steps))
                before = [report.evaluation_return for report in read_metrics(self.directory.metrics_file)]
                self.best_return = max((found for found in before if found is not None), default=-math.inf)
                if self.config.tensorboard:
                    self.files.append(EventFile(self.directory.path, self.learner.steps))
            self._tell("on_start")
            self._start_workers()
            self._accompany()
        with self.lock:
            self._ask_to_stop()
        idle = self._wait_for_workers(self._grace())
        if not idle:
            self.learner.shared.control[0] = state.ABANDON
            idle = self._wait_for_workers(GRACE)  # an environment may need longer: the run is saved before
            while not idle and self._is_learning():  # which ends by itself
                idle = self._wait_for_workers(GRACE)
        with self._keeping_errors():
            self._report()
        written = None
        with self._keeping_errors():
            if self.directory:
                written = self._write_checkpoint(*snapshot.take(self.learner, with_episodes=idle))
                self.learner.agent().save(self.directory.policy_file)
        with self._keeping_errors():
            if written:
                self._tell("on_checkpoint", written)
        if not idle:
            where = f"saved in {self.directory.path}" if self.directory else "over"
            one = "an environment that has not returned"
            what = one if self.attached == self.config.threads else "its environments, which are still being made"
            logger.warning("the run is %s; it waits for %s", where, what)
        with self.lock:
            self.saved = True
            self.changed.notify_all()
        self.evaluation.close()  # now that the run is saved: its environment may be stuck as well
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        for file in self.files:
            with self._keeping_errors():
                file.close()
        with self._keeping_errors():
            self._tell("on_end")
        if self.error is not None:
            logger.error("the run ended with an error: %s: %s", type(self.error).__name__, self.error)
        with self.lock:
            self._end()

    def _start_workers(self) -> None:
        for thread in range(self.config.threads):
            with self.lock:
                self.active += 1
            try:
                self._start_thread(self._work, thread, name=f"nbrl worker {thread}")
            except RuntimeError:
                with self.lock:
                    self.active -= 1
                raise

    def _accompany(self) -> None:
        """Report and save, until all workers have finished or the run is asked to stop."""
        next_report = self.began + self.config.report_interval
        interval = min(FIRST_CHECKPOINT, self.config.checkpoint_interval)
        next_checkpoint = self.began + (interval if self.directory else math.inf)
        next_evaluation = self.began + (self.config.eval_interval or math.inf)
        next_look = math.inf if self.config.target_return is None else self.began + LOOK_SECONDS
        last = self._seconds(self.began) + 60 * (math.inf if self.config.minutes is None else self.config.minutes)
        while True:
            now = time.perf_counter()
            next_event = min(next_report, next_checkpoint, next_evaluation, next_look)
            left = min(next_event - now, last - self._seconds(now))
            with self.lock:
                if self.changed.wait_for(
                    lambda: self.active == 0 or self.state == "stopping", min(max(left, 0.0), LONGEST_WAIT)
                ):
                    return
                if self.state == "paused":
                    self.changed.wait_for(lambda: self.state != "paused")
                    continue
            if self._seconds(time.perf_counter()) >= last:
                return
            if time.perf_counter() >= next_report:
                self._report()
                next_report = time.perf_counter() + self.config.report_interval
            if time.perf_counter() >= next_look:
                self._take_episodes()
                next_look = time.perf_counter() + LOOK_SECONDS
                if self._is_good_enough():
                    return
            if time.perf_counter() >= next_checkpoint:
                written = None
                try:
                    written = self._save_checkpoint()
                except FileNotFoundError:  # there is no directory any more
                    raise
                except OSError as error:  # such as a full disk
                    logger.warning("a checkpoint could not be written, and the run goes on without: %s", error)
                if written:
                    self._tell("on_checkpoint", written)
                interval = min(2 * interval, self.config.checkpoint_interval)
                next_checkpoint = time.perf_counter() + interval
            if time.perf_counter() >= next_evaluation:
                self.evaluation.begin(self.learner.agent())
                next_evaluation = time.perf_counter() + (self.config.eval_interval or math.inf)

    def _hears(self, event: str) -> bool:
        """Whether a callback has a method of its own for an event."""
        ours = getattr(Callback, event)
        return any(getattr(getattr(callback, event), "__func__", None) is not ours for callback in self.callbacks)

    def _tell(self, event: str, *what: Any) -> dict[str, float]:
        """Call all callbacks' method for an event; the numbers that they return. One that raises is called no more."""
        trainer = self.trainer()
        metrics: dict[str, float] = {}
        errors: list[BaseException] = []
        for callback in list(self.callbacks) if trainer is not None else ():
            try:
                answer = getattr(callback, event)(trainer, *what)
                if isinstance(answer, Mapping):
                    metrics |= more_metrics(answer)
            except BaseException as error:
                self.callbacks.remove(callback)
                errors.append(error)
                continue
            if isinstance(answer, bool | np.bool_) and not answer:
                with self.lock:
                    self._ask_to_stop()
        if errors:
            raise errors[0]
        return metrics

    def _evaluated(self) -> tuple[Evaluation, Agent] | None:
        """An evaluation that has ended; the best policy is kept."""
        found = self.evaluation.take()
        if found is None:
            return None
        evaluation, agent = found
        if self.directory and evaluation.mean_return > self.best_return:
            agent.save(self.directory.best_file)
        self.best_return = max(self.best_return, evaluation.mean_return)
        return found

    def _take_episodes(self) -> None:
        """Those that have ended: for the next report, and for the mean return of the last."""
        ended = self.learner.new_episodes()
        self.unreported.append(ended)
        self.recent.extend(ended[:, state.RETURN].tolist())

    def _is_good_enough(self) -> bool:
        wanted = self.config.target_return
        return wanted is not None and len(self.recent) == RECENT_EPISODES and float(np.mean(self.recent)) >= wanted

    def _seconds(self, now: float) -> float:
        """Of training until now, without pauses."""
        with self.lock:
            return self.seconds_before + (self.paused_since if self.state == "paused" else now) - self.began

    def _report(self) -> None:
        now, steps, sums = time.perf_counter(), self.learner.steps, self.learner.sums()
        new = sums - self.last_sums
        self._take_episodes()
        episodes, self.unreported = np.concatenate(self.unreported), []
        returns = episodes[:, state.RETURN].tolist()
        speed = (steps - self.last_steps) / max(now - self.last_time, 1e-9)
        samples, updates = new[state.SAMPLES], new[state.UPDATES]
        losses: dict[str, Any] = dict.fromkeys(("policy_loss", "value_loss", "entropy"))
        metrics: dict[str, float] = {}
        if samples:
            for name, mean in zip(self.learner.method.metrics, (new[state.METRICS :] / samples).tolist(), strict=True):
                if name in losses:
                    losses[name] = mean
                else:
                    metrics[f"losses/{name}"] = mean
        if self.config.bonus and steps > self.last_steps:
            metrics["charts/bonus"] = float(new[state.BONUS] / (steps - self.last_steps))
        if returns and self.environment.agents > 1:
            means = episodes[:, state.EPISODE :].mean(axis=0).tolist()
            metrics |= {f"charts/episodic_return_{agent}": mean for agent, mean in enumerate(means)}
        evaluated = self._evaluated()
        report = Report(
            steps=steps,
            frames=steps * self.environment.frames_per_step,
            seconds=self._seconds(now),
            total_steps=self.config.steps,
            steps_per_second=speed,
            frames_per_second=speed * self.environment.frames_per_step,
            episodes=len(episodes),
            return_mean=float(np.mean(returns)) if returns else None,
            return_minimum=min(returns, default=None),
            return_maximum=max(returns, default=None),
            length_mean=float(episodes[:, state.LENGTH].mean()) if returns else None,
            recent_return=float(np.mean(self.recent)) if self.recent else None,
            **losses,
            gradient_norm=float(new[state.GRADIENT_NORM] / updates) if updates else None,
            learning_rate=self.learner.learning_rate,
            dropped_episodes=self.learner.dropped_episodes(),
            evaluation_return=None if evaluated is None else evaluated[0].mean_return,
            updates=int(self.learner.shared.updates[0]),
            metrics=metrics,
        )
        self.last_time, self.last_steps, self.last_sums = now, steps, sums
        if self.attached < self.config.threads:  # environments are being made
            self.symptoms.expect(now)
        elif self.state == "running":
            self.symptoms.look_for_stalls(now)
        self.symptoms.look(report, self.recent)
        try:
            if evaluated is not None:
                self._tell("on_evaluation", *evaluated)
            for total, length, actor, number, *each in episodes.tolist() if self._hears("on_episode") else ():
                info = self.learner.info(int(actor), int(number))
                self._tell("on_episode", Episode(total, int(length), int(actor), info, tuple(each)))
            report.metrics.update(self._tell("on_report", report))
        finally:
            self._append(report)

    def _append(self, report: Report) -> None:
        for file in self.files:
            try:
                file.append(report)
            except OSError as error:  # what is not written waits for the next time
                if not self.metrics_failed:
                    logger.warning("metrics could not be written, and the run goes on without: %s", error)
                self.metrics_failed = True

    # Checkpoints

    def _save_checkpoint(self) -> Path | None:
        """Park the workers for one moment's state, and save it; where, if nothing came in between."""
        with self.lock:
            if self.state != "running":
                return None
            self.state = "parked"
            self.learner.shared.control[0] = state.PARK
            self.changed.wait_for(lambda: self.parked == self.active or self.state in ("stopping", "running"))
            if self.state in ("stopping", "running"):
                return None  # the last checkpoint follows; or an environment paused the run, and it went on meanwhile
            arrays, metadata = snapshot.take(self.learner)
            if self.state == "parked":
                self.state = "running"
                self.learner.shared.control[0] = state.RUN
                self.changed.notify_all()
        return self._write_checkpoint(arrays, metadata)

    def _write_checkpoint(self, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
        assert self.directory is not None
        metadata["seconds"] = repr(self._seconds(time.perf_counter()))
        metadata["recent_returns"] = json.dumps(list(self.recent))
        path = checkpoint.checkpoint_path(self.directory.checkpoints, int(metadata["steps"]))
        checkpoint.write_tensors(path, arrays, metadata)
        kept = sorted(self.directory.checkpoints.glob("step-*.safetensors"))
        this = kept.index(path)
        # The first was for want of another. Those beyond are damaged, or of a run from which this one went back: they
        # would count as the newest.
        first = [other for other in kept[:1] if other == checkpoint.checkpoint_path(other.parent, 0) != path]
        for other in (*first, *kept[: max(this + 1 - CHECKPOINTS_KEPT, 0)], *kept[this + 1 :]):
            other.unlink(missing_ok=True)
        return path

    def leave_to_parent(self) -> None:
        """In a process that was forked meanwhile: the threads, and so the run, are the parent's alone."""
        self._make_lock()  # a thread that is not here may have held the other
        self.threads = []
        self.active = self.parked = 0
        if self.state != "new":
            self.state = "ended"


def _leave_runs_to_parent() -> None:
    for run in _runs:
        run.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_runs_to_parent)


def _so_far(metadata: dict[str, str]) -> tuple[float, list[float]]:
    """Seconds of training, and returns of the last episodes, of which older checkpoints have none."""
    try:
        seconds = float(metadata["seconds"])
        returns = [float(one) for one in json.loads(metadata.get("recent_returns", "[]"))]
    except (KeyError, TypeError, ValueError, RecursionError):
        seconds, returns = math.nan, []
    if not 0 <= seconds < MAX_SECONDS or not all(map(math.isfinite, returns)):
        raise checkpoint.CheckpointError("the checkpoint does not say how long its run had lasted, and what it came to")
    return seconds, returns
