"""What the methods' loops share: what a worker owns, one step through the environment interface, the shared update.

A worker is one thread. It serves its actors in groups of k in lockstep (k = 1 is the paper), one rollout of t_max steps
a group in turn. Sample number t * k + i of its workspace is step t of the group's actor i.

A method is a module of this folder with

- HEADS: the names of its network's heads, the one that actions are chosen by first, for discrete actions, empty where
  it takes none;
- CONTINUOUS_HEADS: the same for continuous actions;
- HAS_TARGET: whether it keeps a target network;
- loop(shared, worker, settings, rollouts): the algorithm, over environments that the engine steps;
- act, end_values and learn, the parts that `nbrl.online` puts together where the host steps its own environment.
"""

from typing import NamedTuple

import numpy as np

from nbrl.envs.interface import CUT, STEPPED, TERMINATED, TRUNCATED
from nbrl.kernels.compile import jit
from nbrl.kernels.native import (
    atomic_add,
    atomic_load,
    atomic_store,
    call_reset,
    call_step,
    copy,
    flush_denormals,
    restore_denormals,
)
from nbrl.kernels.random import next_uint64
from nbrl.methods.normalisation import fill_normal, measure, measure_observation, publish, scale_of
from nbrl.methods.replay import Replay
from nbrl.nets.heads import command
from nbrl.nets.workspace import Workspace, enter, enter_state, observation_size
from nbrl.optimisers import ADAM, MOMENTUM_SGD, adam, clip_scale, gradient_norm, momentum_sgd, rmsprop

# Values of the control word.
RUN, PARK, ABANDON = 0, 1, 2  # go on; return at the next rollout's start; return from inside a rollout, uncounted

# What a loop returns, and what its parts return.
GO_ON, PAUSED, FINISHED, ABANDONED, FAILED_ENVIRONMENT, BAD_OBSERVATION, BAD_REWARD, BAD_GRADIENT = range(8)

# Columns of `Worker.sums`, each a sum over updates or samples since the start.
UPDATES, SAMPLES, POLICY_LOSS, VALUE_LOSS, ENTROPY, GRADIENT_NORM, SUMS = range(7)

# `Worker.ring_ends`: episodes ever written, ever read, ever dropped; each in a cache line of its own.
WRITTEN, READ, DROPPED, LINE = 0, 8, 16, 8
RING_SIZE = 4096
RETURN, LENGTH, EPISODE = range(3)  # columns of an episode's record


class Shared(NamedTuple):
    """What all threads read and write."""

    theta: np.ndarray  # float32 (parameters,)
    target: np.ndarray  # float32 (parameters,): theta^-, the target network; empty where a method has none
    target_copies: np.ndarray  # int64 (LINE,): how often it was due
    statistics: np.ndarray  # float32 (1 or groups of actors, 1 or 2, parameters): the optimiser's
    moments: np.ndarray  # float64 (threads, 2, ROWS, features): each worker's statistics, see normalisation.py
    published: np.ndarray  # int64 (threads, LINE): which of the two is whole
    steps: np.ndarray  # int64 (threads, LINE): column 0 is one thread's steps, alone in its cache line
    updates: np.ndarray  # int64 (LINE,): updates by all threads
    control: np.ndarray  # int64 (LINE,): RUN, PARK or ABANDON


class Settings(NamedTuple):
    """The numbers of a configuration that the loops read."""

    discount: float
    gae_lambda: float
    learning_rate: float
    total_steps: int
    target_interval: int
    target_rate: float  # 0 where the target network is copied by the interval
    epsilon_steps: int
    warm_up: int
    updates_per_step: float
    optimiser: int
    momentum: float
    rmsprop_decay: float
    rmsprop_epsilon: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    entropy_weight: float
    value_weight: float
    gradient_clip: float
    reward_clip: float
    normalise_rewards: bool


