"""Ten updates of the real loop against an independent float64 run of each value method on the very same trajectory.

The actions are compared as well: they are what the actors' random numbers and the float64 values give.
"""

import oracles
import pytest
import references
from references import OPTIMISERS, follow

from nbrl import Dense

METHODS = ("one_step_q", "one_step_sarsa", "n_step_q")


def settings(**others):
    """Two copies of the target network or more within the ten updates, and half of them with less exploration."""
    shape = others.get("length", 5) * others.get("envs_per_batch", 1)
    return {"target_interval": 3 * shape, "epsilon_steps": 5 * shape, "network": (Dense(20, "tanh"),)} | others


CASES = {
    "the paper's": settings(seed=4),
    "clips active": settings(gradient_clip=0.7, reward_clip=0.5),
    "no reward clip": settings(reward_clip=None, gradient_clip=1e6),
    "an interval that no rollout ends at": settings(target_interval=12),
    "intervals within a rollout": settings(target_interval=2),
    "long rollouts": settings(length=20),
    "one step": settings(length=1, seed=5),
    "two layers": settings(network=(Dense(20, "tanh"), Dense(17, "tanh"))),
    "relu": settings(network=(Dense(40, "relu"),)),
    "three actors in turn": settings(actors=3),
    "two pairs in lockstep": settings(actors=4, envs_per_batch=2),
    "three in lockstep": settings(actors=3, envs_per_batch=3),
} | {
    f"{optimiser}, {groups} groups of {lockstep}": settings(actors=groups * lockstep, envs_per_batch=lockstep, **choice)
    for optimiser, choice in OPTIMISERS.items()
    for groups, lockstep in ((3, 1), (3, 2))
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ten_updates_equal_the_reference(case, method):
    follow(references.settings(method=method, **case), oracles.ValueReference)
