"""Asynchronous n-step Q-learning: Algorithm S2 of Mnih et al. (2016).

The paper's symbols: theta and theta' (here `shared.theta` and `work.theta`), theta^- the target network's parameters, T
the shared step count, R the return. The gradient is that of (R - Q)^2 / 2: the paper's 2 is in its learning rate.
"""

from nbrl.kernels.compile import jit
from nbrl.kernels.native import flush_denormals, restore_denormals
from nbrl.methods.q_values import Q, act, end_values, refresh_target, target_q
from nbrl.methods.rollout import (
    GO_ON,
    PAUSED,
    SAMPLES,
    VALUE_LOSS,
    begin_episodes,
    begin_rollout,
    observe,
    ready,
    step,
    update,
)
from nbrl.nets.heads import argmax, q_gradient
from nbrl.nets.workspace import backward, output_gradients, outputs

HEADS = ("q",)
CONTINUOUS_HEADS = ()
HAS_TARGET = True


@jit
def loop(shared, worker, settings, rollouts):
    """Act and learn for up to `rollouts` rollouts, or until the control word says otherwise.

    Returns PAUSED when there is more to do, FINISHED at the total number of steps, or what went wrong.
    """
    mode = flush_denormals()
    code = GO_ON
    for _ in range(rollouts):
        code = ready(shared, settings)
        if code == GO_ON:
            code = _rollout(shared, worker, settings, mode)
        if code != GO_ON:
            break
    restore_denormals(mode)
    return PAUSED if code == GO_ON else code


@jit
def _rollout(shared, worker, settings, mode):
    """One pass of the algorithm's outer loop for the group of k actors whose turn it is."""
    first = begin_rollout(shared, worker, settings)  # theta' = theta
    for t in range(worker.action.shape[0]):
        code = begin_episodes(worker, first, mode)
        if code == GO_ON:
            code = observe(worker, first, t)  # s_t
        if code == GO_ON:
            act(shared, worker, settings, first, t)  # a_t
            code = step(shared, worker, settings, first, t, mode)  # r_t, s_t+1
        if code == GO_ON:
            code = end_values(shared, worker, settings, first, t)
        if code != GO_ON:
            return code
    return learn(shared, worker, settings, first)


@jit
def learn(shared, worker, settings, first):
    """Accumulate the gradients of a rollout and update theta, and theta^- where it is due."""
    work, (t_max, k) = worker.work, worker.action.shape
    code = observe(worker, first, t_max)
    if code != GO_ON:
        return code
    layer = work.table.shape[0] + Q
    q, dq = outputs(work, layer, 0, t_max * k), output_gradients(work, layer, 0, t_max * k)
    q_last = target_q(worker, t_max * k, k)
    for i in range(k):
        # R = 0 for terminal s_t, else max_a Q(s_t, a; theta^-). (Where an episode ended, `ended` keeps it from use.)
        R = q_last[i, argmax(q_last[i])]
        for t in range(t_max - 1, -1, -1):
            if worker.ended[t, i]:
                R = worker.end_value[t, i]
            R = worker.reward[t, i] + worker.discount[t, i] * R
            sample = t * k + i
            worker.sums[VALUE_LOSS] += q_gradient(q[sample], worker.action[t, i], R, dq[sample])
    worker.sums[SAMPLES] += t_max * k
    backward(work, t_max * k, k)  # accumulates d theta over the rollout
    code = update(shared, worker, settings, first)  # asynchronous update of theta
    refresh_target(shared, settings)  # theta^- = theta every I_target steps of T
    return code
