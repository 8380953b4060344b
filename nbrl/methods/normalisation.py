"""Running statistics of observations and of returns, by which learning sees numbers of about 1.

A worker measures what its own actors see. At the start of each rollout it publishes its numbers and takes the sum of
all workers' numbers, to normalise by until its next rollout. Each publishes in two buffers in turn, so that a reader
finds whole sets. Statistics of a worker are float64 (3, features): the count, the mean and the sum of squared
differences from it, of each number of an observation (of all pixels of an image alike; of none, if observations are
not normalised) and last of the return.
"""

import math

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.native import atomic_load, atomic_store
from nbrl.nets.workspace import MEAN, PIXEL_SCALE, SCALE

COUNT, AVERAGE, SQUARES, ROWS = 0, 1, 2, 3
SMALLEST = 1e-8  # variance


@jit
def measure(moments, feature, value):
    """Add a number to a feature's statistics (Welford, 1962)."""
    moments[COUNT, feature] += 1
    difference = value - moments[AVERAGE, feature]
    moments[AVERAGE, feature] += difference / moments[COUNT, feature]
    moments[SQUARES, feature] += difference * (value - moments[AVERAGE, feature])


@jit
def measure_observation(moments, observation, size):
    """Add an observation of `size` numbers, as bytes, unless one of them is not finite."""
    features = moments.shape[1] - 1
    if features == 0:
        return
    if observation.size == size:
        _measure_image(moments, observation)
        return
    vector = observation.view(np.float32)
    for i in range(features):
        if not np.isfinite(vector[i]):
            return
    for i in range(features):
        measure(moments, i, np.float64(vector[i]))


@jit
def _measure_image(moments, image):
    """Add all pixels of an image, uint8, to feature 0: their sums are exact."""
    total, squares = np.int64(0), np.int64(0)
    for i in range(image.size):
        pixel = np.int64(image[i])
        total += pixel
        squares += pixel * pixel
    scale, average = np.float64(PIXEL_SCALE), total / image.size
    spread = max(squares - total * average, 0.0)
    _merge(moments, 0, image.size, scale * average, scale * scale * spread)


@jit
def _merge(total, feature, new, average, squares):
    """Add statistics to a feature's (Chan, Golub and LeVeque, 1979)."""
    old = total[COUNT, feature]
    if new == 0:
        return
    difference = average - total[AVERAGE, feature]
    total[COUNT, feature] = old + new
    total[AVERAGE, feature] += difference * new / (old + new)
    total[SQUARES, feature] += squares + difference * difference * old * new / (old + new)


@jit
def merge(total, moments):
    """Add a worker's statistics to others'."""
    for i in range(total.shape[1]):
        if total[COUNT, i] == 0:
            total[:, i] = moments[:, i]
        else:
            _merge(total, i, moments[COUNT, i], moments[AVERAGE, i], moments[SQUARES, i])


@jit
def scale_of(moments, feature):
    """One over the standard deviation of a feature; 1 until there are two numbers."""
    if moments[COUNT, feature] < 2:
        return 1.0
    return 1.0 / math.sqrt(moments[SQUARES, feature] / moments[COUNT, feature] + SMALLEST)


@jit
def fill_normal(moments, normal):
    """Fill `Workspace.normal` from statistics."""
    for i in range(normal.shape[1]):
        normal[MEAN, i] = moments[AVERAGE, i]
        normal[SCALE, i] = scale_of(moments, i)


@jit
def publish(shared, worker):
    """Let the others see a worker's statistics, and fill its total with those of all."""
    own = shared.published[worker.thread :]
    buffer = 1 - own[0, 0]
    shared.moments[worker.thread, buffer] = worker.moments
    atomic_store(own.ctypes.data, buffer)
    worker.total[:] = 0
    for thread in range(shared.published.shape[0]):
        merge(worker.total, shared.moments[thread, atomic_load(shared.published[thread:].ctypes.data)])
