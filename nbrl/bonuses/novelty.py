"""NovelD (Zhang et al., 2021, equation 1): how much newer a step leads to than where it began, once in an episode.

max(n(s_t+1) - alpha n(s_t), 0), n the error of random network distillation, at the first visit of a place (`cells.py`)
in its episode: it rewards the edge of what is known, and not each step beyond it.
"""

from typing import Any

import numpy as np
from numba import boolean

from nbrl.bonuses.cells import BONUS_BINS
from nbrl.bonuses.episodic import EPISODIC_CELLS, Visits, is_first_visit
from nbrl.bonuses.prediction import NONE, learn, predict, see
from nbrl.bonuses.rnd import Distillation, distil
from nbrl.kernels.compile import part, routine
from nbrl.kernels.struct import reference
from nbrl.settings import Setting

ALPHA = 0.5


class Novelty(Distillation):
    """Its settings and state."""

    bonus_bins = BONUS_BINS
    episodic_cells = EPISODIC_CELLS
    novelty_weight = Setting(
        0.1, "what a step by novelty is worth that is the deviation of their discounted sum; not in the paper", above=0
    )
    visits = reference(Visits)
    is_first = boolean[:, ::1]  # (t_max, k): whether a step came to a place for the first time in its episode

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        shape = learner.config.rollout_length, learner.group_size
        return super().own(learner, actors, policy, shared) | {
            "see": _see.address,
            "learn": _learn.address,
            "visits": Visits.make(learner, actors),
            "is_first": np.zeros(shape, np.bool_),
        }

    def kept(self) -> dict[str, np.ndarray]:
        return super().kept() | self.visits.arrays()


@routine(Novelty)
def _see(bonus, t, i, actor, _, __):
    bonus.is_first[t, i] = is_first_visit(bonus, actor)
    see(bonus, t, i, actor)


@routine(Novelty)
def _learn(bonus, first, _, __, ___, ____):
    learn(bonus, bonus.predictor, first, bonus.novelty_weight, False)


@part(predict, Novelty)
def _predict(bonus, begin, rows, samples):
    k = bonus.rollout.reward.shape[1]
    distil(bonus, rows, samples)
    for j in range(samples):
        if bonus.following[j] != NONE:
            new = max(bonus.errors[bonus.following[j]] - ALPHA * bonus.errors[j], 0.0)
            bonus.error[j] = new if bonus.is_first[begin + j // k, j % k] else 0.0
