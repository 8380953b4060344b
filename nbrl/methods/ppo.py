"""Proximal policy optimisation (Schulman et al., 2017, equation 7): several passes over a rollout, clipped.

Asynchronous like the others: each thread collects a rollout of its group and moves the shared theta by minibatches of
it, without locks. The symbols: theta and theta' (here `shared.theta` and `work.theta`), pi the policy and V the value,
both of theta'; A = R - V the advantage by the values of those parameters that acted, r the ratio of pi(a|s) to what it
was then, epsilon how far from 1 a ratio is learnt, beta the weight of the entropy. Losses are means over a minibatch.
"""

import math
from typing import Any

import numpy as np
from numba import float32

from nbrl.actions import policy_gradient
from nbrl.kernels.compile import jit, part
from nbrl.kernels.struct import reference
from nbrl.methods import driver
from nbrl.methods.actor_critic import (
    ENTROPY,
    POLICY_LOSS,
    VALUE_LOSS,
    ActorCritic,
    bonus_value_gradient,
    entropy_weight,
    fill_returns,
)
from nbrl.methods.driver import return_deviation
from nbrl.methods.minibatches import EPOCHS, MINIBATCHES, Minibatches, learn_in_minibatches, minibatch_gradient
from nbrl.nets.table import Workspace, output_gradients, outputs
from nbrl.settings import Setting, Task

APPROX_KL, CLIP_FRACTION = ENTROPY + 1, ENTROPY + 2
MAX_LOG_RATIO = np.float32(20.0)  # beyond which a gradient would not be finite
MIN_DEVIATION = 1e-8  # added to that of advantages
NOISE = 0.02  # of the deviation of returns: that of advantages where nothing is left to learn

EVERYWHERE: dict[str, Any] = {
    "rollout_length": 128,
    "minibatches": 4,
    "gae_lambda": 0.95,
    "initialisation": "orthogonal",
    "optimiser": "shared_adam",
    "adam_epsilon": 1e-5,
    "gradient_clip": 0.5,
}
IMAGES: dict[str, Any] = EVERYWHERE | {
    "envs_per_batch": 8,
    "epochs": 2,
    "minibatches": 16,
    "learning_rate": 1e-3,
    "clip_range": 0.1,
    "steps": 10_000_000,
}
VECTORS: dict[str, Any] = EVERYWHERE | {
    "envs_per_batch": 4,
    "epochs": 10,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "steps": 1_000_000,
}
CONTINUOUS: dict[str, Any] = VECTORS | {
    "separate_networks": True,
    "policy_variance": "constant",
    "normalise_observations": True,
    "normalise_rewards": True,
    "reward_clip": 10.0,
    "entropy_weight": 0.0,
    "initial_std": 0.6,
    "rollout_length": 512,
    "minibatches": 32,
    "learning_rate": 3e-4,
}


class PPO(ActorCritic):
    """Its settings and state, besides those of the actor-critic methods."""

    epochs = EPOCHS
    minibatches = MINIBATCHES
    clip_range = Setting(
        0.2,
        "epsilon of ppo, how far from 1 the ratio of a probability to the old one is learnt; not in the paper",
        above=0,
        most=10,
    )
    value_clip = Setting(
        None,
        "how far from the old value a value is learnt by ppo, none for any; not in the paper",
        above=0,
        type=float,
    )
    normalise_advantages = Setting(
        True, "whether ppo's advantages have mean 0 and deviation 1 in each minibatch; not in the paper"
    )
    batches = reference(Minibatches)
    old_log_pi = float32[::1]  # (samples of a rollout,): of the actions, by the parameters that acted

    metrics = (*ActorCritic.metrics, "approx_kl", "clipfrac")

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        if task.image:
            return IMAGES
        return CONTINUOUS if task.continuous else VECTORS

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        batches = Minibatches.make(learner, work)
        old_log_pi = np.zeros(batches.sample.size, np.float32)
        return super().own(learner, actors, work) | {"batches": batches, "old_log_pi": old_log_pi}


