"""The one loop of all methods, and what they share: steps through the environment interface, returns, the update.

It reads as the outer loop of Algorithm S3 of Mnih et al. (2016): theta' = theta, t_max steps, the value where the
rollout ends, the gradient, the update. One difference is made once for all methods: a rollout always has t_max steps;
an episode that ends inside it is cut by a discount of 0, and the next one begins in the same rollout.

A method is a file of this folder with a class of its settings and state (`Method`) and its parts:

    act(method, policy, shared, worker, first, t)    choose the actions of step t of the group that begins at `first`
    fill_end_values(method, policy, shared, worker, first, t, i)
                                                     of the last observations of an episode that was truncated
    learn(method, policy, shared, worker, first)     accumulate the gradient of the rollout and update theta

Where the host steps its own environment, `nbrl.online` calls the same parts.
"""

from typing import Any

import numpy as np
from numba import boolean, float64, int64

from nbrl.actions import any_legal, env_address, mask_outputs, to_env
from nbrl.envs.interface import CUT, TERMINATED, TRUNCATED, VOID, succeeded
from nbrl.kernels.compile import generic, jit
from nbrl.kernels.native import (
    address_at,
    atomic_add,
    atomic_load,
    atomic_store,
    call_reset,
    call_routine,
    call_step,
    copy,
    flush_denormals,
    restore_denormals,
)
from nbrl.kernels.random import next_uint64
from nbrl.methods.optimisers import clip_scale, gradient_norm
from nbrl.methods.running_statistics import fill_normal, measure, measure_observation, publish, scale_of
from nbrl.methods.state import (
    ABANDON,
    ACTOR,
    DROPPED,
    EPISODE,
    GRADIENT_NORM,
    LEARNS,
    LENGTH,
    LINE,
    NUMBER,
    READ,
    RESETS,
    RETURN,
    RING_SIZE,
    RUN,
    SAMPLES,
    STEPS,
    UPDATES,
    WRITTEN,
    Configured,
)
from nbrl.nets.table import Workspace, draw_noise, forward, load_observation, load_state, store_state
from nbrl.settings import Task
from nbrl.spaces import ALIVE, HEARS, NEW, SPEAKS, STOPPED

# What the loop returns, and what its parts return.
GO_ON, PAUSED, FINISHED, ABANDONED, FAILED_ENVIRONMENT, BAD_OBSERVATION, BAD_REWARD, BAD_GRADIENT, BAD_MASK = range(9)


class Method(Configured):
    """What a worker's method has: the settings that the driver reads, then its own, and its state.

    Attributes
    ----------
    policies : tuple of type of Policy
        The kinds of policies that it learns.
    critic : tuple of str
        The heads of its network besides the policy's, each of one unit.
    has_target : bool
        Whether it keeps a target network.
    one_agent : bool
        Whether it learns in environments of one agent alone.
    metrics : tuple of str
        What it adds up in `Worker.sums` from METRICS on, a sample's share at a time.
    """

    discount = float64
    learning_rate = float64
    learning_rate_points = float64[:, ::1]  # of its schedule, see `nbrl.settings.points`
    total_steps = int64
    gradient_clip = float64
    reward_clip = float64
    normalise_rewards = boolean
    max_episode_steps = int64  # 0 for no limit

    policies: tuple[Any, ...] = ()
    critic: tuple[str, ...] = ()
    has_target = False
    one_agent = False
    metrics: tuple[str, ...] = ()

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """What differs from the settings that suit such observations, in a task."""
        return {}

    @classmethod
    def network(cls, layers: tuple[Any, ...]) -> tuple[Any, ...]:
        """Its default network, from the layers that suit the observations."""
        return layers

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise ``ValueError`` for settings that each can be, but not together."""

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        """Its state for a worker with these actors and this workspace, by field."""
        return {}


@generic
def act(method, policy, shared, worker, first, t):
    """Choose the actions of step t."""


@generic
def fill_end_values(method, policy, shared, worker, first, t, i):
    """Fill `Rollout.end_value` of step t and the agents of one environment, from actor i on: it would have gone on.

    What they saw last is loaded as the samples from t_max k + i on.
    """


@generic
def learn(method, policy, shared, worker, first):
    """Learn from a rollout whose last observations are loaded; a code other than GO_ON if it cannot."""


@jit
def loop(method, policy, shared, worker, rollouts):
    """Act and learn for up to `rollouts` rollouts, or until the control word says otherwise.

    Returns PAUSED when there is more to do, FINISHED at the total number of steps, or what went wrong.
    """
    mode = flush_denormals()
    code = GO_ON
    for _ in range(rollouts):
        if atomic_load(address_at(shared.control, 0)) != RUN:
            code = PAUSED
        elif steps_taken(shared) >= method.total_steps:
            code = FINISHED
        else:
            code = _rollout(method, policy, shared, worker, mode)
        if code != GO_ON:
            break
    restore_denormals(mode)
    return PAUSED if code == GO_ON else code


@jit
def _rollout(method, policy, shared, worker, mode):
    """One pass of the algorithm's outer loop for the group of k actors whose turn it is."""
    first = begin_rollout(method, shared, worker)  # theta' = theta
    for t in range(worker.rollout.reward.shape[0]):
        code = _begin_episodes(worker, first, mode)
        if code == GO_ON:
            code = observe(policy, worker, first, t)  # s_t
        if code == GO_ON:
            act(method, policy, shared, worker, first, t)  # a_t
            code = _step(method, policy, shared, worker, first, t, mode)  # r_t, s_t+1
        if code == GO_ON:
            code = end_values(method, policy, shared, worker, first, t)
        if code != GO_ON:
            return code
    return finish_rollout(method, policy, shared, worker, first)  # d theta, and the update of theta


