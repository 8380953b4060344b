"""What the value methods share: epsilon-greedy actions, the target network, values where episodes were truncated."""

import numpy as np

from nbrl.kernels.compile import jit
from nbrl.kernels.native import atomic_load, atomic_store, copy
from nbrl.kernels.random import ROW, seed_row, uniform
from nbrl.methods.rollout import GO_ON, observe_one, steps_taken
from nbrl.nets.heads import argmax, epsilon_greedy
from nbrl.nets.workspace import copy_inputs, forward, leave_state, outputs

Q = -1  # the network's last layer

# Where the exploration of an actor ends, and how likely each is: Mnih et al. (2016), section 5.1.
FINAL_EPSILONS, PROBABILITIES = (0.1, 0.01, 0.5), (0.4, 0.3, 0.3)
STREAM = 1 << 40  # random streams of these draws begin here, far from those of actors and evaluations


def final_epsilon(seed: int, actor: int) -> float:
    """Where the exploration of an actor ends, drawn once and for all from its number and the run's seed."""
    row = np.zeros(ROW, np.uint64)
    seed_row(row, np.uint64(seed), np.uint64(STREAM + actor))
    place = int(np.searchsorted(np.cumsum(PROBABILITIES), uniform(row), side="right"))
    return FINAL_EPSILONS[min(place, len(FINAL_EPSILONS) - 1)]


@jit
def epsilon_after(final, steps, epsilon_steps):
    """An actor's probability of an action at random: it falls linearly from 1 over `epsilon_steps` steps of all."""
    return max(final, 1 - (1 - final) * steps / epsilon_steps)


@jit
def epsilon_of(shared, worker, settings, actor):
    """An actor's probability of an action at random, now."""
    return epsilon_after(worker.exploration[actor], steps_taken(shared), settings.epsilon_steps)


@jit
def act(shared, worker, settings, first, t):
    """Take a_t with the epsilon-greedy policy of Q(s_t, .; theta')."""
    work, k = worker.work, worker.action.shape[1]
    forward(work, t * k, k)
    q = outputs(work, work.table.shape[0] + Q, t * k, k)
    for i in range(k):
        epsilon = epsilon_of(shared, worker, settings, first + i)
        worker.action[t, i] = epsilon_greedy(q[i], epsilon, uniform(worker.random[first + i]))
        leave_state(work, t * k + i, worker.state[first + i])


@jit
def end_values(shared, worker, settings, first, t):
    """max Q(s, .; theta^-) of the last observation where an episode was truncated: it would have gone on."""
    t_max, k = worker.action.shape
    for i in range(k):
        if worker.truncated[t, i]:
            sample = t_max * k + i
            code = observe_one(worker, first + i, sample)
            if code != GO_ON:
                return code
            q = target_q(worker, sample, 1)[0]
            worker.end_value[t, i] = q[argmax(q)]
    return GO_ON


@jit
def target_q(worker, first, samples):
    """Q(s, .; theta^-) of some samples that were observed: a view, (samples, actions)."""
    copy_inputs(worker.target, worker.work, first, samples)
    forward(worker.target, first, samples)
    return outputs(worker.target, worker.target.table.shape[0] + Q, first, samples)


@jit
def refresh_target(shared, settings):
    """theta^- = theta, if T has passed a multiple of the interval since the last time.

    Two threads may do it at once; what others read meanwhile is partly old, as theta is to those who copy it.
    """
    due = steps_taken(shared) // settings.target_interval
    if due > atomic_load(shared.target_copies.ctypes.data):
        atomic_store(shared.target_copies.ctypes.data, due)
        copy(shared.target, shared.theta)


@jit
def approach_target(shared, settings):
    """theta^- = tau theta + (1 - tau) theta^-; of several threads one may undo a step of another."""
    tau = np.float32(settings.target_rate)
    for i in range(shared.target.size):
        shared.target[i] += tau * (shared.theta[i] - shared.target[i])
