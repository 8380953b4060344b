"""What the actor-critic methods share: a policy and a value, actions drawn from the one, returns by the other.

With gae_lambda below 1, R is the lambda-return, so that R - V is the generalised advantage estimate of Schulman et al.
(2016), equation 16; 1 is the paper of Mnih et al. (2016). Continuous actions have a Gaussian policy (its section 9).
"""

from typing import Any

import numpy as np
from numba import float64, int64

from nbrl.actions import Categorical, Gaussian, choose, draw
from nbrl.kernels.compile import jit, part
from nbrl.methods import driver
from nbrl.methods.driver import Method, forward_step, progress, returns, scheduled
from nbrl.methods.state import METRICS
from nbrl.nets.table import Workspace, forward, output_gradients, outputs
from nbrl.settings import SHAPES, Schedule, Setting, points

POLICY_LOSS, VALUE_LOSS, ENTROPY = range(METRICS, METRICS + 3)
BONUS_DISCOUNT, BONUS_LAMBDA = np.float32(0.99), np.float32(0.95)  # Burda et al. (2019), table 5
NONE = -1  # a row of the table
VARIANCES = ("softplus", "constant")


class ActorCritic(Method):
    """Settings and state of the actor-critic methods."""

    gae_lambda = Setting(
        1.0, "lambda of generalised advantage estimation; paper: 1, the whole rollout's return", least=0, most=1
    )
    separate_networks = Setting(False, "whether policy and value share no layer; paper: false on Atari, true on MuJoCo")
    central_value = Setting(
        False,
        "whether the value of several agents, in layers of its own, sees what each of them observes; not in the paper",
    )
    policy_variance = Setting(
        "softplus",
        "variance of continuous actions: softplus of a layer's outputs, or constant, learnt; paper: softplus",
        choices=VARIANCES,
    )
    initial_std = Setting(
        None,
        "deviation of continuous actions at first, where their bounds are -1 and 1, none for what the first weights "
        "give, about 0.83; paper: none",
        above=0.01,
        most=10,
        type=float,
    )
    entropy_weight = Setting(0.01, "beta, weight of the policy's entropy; paper: 0.01 (MuJoCo: 1e-4)", least=0)
    entropy_schedule = Schedule("constant", f"how entropy_weight changes over the run, {SHAPES}; paper: constant")
    value_weight = Setting(0.5, "weight of the value loss; paper: 0.5", least=0)

    entropy_points = float64[:, ::1]
    value_head = int64  # the table's row
    bonus_head = int64  # that of a bonus's own value, or NONE

    policies = (Categorical, Gaussian)
    critic = ("value",)
    metrics: tuple[str, ...] = ("policy_loss", "value_loss", "entropy")

    @classmethod
    def own(cls, learner: Any, actors: np.ndarray, work: Workspace) -> dict[str, Any]:
        network = learner.network
        return {
            "entropy_points": points(learner.config.entropy_schedule),
            "value_head": network.head("value"),
            "bonus_head": network.head("bonus_value") if "bonus_value" in network.heads else NONE,
        }


@part(driver.act, ActorCritic)
def act(method, policy, shared, worker, first, t):
    """Draw a_t from pi(a_t | s_t; theta')."""
    work, k = worker.work, worker.rollout.reward.shape[1]
    forward_step(policy, worker, first, t)
    for i in range(k):
        draw(policy, worker.actors.random[first + i])
        choose(policy, work, t * k + i, policy.action[t, i])


@part(driver.fill_end_values, ActorCritic)
def fill_end_values(method, policy, shared, worker, first, t, i):
    """V of the last observations, so R begins with V there."""
    work, sample, n = worker.work, worker.rollout.reward.size + i, worker.actors.agents
    forward(work, sample, n)
    v = outputs(work, method.value_head, sample, n)
    for agent in range(n):
        worker.rollout.end_value[t, i + agent] = v[agent, 0]


@jit
def fill_returns(method, worker):
    """Fill V and R of a rollout."""
    work, rollout, (t_max, k) = worker.work, worker.rollout, worker.rollout.reward.shape
    samples = t_max * k
    forward(work, samples, k)
    v = outputs(work, method.value_head, 0, samples + k)
    for i in range(k):
        for t in range(t_max):
            rollout.value[t, i] = v[t * k + i, 0]
        # R = V(s_t) where the rollout stops inside an episode. (Where it does not, `ended` keeps R from being used.)
        returns(rollout, i, v[samples + i, 0], np.float32(method.gae_lambda))
    if method.bonus_head != NONE:
        bonus_returns(rollout, outputs(work, method.bonus_head, 0, samples + k))


@jit
def bonus_returns(rollout, v):
    """Fill the returns and advantages of a bonus from its values of a rollout's samples, (samples + k, 1).

    They go on over ends of episodes: what is new ends with none (Burda et al., 2019, section 2.3).
    """
    t_max, k = rollout.reward.shape
    for i in range(k):
        advantage = np.float32(0.0)
        for t in range(t_max - 1, -1, -1):
            sample = t * k + i
            error = rollout.bonus[t, i] + BONUS_DISCOUNT * v[sample + k, 0] - v[sample, 0]
            advantage = error + BONUS_DISCOUNT * BONUS_LAMBDA * advantage
            rollout.bonus_advantage[t, i], rollout.bonus_R[t, i] = advantage, v[sample, 0] + advantage


@jit
def bonus_value_gradient(method, rollout, work, i, sample, n):
    """Fill the gradient of (R - V)^2 / 2 of a bonus for sample i of a workspace, divided by n: that loss.

    It is number `sample` of the rollout.
    """
    if method.bonus_head == NONE:
        return np.float32(0.0)
    k = rollout.reward.shape[1]
    error = outputs(work, method.bonus_head, i, 1)[0, 0] - rollout.bonus_R[sample // k, sample % k]
    output_gradients(work, method.bonus_head, i, 1)[0, 0] = np.float32(method.value_weight) * error / n
    return error * error / 2


@jit
def entropy_weight(method, shared):
    """beta of this moment."""
    return np.float32(method.entropy_weight * scheduled(method.entropy_points, progress(method, shared)))
