"""Asynchronous advantage actor-critic: Algorithm S3 of Mnih et al. (2016), with the entropy term of its section 4.

With gae_lambda below 1, R is the lambda-return, so that R - V is the generalised advantage estimate of Schulman et al.
(2016), equation 16; 1 is the paper.

The paper's symbols: theta and theta' (here `shared.theta` and `work.theta`; policy and value are two heads of one
network), T the shared step count, R the return, pi the policy, V the value, beta the weight of the entropy.
"""

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.native import atomic_load, copy, flush_denormals, restore_denormals
from nbrl.kernels.random import uniform
from nbrl.methods.rollout import (
    BAD_OBSERVATION,
    ENTROPY,
    FINISHED,
    PAUSED,
    POLICY_LOSS,
    RUN,
    SAMPLES,
    VALUE_LOSS,
    begin_episodes,
    next_group,
    observe,
    step,
    steps_taken,
    update,
)
from nbrl.nets.heads import categorical_gradient, categorical_sample
from nbrl.nets.network import backward, enter, forward, output_gradients, outputs

POLICY, VALUE = -2, -1  # the network's last two layers


@jit
def a3c(shared, worker, settings, rollouts):
    """Act and learn for up to `rollouts` rollouts, or until the control word says otherwise.

    Returns PAUSED when there is more to do, FINISHED at the total number of steps, or what went wrong.
    """
    mode = flush_denormals()
    code = PAUSED
    for _ in range(rollouts):
        if atomic_load(shared.control.ctypes.data) != RUN:
            break
        if steps_taken(shared) >= settings.total_steps:
            code = FINISHED
            break
        code = _rollout(shared, worker, settings, mode)
        if code != PAUSED:
            break
    restore_denormals(mode)
    return code


@jit
def _rollout(shared, worker, settings, mode):
    """One pass of the algorithm's outer loop for the group of k actors whose turn it is."""
    work = worker.work
    t_max, k = worker.action.shape
    policy, value = work.table.shape[0] + POLICY, work.table.shape[0] + VALUE
    pi, v = outputs(work, policy, 0, t_max * k), outputs(work, value, 0, (t_max + 1) * k)[:, 0]
    first = next_group(worker)

    copy(work.theta, shared.theta)  # theta' = theta
    for t in range(t_max):
        restore_denormals(mode)
        code = begin_episodes(worker, first)
        flush_denormals()
        if code == PAUSED:
            code = observe(worker, first, t)
        if code != PAUSED:
            return code
        forward(work, t * k, k)
        for i in range(k):
            worker.action[t, i] = categorical_sample(pi[t * k + i], uniform(worker.random[first + i]))
        code = step(shared, worker, settings, first, t, mode)
        if code != PAUSED:
            return code
        for i in range(k):
            if worker.truncated[t, i]:  # the episode would have gone on: bootstrap from its last state, here
                sample = t_max * k + i
                if not enter(work, sample, worker.observation[first + i]):
                    worker.failed[0] = first + i
                    return BAD_OBSERVATION
                forward(work, sample, 1)
                worker.last_value[t, i] = v[sample]

    # R = V(s_t) where the rollout stops inside an episode. (Where it does not, `ended` keeps R from being used.)
    code = observe(worker, first, t_max)
    if code != PAUSED:
        return code
    forward(work, t_max * k, k)
    dpi, dv = output_gradients(work, policy, 0, t_max * k), output_gradients(work, value, 0, t_max * k)[:, 0]
    beta, gae_lambda = np.float32(settings.entropy_weight), np.float32(settings.gae_lambda)
    for i in range(k):
        R = V = v[t_max * k + i]
        for t in range(t_max - 1, -1, -1):
            sample = t * k + i
            if worker.ended[t, i]:
                R = V = worker.last_value[t, i]
            R = worker.reward[t, i] + worker.discount[t, i] * ((1 - gae_lambda) * V + gae_lambda * R)
            V = v[sample]
            advantage = R - V
            # d theta:   -log pi(a|s) (R - V) - beta H(pi);   d theta_v:   (R - V)^2 / 2
            log_pi, entropy = categorical_gradient(pi[sample], worker.action[t, i], advantage, beta, dpi[sample])
            dv[sample] = -np.float32(settings.value_weight) * advantage
            worker.sums[POLICY_LOSS] -= log_pi * advantage
            worker.sums[VALUE_LOSS] += advantage * advantage / 2
            worker.sums[ENTROPY] += entropy
    worker.sums[SAMPLES] += t_max * k
    backward(work, t_max * k)  # accumulates d theta and d theta_v over the rollout
    return update(shared, worker, settings, t_max * k)  # asynchronous update of theta