@jit
def steps_taken(shared):
    """The paper's T: steps by all threads, of all machines."""
    total = atomic_load(address_at(shared.elsewhere, 0))
    for thread in range(shared.steps.shape[0]):
        total += atomic_load(address_at(shared.steps, thread * LINE))
    return total


@jit
def progress(method, shared):
    """The share of the run that is done."""
    return steps_taken(shared) / method.total_steps


@jit
def count_steps(shared, worker, steps):
    """Add to this thread's share of T."""
    atomic_store(address_at(shared.steps, worker.thread * LINE), shared.steps[worker.thread, 0] + steps)


@jit
def begin_rollout(method, shared, worker):
    """theta' = theta, and the scales of what is seen; the first actor of the group whose turn it is."""
    work = worker.work
    copy(work.theta, shared.theta)
    if work.normal.shape[1] or method.normalise_rewards:
        publish(shared, worker)
        fill_normal(worker.statistics.total, work.normal)
    group = worker.turn
    worker.turn = group + 1 if group + 1 < worker.owners.size else 0
    return group * worker.rollout.reward.shape[1]


@jit
def begin_episode(actors, actor):
    """What every actor has at the start of an episode, besides the observation."""
    actors.begun[actor] = True
    actors.episode_return[actor] = 0
    actors.episode_length[actor] = 0
    forget(actors, actor)


@jit
def forget(actors, actor):
    """Let an actor go on with nothing in mind."""
    for i in range(actors.state.shape[1]):
        actors.state[actor, i] = 0
    actors.discounted[actor] = 0
    actors.next_action[actor] = -1


@jit
def _begin_episodes(worker, first, mode):
    """Reset those of a group's actors that have no episode going on; a code other than GO_ON on failure.

    `mode` is the floating-point mode of environments.
    """
    actors = worker.actors
    for actor in range(first, first + worker.rollout.reward.shape[1], actors.agents):
        if not actors.begun[actor]:
            functions, observation = actors.functions[actor], address_at(actors.observation[actor], 0)
            seed, mask = next_uint64(actors.random[actor]), mask_address(actors, actor)
            worker.at, worker.doing = actor, RESETS
            restore_denormals(mode)
            status = call_reset(functions[0], functions[2], seed, observation, mask, alive_address(actors, actor))
            flush_denormals()
            if not succeeded(status):
                return FAILED_ENVIRONMENT
            actors.episodes[actor] += 1
            for agent in range(actor, actor + actors.agents):
                begin_episode(actors, agent)
    return GO_ON


