"""Asynchronous advantage actor-critic: Algorithm S3 of Mnih et al. (2016), with the entropy term of its section 4.

With gae_lambda below 1, R is the lambda-return, so that R - V is the generalised advantage estimate of Schulman et al.
(2016), equation 16; 1 is the paper. Continuous actions have a Gaussian policy (section 9 of the paper).

The paper's symbols: theta and theta' (here `shared.theta` and `work.theta`; policy and value are heads of one network),
R the return, pi the policy, V the value, beta the weight of the entropy.
"""

import math
from typing import Any

import numpy as np
from numba import float64

from nbrl.actions import Categorical, Gaussian, choose, draw, policy_gradient
from nbrl.kernels.compile import part
from nbrl.methods import driver
from nbrl.methods.driver import Method, forward_step, progress, returns, scheduled, update
from nbrl.methods.state import METRICS
from nbrl.nets.table import Workspace, backward, forward, output_gradients, outputs
from nbrl.settings import SHAPES, Schedule, Setting, Task, points, whole

POLICY_LOSS, VALUE_LOSS, ENTROPY = range(METRICS, METRICS + 3)
VALUE = -1  # the network's last layer


VARIANCES = ("softplus", "constant")

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
    "optimiser": "shared_adam",
    "learning_rate": 5e-4,
}


class A3C(Method):
    """Its settings."""

    gae_lambda = Setting(
        1.0, "lambda of generalised advantage estimation; paper: 1, the whole rollout's return", least=0, most=1
    )
    separate_networks = Setting(False, "whether policy and value share no layer; paper: false on Atari, true on MuJoCo")
    policy_variance = Setting(
        "softplus",
        "variance of continuous actions: softplus of a layer's outputs, or constant, learnt; paper: softplus",
        choices=VARIANCES,
    )
    initial_std = Setting(
        None,
        "deviation of continuous actions at first, where their bounds are -1 and 1, none for what the first weights "
        "give, about 0.83; paper: none",
        above=0.01,
        most=10,
        type=float,
    )
    entropy_weight = Setting(0.01, "beta, weight of the policy's entropy; paper: 0.01 (MuJoCo: 1e-4)", least=0)
    entropy_schedule = Schedule("constant", f"how entropy_weight changes over the run, {SHAPES}; paper: constant")
    value_weight = Setting(0.5, "weight of the value loss; paper: 0.5", least=0)

    entropy_points = float64[:, ::1]

    policies = (Categorical, Gaussian)
    critic = ("value",)
    metrics = ("policy_loss", "value_loss", "entropy")

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

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        return {"entropy_points": points(learner.config.entropy_schedule)}


@part(driver.act, A3C)
def act(method, policy, shared, worker, first, t):
    """Draw a_t from pi(a_t | s_t; theta')."""
    work, k = worker.work, worker.rollout.reward.shape[1]
    forward_step(policy, worker, first, t)
    for i in range(k):
        draw(policy, worker.actors.random[first + i])
        choose(policy, work, t * k + i, policy.action[t, i])


@part(driver.end_value, A3C)
def end_value(method, policy, shared, worker, first, t, i):
    """V of the last observation, so R begins with V there."""
    work, sample = worker.work, worker.rollout.reward.size + i
    forward(work, sample, 1)
    return outputs(work, work.table.shape[0] + VALUE, sample, 1)[0, 0]


@part(driver.learn, A3C)
def learn(method, policy, shared, worker, first):
    """Accumulate the gradients of a rollout and update theta."""
    work, rollout, (t_max, k) = worker.work, worker.rollout, worker.rollout.reward.shape
    samples, value = t_max * k, work.table.shape[0] + VALUE
    forward(work, samples, k)
    v, dv = outputs(work, value, 0, samples + k), output_gradients(work, value, 0, samples)
    beta = np.float32(method.entropy_weight * scheduled(method.entropy_points, progress(method, shared)))
    gae_lambda = np.float32(method.gae_lambda)
    for i in range(k):
        for t in range(t_max):
            rollout.value[t, i] = v[t * k + i, 0]
        # R = V(s_t) where the rollout stops inside an episode. (Where it does not, `ended` keeps R from being used.)
        returns(rollout, i, v[samples + i, 0], gae_lambda)
        for t in range(t_max - 1, -1, -1):
            sample = t * k + i
            advantage = rollout.R[t, i] - v[sample, 0]
            # d theta:   -log pi(a|s) (R - V) - beta H(pi);   d theta_v:   (R - V)^2 / 2
            log_pi, entropy = policy_gradient(policy, work, sample, policy.action[t, i], advantage, beta)
            dv[sample, 0] = -np.float32(method.value_weight) * advantage
            worker.sums[POLICY_LOSS] -= log_pi * advantage
            worker.sums[VALUE_LOSS] += advantage * advantage / 2
            worker.sums[ENTROPY] += entropy
    backward(work, samples, k)  # accumulates d theta and d theta_v over the rollout
    return update(method, shared, worker, first)  # asynchronous update of theta
