"""Update rules: each is one loop over flat float32 arrays. theta is shared by several threads without locks.

The statistics are shared as well, or each group of actors has its own: Mnih et al. (2016), section 4, compares the two.

theta is what is learnt, d its gradient of one rollout, times `scale` (the clip). A thread reads and writes elements
that others read and write at the same time; a lost update of one element now and then is the bargain of Hogwild.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, int64

from nbrl.kernels.compile import Routine, jit, routine
from nbrl.kernels.struct import Struct
from nbrl.settings import Setting


class Optimiser(Struct):
    """What a rule is called with; each worker has one."""

    rule = int64  # the address of the rule's routine
    theta = float32[::1]  # (parameters,): shared
    statistics = float32[:, :, ::1]  # (owners, 1 or 2, parameters)
    d = float32[::1]  # (parameters,)
    constants = float64[::1]  # the rule's own settings, in its order
    owner = int64  # the row of the statistics
    scale = float64
    learning_rate = float64
    count = int64  # of updates, this one included


class Rule(NamedTuple):
    """An optimiser: its routine, settings and statistics, one flat array each, and whether all threads share these."""

    routine: Routine
    settings: dict[str, Setting]
    statistics: tuple[str, ...]
    shared: bool

    def optimiser(self, theta: np.ndarray, statistics: np.ndarray, d: np.ndarray, settings: Any) -> Optimiser:
        """What one worker updates theta with."""
        constants = np.array([getattr(settings, name) for name in self.settings], np.float64)
        numbers: Mapping[str, Any] = {"owner": 0, "scale": 1.0, "learning_rate": 0.0, "count": 0}
        return Optimiser(
            rule=self.routine.address, theta=theta, statistics=statistics, d=d, constants=constants, **numbers
        )


@jit
def gradient_norm(d):
    """The Euclidean norm of d; infinite or NaN if any element is."""
    total = np.float32(0.0)
    for i in range(d.size):
        total += d[i] * d[i]
    return math.sqrt(total)


@jit
def clip_scale(norm, limit):
    """What d is multiplied by so that its norm is at most `limit`."""
    return limit / norm if norm > limit else 1.0


@jit
def momentum_sgd(theta, m, d, scale, learning_rate, alpha):
    """Gradient descent with momentum as in the paper (section 4).

    m = alpha m + (1 - alpha) d; theta = theta - learning_rate m
    """
    scale, learning_rate = np.float32(scale), np.float32(learning_rate)
    old, new = np.float32(alpha), np.float32(1 - alpha)
    for i in range(theta.size):
        m_i = old * m[i] + new * scale * d[i]
        m[i] = m_i
        theta[i] -= learning_rate * m_i


@jit
def rmsprop(theta, g, d, scale, learning_rate, alpha, epsilon):
    """RMSProp as in the paper (section 4, equation 9), epsilon inside the root.

    g = alpha g + (1 - alpha) d^2; theta = theta - learning_rate d / sqrt(g + epsilon)
    """
    scale, learning_rate, epsilon = np.float32(scale), np.float32(learning_rate), np.float32(epsilon)
    old, new = np.float32(alpha), np.float32(1 - alpha)
    for i in range(theta.size):
        d_i = scale * d[i]
        g_i = old * g[i] + new * d_i * d_i
        g[i] = g_i
        theta[i] -= learning_rate * d_i / np.sqrt(g_i + epsilon)


@jit
def adam(theta, m, v, d, scale, learning_rate, beta1, beta2, epsilon, update):
    """Adam (Kingma and Ba, 2015, algorithm 1); `update` counts from 1.

    m = beta1 m + (1 - beta1) d; v = beta2 v + (1 - beta2) d^2;
    theta = theta - learning_rate m / (1 - beta1^update) / (sqrt(v / (1 - beta2^update)) + epsilon)
    """
    step = np.float32(learning_rate / (1 - beta1**update))
    correction = np.float32(1 / (1 - beta2**update))
    scale, epsilon = np.float32(scale), np.float32(epsilon)
    old1, new1, old2, new2 = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
    for i in range(theta.size):
        d_i = scale * d[i]
        m_i = old1 * m[i] + new1 * d_i
        v_i = old2 * v[i] + new2 * d_i * d_i
        m[i], v[i] = m_i, v_i
        theta[i] -= step * m_i / (np.sqrt(v_i * correction) + epsilon)


@jit
def radam(theta, m, v, d, scale, learning_rate, beta1, beta2, epsilon, update):
    """Rectified Adam (Liu et al., 2020, algorithm 2): Adam at a rate that grows as v is known better.

    rho is the length of the running mean v; where it is 4 or less, at first, m is followed as it is.
    """
    longest, power = 2 / (1 - beta2) - 1, beta2**update
    rho = longest - 2 * update * power / (1 - power)
    if rho > 4:
        rectified = math.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
        adam(theta, m, v, d, scale, rectified * learning_rate, beta1, beta2, epsilon, update)
        return
    step, scale = np.float32(learning_rate / (1 - beta1**update)), np.float32(scale)
    old1, new1, old2, new2 = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
    for i in range(theta.size):
        d_i = scale * d[i]
        m_i = old1 * m[i] + new1 * d_i
        m[i], v[i] = m_i, old2 * v[i] + new2 * d_i * d_i
        theta[i] -= step * m_i


@routine(Optimiser)
def _momentum_sgd(o, _, __, ___, ____, _____):
    momentum_sgd(o.theta, o.statistics[o.owner, 0], o.d, o.scale, o.learning_rate, o.constants[0])


@routine(Optimiser)
def _rmsprop(o, _, __, ___, ____, _____):
    rmsprop(o.theta, o.statistics[o.owner, 0], o.d, o.scale, o.learning_rate, o.constants[0], o.constants[1])


@routine(Optimiser)
def _adam(o, _, __, ___, ____, _____):
    m, v = o.statistics[o.owner, 0], o.statistics[o.owner, 1]
    beta1, beta2, epsilon = o.constants[0], o.constants[1], o.constants[2]
    adam(o.theta, m, v, o.d, o.scale, o.learning_rate, beta1, beta2, epsilon, o.count)


@routine(Optimiser)
def _radam(o, _, __, ___, ____, _____):
    m, v = o.statistics[o.owner, 0], o.statistics[o.owner, 1]
    beta1, beta2, epsilon = o.constants[0], o.constants[1], o.constants[2]
    radam(o.theta, m, v, o.d, o.scale, o.learning_rate, beta1, beta2, epsilon, o.count)


MOMENTUM = {
    "momentum": Setting(
        0.9, "alpha of momentum_sgd, weight of the old mean gradient; paper: not reported", least=0, below=1
    ),
}
RMSPROP = {
    "rmsprop_decay": Setting(0.99, "alpha, weight of the old mean square; paper: 0.99", least=0, below=1),
    "rmsprop_epsilon": Setting(0.1, "added to the mean square inside the root; paper: 0.1", above=0),
}
ADAM = {
    "adam_beta1": Setting(0.9, "weight of the old mean gradient; not in the paper", least=0, below=1),
    "adam_beta2": Setting(0.999, "weight of the old mean square; not in the paper", least=0, below=1),
    "adam_epsilon": Setting(1e-8, "added to the root of the mean square; not in the paper", above=0),
}
OPTIMISERS = {
    "momentum_sgd": Rule(_momentum_sgd, MOMENTUM, ("m",), shared=False),
    "rmsprop": Rule(_rmsprop, RMSPROP, ("g",), shared=False),
    "shared_rmsprop": Rule(_rmsprop, RMSPROP, ("g",), shared=True),
    "shared_adam": Rule(_adam, ADAM, ("m", "v"), shared=True),
    "shared_radam": Rule(_radam, ADAM, ("m", "v"), shared=True),
}
