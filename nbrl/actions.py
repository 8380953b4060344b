"""Kinds of policies, one class each: how a network's outputs become actions, and what an action teaches the network.

A policy acts in units of its own. Discrete actions are numbers from 0; continuous ones are such that a part with two
bounds has them at -1 and 1, and `rescale_action` turns them into the action space's units. Chance is drawn first, into
`noise`, so that one source of random numbers can stand in for another.

    draw(policy, row)                          fill the noise from a random row
    random_action(policy, row, mask, action)   any legal action at random
    mask_outputs(policy, work, sample, mask)   make illegal ones impossible, after `forward`
    choose(policy, work, sample, action)       the action that the noise decides, after `forward`
    most_likely(policy, work, sample, action)  the best one
    to_env(policy, t)                          turn the actions of step t into the environment's units
    env_address(policy, t, i)                  where the environment then finds that of actor i
    policy_gradient(policy, work, sample, action, advantage, entropy_weight)
                                               fill the gradients of the outputs; the log-probability and the entropy

The NumPy twins are in numpy_policy.py, which needs nothing else.
"""

import math
from typing import Any

import numpy as np
from numba import float32, float64, int32, int64

from nbrl import numpy_policy
from nbrl.kernels.compile import generic, jit, part
from nbrl.kernels.native import address_at, copy, span
from nbrl.kernels.random import integer, normal, uniform
from nbrl.kernels.struct import Struct
from nbrl.nets.table import output_gradients, outputs
from nbrl.spaces import Actions

CENTRE, HALF, LOW, HIGH = range(4)  # rows of the bounds of an action space, float32 (4, parts)
MIN_VARIANCE = np.float32(numpy_policy.MIN_VARIANCE)
ILLEGAL = np.float32(-1e30)  # an output; finite, so that 0 times it is 0
LOG_2_PI = np.float32(math.log(2 * math.pi))


class Policy(Struct):
    """What all kinds have; `head` and what it is called are the kind's."""

    noise = float64[::1]  # what chance decides by: uniform in [0, 1), or standard normal
    head = int64  # the table's row of the outputs that actions are chosen by

    heads: tuple[str, ...] = ()  # their names

    def taken(self, t: int, i: int = 0) -> np.ndarray:
        """The parts of actor i's action of step t as the environment got it, int32 or float32 (parts,)."""
        raise NotImplementedError

    @classmethod
    def takes(cls, actions: Actions) -> bool:
        """Whether it is a policy for such actions."""
        raise NotImplementedError


class Discrete(Policy):
    """Policies whose actions are numbers, one for each part."""

    action = int32[:, :, ::1]  # (t_max, k, parts): those of a rollout
    counts = int64[::1]  # (parts,): how many a part has to choose from; the outputs of all lie side by side

    def taken(self, t: int, i: int = 0) -> np.ndarray:
        return self.action[t, i]

    @classmethod
    def make(cls, head: int, shape: tuple[int, int], actions: Actions, **more: Any) -> "Discrete":
        """For (t_max, k) actions chosen by the outputs in a row of the table."""
        parts = len(actions.counts)
        action, counts = np.zeros((*shape, parts), np.int32), np.array(actions.counts, np.int64)
        return cls(noise=np.zeros(parts), head=head, action=action, counts=counts, **more)

    @classmethod
    def takes(cls, actions: Actions) -> bool:
        return actions.discrete


class Continuous(Policy):
    """Policies whose actions are float32 vectors."""

    action = float32[:, :, ::1]  # (t_max, k, parts): those of a rollout
    bounds = float32[:, ::1]  # (4, parts): of the action space
    env_action = float32[:, ::1]  # (k, parts): those of the last step in the action space's units

    def taken(self, t: int, i: int = 0) -> np.ndarray:
        return self.env_action[i]

    @classmethod
    def make(cls, head: int, shape: tuple[int, int], actions: Actions, **more: Any) -> "Continuous":
        """For (t_max, k) actions chosen by the outputs in a row of the table."""
        parts = actions.parts
        return cls(
            noise=np.zeros(parts),
            head=head,
            action=np.zeros((*shape, parts), np.float32),
            bounds=actions.bounds,
            env_action=np.zeros((shape[1], parts), np.float32),
            **more,
        )

    @classmethod
    def takes(cls, actions: Actions) -> bool:
        return not actions.discrete


class Categorical(Discrete):
    """Each part of an action by the softmax of its logits, independent of the others."""

    heads = ("policy",)