class Worker(NamedTuple):
    """What one thread owns. `n` is its number of actors, k of them step together."""

    work: Workspace
    target: Workspace  # its parameters are the shared target network; `work` again where a method has none
    replay: Replay  # without rows where a method has none
    thread: int
    group: np.ndarray  # int64 (1,): whose turn it is
    functions: np.ndarray  # int64 (n, 3): addresses of reset, step and state
    observation: np.ndarray  # uint8 (n, bytes): what each actor sees now
    random: np.ndarray  # uint64 (n, 4)
    begun: np.ndarray  # bool (n,): whether an episode is going on
    state: np.ndarray  # float32 (n, state_size): what a recurrent network remembers
    exploration: np.ndarray  # float64 (n,): of the value methods, where epsilon ends; of dpg, the deviation of noise
    next_action: np.ndarray  # int32 (n,): Sarsa's, chosen at the end of a rollout; -1 for none
    discounted: np.ndarray  # float64 (n,): discounted sum of the episode's rewards so far
    moments: np.ndarray  # float64 (ROWS, features): statistics of what its actors saw
    total: np.ndarray  # float64 (ROWS, features): of what all actors saw, when the rollout began
    statistics: np.ndarray  # int64 (groups,): each group's row of the optimiser's statistics
    episode_return: np.ndarray  # float64 (n,): raw rewards so far
    episode_length: np.ndarray  # int64 (n,)
    action: np.ndarray  # int32 (t_max, k): discrete ones
    motion: np.ndarray  # float32 (t_max, k, parts): continuous ones in the policy's units; no parts where discrete
    noise: np.ndarray  # float32 (parts,): independent standard normal numbers
    sent: np.ndarray  # float32 (parts,): a continuous action in the action space's units
    bounds: np.ndarray  # float32 (4, parts): of the action space, see heads.py
    reward: np.ndarray  # float32 (t_max, k): as learning sees it
    discount: np.ndarray  # float32 (t_max, k): 0 where the return is cut
    ended: np.ndarray  # bool (t_max, k): the episode's last step
    truncated: np.ndarray  # bool (t_max, k): ended, but not terminated
    end_value: np.ndarray  # float32 (t_max, k): value of the last observation where truncated, else 0
    ring: np.ndarray  # float64 (RING_SIZE, EPISODE): finished episodes on their way out
    ring_ends: np.ndarray  # int64 (3 * LINE,)
    sums: np.ndarray  # float64 (SUMS,)
    raw_reward: np.ndarray  # float32 (1,)
    failed: np.ndarray  # int64 (1,): the actor whose environment failed


@jit
def steps_taken(shared):
    """The paper's T: steps by all threads."""
    total = 0
    for thread in range(shared.steps.shape[0]):
        total += atomic_load(shared.steps[thread:].ctypes.data)
    return total


@jit
def count_steps(shared, worker, steps):
    """Add to this thread's share of T."""
    own = shared.steps[worker.thread :]
    atomic_store(own.ctypes.data, own[0, 0] + steps)


@jit
def ready(shared, settings):
    """What a loop returns before its next rollout: PAUSED, FINISHED, or GO_ON for it to go on."""
    if atomic_load(shared.control.ctypes.data) != RUN:
        return PAUSED
    return FINISHED if steps_taken(shared) >= settings.total_steps else GO_ON


@jit
def begin_rollout(shared, worker, settings):
    """theta' = theta, and the scales of what is seen; the first actor of the group whose turn it is."""
    copy(worker.work.theta, shared.theta)
    if worker.work.normal.shape[1] or settings.normalise_rewards:
        publish(shared, worker)
        fill_normal(worker.total, worker.work.normal)
    groups, k = worker.statistics.size, worker.action.shape[1]
    group = worker.group[0]
    worker.group[0] = (group + 1) % groups
    return group * k


@jit
def begin_episode(worker, actor):
    """What every actor has at the start of an episode, besides the observation."""
    worker.begun[actor] = True
    worker.episode_return[actor] = 0
    worker.episode_length[actor] = 0
    worker.state[actor] = 0
    worker.discounted[actor] = 0
    worker.next_action[actor] = -1


@jit
def begin_episodes(worker, first, mode):
    """Reset those of a group's actors that have no episode going on; a code other than GO_ON on failure.

    `mode` is the floating-point mode of environments.
    """
    for actor in range(first, first + worker.action.shape[1]):
        if not worker.begun[actor]:
            reset, _, state = worker.functions[actor]
            restore_denormals(mode)
            status = call_reset(reset, state, next_uint64(worker.random[actor]), worker.observation[actor].ctypes.data)
            flush_denormals()
            if not status & STEPPED:
                worker.failed[0] = actor
                return FAILED_ENVIRONMENT
            begin_episode(worker, actor)
    return GO_ON


@jit
def observe_one(worker, actor, sample):
    """Enter what an actor sees and remembers as one sample; a code other than GO_ON if it is not finite."""
    enter_state(worker.work, sample, worker.state[actor])
    if enter(worker.work, sample, worker.observation[actor]):
        return GO_ON
    worker.failed[0] = actor
    return BAD_OBSERVATION


@jit
def observe(worker, first, t):
    """Enter what a group's actors see as the samples of step t; a code other than GO_ON if it is not finite."""
    k = worker.action.shape[1]
    for i in range(k):
        worker.work.continues[t * k + i] = t > 0 and not worker.ended[t - 1, i]
        code = observe_one(worker, first + i, t * k + i)
        if code != GO_ON:
            return code
    return GO_ON


