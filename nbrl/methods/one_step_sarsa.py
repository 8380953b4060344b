"""Asynchronous one-step Sarsa: Algorithm 1 of Mnih et al. (2016) with the target r + gamma Q(s', a'; theta^-).

a' is the action that is taken in s', so that of an interval's last step is chosen at its end and kept for the next.

The paper's symbols: theta the shared parameters, theta^- those of the target network, T the shared step count, y the
target. An actor reads theta once for each update interval (here theta', `work.theta`); the interval I_AsyncUpdate is
the setting rollout_length. The gradient is that of (y - Q)^2 / 2: the paper's factor 2 is in its learning rate.
"""

from nbrl.kernels.compile import part
from nbrl.kernels.native import span
from nbrl.methods import driver
from nbrl.methods.driver import forward_legal, forward_step, update
from nbrl.methods.q_values import ONE_STEP_IMAGES, TargetMethod, explore, learn_towards, refresh_target, target_q
from nbrl.nets.table import backward


class OneStepSarsa(TargetMethod):
    """Its settings and state are those of all value methods; what an actor does next is kept with the actor."""

    on_images = ONE_STEP_IMAGES
    on_vectors = TargetMethod.on_vectors | {"rollout_length": 5, "gradient_clip": 1e3}


@part(driver.act, OneStepSarsa)
def act(method, policy, shared, worker, first, t):
    """Take a_t with the epsilon-greedy policy, or as it was chosen at the end of the interval before."""
    k, next_action = worker.rollout.reward.shape[1], worker.actors.next_action
    forward_step(policy, worker, first, t)
    for i in range(k):
        actor = first + i
        if next_action[actor] < 0:
            explore(method, policy, shared, worker, actor, t * k + i, policy.action[t, i])
        else:
            policy.action[t, i, 0] = next_action[actor]
        next_action[actor] = -1


@part(driver.fill_end_values, OneStepSarsa)
def fill_end_values(method, policy, shared, worker, first, t, i):
    """Q(s, a; theta^-) of the last observations, for an a that would be taken."""
    sample, n = worker.rollout.reward.size + i, worker.actors.agents
    forward_legal(policy, worker, worker.work, sample, n)
    q = target_q(method, policy, worker, sample, n)
    for agent in range(n):
        actor = first + i + agent
        a = span(worker.actors.next_action, actor, 1)
        explore(method, policy, shared, worker, actor, sample + agent, a)
        worker.rollout.end_value[t, i + agent] = q[agent, a[0]]
        a[0] = -1  # the next episode begins with another


@part(driver.learn, OneStepSarsa)
def learn(method, policy, shared, worker, first):
    """Accumulate the gradients of an interval and update theta, and theta^- where it is due."""
    work, rollout, (t_max, k) = worker.work, worker.rollout, worker.rollout.reward.shape
    next_action = worker.actors.next_action
    forward_legal(policy, worker, work, t_max * k, k)
    # Q(s', .; theta^-): a sample's s' is the observation k further on
    q_next = target_q(method, policy, worker, k, t_max * k)
    for i in range(k):
        actor = first + i
        if not rollout.ended[t_max - 1, i]:
            explore(method, policy, shared, worker, actor, t_max * k + i, span(next_action, actor, 1))
        for t in range(t_max):
            sample = t * k + i
            # y = r for terminal s', else r + gamma Q(s', a'; theta^-)
            if rollout.ended[t, i]:
                following = rollout.end_value[t, i]
            else:
                a_next = policy.action[t + 1, i, 0] if t + 1 < t_max else next_action[actor]
                following = q_next[sample, a_next]
            y = rollout.reward[t, i] + rollout.discount[t, i] * following
            learn_towards(worker, sample, policy.action[t, i], y)
    backward(work, t_max * k, k)  # d theta
    code = update(method, shared, worker, first)  # asynchronous update of theta
    refresh_target(shared, method.target_interval)  # theta^- = theta every I_target steps of T
    return code
