"""What a policy does with the outputs of a network: sample, log-probability, entropy, and their gradients.

A Gaussian policy has two outputs for each part of an action, independent of the others: its mean, and a number s whose
softplus is its variance (Mnih et al., 2016, section 9). It acts in units of the action space: `command` turns them into
the space's own.
"""

import math

import numpy as np

from nbrl import numpy_policy
from nbrl.kernels.compile import jit

CENTRE, HALF, LOW, HIGH = range(4)  # rows of the bounds of an action space, float32 (4, parts)
SMALLEST_VARIANCE = np.float32(numpy_policy.SMALLEST_VARIANCE)
LOG_2_PI = np.float32(math.log(2 * math.pi))


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


def action_bounds(low: np.ndarray | None, high: np.ndarray | None) -> np.ndarray:
    """What `command` needs, float32 (4, parts): -1 and 1 become the bounds of a part that has two; others stay.

    Discrete actions have no bounds: None, and no parts.
    """
    if low is None or high is None:
        return np.zeros((4, 0), np.float32)
    low, high = low.astype(np.float64).reshape(-1), high.astype(np.float64).reshape(-1)
    bounded = np.isfinite(low) & np.isfinite(high)
    from_, to = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return np.stack([(from_ + to) / 2, (to - from_) / 2, low, high]).astype(np.float32)


@jit
def command(bounds, action, sent):
    """Fill `sent` (parts,) with an action in the action space's own units, clipped to it."""
    for i in range(sent.size):
        sent[i] = min(max(bounds[CENTRE, i] + bounds[HALF, i] * action[i], bounds[LOW, i]), bounds[HIGH, i])


@jit
def variance(s):
    """softplus(s), which is never 0, and its slope."""
    exponential = np.float32(math.exp(-abs(s)))
    one = np.float32(1.0)
    slope = one / (one + exponential) if s > 0 else exponential / (one + exponential)
    return max(s, np.float32(0.0)) + np.float32(math.log1p(exponential)) + SMALLEST_VARIANCE, slope


def before_softplus(deviation: float) -> float:
    """The s whose variance is the square of a deviation, which is above the root of the smallest variance."""
    return math.log(math.expm1(deviation * deviation - float(SMALLEST_VARIANCE)))


@jit
def gaussian_sample(mean, s, noise, action):
    """Fill `action` (parts,) from independent standard normal numbers (parts,)."""
    for i in range(action.size):
        action[i] = mean[i] + math.sqrt(variance(s[i])[0]) * noise[i]


@jit
def gaussian_gradient(mean, s, action, advantage, entropy_weight, dmean, ds):
    """Gradient of ``-log pi(action) * advantage - entropy_weight * H(pi)`` with respect to the mean and s.

    Fills dmean and ds (parts,); returns log pi(action), in the policy's units, and the entropy H in nats.
    """
    log_pi, entropy, half = np.float32(0.0), np.float32(0.0), np.float32(0.5)
    for i in range(action.size):
        v, slope = variance(s[i])
        difference = action[i] - mean[i]
        squared = difference * difference / v
        log_v = np.float32(math.log(v))
        log_pi -= half * (squared + LOG_2_PI + log_v)
        entropy += half * (LOG_2_PI + log_v + np.float32(1.0))
        dmean[i] = -advantage * difference / v
        ds[i] = half / v * (advantage * (np.float32(1.0) - squared) - entropy_weight) * slope
    return log_pi, entropy
