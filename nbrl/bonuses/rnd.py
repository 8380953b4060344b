"""Random network distillation (Burda et al., 2019): the error of a network that learns what a random one says.

Of what is new the random network's outputs are not known yet. The predictor has one dense layer more. Where the method
has a value, the bonus has one of its own, whose returns go on over ends of episodes (`nbrl.methods.actor_critic`).
"""

from typing import Any

import numpy as np
from numba import boolean, float32, float64

from nbrl.bonuses.prediction import (
    FEATURES,
    NONE,
    PredictionBonus,
    encoder,
    learn,
    predict,
    see,
)
from nbrl.kernels.compile import jit, part, routine
from nbrl.kernels.native import copy
from nbrl.kernels.struct import reference
from nbrl.nets.layers import Dense
from nbrl.nets.network import Network
from nbrl.nets.table import Workspace, backward, forward, observations, output_gradients, outputs
from nbrl.settings import Setting


class Distillation(PredictionBonus):
    """State of the bonuses that do so."""

    predictor = reference(Workspace)
    target = reference(Workspace)
    target_theta = float32[::1]  # of the random network; shared
    errors = float64[::1]  # (rows,): how wrong the predictor is about each

    @classmethod
    def networks(cls, config: Any, environment: Any) -> dict[str, Network]:
        return {"predictor": encoder(config, environment, (Dense(FEATURES),))}

    @classmethod
    def shared_arrays(cls, config: Any, environment: Any, theta: np.ndarray) -> dict[str, np.ndarray]:
        random = encoder(config, environment).initial(config.seed or 0, "orthogonal")
        return super().shared_arrays(config, environment, theta) | {"target_theta": random}

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        own = super().own(learner, actors, policy, shared)
        rows = own["predictor"].void.size
        target = encoder(learner.config, learner.environment).workspace(rows, learns=False)
        return own | {"target": target.replace(theta=shared["target_theta"]), "errors": np.zeros(rows)}


class Rnd(Distillation):
    """Its settings."""

    has_value = True
    rnd_weight = Setting(
        0.1, "what an error of rnd is worth that is the deviation of their discounted sum; not in the paper", above=0
    )
    apart = boolean  # whether the method has a value for it

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        apart = "bonus_value" in learner.network.heads
        own = super().own(learner, actors, policy, shared)
        return own | {"see": _see.address, "learn": _learn.address, "apart": apart}


@routine(Rnd)
def _see(bonus, t, i, actor, _, __):
    see(bonus, t, i, actor)


@routine(Rnd)
def _learn(bonus, first, _, __, ___, ____):
    learn(bonus, bonus.predictor, first, bonus.rnd_weight, bonus.apart)


@part(predict, Rnd)
def _predict(bonus, begin, rows, samples):
    distil(bonus, rows, samples)
    for j in range(samples):
        if bonus.following[j] != NONE:
            bonus.error[j] = bonus.errors[bonus.following[j]]


@jit
def distil(bonus, rows, samples):
    """Fill the error of each row, half the mean square, and the gradient of that of those that a sample led to."""
    target, predictor = bonus.target, bonus.predictor
    head, random_head = predictor.table.shape[0] - 1, target.table.shape[0] - 1
    copy(observations(target, 0, rows).reshape(-1), observations(predictor, 0, rows).reshape(-1))
    forward(target, 0, rows)
    forward(predictor, 0, rows)
    wanted, found = outputs(target, random_head, 0, rows), outputs(predictor, head, 0, rows)
    gradients = output_gradients(predictor, head, 0, rows)
    scale = np.float32(1 / (FEATURES * samples))
    for row in range(rows):
        predictor.void[row] = True
    for j in range(samples):
        if bonus.following[j] != NONE:
            predictor.void[bonus.following[j]] = False
    for row in range(rows):
        total = np.float32(0.0)
        for i in range(FEATURES):
            difference = found[row, i] - wanted[row, i]
            total += difference * difference
            gradients[row, i] = difference * scale
        bonus.errors[row] = total / np.float32(2 * FEATURES)
    backward(predictor, rows, 1)  # nothing is learnt of the void ones
