"""Asynchronous deterministic policy gradient: for continuous actions, with a replay memory or without.

Silver et al.'s method (2014) with the networks, target networks and replay memory of Lillicrap et al. (2016), and with
the actors, n-step targets and updates without locks of Mnih et al. (2016), who put parallel actors in the memory's
place. So where buffer_size is 0: there an update learns from one rollout, as in the other methods. Else each thread
remembers its own steps, and draws minibatches from them.

The symbols: mu the actor and Q the critic, two parts of one network; theta and theta' (here `shared.theta` and
`work.theta`) the parameters of both, theta^- those of the target networks, y the target, T the shared step count.
Losses are means over the samples of an update. Actions are in units in which the bounds are -1 and 1.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float64

from nbrl.actions import Deterministic
from nbrl.kernels.compile import jit, part
from nbrl.kernels.native import address_at, atomic_load, copy
from nbrl.kernels.random import normal, uniform
from nbrl.kernels.struct import reference
from nbrl.methods import driver
from nbrl.methods.driver import ABANDONED, GO_ON, Method, count_steps, descend, returns, steps_taken
from nbrl.methods.q_values import TARGET_INTERVAL, refresh_target
from nbrl.methods.replay import (
    RETURN,
    VOID_ROW,
    WEIGHT,
    Replay,
    draw,
    new_replay,
    remember_action,
    remember_next,
    remember_rollout,
    sample_batch,
    stored,
)
from nbrl.methods.state import ABANDON, METRICS
from nbrl.nets.layers import Dense
from nbrl.nets.table import (
    NO_INPUTS,
    Workspace,
    actions,
    backward_part,
    copy_inputs,
    forward_part,
    input_gradients,
    output_gradients,
    outputs,
)
from nbrl.settings import Setting, Task

POLICY_LOSS, VALUE_LOSS = METRICS, METRICS + 1
MIN_NOISE = 0.1  # of the last actor, to the first one's


# A clip that seldom acts: the critic's part of the gradient, which is the larger, would hold back the actor's. Rewards
# as they are: a memory would hold them in the scale of their time.
VECTORS: dict[str, Any] = {
    "network": (Dense(256), Dense(256)),
    "normalise_rewards": False,
    "rollout_length": 1,
    "tau": 0.005,
    "buffer_size": 1_000_000,
    "batch_size": 256,
    "gradient_clip": 1e6,
}
# On top of these, where observations are so few numbers: a pendulum takes seconds, and not the minutes of larger ones.
FEW = 3
SMALL: dict[str, Any] = {"network": (Dense(64), Dense(64)), "batch_size": 64, "steps": 100_000}
# On top of these, for what learns from rollouts alone.
WITHOUT_REPLAY: dict[str, Any] = {"envs_per_batch": 8, "rollout_length": 2, "noise_std": 1.0, "steps": 1_000_000}


class DPG(Method):
    """Its settings and state."""

    target_interval = TARGET_INTERVAL
    tau = Setting(
        None,
        "tau of dpg, how far the target network goes to the other at each update, none to go by the interval; not in "
        "the paper",
        above=0,
        most=1,
        type=float,
    )
    noise_std = Setting(
        0.3,
        "deviation of dpg's noise for its first actor, where bounds of actions are -1 and 1; down to a tenth for the "
        "last; not in the paper",
        least=0,
    )
    buffer_size = Setting(0, "steps that dpg's replay memories hold in all, 0 for none; paper: 0", least=0, most=10**12)
    batch_size = Setting(64, "samples of an update from a replay memory; not in the paper", least=1, most=1_000_000)
    updates_per_step = Setting(1.0, "updates from a replay memory for each step; not in the paper", above=0, most=1000)
    learning_starts = Setting(
        1000,
        "steps at random that fill a replay memory before it is learnt from; not in the paper",
        least=1,
        most=10**12,
    )
    save_replay = Setting(
        False, "whether checkpoints hold the replay memory, so that a run goes on without filling it anew"
    )
    uses_replay = boolean
    replay = reference(Replay)
    target = reference(Workspace)  # its parameters are theta^-, the shared target networks'
    std = float64[::1]  # (n,): of each actor's exploration

    policies = (Deterministic,)
    critic = ("q",)
    has_target = True
    one_agent = True
    metrics = ("policy_loss", "value_loss")

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        defaults = VECTORS | (SMALL if task.numbers <= FEW else {})
        return defaults | (WITHOUT_REPLAY if task.given.get("buffer_size") == 0 else {})

    @classmethod
    def check(cls, config: Any) -> None:
        if config.buffer_size > 0 and config.batch_size > config.learning_starts:
            raise ValueError(
                f"batch_size is {config.batch_size}: it must be at most learning_starts, the {config.learning_starts} "
                "steps that are in the replay memory when learning begins"
            )
        if 0 < config.buffer_size < config.learning_starts:
            raise ValueError(
                f"learning_starts is {config.learning_starts}: it must be at most buffer_size, the "
                f"{config.buffer_size} steps that the replay memory holds"
            )

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        config, parts = learner.config, learner.environment.actions.parts
        numbers = learner.network.observations.size
        size = -(-config.buffer_size // config.threads)
        steps = config.rollout_length * config.envs_per_batch
        return {
            "uses_replay": config.buffer_size > 0,
            "replay": new_replay(size, steps, numbers, parts, config.batch_size),
            "target": learner.target_workspace(work),
            "std": np.array([noise_scale(config.noise_std, i, config.actors) for i in actors.tolist()]),
        }


def noise_scale(largest: float, actor: int, actors: int) -> float:
    """The standard deviation of an actor's exploration: from the first to the last it falls by equal factors."""
    return largest * MIN_NOISE ** (actor / max(actors - 1, 1))


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


