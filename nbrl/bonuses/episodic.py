"""A bonus for each place that an episode comes to for the first time.

Henaff et al. (2023) found it to be what carries exploration where each episode is in another world. A place is an
observation's cell (`cells.py`). Each actor has a table of the cells of its episode.
"""

from typing import Any

import numpy as np
from numba import int64, uint64

from nbrl.bonuses.cells import PROBES, PlaceBonus, cell_of, table_size
from nbrl.bonuses.giving import give
from nbrl.kernels.compile import jit, routine
from nbrl.settings import Setting

NEW, KNOWN, LOST = range(3)


class Episodic(PlaceBonus):
    """Its settings and state."""

    episodic_weight = Setting(
        0.01, "what an episode's first visit of a place is worth, by the bonus episodic; not in the paper", above=0
    )
    episodic_cells = Setting(
        10_000,
        "places of an episode that episodic tells apart: those beyond are worth nothing; not in the paper",
        least=1,
        most=10**8,
    )
    keys = uint64[:, ::1]  # (n, places): of each actor's table
    marked = int64[:, ::1]  # (n, places): the episode that a key is of; other episodes' places are free
    episode = int64[::1]  # (n,): counted from 1

    @classmethod
    def own(cls, config: Any, observations: Any, actors: int) -> dict[str, Any]:
        size = table_size(config.episodic_cells)
        return super().own(config, observations, actors) | {
            "see": _see.address,
            "keys": np.zeros((actors, size), np.uint64),
            "marked": np.zeros((actors, size), np.int64),
            "episode": np.zeros(actors, np.int64),
        }

    def kept(self) -> dict[str, np.ndarray]:
        return {"keys": self.keys, "marked": self.marked, "episode": self.episode}


@routine(Episodic)
def _see(bonus, t, i, actor, _, __):
    if bonus.actors.episode_length[actor] == 0:  # of steps before this one
        bonus.episode[actor] += 1
    key = cell_of(bonus.cells, bonus.actors.observation[actor])
    found = look_up(bonus.keys[actor], bonus.marked[actor], key, bonus.episode[actor])
    if found == NEW:
        give(bonus, t, i, bonus.episodic_weight)
    elif found == LOST:
        bonus.lost[0] += 1


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
