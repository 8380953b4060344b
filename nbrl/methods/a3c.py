"""Asynchronous advantage actor-critic: Algorithm S3 of Mnih et al. (2016), with the entropy term of its section 4.

The paper's symbols: theta and theta' (here `shared.theta` and `work.theta`; policy and value are heads of one network),
R the return, pi the policy, V the value, beta the weight of the entropy.
"""

import math
from typing import Any

import numpy as np

from nbrl.actions import policy_gradient
from nbrl.kernels.compile import part
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
from nbrl.methods.driver import update
from nbrl.nets.table import backward, output_gradients
from nbrl.settings import Task, whole

# What differs with continuous actions. The learning rate is that of vectors, in runs as long as this.
CONTINUOUS: dict[str, Any] = {
    "separate_networks": True,
    "policy_variance": "constant",
    "normalise_observations": True,
    "normalise_rewards": True,
    "reward_clip": 10.0,
    "gae_lambda": 0.95,
    "initialisation": "orthogonal",
    "entropy_weight": 0.0,
    "envs_per_batch": 4,
    "rollout_length": 32,
    "learning_rate": 2e-3,
    "steps": 1_000_000,
}
CONTINUOUS_IMAGES: dict[str, Any] = {
    "separate_networks": False,
    "normalise_observations": False,
    "adam_epsilon": 1e-8,
    "learning_rate": 5e-4,
}


class A3C(ActorCritic):
    """Its settings and state are those of the actor-critic methods."""

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        if not task.continuous:
            return {}
        if task.image:
            return CONTINUOUS | CONTINUOUS_IMAGES
        # Annealed over a longer run, the same rate stays high for longer, and may undo what was learnt.
        found_on = CONTINUOUS["steps"]
        longer = max(found_on, whole(task.given.get("steps")) or 0) / found_on
        return CONTINUOUS | {"learning_rate": CONTINUOUS["learning_rate"] / math.sqrt(longer)}


@part(driver.learn, A3C)
def learn(method, policy, shared, worker, first):
    """Accumulate the gradients of a rollout and update theta."""
    work, rollout, (t_max, k) = worker.work, worker.rollout, worker.rollout.reward.shape
    fill_returns(method, worker)
    beta, dv = entropy_weight(method, shared), output_gradients(work, method.value_head, 0, t_max * k)
    for i in range(k):
        for t in range(t_max - 1, -1, -1):
            sample = t * k + i
            if work.void[sample]:
                continue
            advantage = rollout.R[t, i] - rollout.value[t, i]
            # d theta:   -log pi(a|s) (R - V) - beta H(pi);   d theta_v:   (R - V)^2 / 2
            A = advantage + rollout.bonus_advantage[t, i]
            log_pi, entropy = policy_gradient(policy, work, sample, policy.action[t, i], A, beta)
            dv[sample, 0] = -np.float32(method.value_weight) * advantage
            worker.sums[POLICY_LOSS] -= log_pi * A
            worker.sums[VALUE_LOSS] += advantage * advantage / 2
            worker.sums[VALUE_LOSS] += bonus_value_gradient(method, rollout, work, sample, sample, np.float32(1.0))
            worker.sums[ENTROPY] += entropy
    backward(work, t_max * k, k)  # accumulates d theta and d theta_v over the rollout
    return update(method, shared, worker, first)  # asynchronous update of theta