@part(driver.act, DPG)
def act(method, policy, shared, worker, first, t):
    """a_t = mu(s_t; theta') + noise, within the bounds; before learning from a memory begins, any at random."""
    work, k = worker.work, worker.rollout.reward.shape[1]
    half, _ = _layers(work)
    forward_part(work, 0, half, t * k, k)
    mu, a = outputs(work, half - 1, t * k, k), actions(work, t * k, k)
    at_random = method.uses_replay and steps_taken(shared) < method.learning_starts
    for i in range(k):
        row = worker.actors.random[first + i]
        for j in range(a.shape[1]):
            value = 2 * uniform(row) - 1 if at_random else mu[i, j] + method.std[first + i] * normal(row)
            a[i, j] = min(max(value, -1.0), 1.0)
        copy(policy.action[t, i], a[i])
        if method.uses_replay:
            remember_action(method.replay, t * k + i, worker.actors.observation[first + i], a[i])


@part(driver.fill_end_values, DPG)
def fill_end_values(method, policy, shared, worker, first, t, i):
    """Q(s, mu(s); theta^-) of the last observation; a memory keeps the observation itself."""
    sample = worker.rollout.reward.size + i
    if method.uses_replay:
        number = t * worker.rollout.reward.shape[1] + i
        remember_next(method.replay, number, worker.actors.observation[first + i])
        return
    copy_inputs(method.target, sample, worker.work, sample, 1)
    worker.rollout.end_value[t, i] = _q_of_mu(method.target, sample, 1)[0]


@part(driver.learn, DPG)
def learn(method, policy, shared, worker, first):
    """Update theta and theta^- from a rollout, or from the memory that it is added to."""
    steps, count, samples = worker.rollout.reward.size, 1, worker.rollout.reward.size
    if method.uses_replay:
        remember_rollout(method.replay, worker.rollout, worker.work.void, worker.actors.observation, first)
        count, samples = _updates_due(method, shared, worker), method.replay.drawn.size
    for number in range(count):
        if number > 0:
            if atomic_load(address_at(shared.control, 0)) == ABANDON:
                return ABANDONED
            copy(worker.work.theta, shared.theta)  # theta' = theta
        if method.uses_replay:
            _targets_from_memory(method, worker, worker.actors.random[first])
        else:
            _targets_from_rollout(method, worker)
        code = _update(method, shared, worker, first, samples)
        if code != GO_ON:
            return code
    count_steps(shared, worker, steps)
    if method.tau == 0:
        refresh_target(shared, method.target_interval)  # theta^- = theta every I_target steps of T
    return GO_ON


