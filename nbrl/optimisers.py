"""Update rules: each is one loop over flat float32 arrays. theta is shared by several threads without locks.

The statistics are shared as well, or each group of actors has its own: Mnih et al. (2016), section 4, compares the two.

theta is what is learnt, d its gradient of one rollout, times `scale` (the clip). A thread reads and writes elements
that others read and write at the same time; a lost update of one element now and then is the bargain of Hogwild.
"""

import math
from typing import NamedTuple

import numpy as np

from nbrl.kernels.compile import jit

MOMENTUM_SGD, RMSPROP, ADAM = 0, 1, 2


class Optimiser(NamedTuple):
    """An optimiser's update rule, whose statistics, one flat array each, and whether all threads share them."""

    rule: int
    statistics: tuple[str, ...]
    shared: bool


OPTIMISERS = {
    "momentum_sgd": Optimiser(MOMENTUM_SGD, ("m",), shared=False),
    "rmsprop": Optimiser(RMSPROP, ("g",), shared=False),
    "shared_rmsprop": Optimiser(RMSPROP, ("g",), shared=True),
    "shared_adam": Optimiser(ADAM, ("m", "v"), shared=True),
}


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
