"""The parts of learning by name, on NumPy arrays: returns, each loss with its gradient, a network forward and back.

They call what training calls, one case at a time.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbrl.actions import categorical_gradient, gaussian_gradient, q_gradient
from nbrl.methods import driver
from nbrl.methods.state import Rollout
from nbrl.nets.network import Network
from nbrl.nets.table import backward, forward, load_state, observations, output_gradients
from nbrl.nets.table import outputs as rows_of


def _float32(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def returns(
    rewards: Any,
    discounts: Any,
    values: Any,
    last_value: float,
    *,
    ended: Any = None,
    end_values: Any = None,
    gae_lambda: float = 1.0,
) -> np.ndarray:
    """The returns of one actor's steps, by Algorithm S3 of Mnih et al. (2016); with gae_lambda below 1 lambda-returns.

    R_t = r_t + gamma_t ((1 - lambda) V_t+1 + lambda R_t+1). After the last step R = V = `last_value`; where an episode
    ended, both are its end value. The advantages are R - V: of gae_lambda below 1 those of Schulman et al. (2016).

    Parameters
    ----------
    rewards, discounts, values : array_like
        Of each step, (T,): r_t, gamma_t (0 where nothing comes after) and V(s_t).
    last_value : float
        V of what is seen after the last step.
    ended : array_like of bool, optional
        Whether an episode ended with the step; by default none did.
    end_values : array_like, optional
        Where it did, V of its last observation if it was truncated, else 0.
    gae_lambda : float, optional

    Returns
    -------
    numpy.ndarray
        R_t, float32 (T,).
    """
    rewards = _float32(rewards)
    rollout = Rollout.make(rewards.size, 1, 0)
    for name, row in (("reward", rewards), ("discount", discounts), ("value", values), ("end_value", end_values)):
        getattr(rollout, name)[:, 0] = 0 if row is None else row
    rollout.ended[:, 0] = False if ended is None else ended
    driver.returns(rollout, 0, np.float32(last_value), np.float32(gae_lambda))
    return rollout.R[:, 0].copy()


def categorical_loss(
    logits: Any, action: int, advantage: float, entropy_weight: float = 0.0
) -> tuple[float, np.ndarray]:
    """A3C's loss of one discrete action, -log pi(a) A - beta H(pi) with pi = softmax(logits), and its gradient.

    The advantage A is taken as a constant. The gradient is by the logits, float32 (n,).
    """
    logits = _float32(logits)
    gradient = np.zeros_like(logits)
    log_pi, entropy = categorical_gradient(logits, action, np.float32(advantage), np.float32(entropy_weight), gradient)
    return float(-log_pi * advantage - entropy_weight * entropy), gradient


def gaussian_loss(
    mean: Any, s: Any, action: Any, advantage: float, entropy_weight: float = 0.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """A3C's loss of one continuous action, -log pi(a) A - beta H(pi), and its gradients by the mean and s, (parts,).

    pi is normal, its parts independent, of variance softplus(s) + 0.0001.
    """
    mean, s, action = _float32(mean), _float32(s), _float32(action)
    dmean, ds = np.zeros_like(mean), np.zeros_like(s)
    log_pi, entropy = gaussian_gradient(mean, s, action, np.float32(advantage), np.float32(entropy_weight), dmean, ds)
    return float(-log_pi * advantage - entropy_weight * entropy), dmean, ds


def value_loss(value: float, R: float, value_weight: float = 0.5) -> tuple[float, float]:
    """A3C's loss of a value, value_weight (R - V)^2 / 2, and its gradient -value_weight (R - V)."""
    difference = R - value
    return value_weight * difference**2 / 2, -value_weight * difference


def q_loss(values: Any, action: int, target: float) -> tuple[float, np.ndarray]:
    """The value methods' loss, (y - Q(s, a))^2 / 2, and its gradient by all values, float32 (actions,)."""
    values = _float32(values)
    gradient = np.zeros_like(values)
    return float(q_gradient(values, action, np.float32(target), gradient)), gradient


def outputs(
    network: Network, parameters: np.ndarray, observation: Any, state: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A network's outputs for one observation, as it enters (scaled), by head: float32 (units,)."""
    work = network.workspace(1)
    work.theta[:] = parameters
    observations(work, 0, 1)[0] = _float32(observation).reshape(-1)
    load_state(work, 0, np.zeros(network.state_size, np.float32) if state is None else state)
    forward(work, 0, 1)
    return {name: rows_of(work, network.head(name), 0, 1)[0].copy() for name in network.heads}


def network_loss(
    network: Network, observation: Any, weights: Mapping[str, Any]
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """A function for `check_gradients`: of a network's parameters the loss sum(weights * outputs), and its gradient.

    Parameters
    ----------
    network : Network
    observation : array_like
        One, as it enters.
    weights : mapping of str to array_like
        Of each head's outputs.
    """
    work = network.workspace(1)
    seen = _float32(observation).reshape(-1)
    signs = {name: _float32(weights[name]) for name in network.heads}

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        work.theta[:] = parameters
        observations(work, 0, 1)[0] = seen
        forward(work, 0, 1)
        total = 0.0
        for name, sign in signs.items():
            total += float(np.sum(sign.astype(np.float64) * rows_of(work, network.head(name), 0, 1)[0]))
            output_gradients(work, network.head(name), 0, 1)[0] = sign
        backward(work, 1, 1)
        return total, work.dtheta.copy()

    return loss