@jit
def mask_address(actors, actor):
    """Where an actor's environment writes its mask; 0 for nowhere."""
    return address_at(actors.mask[actor], 0) if actors.mask.shape[1] else 0


@jit
def alive_address(actors, actor):
    """Where an environment says what its agents do, the first of which an actor is; 0 for nowhere, with one alone."""
    return address_at(actors.alive, actor) if actors.agents > 1 else 0


@jit
def observe_one(policy, worker, actor, sample, ended):
    """Load what an actor sees and remembers as one sample; a code other than GO_ON if it cannot be used.

    Where an episode has `ended`, no action need be legal.
    """
    worker.at = actor
    does = worker.actors.alive[actor]
    worker.work.void[sample] = does & ALIVE == 0  # of whoever does not act nothing is learnt
    load_state(worker.work, sample, worker.actors.state[actor])
    if worker.actors.agents > 1:
        worker.work.speaks[sample] = does & ALIVE != 0 and does & SPEAKS != 0
        worker.work.hears[sample] = does & ALIVE != 0 and does & HEARS != 0
        draw_noise(worker.work, sample, worker.actors.random[actor])
        ended = ended or does & ALIVE == 0
    if worker.actors.mask.shape[1]:
        if not ended and not any_legal(policy, worker.actors.mask[actor]):
            return BAD_MASK
        copy(worker.rollout.mask[sample], worker.actors.mask[actor])
    if load_observation(worker.work, sample, worker.actors.observation[actor]):
        return GO_ON
    return BAD_OBSERVATION


@jit
def observe(policy, worker, first, t):
    """Load what a group's actors see as the samples of step t; a code other than GO_ON if it cannot be used."""
    ended, k = worker.rollout.ended, worker.rollout.reward.shape[1]
    for i in range(k):
        worker.work.continues[t * k + i] = t > 0 and not ended[t - 1, i]
        code = observe_one(policy, worker, first + i, t * k + i, not worker.actors.begun[first + i])
        if code != GO_ON:
            return code
    return GO_ON


@jit
def forward_legal(policy, worker, work, first, samples):
    """Forward some samples of a rollout in a workspace of its network, and make illegal actions impossible."""
    forward(work, first, samples)
    if worker.rollout.mask.shape[1]:
        for sample in range(first, first + samples):
            mask_outputs(policy, work, sample, worker.rollout.mask[sample])


@jit
def forward_step(policy, worker, first, t):
    """Forward the samples of step t, and store what the group's actors remember after it."""
    k = worker.rollout.reward.shape[1]
    forward_legal(policy, worker, worker.work, t * k, k)
    for i in range(k):
        store_state(worker.work, t * k + i, worker.actors.state[first + i])


@jit
def _step(method, policy, shared, worker, first, t, mode):
    """Send step t's actions to a group's environments and record what comes of them.

    `mode` is the floating-point mode of environments. A code other than GO_ON if the rollout cannot go on.
    """
    actors, n = worker.actors, worker.actors.agents
    to_env(policy, t)  # all at once: one object may step the whole group
    for i in range(0, worker.rollout.reward.shape[1], n):
        if atomic_load(address_at(shared.control, 0)) == ABANDON:
            return ABANDONED
        functions = actors.functions[first + i]
        action, observation = env_address(policy, t, i), address_at(actors.observation[first + i], 0)
        reward, mask = address_at(worker.raw_reward, 0), mask_address(actors, first + i)
        worker.at, worker.doing = first + i, STEPS
        restore_denormals(mode)
        alive = alive_address(actors, first + i)
        status = call_step(functions[1], functions[2], action, observation, reward, mask, alive)
        flush_denormals()
        for agent in range(n):
            code = record_step(method, worker, first, t, i + agent, worker.raw_reward[agent], status)
            if code != GO_ON:
                return code
    return GO_ON


