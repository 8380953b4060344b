"""Asynchronous one-step Q-learning: Algorithm 1 of Mnih et al. (2016).

The paper's symbols: theta the shared parameters, theta^- those of the target network, T the shared step count, y the
target. An actor reads theta once for each update interval (here theta', `work.theta`); the interval I_AsyncUpdate is
the setting rollout_length. The gradient is that of (y - Q)^2 / 2: the paper's factor 2 is in its learning rate.
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
    """One update interval of the group of k actors whose turn it is."""
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
    """Accumulate the gradients of an interval and update theta, and theta^- where it is due."""
    work, (t_max, k) = worker.work, worker.action.shape
    code = observe(worker, first, t_max)
    if code != GO_ON:
        return code
    layer = work.table.shape[0] + Q
    q, dq = outputs(work, layer, 0, t_max * k), output_gradients(work, layer, 0, t_max * k)
    q_next = target_q(worker, k, t_max * k)  # Q(s', .; theta^-): the s' of a sample is the observation k further on
    for t in range(t_max):
        for i in range(k):
            sample = t * k + i
            # y = r for terminal s', else r + gamma max_a' Q(s', a'; theta^-)
            best = worker.end_value[t, i] if worker.ended[t, i] else q_next[sample, argmax(q_next[sample])]
            y = worker.reward[t, i] + worker.discount[t, i] * best
            worker.sums[VALUE_LOSS] += q_gradient(q[sample], worker.action[t, i], y, dq[sample])
    worker.sums[SAMPLES] += t_max * k
    backward(work, t_max * k, k)  # d theta
    code = update(shared, worker, settings, first)  # asynchronous update of theta
    refresh_target(shared, settings)  # theta^- = theta every I_target steps of T
    return code