@jit
def step(shared, worker, settings, first, t, mode):
    """Send step t's actions to a group's environments and note what comes of them.

    `mode` is the floating-point mode of environments. A code other than GO_ON if the rollout cannot go on.
    """
    for i in range(worker.action.shape[1]):
        if atomic_load(shared.control.ctypes.data) == ABANDON:
            return ABANDONED
        actor = first + i
        _, function, state = worker.functions[actor]
        action = worker.action[t, i:].ctypes.data
        if worker.sent.size:
            command(worker.bounds, worker.motion[t, i], worker.sent)
            action = worker.sent.ctypes.data
        restore_denormals(mode)
        status = call_step(
            function,
            state,
            action,
            worker.observation[actor].ctypes.data,
            worker.raw_reward.ctypes.data,
        )
        flush_denormals()
        code = note(worker, settings, first, t, i, worker.raw_reward[0], status)
        if code != GO_ON:
            return code
    return GO_ON


@jit
def note(worker, settings, first, t, i, reward, status):
    """Write down what step t of a group's actor i gave; a code other than GO_ON if it cannot be used."""
    actor = first + i
    worker.failed[0] = actor
    if not status & STEPPED:
        return FAILED_ENVIRONMENT
    if not np.isfinite(reward):
        return BAD_REWARD
    terminated, truncated = status & TERMINATED != 0, status & TRUNCATED != 0
    scaled = reward
    if worker.work.normal.shape[1] or settings.normalise_rewards:
        worker.discounted[actor] = settings.discount * worker.discounted[actor] + reward
        returns = worker.moments.shape[1] - 1
        measure(worker.moments, returns, worker.discounted[actor])
        measure_observation(worker.moments, worker.observation[actor], observation_size(worker.work))
        if settings.normalise_rewards:
            scaled *= min(scale_of(worker.total, returns), 1.0)  # returns of zeros would make the first reward huge
    worker.reward[t, i] = min(max(scaled, -settings.reward_clip), settings.reward_clip)
    worker.discount[t, i] = 0 if terminated or status & CUT else settings.discount
    worker.ended[t, i] = terminated or truncated
    worker.truncated[t, i] = truncated and not terminated
    worker.end_value[t, i] = 0
    worker.episode_return[actor] += reward
    worker.episode_length[actor] += 1
    if terminated or truncated:
        worker.begun[actor] = False
        _record_episode(worker, actor)
    return GO_ON


@jit
def _record_episode(worker, actor):
    written = worker.ring_ends[WRITTEN]
    if written - atomic_load(worker.ring_ends[READ:].ctypes.data) >= RING_SIZE:
        atomic_store(worker.ring_ends[DROPPED:].ctypes.data, worker.ring_ends[DROPPED] + 1)
        return
    record = worker.ring[written % RING_SIZE]
    record[RETURN], record[LENGTH] = worker.episode_return[actor], worker.episode_length[actor]
    atomic_store(worker.ring_ends[WRITTEN:].ctypes.data, written + 1)


@jit
def annealed(settings, steps):
    """The learning rate after some steps: it falls linearly to 0 over the run."""
    return settings.learning_rate * max(0.0, 1 - steps / settings.total_steps)


@jit
def update(shared, worker, settings, first):
    """`descend`, and count the rollout's steps where it could."""
    code = descend(shared, worker, settings, first)
    if code == GO_ON:
        count_steps(shared, worker, worker.action.size)
    return code


@jit
def descend(shared, worker, settings, first):
    """Clip the gradient and apply it to the shared parameters.

    BAD_GRADIENT if it is not finite, and then nothing changes; else GO_ON.
    """
    mode = flush_denormals()  # a loop has done so already, a host has not
    d = worker.work.dtheta
    norm = gradient_norm(d)
    if not np.isfinite(norm):
        restore_denormals(mode)
        return BAD_GRADIENT
    scale = clip_scale(norm, settings.gradient_clip)
    learning_rate = annealed(settings, steps_taken(shared))
    count = atomic_add(shared.updates.ctypes.data, 1) + 1
    statistics = shared.statistics[worker.statistics[first // worker.action.shape[1]]]
    if settings.optimiser == MOMENTUM_SGD:
        momentum_sgd(shared.theta, statistics[0], d, scale, learning_rate, settings.momentum)
    elif settings.optimiser == ADAM:
        adam(
            shared.theta, statistics[0], statistics[1], d, scale,
            learning_rate, settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, count,
        )  # fmt: skip
    else:
        rmsprop(
            shared.theta, statistics[0], d, scale,
            learning_rate, settings.rmsprop_decay, settings.rmsprop_epsilon,
        )  # fmt: skip
    restore_denormals(mode)
    worker.sums[GRADIENT_NORM] += norm
    worker.sums[UPDATES] += 1
    return GO_ON
