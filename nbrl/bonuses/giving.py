"""What all bonuses do at the end, and several of them summed."""

from typing import Any

import numpy as np

from nbrl.kernels.compile import jit, routine
from nbrl.kernels.native import call_routine
from nbrl.kernels.struct import reference
from nbrl.methods.state import BONUS, Bonus


class Sum(Bonus):
    """Two bonuses, either of which may be a sum."""

    first = reference(Bonus)
    second = reference(Bonus)


@routine(Sum)
def _see_both(bonus, t, i, actor, _, __):
    call_routine(bonus.first.see, bonus.first, t, i, actor, 0, 0)
    call_routine(bonus.second.see, bonus.second, t, i, actor, 0, 0)


@jit
def give(bonus, t, i, amount):
    """Add to the reward of step t of a group's actor i."""
    bonus.rollout.reward[t, i] += np.float32(amount)
    bonus.sums[BONUS] += amount


def summed(bonuses: list[Bonus], common: dict[str, Any]) -> Bonus:
    """One bonus that does what several do; one that does nothing for none."""
    if not bonuses:
        return Bonus(see=0, **common)
    total = bonuses[0]
    for bonus in bonuses[1:]:
        total = Sum(see=_see_both.address, first=total, second=bonus, **common)
    return total
