"""A bonus that falls with the visits of a place by all actors: 1 / sqrt(N) (Strehl and Littman, 2008).

N counts the visits of an observation's cell (`cells.py`) over the whole run, this one included. All threads write to
one table without locks; a visit that is lost now and then changes little.
"""

import math
from typing import Any

import numpy as np
from numba import int64, uint64

from nbrl.bonuses.cells import BONUS_BINS, PROBES, Cells, cell_of, table_size
from nbrl.bonuses.giving import give
from nbrl.kernels.compile import jit, routine
from nbrl.kernels.struct import reference
from nbrl.methods.state import Bonus
from nbrl.settings import Setting


class Count(Bonus):
    """Its settings and state."""

    bonus_bins = BONUS_BINS
    count_weight = Setting(0.1, "what a place's first visit is worth, by the bonus count; not in the paper", above=0)
    count_cells = Setting(
        100_000,
        "places that count tells apart: those beyond are worth nothing; not in the paper",
        least=1,
        most=10**9,
    )
    cells = reference(Cells)
    keys = uint64[::1]  # (places,): of a table, 0 where it is free
    visits = int64[::1]  # (places,)

    @classmethod
    def shared_arrays(cls, config: Any, environment: Any, theta: np.ndarray) -> dict[str, np.ndarray]:
        size = table_size(config.count_cells)
        return {"keys": np.zeros(size, np.uint64), "visits": np.zeros(size, np.int64)}

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        cells = Cells.make(learner.environment.observations, learner.config.bonus_bins)
        return {"see": _see.address, "cells": cells}


@routine(Count)
def _see(bonus, t, i, actor, _, __):
    n = visit(bonus.keys, bonus.visits, cell_of(bonus.cells, bonus.actors.observation[actor]))
    if n:
        give(bonus, t, i, bonus.count_weight / math.sqrt(n))
    else:
        bonus.lost[0] += 1


@jit
def visit(keys, visits, key):
    """Count a visit of a cell, and return how many there are; 0 where the table has no place for it."""
    for probe in range(PROBES):
        place = (key + np.uint64(probe)) & np.uint64(keys.size - 1)
        if keys[place] == 0:
            keys[place] = key
        if keys[place] == key:
            visits[place] += 1
            return visits[place]
    return 0
