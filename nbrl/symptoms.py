"""What a run's log says when it does not go well: each symptom once, of a worker that stands still now and again."""

import logging
import math
from collections import deque

import numpy as np

from nbrl.learner import Learner
from nbrl.methods import state
from nbrl.metrics import Report

logger = logging.getLogger(__name__)

STALL = 60.0  # seconds without a rollout after which a worker is asked after
SMALL_RETURN = 0.01  # in size; where all are below, learning hardly sees them
UNIFORM, UNIFORM_AFTER = 0.99, 0.2  # of the largest entropy, after so much of a run: nothing is learnt


class Symptoms:
    """Those of a run, and which of them its log has already. Times are those of `time.perf_counter`."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.config, self.environment = learner, learner.config, learner.environment
        self.told: set[str] = set()
        self.expect(0.0)

    def expect(self, now: float) -> None:
        """Count from now on how long each worker stands still."""
        self.activity = self.learner.activity()
        self.moved = np.full(self.config.threads, now)  # when a worker came on
        self.told_of_stall = np.full(self.config.threads, STALL)  # seconds after which to say that it does not

    def look(self, report: Report, returns: deque[float]) -> None:
        """Look at a report, and at the returns of the last episodes once they are as many as are kept."""
        self._small_returns(returns)
        self._uniform_policy(report)
        self._full_tables()

    def look_for_stalls(self, now: float) -> None:
        """Say which worker has not come on for long, and where it stands."""
        activity = self.learner.activity()
        moved = activity != self.activity
        self.activity = activity
        self.moved[moved], self.told_of_stall[moved] = now, STALL
        for thread in np.flatnonzero(now - self.moved > self.told_of_stall).tolist():
            worker = self.learner.workers[thread]
            logger.warning(
                "worker thread %d has stood still for %.0f s, in %s of actor %d",
                thread,
                now - self.moved[thread],
                state.DOING[worker.doing],
                self.learner.actors[thread][worker.at] // self.environment.agents,
            )
            self.told_of_stall[thread] = 2 * (now - self.moved[thread])

    def excuse(self, seconds: float) -> None:
        """Count nobody as standing still for so long."""
        self.moved += seconds

    def _first(self, symptom: str) -> bool:
        """Whether it is new; from now on it is not."""
        known = symptom in self.told
        self.told.add(symptom)
        return not known

    def _small_returns(self, returns: deque[float]) -> None:
        largest = max(map(abs, returns), default=0.0)
        if len(returns) == returns.maxlen and 0 < largest < SMALL_RETURN and self._first("small returns"):
            logger.warning(
                "the last %d returns are all below %s in size, which is hardly learnt: multiply the rewards, as "
                "gymnasium.wrappers.TransformReward does",
                len(returns),
                SMALL_RETURN,
            )

    def _uniform_policy(self, report: Report) -> None:
        """The policy is still what it was at first, every action as likely."""
        actions = self.environment.actions
        most = math.log(math.prod(actions.counts)) if actions.discrete else math.inf
        late = report.steps >= UNIFORM_AFTER * self.config.steps
        uniform = report.entropy is not None and report.entropy > UNIFORM * most
        if late and uniform and self._first("uniform policy"):
            logger.warning(
                "after %d steps every action is still about as likely, at an entropy of %.2f of %.2f nats: no reward "
                "may have come, or entropy_weight, %g, is too high for the rewards that did",
                report.steps,
                report.entropy,
                most,
                self.config.entropy_weight,
            )

    def _full_tables(self) -> None:
        """A bonus tells no more places apart."""
        lost = sum(int(worker.bonus.lost[0]) for worker in self.learner.workers)
        if lost and self._first("full tables"):
            settings = {name for kind in self.learner.bonuses.values() for name in kind.settings}
            sizes = [f"{name}, {getattr(self.config, name)}" for name in sorted(settings) if name.endswith("_cells")]
            logger.warning(
                "a bonus's table is full: new places are worth nothing from now on; set %s, higher, or bonus_bins, %d, "
                "lower",
                " or ".join(sizes),
                self.config.bonus_bins,
            )