@part(driver.learn, PPO)
def learn(method, policy, shared, worker, first):
    """Note what the policy was, and update theta by minibatches."""
    work, (t_max, k), zero = worker.work, worker.rollout.reward.shape, np.float32(0.0)
    fill_returns(method, worker)
    for t in range(t_max):
        for i in range(k):
            sample = t * k + i
            method.old_log_pi[sample] = policy_gradient(policy, work, sample, policy.action[t, i], zero, zero)[0]
    return learn_in_minibatches(method, policy, shared, worker, first)


@part(minibatch_gradient, PPO)
def ppo_gradient(method, policy, shared, worker, work, samples):
    """The gradients of -min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) - beta H(pi) and of the value loss."""
    rollout, sums, k = worker.rollout, worker.sums, worker.rollout.reward.shape[1]
    v, dv = outputs(work, method.value_head, 0, samples), output_gradients(work, method.value_head, 0, samples)
    n, zero, one = np.float32(samples), np.float32(0.0), np.float32(1.0)
    epsilon, beta = np.float32(method.clip_range), entropy_weight(method, shared)
    mean, scale = mean_and_scale(method, worker, work, samples) if method.normalise_advantages else (0.0, 1.0)
    for i in range(samples):
        if work.void[i]:
            continue
        sample = method.batches.sample[i]
        t, actor = sample // k, sample % k
        R, old_value, a = rollout.R[t, actor], rollout.value[t, actor], policy.action[t, actor]
        A = np.float32((np.float64(R - old_value + rollout.bonus_advantage[t, actor]) - mean) * scale)
        log_pi, entropy = policy_gradient(policy, work, i, a, zero, zero)
        log_r = min(max(log_pi - method.old_log_pi[sample], -MAX_LOG_RATIO), MAX_LOG_RATIO)
        r = np.float32(math.exp(log_r))
        clipped = r > one + epsilon if A > 0 else r < one - epsilon
        # The gradient of -r A is that of -log pi(a|s) times r A; where the ratio is clipped, the loss is constant.
        policy_gradient(policy, work, i, a, (zero if clipped else r * A) / n, beta / n)
        value_loss, value_gradient = ppo_value_loss(v[i, 0], R, old_value, np.float32(method.value_clip))
        dv[i, 0] = np.float32(method.value_weight) * value_gradient / n
        sums[POLICY_LOSS] -= min(r * A, min(max(r, one - epsilon), one + epsilon) * A)
        sums[VALUE_LOSS] += value_loss + bonus_value_gradient(method, rollout, work, i, sample, n)
        sums[ENTROPY] += entropy
        sums[APPROX_KL] += r - one - log_r  # Schulman's estimate of the divergence from the policy that acted
        sums[CLIP_FRACTION] += abs(r - one) > epsilon


@jit
def ppo_value_loss(v, R, old_value, value_clip):
    """(R - V)^2 / 2 and its gradient by V; with a clip, the larger loss of V and of V no further from the old one."""
    error = v - R
    loss = error * error / 2
    if 0 < value_clip < abs(v - old_value):
        clipped_error = old_value + (value_clip if v > old_value else -value_clip) - R
        if abs(clipped_error) > abs(error):
            return clipped_error * clipped_error / 2, np.float32(0.0)
    return loss, error


@jit
def mean_and_scale(method, worker, work, samples):
    """The mean of a minibatch's advantages and one over their deviation; 0 and 1 of fewer than two samples.

    Where rewards are normalised, advantages that deviate by less than NOISE are not made larger: in a task that is
    solved they are errors of the value, and a policy that followed them would lose what it had learnt in the end.
    """
    rollout, count, mean, m2 = worker.rollout, 0, 0.0, 0.0
    k = rollout.reward.shape[1]
    for i in range(samples):
        if not work.void[i]:
            t, actor = method.batches.sample[i] // k, method.batches.sample[i] % k
            advantage = np.float64(rollout.R[t, actor] - rollout.value[t, actor] + rollout.bonus_advantage[t, actor])
            difference = advantage - mean
            count += 1
            mean += difference / count
            m2 += difference * (advantage - mean)
    if count < 2:
        return 0.0, 1.0
    deviation = math.sqrt(m2 / count) + MIN_DEVIATION
    return mean, 1 / (max(deviation, NOISE * return_deviation(worker)) if method.normalise_rewards else deviation)
