"""Asynchronous one-step Sarsa: Algorithm 1 of Mnih et al. (2016) with the target r + gamma Q(s', a'; theta^-).

a' is the action that is taken in s', so that of an interval's last step is chosen at its end and kept for the next.

The paper's symbols: theta the shared parameters, theta^- those of the target network, T the shared step count, y the
target. An actor reads theta once for each update interval (here theta', `work.theta`); the interval I_AsyncUpdate is
the setting rollout_length. The gradient is that of (y - Q)^2 / 2: the paper's factor 2 is in its learning rate.
"""

from nbrl.kernels.compile import jit
from nbrl.kernels.native import flush_denormals, restore_denormals
from nbrl.kernels.random import uniform
from nbrl.methods.q_values import Q, epsilon_of, refresh_target, target_q
from nbrl.methods.rollout import (
    GO_ON,
    PAUSED,
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
from nbrl.nets.heads import epsilon_greedy, q_gradient
from nbrl.nets.workspace import backward, forward, leave_state, output_gradients, outputs

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
def _choose(shared, worker, settings, actor, sample):
    """An action of the epsilon-greedy policy of Q(s, .; theta'), after `forward`."""
    q = outputs(worker.work, worker.work.table.shape[0] + Q, sample, 1)[0]
    return epsilon_greedy(q, epsilon_of(shared, worker, settings, actor), uniform(worker.random[actor]))


@jit
def act(shared, worker, settings, first, t):
    """Take a_t with the epsilon-greedy policy, or as it was chosen at the end of the interval before."""
    work, k = worker.work, worker.action.shape[1]
    forward(work, t * k, k)
    for i in range(k):
        actor = first + i
        chosen = worker.next_action[actor]
        worker.action[t, i] = _choose(shared, worker, settings, actor, t * k + i) if chosen < 0 else chosen
        worker.next_action[actor] = -1
        leave_state(work, t * k + i, worker.state[actor])


@jit
def end_values(shared, worker, settings, first, t):
    """Q(s, a; theta^-) of the last observation, for an a that would be taken, where an episode was truncated."""
    t_max, k = worker.action.shape
    for i in range(k):
        if worker.truncated[t, i]:
            sample = t_max * k + i
            code = observe_one(worker, first + i, sample)
            if code != GO_ON:
                return code
            forward(worker.work, sample, 1)
            a = _choose(shared, worker, settings, first + i, sample)
            worker.end_value[t, i] = target_q(worker, sample, 1)[0, a]
    return GO_ON


@jit
def learn(shared, worker, settings, first):
    """Accumulate the gradients of an interval and update theta, and theta^- where it is due."""
    work, (t_max, k) = worker.work, worker.action.shape
    code = observe(worker, first, t_max)
    if code != GO_ON:
        return code
    forward(work, t_max * k, k)
    layer = work.table.shape[0] + Q
    q, dq = outputs(work, layer, 0, t_max * k), output_gradients(work, layer, 0, t_max * k)
    q_next = target_q(worker, k, t_max * k)  # Q(s', .; theta^-): the s' of a sample is the observation k further on
    for i in range(k):
        actor = first + i
        if not worker.ended[t_max - 1, i]:
            worker.next_action[actor] = _choose(shared, worker, settings, actor, t_max * k + i)
        for t in range(t_max):
            sample = t * k + i
            # y = r for terminal s', else r + gamma Q(s', a'; theta^-)
            if worker.ended[t, i]:
                following = worker.end_value[t, i]
            else:
                a_next = worker.action[t + 1, i] if t + 1 < t_max else worker.next_action[actor]
                following = q_next[sample, a_next]
            y = worker.reward[t, i] + worker.discount[t, i] * following
            worker.sums[VALUE_LOSS] += q_gradient(q[sample], worker.action[t, i], y, dq[sample])
    worker.sums[SAMPLES] += t_max * k
    backward(work, t_max * k, k)  # d theta
    code = update(shared, worker, settings, first)  # asynchronous update of theta
    refresh_target(shared, settings)  # theta^- = theta every I_target steps of T
    return code