class EpsilonGreedy(Discrete):
    """The action of the largest value, or with probability `epsilon` any; of one part."""

    heads = ("q",)
    epsilon = float64

    @classmethod
    def takes(cls, actions: Actions) -> bool:
        return len(actions.counts) == 1


class Gaussian(Continuous):
    """Parts independent of each other: the head is their means, the one after it numbers s whose softplus is the
    variance (Mnih et al., 2016, section 9)."""

    heads = ("mean", "variance")


class Deterministic(Continuous):
    """The head is the action."""

    heads = ("action",)


@generic
def draw(policy, row):
    """Fill the policy's noise from a random row."""


@generic
def random_action(policy, row, mask, action):
    """Fill `action` with any legal action at random, whatever a network says."""


@generic
def any_legal(policy, mask):
    """Whether each part of an action has a legal number; an empty mask says that all are."""


@generic
def mask_outputs(policy, work, sample, mask):
    """Make a sample's outputs of illegal actions ILLEGAL, after `forward`.

    `mask` (outputs,) is 1 for legal ones; an empty one says that all are. Softmax gives such outputs a probability of
    0, and their gradient is 0; they are no maxima.
    """


@generic
def choose(policy, work, sample, action):
    """Fill `action` with the one that the noise decides for a sample, after `forward`."""


@generic
def most_likely(policy, work, sample, action):
    """Fill `action` with the best one for a sample, after `forward`."""


@generic
def to_env(policy, t):
    """Turn the actions of step t, one for each actor of the group, into the environment's units."""


@generic
def env_address(policy, t, i):
    """Where the environment finds the action of actor i, after `to_env`; those of the actors after it follow there."""


@generic
def policy_gradient(policy, work, sample, action, advantage, entropy_weight):
    """Gradient of ``-log pi(action) * advantage - entropy_weight * H(pi)`` with respect to a sample's outputs.

    Returns log pi(action), of a continuous action in the policy's units, and the entropy H in nats.
    """


# Discrete actions


@part(draw, Discrete)
def _draw_uniform(policy, row):
    for i in range(policy.noise.size):
        policy.noise[i] = uniform(row)


@part(random_action, Discrete)
def _draw_number(policy, row, mask, action):
    at = 0
    for i in range(action.size):
        action[i] = integer(row, policy.counts[i])
        while mask.size and not mask[at + action[i]]:
            action[i] = integer(row, policy.counts[i])
        at += policy.counts[i]


@part(any_legal, Discrete)
def _any_legal_number(policy, mask):
    at = 0
    for i in range(policy.counts.size if mask.size else 0):
        legal = 0
        for j in range(at, at + policy.counts[i]):
            legal += mask[j] != 0
        if legal == 0:
            return False
        at += policy.counts[i]
    return True


@part(mask_outputs, Discrete)
def _mask_discrete(policy, work, sample, mask):
    values = outputs(work, policy.head, sample, 1)[0]
    for j in range(mask.size):
        if not mask[j]:
            values[j] = ILLEGAL


@part(most_likely, Discrete)
def _most_likely_discrete(policy, work, sample, action):
    values, at = outputs(work, policy.head, sample, 1)[0], 0
    for i in range(action.size):
        action[i] = argmax(span(values, at, policy.counts[i]))
        at += policy.counts[i]


@part(to_env, Discrete)
def _as_they_are(policy, t):
    pass


@part(env_address, Discrete)
def _discrete_address(policy, t, i):
    return address_at(policy.action[t, i], 0)


@part(choose, Categorical)
def _choose_categorical(policy, work, sample, action):
    logits, at = outputs(work, policy.head, sample, 1)[0], 0
    for i in range(action.size):
        action[i] = categorical_sample(span(logits, at, policy.counts[i]), policy.noise[i])
        at += policy.counts[i]


@part(policy_gradient, Categorical)
def _categorical_policy_gradient(policy, work, sample, action, advantage, entropy_weight):
    logits, dlogits = outputs(work, policy.head, sample, 1)[0], output_gradients(work, policy.head, sample, 1)[0]
    log_pi, entropy, at = np.float32(0.0), np.float32(0.0), 0
    for i in range(action.size):
        n = policy.counts[i]
        part_log_pi, part_entropy = categorical_gradient(
            span(logits, at, n), action[i], advantage, entropy_weight, span(dlogits, at, n)
        )
        log_pi, entropy, at = log_pi + part_log_pi, entropy + part_entropy, at + n
    return log_pi, entropy


