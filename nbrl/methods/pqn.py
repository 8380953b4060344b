"""Parallelised Q-network (Gallici et al., 2025): lambda-returns of Q itself, with neither memory nor target network.

Peng's Q(lambda): R_t = r + gamma ((1 - lambda) max_a Q(s_t+1, a) + lambda R_t+1), by the parameters that acted, and not
cut where an action was at random. What holds it together is layer normalisation before each activation, which the
network has: see `nbrl.nets.layers.NETWORKS`. With one pass of one minibatch and lambda = 1 it is n-step Q-learning
(Algorithm S2 of Mnih et al., 2016) without its target network.

The symbols: theta and theta' (here `shared.theta` and `work.theta`), R the return. Losses are means over a minibatch.
"""

from typing import Any

import numpy as np

from nbrl.actions import argmax, q_gradient
from nbrl.kernels.compile import part
from nbrl.kernels.struct import reference
from nbrl.methods import driver
from nbrl.methods.driver import forward_legal, returns
from nbrl.methods.minibatches import EPOCHS, MINIBATCHES, Minibatches, learn_in_minibatches, minibatch_gradient
from nbrl.methods.q_values import VALUE_LOSS, Q, ValueMethod
from nbrl.nets.layers import Layer, normalised
from nbrl.nets.table import Workspace, output_gradients, outputs
from nbrl.settings import Setting, Task, whole

EVERYWHERE: dict[str, Any] = {
    "optimiser": "shared_radam",
    "initialisation": "orthogonal",
    "adam_epsilon": 1e-8,
    "gradient_clip": 10.0,
}
IMAGES: dict[str, Any] = EVERYWHERE | {
    "envs_per_batch": 8,
    "rollout_length": 32,
    "epochs": 2,
    "minibatches": 2,
    "q_lambda": 0.65,
    "learning_rate": 5e-4,
    "learning_rate_schedule": "constant",
    "final_epsilon": 0.01,
    "steps": 10_000_000,
}
VECTORS: dict[str, Any] = EVERYWHERE | {
    "envs_per_batch": 4,
    "rollout_length": 64,
    "epochs": 4,
    "minibatches": 4,
    "q_lambda": 0.95,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
    "final_epsilon": 0.05,
    "steps": 300_000,
}


class PQN(ValueMethod):
    """Its settings and state, besides those of the value methods."""

    epochs = EPOCHS
    minibatches = MINIBATCHES
    q_lambda = Setting(
        0.65, "lambda of pqn's returns, 0 for one step, 1 for the rollout; not in the paper", least=0, most=1
    )
    batches = reference(Minibatches)

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        defaults = IMAGES if task.image else VECTORS
        steps = max(whole(task.given.get("steps", defaults["steps"])) or 1, 1)
        return defaults | {"epsilon_steps": -(-steps // 10)}

    @classmethod
    def network(cls, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return normalised(layers)

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        return super().own(learner, actors, work) | {"batches": Minibatches.make(learner, work)}


@part(driver.fill_end_values, PQN)
def fill_end_values(method, policy, shared, worker, first, t, i):
    """max_a Q(s, a; theta') of the last observations."""
    sample, n = worker.rollout.reward.size + i, worker.actors.agents
    forward_legal(policy, worker, worker.work, sample, n)
    q = outputs(worker.work, worker.work.table.shape[0] + Q, sample, n)
    for agent in range(n):
        worker.rollout.end_value[t, i + agent] = q[agent, argmax(q[agent])]


@part(driver.learn, PQN)
def learn(method, policy, shared, worker, first):
    """Fill the returns by the parameters that acted, and update theta by minibatches."""
    work, rollout, (t_max, k) = worker.work, worker.rollout, worker.rollout.reward.shape
    forward_legal(policy, worker, work, t_max * k, k)
    q = outputs(work, work.table.shape[0] + Q, 0, (t_max + 1) * k)
    for i in range(k):
        for t in range(t_max):
            rollout.value[t, i] = q[t * k + i, argmax(q[t * k + i])]
        last = q[t_max * k + i]
        returns(rollout, i, last[argmax(last)], np.float32(method.q_lambda))
    return learn_in_minibatches(method, policy, shared, worker, first)


@part(minibatch_gradient, PQN)
def pqn_gradient(method, policy, shared, worker, work, samples):
    """The gradient of (R - Q(s, a; theta'))^2 / 2."""
    rollout, k = worker.rollout, worker.rollout.reward.shape[1]
    q = outputs(work, work.table.shape[0] + Q, 0, samples)
    dq = output_gradients(work, work.table.shape[0] + Q, 0, samples)
    for i in range(samples):
        t, actor = method.batches.sample[i] // k, method.batches.sample[i] % k
        a = policy.action[t, actor, 0]
        worker.sums[VALUE_LOSS] += q_gradient(q[i], a, rollout.R[t, actor], dq[i])
        dq[i, a] /= np.float32(samples)
