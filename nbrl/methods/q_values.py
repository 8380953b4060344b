"""What the value methods share: epsilon-greedy actions, and the target network of those that have one."""

from typing import Any, ClassVar

import numpy as np
from numba import float64

from nbrl.actions import EpsilonGreedy, argmax, choose, draw, q_gradient
from nbrl.kernels.compile import jit, part
from nbrl.kernels.native import address_at, atomic_load, atomic_store, copy
from nbrl.kernels.random import ROW, seed_row, uniform
from nbrl.kernels.struct import reference
from nbrl.methods import driver
from nbrl.methods.driver import Method, forward_legal, forward_step, steps_taken
from nbrl.methods.state import METRICS
from nbrl.nets.table import Workspace, copy_inputs, output_gradients, outputs
from nbrl.settings import Setting, Task

VALUE_LOSS = METRICS
Q = -1  # the network's last layer

# Where the exploration of an actor ends, and how likely each is: Mnih et al. (2016), section 5.1.
FINAL_EPSILONS, PROBABILITIES = (0.1, 0.01, 0.5), (0.4, 0.3, 0.3)
STREAM = 1 << 40  # random streams of these draws begin here, far from those of actors and evaluations


TARGET_INTERVAL = Setting(
    10_000, "steps between copies of the target network, of the value methods; paper: 10,000", least=1, most=10**15
)


class ValueMethod(Method):
    """Settings and state of the value methods."""

    epsilon_steps = Setting(
        1_000_000,
        "steps over which the exploration of the value methods falls from 1 to 0.1, 0.01 or 0.5; paper: 1 million",
        least=1,
        most=10**15,
    )
    final_epsilon = Setting(
        None,
        "where the exploration of the value methods ends, none for 0.1, 0.01 or 0.5, drawn for each actor; paper: none",
        least=0,
        most=1,
        type=float,
    )
    final_epsilons = float64[::1]  # (n,): where the exploration of each actor ends

    policies = (EpsilonGreedy,)
    metrics = ("value_loss",)

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        config = learner.config
        final = [
            final_epsilon(config.seed, actor) if config.final_epsilon is None else config.final_epsilon
            for actor in actors.tolist()
        ]
        return {"final_epsilons": np.array(final)}


# One step's return gains nothing from long rollouts: these are close to the paper's settings.
ONE_STEP_IMAGES: dict[str, Any] = {
    "envs_per_batch": 1,
    "rollout_length": 5,
    "initialisation": "uniform",
    "optimiser": "shared_rmsprop",
    "learning_rate": 1e-3,
    "steps": 25_000_000,
}


class TargetMethod(ValueMethod):
    """Those that have a target network."""

    target_interval = TARGET_INTERVAL
    target = reference(Workspace)  # its parameters are theta^-, the shared target network's

    has_target = True
    on_images: ClassVar[dict[str, Any]] = {}
    on_vectors: ClassVar[dict[str, Any]] = {"target_interval": 500, "epsilon_steps": 50_000}

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        return cls.on_images if task.image else cls.on_vectors

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        return super().own(learner, actors, work) | {"target": learner.target_workspace(work)}


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
def explore(method, policy, shared, worker, actor, sample, action):
    """Fill `action` by the epsilon-greedy policy of Q(s, .; theta'), with the epsilon that the actor has now."""
    policy.epsilon = epsilon_after(method.final_epsilons[actor], steps_taken(shared), method.epsilon_steps)
    draw(policy, worker.actors.random[actor])
    choose(policy, worker.work, sample, action)


@part(driver.act, ValueMethod)
def act(method, policy, shared, worker, first, t):
    """Take a_t with the epsilon-greedy policy of Q(s_t, .; theta')."""
    k = worker.rollout.reward.shape[1]
    forward_step(policy, worker, first, t)
    for i in range(k):
        explore(method, policy, shared, worker, first + i, t * k + i, policy.action[t, i])


@part(driver.fill_end_values, TargetMethod)
def fill_end_values(method, policy, shared, worker, first, t, i):
    """max_a Q(s, a; theta^-) of the last observations."""
    n = worker.actors.agents
    q = target_q(method, policy, worker, worker.rollout.reward.size + i, n)
    for agent in range(n):
        worker.rollout.end_value[t, i + agent] = q[agent, argmax(q[agent])]


@jit
def target_q(method, policy, worker, first, samples):
    """Q(s, .; theta^-) of some samples that were observed: a view, (samples, actions); illegal ones are no maxima."""
    target = method.target
    copy_inputs(target, first, worker.work, first, samples)
    forward_legal(policy, worker, target, first, samples)
    return outputs(target, target.table.shape[0] + Q, first, samples)


@jit
def learn_towards(worker, sample, action, y):
    """The gradient of (y - Q(s, a; theta'))^2 / 2 of a sample."""
    work, head = worker.work, worker.work.table.shape[0] + Q
    q, dq = outputs(work, head, sample, 1), output_gradients(work, head, sample, 1)
    worker.sums[VALUE_LOSS] += q_gradient(q[0], action[0], y, dq[0])


@jit
def refresh_target(shared, target_interval):
    """theta^- = theta, if T has passed a multiple of the interval since the last time.

    Two threads may do it at once; what others read meanwhile is partly old, as theta is to those who copy it.
    """
    due = steps_taken(shared) // target_interval
    if due > atomic_load(address_at(shared.target_copies, 0)):
        atomic_store(address_at(shared.target_copies, 0), due)
        copy(shared.target, shared.theta)
