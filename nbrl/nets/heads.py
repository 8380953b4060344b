"""What a policy does with the outputs of a network: sample, log-probability, entropy, and their gradients."""

import math

import numpy as np

from nbrl.kernels.compile import jit


@jit
def softmax(logits, probabilities):
    """Fill `probabilities` (n,) from `logits` (n,); the log of the sum of their exponentials."""
    highest = logits[0]
    for i in range(1, logits.size):
        highest = max(highest, logits[i])
    total = np.float32(0.0)
    for i in range(logits.size):
        probabilities[i] = math.exp(logits[i] - highest)
        total += probabilities[i]
    for i in range(logits.size):
        probabilities[i] /= total
    return highest + np.float32(math.log(total))


@jit
def categorical_sample(logits, u):
    """An action drawn from softmax(logits) by inversion of a number u, uniform in [0, 1)."""
    highest = logits[0]
    for i in range(1, logits.size):
        highest = max(highest, logits[i])
    total = 0.0  # sums in float64: in float32, u could round up to 1 and draw an action of no probability
    for i in range(logits.size):
        total += np.float64(math.exp(logits[i] - highest))
    left, drawn = u * total, 0
    for i in range(logits.size):
        weight = np.float64(math.exp(logits[i] - highest))
        if weight > 0:
            drawn = i
            left -= weight
            if left < 0:
                break
    return drawn


@jit
def argmax(values):
    """The index of the largest value, the first of equals."""
    best = 0
    for i in range(1, values.size):
        if values[i] > values[best]:
            best = i
    return best


@jit
def epsilon_greedy(values, epsilon, u):
    """The action of the largest value, or with probability epsilon any: by one number u, uniform in [0, 1)."""
    if u < epsilon:
        return min(int(u / epsilon * values.size), values.size - 1)
    return argmax(values)


@jit
def q_gradient(values, action, target, dvalues):
    """Gradient of ``(target - values[action])**2 / 2`` with respect to the values (n,): fills dvalues; the loss."""
    error = target - values[action]
    dvalues[:] = 0
    dvalues[action] = -error
    return error * error / 2


@jit
def categorical_gradient(logits, action, advantage, entropy_weight, dlogits):
    """Gradient of ``-log pi(action) * advantage - entropy_weight * H(pi)`` with respect to the logits.

    Fills dlogits (n,); returns log pi(action) and the entropy H in nats. With p = softmax(logits):
    d(-log p_a)/dz_i = p_i - [i = a], and d(-H)/dz_i = p_i (log p_i + H).
    """
    log_total = softmax(logits, dlogits)
    entropy = np.float32(0.0)
    for i in range(logits.size):
        entropy -= dlogits[i] * (logits[i] - log_total)
    for i in range(logits.size):
        p, log_p = dlogits[i], logits[i] - log_total
        dlogits[i] = p * advantage + entropy_weight * p * (log_p + entropy)
    dlogits[action] -= advantage
    return logits[action] - log_total, entropy
