"""A bonus for each place that an episode comes to for the first time.

Henaff et al. (2023) found it to be what carries exploration where each episode is in another world. A place is an
observation's cell (`cells.py`). Each actor has a table of the cells of its episode.
"""

from typing import Any

import numpy as np
from numba import int64, uint64

from nbrl.bonuses.cells import BONUS_BINS, PROBES, Cells, cell_of, table_size
from nbrl.bonuses.giving import give
from nbrl.kernels.compile import jit, routine
from nbrl.kernels.struct import Struct, reference
from nbrl.methods.state import Bonus
from nbrl.settings import Setting

NEW, KNOWN, LOST = range(3)
EPISODIC_CELLS = Setting(
    10_000,
    "places of an episode that episodic and novelty tell apart: those beyond are worth nothing; not in the paper",
    least=1,
    most=10**8,
)


class Visits(Struct):
    """Which places the actors of a worker have been in, in their episodes."""

    cells = reference(Cells)
    keys = uint64[:, ::1]  # (n, places): of each actor's table
    marked = int64[:, ::1]  # (n, places): the episode that a key is of; other episodes' places are free
    episode = int64[::1]  # (n,): counted from 1

    @classmethod
    def make(cls, learner: Any, actors: int) -> "Visits":
        """For so many actors."""
        size = table_size(learner.config.episodic_cells)
        return cls(
            cells=Cells.make(learner.environment.observations, learner.config.bonus_bins),
            keys=np.zeros((actors, size), np.uint64),
            marked=np.zeros((actors, size), np.int64),
            episode=np.zeros(actors, np.int64),
        )


class Episodic(Bonus):
    """Its settings and state."""

    bonus_bins = BONUS_BINS
    episodic_weight = Setting(
        0.01, "what an episode's first visit of a place is worth, by the bonus episodic; not in the paper", above=0
    )
    episodic_cells = EPISODIC_CELLS
    visits = reference(Visits)

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"see": _see.address, "visits": Visits.make(learner, actors)}

    def kept(self) -> dict[str, np.ndarray]:
        return self.visits.arrays()


@routine(Episodic)
def _see(bonus, t, i, actor, _, __):
    if is_first_visit(bonus, actor):
        give(bonus, t, i, bonus.episodic_weight)


@jit
def is_first_visit(bonus, actor):
    """Whether the place that a step of an actor came to is new in its episode; it is noted."""
    visits = bonus.visits
    if bonus.actors.episode_length[actor] == 0:  # of steps before this one
        visits.episode[actor] += 1
    key = cell_of(visits.cells, bonus.actors.observation[actor])
    found = look_up(visits.keys[actor], visits.marked[actor], key, visits.episode[actor])
    bonus.lost[0] += found == LOST
    return found == NEW


@jit
def look_up(keys, marked, key, episode):
    """Whether a cell has been in an episode before; if it has not, it is noted, where the table has a place for it."""
    for probe in range(PROBES):
        place = (key + np.uint64(probe)) & np.uint64(keys.size - 1)
        if marked[place] != episode:
            keys[place], marked[place] = key, episode
            return NEW
        if keys[place] == key:
            return KNOWN
    return LOST
