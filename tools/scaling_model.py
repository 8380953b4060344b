"""What a rollout costs on N cores, and what bounds it: a model fitted to what scaling.py measures on a few.

A thread's rollout of S steps takes

    S (environment + network) + update(parameters, N) + counters(N)

The first is shared with nobody. The update's lines come from other cores' caches with probability 1 - 1/N, and the
step counter of every other thread is a line to be fetched. Left out: memory bandwidth, clocks that fall when all cores
work, and distances between sockets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Run:
    """One run to predict, as measured on one thread.

    Attributes
    ----------
    steps : int
        Of a rollout, of all actors of a group.
    parameters : int
    environment : float
        Microseconds a step.
    whole : float
        Microseconds a step of everything.
    """

    steps: int
    parameters: int
    environment: float
    whole: float


@dataclass(frozen=True)
class Model:
    """Microseconds, fitted: the network a step, copy and update a rollout.

    Attributes
    ----------
    network : tuple of float
        Acting and learning of one sample: a constant, and for each parameter.
    update : tuple of float
        Copy and update: a constant, for each parameter, and for each parameter that must come from another core.
    fetch : float
        A line from another core.
    error : float
        The largest relative error of the fits.
    """

    network: tuple[float, float]
    update: tuple[float, float, float]
    fetch: float
    error: float

    def update_microseconds(self, parameters: float, cores: int) -> float:
        """Of one thread, when as many as there are cores update."""
        constant, each, moved = self.update
        return constant + parameters * (each + moved * (1 - 1 / cores))

    def counters_microseconds(self, cores: int) -> float:
        """The step count is read twice a rollout: a line of each other thread."""
        return 2 * (cores - 1) * self.fetch

    def most_updates(self, parameters: float) -> float:
        """Updates/s if any number of cores moves no more lines in a second than two do."""
        return 2e6 / self.update_microseconds(parameters, 2)

    def predict(self, run: Run, cores: int) -> dict[str, Any]:
        """Steps/s, the least that caches without more bandwidth would leave of them, and each thread's time in shares.

        What of the measured step is neither environment nor update counts as network.
        """
        unshared = max(0.0, run.steps * run.whole - self.update_microseconds(run.parameters, 1))
        environment = min(run.steps * run.environment, unshared)  # noise may make it seem longer
        spent = {
            "environment": environment,
            "network": unshared - environment,
            "update": self.update_microseconds(run.parameters, cores),
            "counters": self.counters_microseconds(cores),
        }
        rollout = sum(spent.values())
        speed = 1e6 * cores * run.steps / rollout
        return {
            "cores": cores,
            "steps_per_second": speed,
            "at_least": min(speed, run.steps * self.most_updates(run.parameters)),
            "shares": {name: part / rollout for name, part in spent.items()},
        }


def fit(columns: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares of relative errors with no negative coefficient; the coefficients and the largest error."""
    scaled = columns / times[:, None]
    chosen = list(range(columns.shape[1]))
    while True:
        found = np.linalg.lstsq(scaled[:, chosen], np.ones(len(times)))[0]
        if len(chosen) == 1 or found.min() >= 0:
            break
        del chosen[int(found.argmin())]
    coefficients = np.zeros(columns.shape[1])
    coefficients[chosen] = found
    return coefficients, float(np.abs(scaled @ coefficients - 1).max())


def fit_model(rows: list[dict[str, Any]], fetch: float) -> Model:
    """The model of what `by_parameters` measured."""
    sizes = np.array([row["parameters"] for row in rows], float)
    samples = np.array([row["acting"] + row["learning"] for row in rows])
    network, network_error = fit(np.stack([np.ones_like(sizes), sizes], 1), samples)
    updates = [(row["parameters"], n, spent) for row in rows for n, spent in row["update"].items()]
    columns = np.array([[1, p, p * (1 - 1 / n)] for p, n, _ in updates])
    update_, update_error = fit(columns, np.array([spent for *_, spent in updates]))
    return Model(tuple(network), tuple(update_), fetch, max(network_error, update_error))  # type: ignore[arg-type]


def bound(predicted: dict[str, Any]) -> str:
    """What most limits a prediction."""
    if predicted["at_least"] < predicted["steps_per_second"] / 2:
        return "update, at worst"
    return max(predicted["shares"], key=predicted["shares"].get)
