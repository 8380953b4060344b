"""What counts as the same place: an observation's cell, and tables of cells.

Numbers are parted into bins, pictures are scaled down as by Ecoffet et al. (2021), section "Cell representations";
small pictures and bytes, whose numbers are signs and no brightness, are taken as they are.
"""

import math

import numpy as np
from numba import float64, int64

from nbrl.kernels.compile import jit
from nbrl.kernels.random import mixed
from nbrl.kernels.struct import Struct
from nbrl.settings import Setting
from nbrl.space_descriptions import bounds_of
from nbrl.spaces import Observations

SIGNS, NUMBERS, PICTURE = range(3)
MIN_SIDE = 20  # pixels of a picture that is scaled down
ROWS, COLUMNS, LEVELS = 8, 11, 8  # of it, then
SKIP = 2  # pixels from one that counts to the next, each way
MAX_RANGE = 1e6  # between bounds: numbers whose bounds are further apart count as having none
PROBES = 32  # places of a table that a cell may lie in
FNV, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


BONUS_BINS = Setting(
    20,
    "bins of a number of an observation, between its space's bounds, or -1 and 1 where it has none, for bonuses of "
    "places; not in the paper",
    least=1,
    most=1_000_000,
)


class Cells(Struct):
    """How the cell of an observation is found."""

    kind = int64
    low = float64[::1]  # (numbers,): where the first bin begins
    scale = float64[::1]  # (numbers,): bins in 1
    floats = int64  # whether numbers are float32, else bytes
    height = int64
    width = int64
    row_stride = int64
    column_stride = int64
    channel_stride = int64
    first = int64  # channel of the newest frame
    channels = int64  # of it
    high = float64

    @classmethod
    def make(cls, observations: Observations, bins: int) -> "Cells":
        """For such observations."""
        large = observations.image and min(observations.height, observations.width) >= MIN_SIDE
        floats = observations.dtype != np.uint8
        low, high = np.full(observations.size, -1.0), np.full(observations.size, 1.0)
        if floats and not observations.image and observations.space["kind"] == "Box":
            lower, upper = (bound.reshape(-1).astype(np.float64) for bound in bounds_of(observations.space))
            bounded = (upper - lower > 0) & (upper - lower < MAX_RANGE)
            low, high = np.where(bounded, lower, low), np.where(bounded, upper, high)
        strides = observations.strides or (0, 0, 0)
        newest = observations.newest if observations.image else 0
        return cls(
            kind=PICTURE if large else NUMBERS if floats else SIGNS,
            low=low,
            scale=bins / (high - low),
            floats=floats,
            height=observations.height if observations.image else 0,
            width=observations.width if observations.image else 0,
            row_stride=strides[0],
            column_stride=strides[1],
            channel_stride=strides[2],
            first=observations.channels - newest if observations.image else 0,
            channels=newest,
            high=observations.high,
        )


@jit
def cell_of(cells, row):
    """The cell of an observation, uint8 (bytes,), as a number that is practically its own; never 0."""
    if cells.kind == SIGNS:
        key = FNV
        for i in range(row.size):
            key = (key ^ np.uint64(row[i])) * PRIME
        key = mixed(key)
    elif cells.kind == NUMBERS:
        numbers, key = row.view(np.float32), FNV
        for i in range(numbers.size):
            place = np.int64(math.floor((numbers[i] - cells.low[i]) * cells.scale[i]))
            key = mixed(key ^ np.uint64(place))
    elif cells.floats:
        key = _scaled_down(cells, row.view(np.float32))
    else:
        key = _scaled_down(cells, row)
    return key if key != 0 else FNV


@jit
def _scaled_down(cells, numbers):
    """The cell of a picture: its newest frame, ROWS x COLUMNS means of LEVELS levels."""
    key = FNV
    for row in range(ROWS):
        top, bottom = row * cells.height // ROWS, (row + 1) * cells.height // ROWS
        for column in range(COLUMNS):
            left, right = column * cells.width // COLUMNS, (column + 1) * cells.width // COLUMNS
            total, count = 0.0, 0
            for y in range(top, bottom, SKIP):
                for x in range(left, right, SKIP):
                    count += cells.channels
                    at = y * cells.row_stride + x * cells.column_stride + cells.first * cells.channel_stride
                    for channel in range(cells.channels):
                        total += numbers[at + channel * cells.channel_stride]
            key = mixed(key ^ np.uint64(total / count / cells.high * (LEVELS - 1) + 0.5))
    return key


def table_size(cells: int) -> int:
    """Places of a table with room for so many cells: a power of two, half of it free."""
    return 1 << max(2 * cells - 1, PROBES).bit_length()