@part(choose, EpsilonGreedy)
def _choose_epsilon_greedy(policy, work, sample, action):
    action[0] = epsilon_greedy(outputs(work, policy.head, sample, 1)[0], policy.epsilon, policy.noise[0])


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
    """The action of the largest value, or with probability epsilon any legal: by one number u, uniform in [0, 1)."""
    if u >= epsilon:
        return argmax(values)
    legal = 0
    for i in range(values.size):
        legal += values[i] > ILLEGAL
    left = min(int(u / epsilon * legal), legal - 1)
    for i in range(values.size):
        if values[i] > ILLEGAL:
            if left == 0:
                return i
            left -= 1
    return 0  # which is never reached: values are finite


@jit
def q_gradient(values, action, target, dvalues):
    """Gradient of ``(target - values[action])**2 / 2`` with respect to the values (n,): fills dvalues; the loss."""
    error = target - values[action]
    for i in range(dvalues.size):
        dvalues[i] = 0
    dvalues[action] = -error
    return error * error / 2


@jit
def categorical_gradient(logits, action, advantage, entropy_weight, dlogits):
    """`policy_gradient` of softmax(logits), which fills dlogits (n,).

    With p = softmax(logits): d(-log p_a)/dz_i = p_i - [i = a], and d(-H)/dz_i = p_i (log p_i + H).
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


# Continuous actions


@part(to_env, Continuous)
def _rescaled(policy, t):
    for i in range(policy.env_action.shape[0]):
        rescale_action(policy.bounds, policy.action[t, i], policy.env_action[i])


@part(env_address, Continuous)
def _continuous_address(policy, t, i):
    return address_at(policy.env_action[i], 0)


@part(any_legal, Continuous)
def _always_legal(policy, mask):
    return True


@part(mask_outputs, Continuous)
def _mask_nothing(policy, work, sample, mask):
    pass


@part(random_action, Continuous)
def _draw_vector(policy, row, mask, action):
    for i in range(action.size):
        action[i] = normal(row)


@part(draw, Gaussian)
def _draw_normal(policy, row):
    for i in range(policy.noise.size):
        policy.noise[i] = normal(row)


@part(choose, Gaussian)
def _choose_gaussian(policy, work, sample, action):
    mean, s = outputs(work, policy.head, sample, 1)[0], outputs(work, policy.head + 1, sample, 1)[0]
    gaussian_sample(mean, s, policy.noise, action)


@part(policy_gradient, Gaussian)
def _gaussian_policy_gradient(policy, work, sample, action, advantage, entropy_weight):
    mean, s = outputs(work, policy.head, sample, 1)[0], outputs(work, policy.head + 1, sample, 1)[0]
    dmean = output_gradients(work, policy.head, sample, 1)[0]
    ds = output_gradients(work, policy.head + 1, sample, 1)[0]
    return gaussian_gradient(mean, s, action, advantage, entropy_weight, dmean, ds)


@part(draw, Deterministic)
def _draw_nothing(policy, row):
    pass


@part(most_likely, Continuous)
@part(choose, Deterministic)
def _head_itself(policy, work, sample, action):
    copy(action, outputs(work, policy.head, sample, 1)[0])


@jit
def rescale_action(bounds, action, env_action):
    """Fill `env_action` (parts,) with an action in the action space's own units, clipped to it."""
    for i in range(env_action.size):
        env_action[i] = min(max(bounds[CENTRE, i] + bounds[HALF, i] * action[i], bounds[LOW, i]), bounds[HIGH, i])


@jit
def variance(s):
    """softplus(s), which is never 0, and its slope."""
    exponential = np.float32(math.exp(-abs(s)))
    one = np.float32(1.0)
    slope = one / (one + exponential) if s > 0 else exponential / (one + exponential)
    return max(s, np.float32(0.0)) + np.float32(math.log1p(exponential)) + MIN_VARIANCE, slope


def before_softplus(std: float) -> float:
    """The s whose variance is the square of a standard deviation, which is above the root of the least variance."""
    return math.log(math.expm1(std * std - float(MIN_VARIANCE)))


@jit
def gaussian_sample(mean, s, noise, action):
    """Fill `action` (parts,) from independent standard normal numbers (parts,)."""
    for i in range(action.size):
        action[i] = mean[i] + math.sqrt(variance(s[i])[0]) * np.float32(noise[i])


@jit
def gaussian_gradient(mean, s, action, advantage, entropy_weight, dmean, ds):
    """`policy_gradient` with respect to the mean and s, which fills dmean and ds (parts,)."""
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
