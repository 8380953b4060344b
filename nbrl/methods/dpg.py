"""Asynchronous deterministic policy gradient: for continuous actions, with a replay memory or without.

Silver et al.'s method (2014) with the networks, target networks and replay memory of Lillicrap et al. (2016), and with
the actors, n-step targets and updates without locks of Mnih et al. (2016), who put parallel actors in the memory's
place. So where replay_size is 0: there an update learns from one rollout, as in the other methods. Else each thread
remembers its own steps, and draws minibatches from them.

The symbols: mu the actor and Q the critic, two parts of one network; theta and theta' (here `shared.theta` and
`work.theta`) the parameters of both, theta^- those of the target networks, y the target, T the shared step count.
Losses are means over the samples of an update. Actions are in units in which the bounds are -1 and 1.
"""

import math

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.native import atomic_load, copy, flush_denormals, restore_denormals
from nbrl.kernels.random import normal, uniform
from nbrl.methods.q_values import approach_target, refresh_target
from nbrl.methods.replay import RETURN, WEIGHT, draw, recall, remember_action, remember_next, remember_rollout, stored
from nbrl.methods.rollout import (
    ABANDON,
    ABANDONED,
    GO_ON,
    PAUSED,
    POLICY_LOSS,
    SAMPLES,
    VALUE_LOSS,
    begin_episodes,
    begin_rollout,
    count_steps,
    descend,
    observe,
    observe_one,
    ready,
    step,
    steps_taken,
)
from nbrl.nets.workspace import (
    NO_INPUTS,
    actions,
    backward_part,
    copy_inputs,
    forward_part,
    input_gradients,
    observation_size,
    output_gradients,
    outputs,
)

HEADS, CONTINUOUS_HEADS = (), ("action", "q")
HAS_TARGET = True
SMALLEST_NOISE = 0.1  # of the last actor, to the first one's


def noise_scale(largest: float, actor: int, actors: int) -> float:
    """The standard deviation of an actor's exploration: from the first to the last it falls by equal factors."""
    return largest * SMALLEST_NOISE ** (actor / max(actors - 1, 1))


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
def _layers(work):
    """The actor's are rows 0 to half - 1 of the network's table, the critic's half to end - 1, each with its head."""
    end = work.table.shape[0]
    return end // 2, end


@jit
def _copy_rows(target, source):
    for i in range(source.shape[0]):
        copy(target[i], source[i])


@jit
def _q_of_mu(work, first, samples):
    """Q(s, mu(s)) of some samples, (samples,)."""
    half, end = _layers(work)
    forward_part(work, 0, half, first, samples)
    _copy_rows(actions(work, first, samples), outputs(work, half - 1, first, samples))
    forward_part(work, half, end, first, samples)
    return outputs(work, end - 1, first, samples)[:, 0]


@jit
def act(shared, worker, settings, first, t):
    """a_t = mu(s_t; theta') + noise, within the bounds; before learning from a memory begins, any at random."""
    work, remembers, k = worker.work, worker.replay.drawn.size > 0, worker.action.shape[1]
    half, _ = _layers(work)
    forward_part(work, 0, half, t * k, k)
    mu, a = outputs(work, half - 1, t * k, k), actions(work, t * k, k)
    at_random = remembers and steps_taken(shared) < settings.warm_up
    for i in range(k):
        row = worker.random[first + i]
        for j in range(a.shape[1]):
            value = 2 * uniform(row) - 1 if at_random else mu[i, j] + worker.exploration[first + i] * normal(row)
            a[i, j] = min(max(value, -1.0), 1.0)
        copy(worker.motion[t, i], a[i])
        if remembers:
            remember_action(worker, first, t, i)


@jit
def end_values(shared, worker, settings, first, t):
    """Q(s, mu(s); theta^-) of the last observation where an episode was truncated: it would have gone on."""
    t_max, k = worker.action.shape
    for i in range(k):
        if worker.truncated[t, i]:
            sample = t_max * k + i
            code = observe_one(worker, first + i, sample)
            if code != GO_ON:
                return code
            if worker.replay.drawn.size:
                remember_next(worker, first, t, i)
            else:
                copy_inputs(worker.target, worker.work, sample, 1)
                worker.end_value[t, i] = _q_of_mu(worker.target, sample, 1)[0]
    return GO_ON