@jit
def _updates_due(method, shared, worker):
    """`updates_per_step` for each step of a rollout, once the thread's memory holds its share of `learning_starts`."""
    steps, before, rate = worker.rollout.reward.size, shared.steps[worker.thread, 0], method.updates_per_step
    if stored(method.replay, steps) * shared.steps.shape[0] < method.learning_starts:
        return 0
    return int(math.floor((before + steps) * rate) - math.floor(before * rate))


@jit
def _targets_from_rollout(method, worker):
    """y of each step of a rollout, to where `_update` finds it."""
    work, rollout, (t_max, k) = worker.work, worker.rollout, worker.rollout.reward.shape
    y = output_gradients(work, work.table.shape[0] - 1, 0, t_max * k)
    copy_inputs(method.target, t_max * k, work, t_max * k, k)
    q_last = _q_of_mu(method.target, t_max * k, k)
    for i in range(k):
        # R = 0 for terminal s_t, else Q(s_t, mu(s_t)) by theta^-. (Where an episode ended, `ended` keeps it from use.)
        returns(rollout, i, q_last[i], np.float32(1.0))
        for t in range(t_max):
            y[t * k + i, 0] = rollout.R[t, i]


@jit
def _targets_from_memory(method, worker, random):
    """A minibatch in block 0, and its y to where `_update` finds it."""
    work, replay, batch = worker.work, method.replay, method.replay.drawn.size
    y = output_gradients(work, work.table.shape[0] - 1, 0, batch)
    draw(replay, worker.rollout.reward.size, random)
    sample_batch(work, method.target, replay)
    q_next = _q_of_mu(method.target, 0, batch)
    for i in range(batch):
        row = replay.rows[replay.drawn[i]]
        y[i, 0] = row[RETURN] + row[WEIGHT] * q_next[i]
        work.void[i] = row[WEIGHT] == VOID_ROW


@jit
def _update(method, shared, worker, first, samples):
    """Update theta by samples in block 0 whose y stand in for the gradient of Q; then theta^-, if it moves softly."""
    work, n, size = worker.work, np.float32(samples), worker.work.observation_size
    half, end = _layers(work)
    dq = output_gradients(work, end - 1, 0, samples)[:, 0]
    forward_part(work, half, end, 0, samples)
    q = outputs(work, end - 1, 0, samples)[:, 0]
    for i in range(samples):  # d theta of Q: the gradient of (y - Q(s, a))^2 / 2
        error = dq[i] - q[i]
        if work.void[i]:
            error = np.float32(0.0)
        dq[i] = -error / n
        worker.sums[VALUE_LOSS] += error * error / 2
    backward_part(work, half, end, samples, NO_INPUTS)
    q = _q_of_mu(work, 0, samples)
    for i in range(samples):  # d theta of mu: the gradient of -Q(s, mu(s)), by the chain rule through a = mu(s)
        dq[i] = 0 if work.void[i] else -1 / n
        worker.sums[POLICY_LOSS] -= q[i]
    backward_part(work, half, end, samples, size)
    _copy_rows(output_gradients(work, half - 1, 0, samples), input_gradients(work, 0, samples)[:, size:])
    backward_part(work, 0, half, samples, NO_INPUTS)
    code = descend(method, shared, worker, first, samples)  # asynchronous update of theta, both parts at once
    if code == GO_ON and method.tau > 0:
        approach_target(shared, method.tau)  # theta^- = tau theta + (1 - tau) theta^-
    return code


@jit
def approach_target(shared, tau):
    """theta^- = tau theta + (1 - tau) theta^-; of several threads one may undo a step of another."""
    tau, theta, target = np.float32(tau), shared.theta, shared.target
    for i in range(target.size):
        target[i] += tau * (theta[i] - target[i])
