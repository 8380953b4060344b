"""The intrinsic curiosity module (Pathak et al., 2017): the error of a model of what follows an action.

An encoder's features phi are those by which an inverse model tells which action led from s_t to s_t+1, so what actions
do not touch is not in them; a forward model predicts phi(s_t+1) from phi(s_t) and the action, and its error, half the
mean square, is the bonus (equations 2 to 6). The encoder learns from the inverse model alone, as in Burda et al.
(2019b), section 2.1: features that a forward model may move would become easy to predict.
"""

from typing import Any

import numpy as np
from numba import float32, int32, int64

from nbrl.actions import categorical_gradient
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
from nbrl.kernels.native import copy, span
from nbrl.kernels.struct import reference
from nbrl.nets.layers import Dense
from nbrl.nets.network import Network
from nbrl.nets.table import (
    Workspace,
    backward,
    backward_part,
    forward,
    input_gradients,
    observations,
    output_gradients,
    outputs,
)
from nbrl.settings import Setting
from nbrl.spaces import Observations

HIDDEN = Dense(256)  # of both models


class Icm(PredictionBonus):
    """Its settings and state."""

    icm_weight = Setting(
        0.1, "what an error of icm is worth that is the deviation of their discounted sum; not in the paper", above=0
    )
    phi = reference(Workspace)  # the encoder
    inverse = reference(Workspace)  # from phi(s_t), phi(s_t+1) to the logits of discrete actions, or continuous ones
    model = reference(Workspace)  # from phi(s_t), a_t to phi(s_t+1)
    chosen = int32[:, :, ::1]  # (t_max, k, parts): discrete actions of the rollout, or none
    vectors = float32[:, :, ::1]  # (t_max, k, parts): continuous ones, or none
    counts = int64[::1]  # (parts,): of the discrete ones

    @classmethod
    def networks(cls, config: Any, environment: Any) -> dict[str, Network]:
        outputs = environment.actions.outputs
        return {
            "phi": encoder(config, environment),
            "inverse": Network((HIDDEN,), Observations.vector(2 * FEATURES), {"actions": outputs}),
            "model": Network((HIDDEN,), Observations.vector(FEATURES + outputs), {"features": FEATURES}),
        }

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        actions, discrete = policy.action, learner.environment.actions.discrete
        return super().own(learner, actors, policy, shared) | {
            "see": _see.address,
            "learn": _learn.address,
            "chosen": actions if discrete else np.zeros((0, 0, 0), np.int32),
            "vectors": np.zeros((0, 0, 0), np.float32) if discrete else actions,
            "counts": np.array(learner.environment.actions.counts if discrete else (), np.int64),
        }


@routine(Icm)
def _see(bonus, t, i, actor, _, __):
    see(bonus, t, i, actor)


@routine(Icm)
def _learn(bonus, first, _, __, ___, ____):
    learn(bonus, bonus.phi, first, bonus.icm_weight, False)


@part(predict, Icm)
def _predict(bonus, begin, rows, samples):
    phi, inverse, model = bonus.phi, bonus.inverse, bonus.model
    forward(phi, 0, rows)
    features, k = outputs(phi, phi.table.shape[0] - 1, 0, rows), bonus.rollout.reward.shape[1]
    for j in range(samples):
        after = bonus.following[j]
        inverse.void[j] = model.void[j] = after == NONE
        x, y = observations(inverse, j, 1)[0], observations(model, j, 1)[0]
        copy(span(x, 0, FEATURES), features[j])
        copy(span(x, FEATURES, FEATURES), features[j if after == NONE else after])
        copy(span(y, 0, FEATURES), features[j])
        _write_action(bonus, begin + j // k, j % k, span(y, FEATURES, y.size - FEATURES))
    forward(inverse, 0, samples)
    forward(model, 0, samples)
    _predict_features(bonus, features, samples)
    _predict_actions(bonus, begin, samples)
    _learn_features(bonus, rows, samples)


@jit
def _write_action(bonus, t, i, x):
    """Fill x with an action: discrete parts one-hot, one behind the other."""
    if bonus.counts.size == 0:
        copy(x, bonus.vectors[t, i])
        return
    for j in range(x.size):
        x[j] = 0
    at = 0
    for number in range(bonus.counts.size):
        x[at + bonus.chosen[t, i, number]] = 1
        at += bonus.counts[number]


@jit
def _predict_features(bonus, features, samples):
    """The forward model's errors and gradients."""
    model = bonus.model
    head, scale = model.table.shape[0] - 1, np.float32(1 / (FEATURES * samples))
    found, gradients = outputs(model, head, 0, samples), output_gradients(model, head, 0, samples)
    for j in range(samples):
        total, after = np.float32(0.0), bonus.following[j]
        if after != NONE:
            for i in range(FEATURES):
                difference = found[j, i] - features[after, i]
                total += difference * difference
                gradients[j, i] = difference * scale
        bonus.error[j] = total / np.float32(2 * FEATURES)
    backward(model, samples, 1)


@jit
def _predict_actions(bonus, begin, samples):
    """The inverse model's gradients: of -log p(a), or of half the mean square."""
    inverse, k = bonus.inverse, bonus.rollout.reward.shape[1]
    head, scale = inverse.table.shape[0] - 1, np.float32(1 / samples)
    found, gradients = outputs(inverse, head, 0, samples), output_gradients(inverse, head, 0, samples)
    for j in range(samples):
        t, i, at = begin + j // k, j % k, 0
        for number in range(bonus.counts.size):
            n = bonus.counts[number]
            categorical_gradient(
                span(found[j], at, n), bonus.chosen[t, i, number], scale, np.float32(0.0), span(gradients[j], at, n)
            )
            at += n
        if bonus.counts.size == 0:
            for number in range(found.shape[1]):
                gradients[j, number] = (found[j, number] - bonus.vectors[t, i, number]) * scale
    backward(inverse, samples, 1)
    backward_part(inverse, 0, inverse.table.shape[0], samples, 0)


@jit
def _learn_features(bonus, rows, samples):
    """The encoder's gradients, from those of what the inverse model was given."""
    phi, given = bonus.phi, input_gradients(bonus.inverse, 0, samples)
    gradients = output_gradients(phi, phi.table.shape[0] - 1, 0, rows)
    for row in range(rows):
        phi.void[row] = False
        for i in range(FEATURES):
            gradients[row, i] = 0
    for j in range(samples):
        after = bonus.following[j]
        if after != NONE:
            for i in range(FEATURES):
                gradients[j, i] += given[j, i]
                gradients[after, i] += given[j, FEATURES + i]
    backward(phi, rows, 1)
