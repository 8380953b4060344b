"""Random numbers from explicit rows of state: xoshiro256++ (Blackman and Vigna, 2019), seeded by splitmix64.

A row is four uint64. Whoever owns a row owns its stream; nothing here is hidden or shared between threads.
"""

import numpy as np

from nbrl.kernels.compile import jit

ROW = 4  # uint64 in a row
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
UNIT = 1.0 / (1 << 53)


@jit
def mixed(z):
    """64 bits that depend on all of those of `z`: splitmix64's."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def seed_row(row, seed, stream):
    """Start `row`, uint64[4], from two uint64: equal pairs give equal streams, others unrelated ones."""
    state = np.uint64(seed) ^ mixed(np.uint64(stream) + GOLDEN)
    for i in range(ROW):
        state += GOLDEN
        row[i] = mixed(state)


@jit
def next_uint64(row):
    """The next 64 random bits of `row`."""
    total = row[0] + row[3]
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + row[0]
    shifted = row[1] << np.uint64(17)
    row[2] ^= row[0]
    row[3] ^= row[1]
    row[1] ^= row[2]
    row[0] ^= row[3]
    row[2] ^= shifted
    row[3] = (row[3] << np.uint64(45)) | (row[3] >> np.uint64(19))
    return result


@jit
def uniform(row):
    """A float64 in [0, 1)."""
    return np.float64(next_uint64(row) >> np.uint64(11)) * UNIT


@jit
def integer(row, n):
    """An int64 in [0, n), for n up to 2**32; the bias is under n / 2**53."""
    return np.int64(uniform(row) * n)


@jit
def normal(row):
    """A float64 from the standard normal distribution (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(row)))
    return radius * np.cos(2.0 * np.pi * uniform(row))
