"""Asynchronous advantage actor-critic: Algorithm S3 of Mnih et al. (2016), with the entropy term of its section 4.

With gae_lambda below 1, R is the lambda-return, so that R - V is the generalised advantage estimate of Schulman et al.
(2016), equation 16; 1 is the paper.

Continuous actions have a Gaussian policy (section 9 of the paper) and pass through the same loop.

The paper's symbols: theta and theta' (here `shared.theta` and `work.theta`; policy and value are two heads of one
network), T the shared step count, R the return, pi the policy, V the value, beta the weight of the entropy.
"""

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.native import flush_denormals, restore_denormals
from nbrl.kernels.random import normal, uniform
from nbrl.methods.rollout import (
    ENTROPY,
    GO_ON,
    PAUSED,
    POLICY_LOSS,
    SAMPLES,
    VALUE_LOSS,
    begin_episodes,
    begin_rollout,
    observe,
    observe_one,
    ready,
    step,
    update,
)
from nbrl.nets.heads import categorical_gradient, categorical_sample, gaussian_gradient, gaussian_sample
from nbrl.nets.workspace import backward, forward, leave_state, output_gradients, outputs

HEADS, CONTINUOUS_HEADS = ("policy", "value"), ("mean", "variance", "value")
HAS_TARGET = False
MEAN, VARIANCE, POLICY, VALUE = -3, -2, -2, -1  # the network's last layers


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
def act(shared, worker, settings, first, t):
    """Draw a_t from pi(a_t | s_t; theta')."""
    work, k = worker.work, worker.action.shape[1]
    forward(work, t * k, k)
    layers = work.table.shape[0]
    for i in range(k):
        row, sample = worker.random[first + i], t * k + i
        if worker.noise.size:
            for part in range(worker.noise.size):
                worker.noise[part] = normal(row)
            mean, s = outputs(work, layers + MEAN, sample, 1)[0], outputs(work, layers + VARIANCE, sample, 1)[0]
            gaussian_sample(mean, s, worker.noise, worker.motion[t, i])
        else:
            worker.action[t, i] = categorical_sample(outputs(work, layers + POLICY, sample, 1)[0], uniform(row))
        leave_state(work, sample, worker.state[first + i])


@jit
def end_values(shared, worker, settings, first, t):
    """V of the last observation where an episode was truncated: it would have gone on, so R begins with V there."""
    work, (t_max, k) = worker.work, worker.action.shape
    for i in range(k):
        if worker.truncated[t, i]:
            sample = t_max * k + i
            code = observe_one(worker, first + i, sample)
            if code != GO_ON:
                return code
            forward(work, sample, 1)
            worker.end_value[t, i] = outputs(work, work.table.shape[0] + VALUE, sample, 1)[0, 0]
    return GO_ON


@jit
def learn(shared, worker, settings, first):
    """Accumulate the gradients of a rollout and update theta."""
    work, (t_max, k) = worker.work, worker.action.shape
    layers, samples = work.table.shape[0], t_max * k
    value = layers + VALUE
    # R = V(s_t) where the rollout stops inside an episode. (Where it does not, `ended` keeps R from being used.)
    code = observe(worker, first, t_max)
    if code != GO_ON:
        return code
    forward(work, samples, k)
    v, dv = outputs(work, value, 0, samples + k)[:, 0], output_gradients(work, value, 0, samples)[:, 0]
    pi, dpi = outputs(work, layers + POLICY, 0, samples), output_gradients(work, layers + POLICY, 0, samples)
    mean, dmean = outputs(work, layers + MEAN, 0, samples), output_gradients(work, layers + MEAN, 0, samples)
    beta, gae_lambda = np.float32(settings.entropy_weight), np.float32(settings.gae_lambda)
    for i in range(k):
        R = V = v[samples + i]
        for t in range(t_max - 1, -1, -1):
            sample = t * k + i
            if worker.ended[t, i]:
                R = V = worker.end_value[t, i]
            R = worker.reward[t, i] + worker.discount[t, i] * ((1 - gae_lambda) * V + gae_lambda * R)
            V = v[sample]
            advantage = R - V
            # d theta:   -log pi(a|s) (R - V) - beta H(pi);   d theta_v:   (R - V)^2 / 2
            if worker.noise.size:  # here pi is what the variance is made from
                log_pi, entropy = gaussian_gradient(
                    mean[sample], pi[sample], worker.motion[t, i], advantage, beta, dmean[sample], dpi[sample]
                )
            else:
                log_pi, entropy = categorical_gradient(pi[sample], worker.action[t, i], advantage, beta, dpi[sample])
            dv[sample] = -np.float32(settings.value_weight) * advantage
            worker.sums[POLICY_LOSS] -= log_pi * advantage
            worker.sums[VALUE_LOSS] += advantage * advantage / 2
            worker.sums[ENTROPY] += entropy
    worker.sums[SAMPLES] += samples
    backward(work, samples, k)  # accumulates d theta and d theta_v over the rollout
    return update(shared, worker, settings, first)  # asynchronous update of theta
