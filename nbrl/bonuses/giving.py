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
    if bonus.first.see:
        call_routine(bonus.first.see, bonus.first, t, i, actor, 0, 0)
    if bonus.second.see:
        call_routine(bonus.second.see, bonus.second, t, i, actor, 0, 0)


@routine(Sum)
def _learn_both(bonus, first, _, __, ___, ____):
    if bonus.first.learn:
        call_routine(bonus.first.learn, bonus.first, first, 0, 0, 0, 0)
    if bonus.second.learn:
        call_routine(bonus.second.learn, bonus.second, first, 0, 0, 0, 0)


@jit
def give(bonus, t, i, amount, apart=False):
    """Add to the reward of step t of a group's actor i, or give it `apart`, for a value of its own."""
    if apart:
        bonus.rollout.bonus[t, i] = np.float32(amount)
    else:
        bonus.rollout.reward[t, i] += np.float32(amount)
    bonus.sums[BONUS] += amount


def summed(bonuses: list[Bonus], common: dict[str, Any]) -> Bonus:
    """One bonus that does what several do; one that does nothing for none."""
    if not bonuses:
        return Bonus(see=0, learn=0, **common)
    total = bonuses[0]
    for bonus in bonuses[1:]:
        learn = _learn_both.address if total.learn or bonus.learn else 0
        total = Sum(see=_see_both.address, learn=learn, first=total, second=bonus, **common)
    return total
