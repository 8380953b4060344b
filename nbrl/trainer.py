"""One training run, in the background: the embedding point."""

import json
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nbrl import checkpoint, envs
from nbrl.agent import Agent
from nbrl.callbacks import Callback
from nbrl.config import Config, configure, lists_settings
from nbrl.metrics import Report, RunDirectory
from nbrl.nets.layers import layers_to_list
from nbrl.run import Run

logger = logging.getLogger(__name__)

EXIT_SECONDS = 2.0  # how long a host that exits waits for a run that it forgot


class Trainer:
    """Trains in threads of its own, in the background.

    They are threads of the process that starts them: where that forks, the child's copy of the trainer has ended.

    Parameters
    ----------
    config : Config
        As `nbrl.configure` makes it.
    environment : str, callable or EnvSpec, optional
        What to train on, where it is more than the id in `config`: a function that makes a gymnasium environment, or a
        `NativeEnvironment`.
    directory : path, optional
        A new run directory: settings, metrics, checkpoints and the final policy go there. None keeps nothing.
    on_report : callable, optional
        Called with each `Report`, about once a second, in the run's own thread: a callback for what a function can do.
        What it returns means nothing.
    callbacks : sequence of Callback, optional
        What is to be told of the run's events, in this order.
    restore : path, optional
        A checkpoint to go on from; `directory` is then the run that it belongs to, and what is there from beyond the
        checkpoint is dropped.
    init : Agent or path, optional
        A policy of the same network to begin with, instead of random parameters. What its observations are normalised
        by is taken over; what rewards are divided by is measured anew.

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
    True
    >>> trainer.steps
    1024
    """

    def __init__(
        self,
        config: Config,
        environment: Any = None,
        *,
        directory: str | os.PathLike | None = None,
        on_report: Callable[[Report], Any] | None = None,
        callbacks: Sequence[Callback] = (),
        restore: str | os.PathLike | None = None,
        init: Agent | str | os.PathLike | None = None,
    ) -> None:
        if init is not None and restore is not None:
            raise ValueError("init and restore are both given: a run begins with a policy or goes on from a checkpoint")
        policy = init if init is None or isinstance(init, Agent) else Agent.load(init)
        if not isinstance(config, Config):
            raise ValueError(f"config is {config!r}: it must be a Config, as nbrl.configure(environment) makes it")
        for callback in callbacks if isinstance(callbacks, Iterable) else [callbacks]:
            if not isinstance(callback, Callback) or not isinstance(callbacks, Iterable):
                raise ValueError(
                    f"callbacks has {callback!r:.60}: it must be a list of objects of classes made from nbrl.Callback"
                )
        told = [*callbacks, *([] if on_report is None else [_Function(on_report)])]
        self._run = Run(config, environment, directory, told, restore, policy)
        self._run.trainer = weakref.ref(self)
        # A host that forgets to stop: at exit, or when the trainer is dropped, its threads are stopped.
        self._finaliser = weakref.finalize(self, Run.stop, self._run, EXIT_SECONDS)

    @classmethod
    def from_run(
        cls,
        run: str | os.PathLike,
        environment: Any = None,
        *,
        steps: int | None = None,
        on_report: Callable[[Report], Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> "Trainer":
        """Go on with a run from its newest readable checkpoint, in its own directory.

        Parameters
        ----------
        run : path
            Its directory.
        environment : str, callable or EnvSpec, optional
            What it was trained on, where that was a Python object.
        steps : int, optional
            Another length of the whole run, for one that has ended too. The learning rate follows it.
        on_report, callbacks
            As for `Trainer`.

        Raises
        ------
        ValueError
            There is no such run, another process trains in it, or it has nothing left to do.
        """
        directory = RunDirectory.open(run)
        config = directory.config()
        if environment is None:
            envs.check_named_in_file(config.environment)
        newest = checkpoint.newest(directory.checkpoints)
        if newest is None:
            raise ValueError(f"{directory.path} has no readable checkpoint to go on from")
        if checkpoint.read_metadata(newest).get("network") != json.dumps(layers_to_list(config.network)):
            raise ValueError(f"{directory.config_file} has another network than {newest}")
        longer = config if steps is None else config.replace(steps=steps)
        trainer = cls(
            longer,
            environment,
            directory=directory.path,
            on_report=on_report,
            callbacks=callbacks,
            restore=newest,
        )
        if trainer.steps >= longer.steps:
            trainer.stop()
            raise ValueError(
                f"{directory.path} has nothing left to do: it has taken {trainer.steps:,} of its {longer.steps:,} "
                "steps; steps (--steps N) can be more"
            )
        if longer != config:
            directory.write_config(longer)
            rate = trainer._run.learner.learning_rate
            logger.info("the run goes on to %s steps, at a learning rate of %.3g", f"{longer.steps:,}", rate)
        return trainer

    def __repr__(self) -> str:
        return f"Trainer({self.config.environment!r}, {self._run.state}, {self.steps:,} of {self.config.steps:,} steps)"

    @property
    def config(self) -> Config:
        """The settings, the seed filled in."""
        return self._run.config

    @property
    def steps(self) -> int:
        """Agent steps taken so far, by all actors."""
        return self._run.learner.steps

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._run.state not in ("new", "ended")

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return self._run.state == "paused"

    def start(self, *, wait: bool = False) -> None:
        """Compile what must be compiled (seconds, the first time), and start the threads.

        Parameters
        ----------
        wait : bool, optional
            Return when the run has ended, as `join` does, instead of at once.

        Raises
        ------
        RuntimeError
            The trainer was started before.
        """
        self._run.start()
        if wait:
            self._run.join(None)

    def pause(self) -> None:
        """Let the threads wait, each at the end of its rollout, until `resume`; return when they do.

        Nothing happens in a run that is paused, ends or has ended. From the run's own threads it returns at once.

        Raises
        ------
        RuntimeError
            The trainer was not started.
        """
        self._run.pause()

    def resume(self) -> None:
        """Go on after `pause`; nothing happens in a run that is not paused.

        Raises
        ------
        RuntimeError
            The trainer was not started.
        """
        self._run.resume()

    @property
    def error(self) -> BaseException | None:
        """What ended the run, if it was an error: what `join` raises."""
        return self._run.error

    def stop(self, timeout: float | None = None) -> bool:
        """End the run where it is, save it if it has a directory, and wait. Safe at any time, from any thread.

        From the run's own threads (`on_report`, an environment) it asks for the end and returns.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most, for an environment that does not return.

        Returns
        -------
        bool
            Whether the run has ended.
        """
        self._run.stop(timeout)
        return not self.running

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
        RuntimeError
            A thread of the run, such as the one that calls `on_report`, would wait for itself.
        """
        return self._run.join(timeout)

    def snapshot(self) -> Agent:
        """The policy of this moment, while training goes on."""
        return self._run.learner.agent()


class _Function(Callback):
    """A function that is called with reports."""

    def __init__(self, function: Callable[[Report], Any]) -> None:
        self._function = function

    def on_report(self, trainer: Trainer, report: Report) -> None:
        self._function(report)


@lists_settings
def train(
    environment: Any,
    *,
    directory: str | os.PathLike | None = None,
    preset: str | None = None,
    on_report: Callable[[Report], Any] | None = None,
    callbacks: Sequence[Callback] = (),
    init: Agent | str | os.PathLike | None = None,
    **settings: Any,
) -> Agent:
    """Train to the end and return the policy.

    Parameters
    ----------
    environment : str, callable or EnvSpec
        An id such as ``"CartPole-v1"``, a function that makes a gymnasium environment, or a `NativeEnvironment`.
    directory, on_report, callbacks, init
        As for `Trainer`.
    preset, **settings
        As for `nbrl.configure`.

    Settings, by default those that suit the environment:

    {settings}
    """
    config = configure(environment, preset=preset, **settings)
    trainer = Trainer(config, environment, directory=directory, on_report=on_report, callbacks=callbacks, init=init)
    try:
        trainer.start(wait=True)
    except BaseException:
        trainer.stop()
        raise
    return trainer.snapshot()