@jit
def learn(shared, worker, settings, first):
    """Update theta and theta^- from a rollout, or from the memory that it is added to."""
    t_max, k = worker.action.shape
    code = observe(worker, first, t_max)
    if code != GO_ON:
        return code
    remembers, samples = worker.replay.drawn.size > 0, t_max * k
    if remembers:
        remember_rollout(worker, first)
        samples = worker.replay.drawn.size
    for number in range(_updates_due(shared, worker, settings) if remembers else 1):
        if number > 0:
            if atomic_load(shared.control.ctypes.data) == ABANDON:
                return ABANDONED
            copy(worker.work.theta, shared.theta)  # theta' = theta
        if remembers:
            _targets_from_memory(worker, worker.random[first])
        else:
            _targets_from_rollout(worker)
        code = _update(shared, worker, settings, first, samples)
        if code != GO_ON:
            return code
    count_steps(shared, worker, t_max * k)
    if settings.target_rate == 0:
        refresh_target(shared, settings)  # theta^- = theta every I_target steps of T
    return GO_ON


@jit
def _updates_due(shared, worker, settings):
    """`updates_per_step` for each step of a rollout, once the thread's memory holds its share of `warm_up` steps."""
    steps, before, rate = worker.action.size, shared.steps[worker.thread, 0], settings.updates_per_step
    if stored(worker.replay, steps) * shared.steps.shape[0] < settings.warm_up:
        return 0
    return int(math.floor((before + steps) * rate) - math.floor(before * rate))


@jit
def _targets_from_rollout(worker):
    """y of each step of a rollout, to where `_update` finds it."""
    work, target, (t_max, k) = worker.work, worker.target, worker.action.shape
    y = output_gradients(work, work.table.shape[0] - 1, 0, t_max * k)[:, 0]
    copy_inputs(target, work, t_max * k, k)
    q_last = _q_of_mu(target, t_max * k, k)
    for i in range(k):
        # R = 0 for terminal s_t, else Q(s_t, mu(s_t)) by theta^-. (Where an episode ended, `ended` keeps it from use.)
        R = q_last[i]
        for t in range(t_max - 1, -1, -1):
            if worker.ended[t, i]:
                R = worker.end_value[t, i]
            R = worker.reward[t, i] + worker.discount[t, i] * R
            y[t * k + i] = R


@jit
def _targets_from_memory(worker, random):
    """A minibatch in block 0, and its y to where `_update` finds it."""
    work, target, replay, batch = worker.work, worker.target, worker.replay, worker.replay.drawn.size
    y = output_gradients(work, work.table.shape[0] - 1, 0, batch)[:, 0]
    draw(replay, worker.action.size, random)
    recall(work, target, replay)
    q_next = _q_of_mu(target, 0, batch)
    for i in range(batch):
        row = replay.rows[replay.drawn[i]]
        y[i] = row[RETURN] + row[WEIGHT] * q_next[i]


@jit
def _update(shared, worker, settings, first, samples):
    """Update theta by samples in block 0 whose y stand in for the gradient of Q; then theta^-, if it moves softly."""
    work, n = worker.work, np.float32(samples)
    half, end = _layers(work)
    dq = output_gradients(work, end - 1, 0, samples)[:, 0]
    forward_part(work, half, end, 0, samples)
    q = outputs(work, end - 1, 0, samples)[:, 0]
    for i in range(samples):  # d theta of Q: the gradient of (y - Q(s, a))^2 / 2
        error = dq[i] - q[i]
        dq[i] = -error / n
        worker.sums[VALUE_LOSS] += error * error / 2
    backward_part(work, half, end, samples, NO_INPUTS)
    q = _q_of_mu(work, 0, samples)
    for i in range(samples):  # d theta of mu: the gradient of -Q(s, mu(s)), by the chain rule through a = mu(s)
        dq[i] = -1 / n
        worker.sums[POLICY_LOSS] -= q[i]
    size = observation_size(work)
    backward_part(work, half, end, samples, size)
    _copy_rows(output_gradients(work, half - 1, 0, samples), input_gradients(work, 0, samples)[:, size:])
    backward_part(work, 0, half, samples, NO_INPUTS)
    worker.sums[SAMPLES] += samples
    code = descend(shared, worker, settings, first)  # asynchronous update of theta, both parts at once
    if code == GO_ON and settings.target_rate > 0:
        approach_target(shared, settings)  # theta^- = tau theta + (1 - tau) theta^-
    return code
