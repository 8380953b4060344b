"""Asynchronous n-step Q-learning: Algorithm S2 of Mnih et al. (2016).

The paper's symbols: theta and theta' (here `shared.theta` and `work.theta`), theta^- the target network's parameters, T
the shared step count, R the return. The gradient is that of (R - Q)^2 / 2: the paper's 2 is in its learning rate.
"""

import numpy as np

from nbrl.actions import argmax
from nbrl.kernels.compile import part
from nbrl.methods import driver
from nbrl.methods.driver import returns, update
from nbrl.methods.q_values import TargetMethod, learn_towards, refresh_target, target_q
from nbrl.nets.table import backward


class NStepQ(TargetMethod):
    """Its settings and state are those of all value methods."""

    on_vectors = TargetMethod.on_vectors | {"gradient_clip": 1e3}


@part(driver.learn, NStepQ)
def learn(method, policy, shared, worker, first):
    """Accumulate the gradients of a rollout and update theta, and theta^- where it is due."""
    rollout, (t_max, k) = worker.rollout, worker.rollout.reward.shape
    q_last = target_q(method, policy, worker, t_max * k, k)
    for i in range(k):
        # R = 0 for terminal s_t, else max_a Q(s_t, a; theta^-). (Where an episode ended, `ended` keeps it from use.)
        returns(rollout, i, q_last[i, argmax(q_last[i])], np.float32(1.0))
        for t in range(t_max - 1, -1, -1):
            learn_towards(worker, t * k + i, policy.action[t, i], rollout.R[t, i])
    backward(worker.work, t_max * k, k)  # accumulates d theta over the rollout
    code = update(method, shared, worker, first)  # asynchronous update of theta
    refresh_target(shared, method.target_interval)  # theta^- = theta every I_target steps of T
    return code
