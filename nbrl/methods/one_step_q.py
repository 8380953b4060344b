"""Asynchronous one-step Q-learning: Algorithm 1 of Mnih et al. (2016).

The paper's symbols: theta the shared parameters, theta^- those of the target network, T the shared step count, y the
target. An actor reads theta once for each update interval (here theta', `work.theta`); the interval I_AsyncUpdate is
the setting rollout_length. The gradient is that of (y - Q)^2 / 2: the paper's factor 2 is in its learning rate.
"""

from nbrl.actions import argmax
from nbrl.kernels.compile import part
from nbrl.methods import driver
from nbrl.methods.driver import update
from nbrl.methods.q_values import ONE_STEP_IMAGES, TargetMethod, learn_towards, refresh_target, target_q
from nbrl.nets.table import backward


class OneStepQ(TargetMethod):
    """Its settings and state are those of all value methods."""

    on_images = ONE_STEP_IMAGES
    # With normalised rewards fewer seeds learn CartPole.
    on_vectors = TargetMethod.on_vectors | {"rollout_length": 5, "normalise_rewards": False}


@part(driver.learn, OneStepQ)
def learn(method, policy, shared, worker, first):
    """Accumulate the gradients of an interval and update theta, and theta^- where it is due."""
    rollout, (t_max, k) = worker.rollout, worker.rollout.reward.shape
    # Q(s', .; theta^-): a sample's s' is the observation k further on
    q_next = target_q(method, policy, worker, k, t_max * k)
    for t in range(t_max):
        for i in range(k):
            sample = t * k + i
            # y = r for terminal s', else r + gamma max_a' Q(s', a'; theta^-)
            best = rollout.end_value[t, i] if rollout.ended[t, i] else q_next[sample, argmax(q_next[sample])]
            y = rollout.reward[t, i] + rollout.discount[t, i] * best
            learn_towards(worker, sample, policy.action[t, i], y)
    backward(worker.work, t_max * k, k)  # d theta
    code = update(method, shared, worker, first)  # asynchronous update of theta
    refresh_target(shared, method.target_interval)  # theta^- = theta every I_target steps of T
    return code
