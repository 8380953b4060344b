"""Running statistics of observations and of returns, by which learning sees numbers of about 1.

A worker measures what its own actors see. At the start of each rollout it publishes its numbers and takes the sum of
all workers' numbers, to normalise by until its next rollout, those of other machines among them. Each publishes in two
buffers in turn, so that a reader finds whole sets. Statistics are float64 (3, features): the count, the mean and m2,
the sum of squared differences from it, of each number of an observation (of all pixels of an image alike; of none, if
observations are not normalised) and last of the return.
"""

import math

import numpy as np
from numba import float64

from nbrl.kernels.compile import jit
from nbrl.kernels.native import address_at, atomic_load, atomic_store
from nbrl.kernels.struct import Struct
from nbrl.nets import table

COUNT, MEAN, M2, ROWS = 0, 1, 2, 3
LEAST_VARIANCE = 1e-8


class RunningStatistics(Struct):
    """A worker's."""

    own = float64[:, ::1]  # (ROWS, features): of what its actors saw
    total = float64[:, ::1]  # (ROWS, features): of what all actors saw, when the rollout began

    @classmethod
    def make(cls, features: int) -> "RunningStatistics":
        """Of nothing yet."""
        return cls(own=np.zeros((ROWS, features)), total=np.zeros((ROWS, features)))


@jit
def measure(statistics, feature, value):
    """Add a number to a feature's statistics (Welford, 1962)."""
    statistics[COUNT, feature] += 1
    difference = value - statistics[MEAN, feature]
    statistics[MEAN, feature] += difference / statistics[COUNT, feature]
    statistics[M2, feature] += difference * (value - statistics[MEAN, feature])


@jit
def measure_observation(statistics, work, observation):
    """Add an observation, a row as bytes, as the workspace's network reads it; not where a number is not finite."""
    features, size, scale = statistics.shape[1] - 1, work.observation_size, np.float32(work.scale)
    if features == 0:
        return
    if work.of_bytes:
        _measure_bytes(statistics, work, observation)
        return
    numbers = observation.view(np.float32)
    for i in range(size):
        if not np.isfinite(numbers[i]):
            return
    if features == size:
        for i in range(size):
            measure(statistics, i, np.float64(numbers[i] * scale))
    else:
        _measure_image(statistics, work, numbers)


@jit
def _measure_bytes(statistics, work, image):
    """Add all pixels of an image, uint8, to feature 0: their sums are exact."""
    total, squares, size = np.int64(0), np.int64(0), work.observation_size
    for i in range(size):
        pixel = np.int64(image[i])
        total += pixel
        squares += pixel * pixel
    average = total / size
    spread = max(squares - total * average, 0.0)
    _merge(statistics, 0, size, work.scale * average, work.scale * work.scale * spread)


@jit
def _measure_image(statistics, work, image):
    """Add all pixels of an image, float32, to feature 0."""
    total, spread, size, scale = 0.0, 0.0, work.observation_size, np.float32(work.scale)
    for i in range(size):
        total += np.float64(image[i] * scale)
    average = total / size
    for i in range(size):
        difference = np.float64(image[i] * scale) - average
        spread += difference * difference
    _merge(statistics, 0, size, average, spread)


@jit
def _merge(total, feature, new, average, m2):
    """Add statistics to a feature's (Chan, Golub and LeVeque, 1979)."""
    old = total[COUNT, feature]
    if new == 0:
        return
    difference = average - total[MEAN, feature]
    total[COUNT, feature] = old + new
    total[MEAN, feature] += difference * new / (old + new)
    total[M2, feature] += m2 + difference * difference * old * new / (old + new)


@jit
def merge(total, statistics):
    """Add a worker's statistics to others'."""
    for i in range(total.shape[1]):
        if total[COUNT, i] == 0:
            for row in range(ROWS):
                total[row, i] = statistics[row, i]
        else:
            _merge(total, i, statistics[COUNT, i], statistics[MEAN, i], statistics[M2, i])


@jit
def scale_of(statistics, feature):
    """One over the standard deviation of a feature; 1 until there are two numbers."""
    if statistics[COUNT, feature] < 2:
        return 1.0
    return 1.0 / math.sqrt(statistics[M2, feature] / statistics[COUNT, feature] + LEAST_VARIANCE)


@jit
def fill_normal(statistics, normal):
    """Fill `Workspace.normal` from statistics."""
    for i in range(normal.shape[1]):
        normal[table.MEAN, i] = statistics[MEAN, i]
        normal[table.SCALE, i] = scale_of(statistics, i)


@jit
def publish(shared, worker):
    """Let the others see a worker's statistics, and fill its total with those of all."""
    publish_row(shared, worker.thread, worker.statistics.own)
    fill_total(shared, 0, shared.published.shape[0], worker.statistics.total)


@jit
def publish_row(shared, row, statistics):
    """Let others see statistics, as those of a thread, or behind them of other machines."""
    published = shared.published
    buffer = 1 - published[row, 0]
    copied = shared.statistics[row, buffer]
    for i in range(ROWS):
        for j in range(statistics.shape[1]):
            copied[i, j] = statistics[i, j]
    atomic_store(address_at(published, row * published.shape[1]), buffer)


@jit
def fill_total(shared, first, last, total):
    """Fill a total with what the rows from `first` up to `last` have published."""
    for i in range(ROWS):
        for j in range(total.shape[1]):
            total[i, j] = 0
    for row in range(first, last):
        whole = atomic_load(address_at(shared.published, row * shared.published.shape[1]))
        merge(total, shared.statistics[row, whole])
