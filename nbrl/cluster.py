"""One run over the machines of a Ray cluster. Needs the extra ``ray``.

The process that begins a run learns as well, and is the one that reports and saves. On its machine an actor of Ray's
holds the hub; on each other machine one learns and exchanges with it. A machine that is lost costs what it did since
its last exchange, and one that comes later joins in. What `nbrl` is must be installed on all of them.
"""

import logging
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from nbrl.config import Config
from nbrl.exchange import Exchange, HandedIn, Hub, TakenOver
from nbrl.kernels.compile import PACKAGE, source_hash
from nbrl.settings import whole
from nbrl.trainer import Trainer

if TYPE_CHECKING:
    from nbrl.metrics import Report

logger = logging.getLogger(__name__)

CONNECTING = 5.0  # seconds to reach a cluster
LOOK = 1.0  # seconds between looks at the machines
STARTS = 3  # of a machine, after which it is left alone
LEAVING = 5.0  # seconds that the others have to end


def connect(address: str) -> Any:
    """Ray, connected to the cluster at an address.

    Parameters
    ----------
    address : str
        As ``ray start`` names it: ``"auto"`` on a machine of the cluster, or the head's host and port.

    Raises
    ------
    ValueError
        Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError('several machines need Ray: pip install "nbrl[ray]"') from error
    if ray.is_initialized():
        return ray
    handler = signal.getsignal(signal.SIGTERM)
    try:
        host, colon, port = address.rpartition(":")
        if colon:
            socket.create_connection((host, int(port)), CONNECTING).close()  # Ray itself tries for ten minutes
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster is at {address}: begin one with `ray start --head`, and join it from each other machine "
            "with `ray start --address=HOST:PORT`"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process, and save nothing
    return ray


class Cluster(Exchange):
    """Lets the other machines of a Ray cluster learn in the same run, as a callback of it.

    Steps, the learning rate and the end are those of the whole run. The returns that are reported are of episodes here.

    Parameters
    ----------
    address : str, optional
        As for `connect`.
    machines : int, optional
        How many, this one included: learning begins when so many are there. By default it begins at once, with all that
        there are and those that come later.

    Raises
    ------
    ValueError
        Ray is not installed, or there is no such cluster.

    Examples
    --------
    >>> from nbrl import Cluster, train
    >>> agent = train("ALE/Pong-v5", callbacks=[Cluster("auto")])  # doctest: +SKIP
    """

    def __init__(self, address: str = "auto", machines: int | None = None) -> None:
        if machines is not None and (whole(machines) is None or machines < 1):
            raise ValueError(f"machines is {machines!r}: it must be a whole number of at least 1")
        super().__init__(0, self._exchange, is_ready=self._are_there)
        self._ray, self._most = connect(address), machines
        self._here = self._ray.get_runtime_context().get_node_id()
        self._hub: Any = None
        self._others: dict[str, tuple[int, Any, Any]] = {}  # of each machine its number, its actor and its learning
        self._started: dict[str, int] = {}  # how often each was, ...
        self._names = 0  # ... and how often any was
        self._looking = threading.Thread(target=self._look_after, name="nbrl cluster", daemon=True)
        self._reported = 0, 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Set up the hub, let the others begin, and wait for them if a number was given."""
        run = trainer._run
        learner, config = run.learner, run.config
        self._config, self._environment = config, run.given
        self._hub = (
            self._ray.remote(Hub)
            .options(num_cpus=0, scheduling_strategy=self._only_on(self._here))
            .remote(
                learner.shared.flat,
                learner.scales + 1,
                config.outer_learning_rate,
                config.outer_momentum,
            )
        )
        logger.info("machines of the cluster: %d", sum(node["Alive"] for node in self._ray.nodes()))
        self._looking.start()
        super().on_start(trainer)

    def on_report(self, trainer: Trainer, report: "Report") -> dict[str, float]:
        """Raise what went wrong; tell of the machines and of what goes to and fro."""
        super().on_report(trainer, report)
        before, then = self._reported
        self._reported = self.exchanges, report.seconds
        each = 2 * trainer._run.learner.shared.flat.nbytes
        speed = (self.exchanges - before) * each / max(report.seconds - then, 1e-9)
        return {"cluster/machines": float(self.machines), "cluster/bytes_per_second": speed}

    def on_end(self, trainer: Trainer) -> None:
        """Let all of them go."""
        super().on_end(trainer)
        if self._looking.is_alive():
            self._looking.join()
        if self._hub is None:
            return
        self._hub.end.remote()
        tasks = [learning for _, _, learning in self._others.values()]
        self._ray.wait(tasks, num_returns=len(tasks), timeout=LEAVING + self._interval) if tasks else None
        for actor in [self._hub, *(actor for _, actor, _ in self._others.values())]:
            self._ray.kill(actor)

    def _exchange(self, machine: int, handed_in: HandedIn) -> TakenOver:
        return exchange_through(self._ray, self._hub, machine, handed_in)

    def _are_there(self) -> bool:
        if self._error is not None:
            raise self._error
        return are_there(self._ray, self._hub, self._most)

    def _only_on(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _look_after(self) -> None:
        """See which machines have come and gone, until the run is over."""
        while not self._over.wait(LOOK):
            try:
                self._look()
            except BaseException as error:
                self._error = self._error or error
                return

    def _look(self) -> None:
        for node, (number, _, learning) in list(self._others.items()):
            if self._ray.wait([learning], timeout=0)[0]:
                del self._others[node]
                self._hub.leave.remote(number)
                try:
                    self._ray.get(learning)
                    self._started[node] = STARTS  # all steps are taken
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except self._ray.exceptions.RayError as error:
                    logger.warning("a machine is lost, and the run goes on without it: %s", type(error).__name__)
        for node in self._ray.nodes():
            name = node["NodeID"]
            if not node["Alive"] or name == self._here or name in self._others:
                continue
            if self._started.get(name, 0) < STARTS and 1 + len(self._others) < (self._most or np.inf):
                self._start(name, node)

    def _start(self, name: str, node: dict[str, Any]) -> None:
        cores = int(node["Resources"].get("CPU", 0))
        if cores < self._config.threads:
            self._started[name] = STARTS
            words = "machine %s has %d cores and takes no part: a run has %d threads on each"
            logger.warning(words, node["NodeManagerHostname"], cores, self._config.threads)
            return
        self._started[name] = self._started.get(name, 0) + 1
        self._names += 1
        logger.info("machine %s joins in, with %d threads", node["NodeManagerHostname"], self._config.threads)
        actor = (
            self._ray.remote(Machine)
            .options(num_cpus=self._config.threads, scheduling_strategy=self._only_on(name))
            .remote()
        )
        learning = actor.learn.remote(
            source_hash(PACKAGE), self._config, self._environment, self._hub, self._names, self._most
        )
        self._others[name] = self._names, actor, learning


def exchange_through(ray: Any, hub: Any, machine: int, handed_in: HandedIn) -> TakenOver:
    """An exchange with a hub that is an actor of Ray's."""
    taken_over: TakenOver = ray.get(hub.exchange.remote(machine, handed_in))
    return taken_over


def are_there(ray: Any, hub: Any, machines: int | None) -> bool:
    """Whether so many machines exchange."""
    return machines is None or ray.get(hub.machines.remote()) >= machines


class Machine:
    """What `Cluster` has on each other machine: an actor of Ray's."""

    def learn(
        self, sources: str, config: Config, environment: Any, hub: Any, machine: int, machines: int | None
    ) -> None:
        """Learn until all steps are taken.

        Parameters
        ----------
        sources : str
            The hash of the package's sources where the run began.
        config : Config
            Of the run.
        environment : str, callable, EnvSpec or None
            As for `Trainer`.
        hub : actor
            Of the class `Hub`.
        machine : int
            Its number, which its random numbers follow from as well.
        machines : int, optional
            How many must be there before it begins.
        """
        import ray

        if sources != source_hash(PACKAGE):
            raise ValueError("the machines have different versions of nbrl: install the same one on all of them")
        seed = int(np.random.SeedSequence([config.seed or 0, machine]).generate_state(1, np.uint64)[0] >> 1)
        own = config.replace(seed=seed, minutes=None, target_return=None, eval_interval=None)
        exchange = Exchange(
            machine,
            lambda number, handed_in: exchange_through(ray, hub, number, handed_in),
            joins=True,
            is_ready=lambda: are_there(ray, hub, machines),
        )
        trainer = Trainer(own, environment, callbacks=[exchange])
        try:
            trainer.start(wait=True)
        finally:
            trainer.stop()
