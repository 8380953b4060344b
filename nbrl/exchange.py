"""One run on several machines: what each changed is handed in, and what the others changed is taken over.

On each machine the engine is as ever: threads that update one flat array in place. Now and then a machine hands in the
change of its array since it last did. The hub adds it to the array of all, and the machine takes over what the others
changed meanwhile, while its threads go on. Statistics of the optimiser stay where they are. Steps and the statistics of
observations and returns add up, so schedules and scales are those of the whole run.

Nothing here knows how machines reach each other: `nbrl.cluster` lets Ray do it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from nbrl.callbacks import Callback
from nbrl.kernels.compile import jit
from nbrl.kernels.native import address_at, atomic_store
from nbrl.methods.running_statistics import ROWS, fill_total, merge, publish_row
from nbrl.settings import Setting

if TYPE_CHECKING:
    from nbrl.learner import Learner
    from nbrl.metrics import Report
    from nbrl.trainer import Trainer

LOOK = 0.001  # seconds between looks at how many updates there were, ...
WAIT = 0.05  # ... and at how many machines are there


class HandedIn(NamedTuple):
    """What a machine hands in."""

    change: np.ndarray  # float32 (parameters,): of its array since it last did
    steps: int  # its own, ever
    statistics: np.ndarray  # float64 (ROWS, features): of what its own actors saw, ever


class TakenOver(NamedTuple):
    """What it takes over."""

    theta: np.ndarray  # float32 (parameters,): the array of all
    steps: int  # those of the others
    statistics: np.ndarray  # float64 (ROWS, features): the others'
    machines: int  # how many exchange, this one included
    is_over: bool  # whether the run has ended


class Hub:
    """The array of all, and what each machine adds.

    Of the change d of one of n machines d / n is added, so that all together move theta by the mean of what they would,
    with Nesterov's momentum (Douillard et al., 2023, algorithm 1, here as each comes):
    v = momentum v + d / n; theta = theta + learning_rate (d / n + momentum v). With a learning rate of n they add up,
    as those of threads do; where machines exchange seldom, they then go n times as far as each wanted to.

    Parameters
    ----------
    theta : numpy.ndarray
        Where it begins, float32 (parameters,).
    features : int
        Columns of the statistics.
    learning_rate, momentum : float
        `outer_learning_rate` and `outer_momentum`.
    """

    settings: ClassVar[dict[str, Setting]] = {
        "exchange_interval": Setting(
            1.0, "seconds between exchanges of a machine with the others; not in the paper", least=0
        ),
        "exchange_updates": Setting(
            None,
            "updates of a machine between exchanges with the others, none to go by exchange_interval; not in the paper",
            least=1,
            most=10**9,
            type=int,
        ),
        "exchange_blend": Setting(
            1.0,
            "share of the others' change that a machine takes over at an exchange; not in the paper",
            above=0,
            most=1,
        ),
        "outer_learning_rate": Setting(
            1.0,
            "what the mean of the machines' changes is multiplied by; their number adds changes up; not in the paper",
            above=0,
        ),
        "outer_momentum": Setting(
            0.0, "Nesterov momentum of the changes that machines hand in; not in the paper", least=0, below=1
        ),
    }

    def __init__(self, theta: np.ndarray, features: int, learning_rate: float, momentum: float) -> None:
        self.theta = theta.copy()
        self._velocity = np.zeros_like(theta)
        self._learning_rate, self._momentum = np.float32(learning_rate), np.float32(momentum)
        self._steps: dict[int, int] = {}
        self._statistics: dict[int, np.ndarray] = {}
        self._none = np.zeros((ROWS, features))
        self._present: set[int] = set()
        self._is_over = False

    def end(self) -> None:
        """Let each machine know, at its next exchange, that the run is over."""
        self._is_over = True

    def leave(self, machine: int) -> None:
        """Go on without a machine, whose number is not used again: what it did stays."""
        self._present.discard(machine)

    def machines(self) -> int:
        """How many exchange."""
        return len(self._present)

    def exchange(self, machine: int, handed_in: HandedIn) -> TakenOver:
        """Add what a machine, by its number, hands in."""
        change, steps, statistics = handed_in
        self._present.add(machine)
        share = np.float32(1 / len(self._present))
        add(self.theta, self._velocity, change, share, self._learning_rate, self._momentum)
        self._steps[machine], self._statistics[machine] = steps, statistics.copy()
        total = self._none.copy()
        for other, seen in self._statistics.items():
            if other != machine:
                merge(total, seen)
        return TakenOver(self.theta, sum(self._steps.values()) - steps, total, self.machines(), self._is_over)


@jit
def add(theta, velocity, change, share, learning_rate, momentum):
    """Add a share of a change to theta, with momentum where there is any."""
    if momentum == 0:
        for i in range(theta.size):
            theta[i] += learning_rate * share * change[i]
        return
    for i in range(theta.size):
        d = share * change[i]
        velocity[i] = momentum * velocity[i] + d
        theta[i] += learning_rate * (d + momentum * velocity[i])


@jit
def hand_in(theta, known, change):
    """Fill what theta, which threads change meanwhile, has more than what the others know, who know it then."""
    for i in range(theta.size):
        change[i] = theta[i] - known[i]
        known[i] += change[i]


@jit
def take_over(theta, known, others, blend):
    """Add what the others have more to theta, which threads change meanwhile."""
    for i in range(theta.size):
        change = blend * (others[i] - known[i])
        theta[i] += change
        known[i] += change


@jit
def count_elsewhere(shared, steps):
    """Let all threads know of steps by other machines."""
    atomic_store(address_at(shared.elsewhere, 0), steps)


class Exchange(Callback):
    """Exchanges with the others while a run goes on, in a thread of its own.

    Parameters
    ----------
    machine : int
        Its number, that no other has had.
    call : callable
        Takes what this machine hands in to the hub, and returns what it takes over.
    joins : bool, optional
        Whether it begins where the others are; else the others began where it does.
    is_ready : callable, optional
        Whether enough machines are there for learning to begin.

    Attributes
    ----------
    exchanges : int
        How many there were.
    machines : int
        How many took part at the last one.
    """

    def __init__(
        self,
        machine: int,
        call: Callable[[int, HandedIn], TakenOver],
        *,
        joins: bool = False,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._machine, self._call, self._joins, self._is_ready = machine, call, joins, is_ready
        self._over, self.exchanges, self.machines = threading.Event(), 0, 1
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._go_on, name="nbrl exchange", daemon=True)

    def on_start(self, trainer: "Trainer") -> None:
        """Begin to exchange, once enough are there."""
        self.begin(trainer._run.learner)
        self.exchange()  # compiles
        while not self._is_ready() and trainer._run.state != "stopping":
            time.sleep(WAIT)
        self.exchange()  # and so knows who is there
        self._thread.start()

    def on_report(self, trainer: "Trainer", report: "Report") -> bool | Mapping[str, float] | None:
        """Raise what an exchange met, for the run to end with; or end with the others."""
        if self._error is not None:
            raise self._error
        return not self._is_over

    def on_end(self, trainer: "Trainer") -> None:
        """Exchange for the last time."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def begin(self, learner: "Learner") -> None:
        """Make ready what exchanges need, and begin where the others are."""
        self._learner, config = learner, learner.config
        self._blend = np.float32(config.exchange_blend)
        self._interval, self._updates = config.exchange_interval, config.exchange_updates
        self._known = learner.shared.flat.copy()
        self._change = np.zeros_like(self._known)
        self._statistics = np.zeros_like(learner.workers[0].statistics.own)
        self._handed_in_at = int(learner.shared.updates[0])
        handed_in = HandedIn(self._change, learner.own_steps, self._statistics)
        others = self._call(self._machine, handed_in)
        if self._joins:
            learner.shared.flat[:] = self._known[:] = others.theta
            if learner.method.has_target:
                learner.shared.target[:] = learner.shared.theta
        self._take_numbers(others)

    def exchange(self) -> None:
        """Hand in what the others do not know of yet, and let the threads go on from what they did as well."""
        shared, threads = self._learner.shared, len(self._learner.workers)
        self._handed_in_at = int(shared.updates[0])
        hand_in(shared.flat, self._known, self._change)
        fill_total(shared, 0, threads, self._statistics)
        handed_in = HandedIn(self._change, self._learner.own_steps, self._statistics)
        others = self._call(self._machine, handed_in)
        take_over(shared.flat, self._known, others.theta, self._blend)
        self._take_numbers(others)
        self.exchanges += 1

    def _take_numbers(self, others: TakenOver) -> None:
        shared, threads = self._learner.shared, len(self._learner.workers)
        count_elsewhere(shared, others.steps)
        publish_row(shared, threads, others.statistics)
        self.machines, self._is_over = others.machines, others.is_over

    def _go_on(self) -> None:
        try:
            while not self._over.is_set():
                self._wait()
                self.exchange()
        except BaseException as error:
            self._error = error

    def _wait(self) -> None:
        """Until the next exchange is due, or the run is over."""
        if self._updates is None:
            self._over.wait(self._interval)
            return
        due = self._handed_in_at + self._updates
        while self._learner.shared.updates[0] < due and not self._over.wait(LOOK):
            pass