@jit
def record_step(method, worker, first, t, i, reward, status):
    """Write down what step t of a group's actor i gave; a code other than GO_ON if it cannot be used.

    Whether the actor acted in it is in `void`.
    """
    actors, rollout, actor = worker.actors, worker.rollout, first + i
    void, sample = worker.work.void, t * rollout.reward.shape[1] + i
    worker.at = actor
    if not succeeded(status):
        return FAILED_ENVIRONMENT
    if not np.isfinite(reward):
        return BAD_REWARD
    if status & VOID:  # the next episode begins with what is seen now, and nothing went before
        void[sample] = True
        begin_episode(actors, actor)
        _record_nothing(rollout, t, i)
        return GO_ON
    terminated, truncated = status & TERMINATED != 0, status & TRUNCATED != 0
    if method.max_episode_steps and actors.episode_length[actor] + 1 >= method.max_episode_steps:
        truncated = True
    if void[sample]:
        forget(actors, actor)
        _record_nothing(rollout, t, i)
    else:
        # Its own end, whatever the others do: it is not there any more, or another is in its place.
        left = actors.alive[actor] & ALIVE == 0 or actors.alive[actor] & NEW != 0
        _record_reward(method, worker, t, i, actor, reward)
        rollout.discount[t, i] = 0 if terminated or status & CUT else method.discount
        rollout.ended[t, i] = terminated or truncated
        rollout.truncated[t, i] = truncated and not terminated
        if left:
            rollout.ended[t, i], rollout.truncated[t, i] = True, actors.alive[actor] & STOPPED != 0
            rollout.discount[t, i] = method.discount if rollout.truncated[t, i] else 0
            if not rollout.truncated[t, i]:  # else what it has in mind is needed for the value there
                forget(actors, actor)
        if worker.bonus.see:
            call_routine(worker.bonus.see, worker.bonus, t, i, actor, 0, 0)
        actors.episode_return[actor] += reward
    actors.episode_length[actor] += 1
    if terminated or truncated:
        actors.begun[actor] = False
        if (actor + 1) % actors.agents == 0:
            _record_episode(worker.episodes, actors, actor + 1 - actors.agents)
    return GO_ON


@jit
def _record_nothing(rollout, t, i):
    """Cut the return at a step that is not learnt from."""
    rollout.reward[t, i] = rollout.discount[t, i] = 0
    rollout.ended[t, i], rollout.truncated[t, i] = True, False


@jit
def _record_reward(method, worker, t, i, actor, reward):
    """Write down a reward as learning sees it, and measure what scales it."""
    actors, scaled = worker.actors, reward
    if worker.work.normal.shape[1] or method.normalise_rewards:
        statistics = worker.statistics
        actors.discounted[actor] = method.discount * actors.discounted[actor] + reward
        returns = statistics.own.shape[1] - 1
        measure(statistics.own, returns, actors.discounted[actor])
        measure_observation(statistics.own, worker.work, actors.observation[actor])
        if method.normalise_rewards:
            scaled *= min(scale_of(statistics.total, returns), 1.0)  # returns of zeros would make the first reward huge
    worker.rollout.reward[t, i] = min(max(scaled, -method.reward_clip), method.reward_clip)


@jit
def return_deviation(worker):
    """The standard deviation of returns as learning sees them where rewards are normalised: at most 1."""
    statistics = worker.statistics.total
    return min(1 / scale_of(statistics, statistics.shape[1] - 1), 1.0)


@jit
def _record_episode(episodes, actors, first):
    """Write down the episode of an environment whose first agent is an actor."""
    written = episodes.ends[WRITTEN]
    if written - atomic_load(address_at(episodes.ends, READ)) >= RING_SIZE:
        atomic_store(address_at(episodes.ends, DROPPED), episodes.ends[DROPPED] + 1)
        return
    record, n, total = episodes.ring[written % RING_SIZE], actors.agents, 0.0
    for agent in range(n):
        total += actors.episode_return[first + agent]
        if n > 1:
            record[EPISODE + agent] = actors.episode_return[first + agent]
    record[RETURN], record[LENGTH] = total / n, actors.episode_length[first]
    record[ACTOR], record[NUMBER] = first, actors.episodes[first]
    atomic_store(address_at(episodes.ends, WRITTEN), written + 1)


