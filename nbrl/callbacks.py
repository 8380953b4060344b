"""What a host may be told as a run goes on: one class, a method for each event."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nbrl.agent import Agent
    from nbrl.evaluation import Evaluation
    from nbrl.metrics import Report
    from nbrl.trainer import Trainer


class Episode(NamedTuple):
    """An episode of training that has ended."""

    total_return: float  # sum of the raw rewards; of several agents the mean of theirs
    length: int  # agent steps
    actor: int  # its number
    info: dict[str, Any]  # what the environment's last step told; {} of one that is compiled here
    agent_returns: tuple[float, ...] = ()  # of several agents each one's, whose mean is the total return


class Callback:
    """Methods that a run calls; override those that you need.

    They are called in the run's own thread, never in one that acts, so training goes on meanwhile: about once a second
    come the episodes that ended since, then the report. A method that returns False ends the run, as `Trainer.stop`
    does. An exception ends it too, and is what `join` and `train` raise.

    `trainer` can be asked for a snapshot, paused (who pauses must resume it) and stopped. Keep no reference to it: a
    run whose trainer is dropped ends, and calls nobody any more.

    Examples
    --------
    >>> import nbrl
    >>> class UntilGood(nbrl.Callback):
    ...     def on_report(self, trainer, report):
    ...         if report.recent_return is not None and report.recent_return > 0.9:
    ...             return False
    >>> agent = nbrl.train("Catch-v0", steps=200_000, seed=1, callbacks=[UntilGood()])
    """

    def on_start(self, trainer: "Trainer") -> bool | None:
        """Training begins, or goes on."""

    def on_episode(self, trainer: "Trainer", episode: Episode) -> bool | None:
        """An episode has ended. `Report.dropped_episodes` counts those that came too fast to be told of."""

    def on_report(self, trainer: "Trainer", report: "Report") -> bool | Mapping[str, float] | None:
        """A report was made. The numbers of a dict that is returned are kept with it, in ``metrics.jsonl``."""

    def on_checkpoint(self, trainer: "Trainer", path: Path) -> bool | None:
        """A checkpoint was written."""

    def on_evaluation(self, trainer: "Trainer", evaluation: "Evaluation", agent: "Agent") -> bool | None:
        """An evaluation beside training has ended: of this policy, as it was when that began."""

    def on_end(self, trainer: "Trainer") -> None:
        """Training has ended, and the run is saved."""