@jit
def end_values(method, policy, shared, worker, first, t):
    """The values of the last observations where episodes were truncated: they would have gone on."""
    rollout, (t_max, k), n = worker.rollout, worker.rollout.reward.shape, worker.actors.agents
    for i in range(0, k, n):
        cut = False
        for agent in range(i, i + n):
            cut = cut or rollout.truncated[t, agent]
        if cut:
            for agent in range(i, i + n):
                code = observe_one(policy, worker, first + agent, t_max * k + agent, False)
                if code != GO_ON:
                    return code
            fill_end_values(method, policy, shared, worker, first, t, i)
    return GO_ON


@jit
def finish_rollout(method, policy, shared, worker, first):
    """Load what the actors see after the last step, and learn."""
    worker.doing = LEARNS
    code = observe(policy, worker, first, worker.rollout.reward.shape[0])
    if code == GO_ON:
        if worker.bonus.learn:
            call_routine(worker.bonus.learn, worker.bonus, first, 0, 0, 0, 0)
        code = learn(method, policy, shared, worker, first)
    worker.doing = RESETS  # or whatever comes next: it does not learn any more
    return code


@jit
def returns(rollout, i, R, gae_lambda):
    """Fill R of actor i's steps from the value R of what it sees after the last one.

    R_t = r_t + gamma ((1 - lambda) V(s_t+1) + lambda R_t+1), the lambda-return by `rollout.value`. With lambda = 1 it
    is the paper's, and no value is read. Where an episode ended, its end value stands for what came after.
    """
    V, one = R, np.float32(1.0)
    for t in range(rollout.reward.shape[0] - 1, -1, -1):
        if rollout.ended[t, i]:
            R = V = rollout.end_value[t, i]
        R = rollout.reward[t, i] + rollout.discount[t, i] * ((one - gae_lambda) * V + gae_lambda * R)
        rollout.R[t, i] = R
        V = rollout.value[t, i]


@jit
def scheduled(points, progress):
    """A schedule's factor at a share of the run, between the points before and after it."""
    last = points.shape[0] - 1
    if progress <= points[0, 0]:
        return points[0, 1]
    if progress >= points[last, 0]:
        return points[last, 1]
    before, after = 0, last
    while after - before > 1:
        middle = (before + after) // 2
        if points[middle, 0] <= progress:
            before = middle
        else:
            after = middle
    slope = (points[after, 1] - points[before, 1]) / (points[after, 0] - points[before, 0])
    return points[before, 1] + slope * (progress - points[before, 0])


@jit
def annealed(method, steps):
    """The learning rate after some steps."""
    return method.learning_rate * scheduled(method.learning_rate_points, steps / method.total_steps)


@jit
def update(method, shared, worker, first):
    """`descend`, and count the rollout's steps and samples where it could."""
    code = descend(method, shared, worker, first, worker.rollout.reward.size)
    if code == GO_ON:
        count_steps(shared, worker, env_steps(worker))
    return code


@jit
def env_steps(worker):
    """Steps of environments in a rollout, however many agents act in each."""
    return worker.rollout.reward.size // worker.actors.agents


@jit
def descend(method, shared, worker, first, samples):
    """Clip the gradient of some samples and apply it to the shared parameters.

    BAD_GRADIENT if it is not finite, and then nothing changes; else GO_ON.
    """
    mode = flush_denormals()  # a loop has done so already, a host has not
    norm, optimiser = gradient_norm(worker.work.dtheta), worker.optimiser
    if not np.isfinite(norm):
        restore_denormals(mode)
        return BAD_GRADIENT
    optimiser.owner = worker.owners[first // worker.rollout.reward.shape[1]]
    optimiser.scale = clip_scale(norm, method.gradient_clip)
    optimiser.learning_rate = annealed(method, steps_taken(shared))
    optimiser.count = atomic_add(address_at(shared.updates, 0), 1) + 1
    call_routine(optimiser.rule, optimiser, 0, 0, 0, 0, 0)
    restore_denormals(mode)
    worker.sums[GRADIENT_NORM] += norm
    worker.sums[UPDATES] += 1
    worker.sums[SAMPLES] += samples
    return GO_ON
