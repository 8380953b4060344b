"""What bonuses that are errors of prediction share: networks that learn what follows, and what their errors are worth.

A rollout is taken in chunks of whole steps. Of each the observations are read, those that an episode ended with
included; a bonus's `predict` says how wrong its networks are about each step and fills their gradients; then they are
moved, so that a chunk is judged by what was learnt before it. Networks see an image's newest frame alone, each number
normalised and cut off at CLIP, as by Burda et al. (2019), section 2.4; their layers are the agent's without those that
remember. Parameters, statistics and Adam's are shared by all threads without locks, as theta is.

Errors have no natural size: what is given is a bonus's weight times an error over the deviation of the discounted sum
of errors, which goes on over ends of episodes (section 2.4 there).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numba import float32, float64, int64

from nbrl.bonuses.cells import MIN_SIDE
from nbrl.bonuses.giving import give
from nbrl.kernels.compile import generic, jit
from nbrl.kernels.native import address_at, atomic_add, call_routine, copy
from nbrl.kernels.struct import reference
from nbrl.methods.optimisers import OPTIMISERS, Optimiser, gradient_norm
from nbrl.methods.running_statistics import COUNT, M2, MEAN, ROWS, measure, merge, scale_of
from nbrl.methods.state import LINE, Bonus
from nbrl.nets.layers import Gru, Lstm
from nbrl.nets.layout import aligned_zeros
from nbrl.nets.network import Network
from nbrl.nets.table import load_observation, observations
from nbrl.settings import Setting
from nbrl.spaces import Observations

CHUNK = 256  # samples, unless one step of a group has more
CLIP = np.float32(5.0)
DISCOUNT = 0.99  # of the sum of errors
LEAST_SEEN = 1000  # observations, before statistics are good enough to learn by
FEATURES = 128  # numbers that stand for an observation
NONE, SEEN, BROKEN = range(-1, 2)  # of `PredictionBonus.end`; NONE of `following` as well
ADAM = OPTIMISERS["shared_adam"]


class PredictionBonus(Bonus):
    """What they have, for a chunk of at most `steps` steps of a group of k actors."""

    bonus_learning_rate = Setting(
        1e-3, "learning rate of rnd, icm and novelty, by Adam with the settings adam_*; not in the paper", above=0
    )
    theta = float32[::1]  # (parameters,): shared
    moments = float64[:, ::1]  # (ROWS, size + 1): of each number seen, and of the discounted sum of errors; shared
    adam = float32[:, :, ::1]  # (1, 2, parameters): shared
    updates = int64[::1]  # (LINE,): shared
    optimiser = reference(Optimiser)
    own_theta = float32[::1]  # (parameters,): theta', of which each network's are a part
    discounted = float64[::1]  # (n,): sum of each actor's errors so far
    taken = int64[::1]  # (size,): the numbers of the agent's observation that it sees
    steps = int64  # of a chunk, at most
    end = int64[::1]  # (samples of a rollout,): whether an episode ended there: NONE, SEEN, or BROKEN if not finite
    ends = float32[:, ::1]  # (samples of a rollout, size): what it ended with
    seen = float64[:, ::1]  # (ROWS, size + 1): the chunk's moments
    following = int64[::1]  # (samples of a chunk,): the row that a sample led to, NONE where nothing is known of it
    error = float64[::1]  # (samples of a chunk,)

    @classmethod
    def networks(cls, config: Any, environment: Any) -> dict[str, Network]:
        """Its networks that learn, by name."""
        raise NotImplementedError

    @classmethod
    def parameters(cls, config: Any, environment: Any) -> int:
        return sum(network.layout.size for network in cls.networks(config, environment).values())

    @classmethod
    def shared_arrays(cls, config: Any, environment: Any, theta: np.ndarray) -> dict[str, np.ndarray]:
        networks, at = cls.networks(config, environment), 0
        for number, network in enumerate(networks.values(), start=1):
            theta[at : at + network.layout.size] = network.initial((config.seed or 0) + number, "orthogonal")
            at += network.layout.size
        size = seen_by(environment.observations)[0].size
        return {
            "theta": theta,
            "moments": np.zeros((ROWS, size + 1)),
            "adam": np.zeros((1, len(ADAM.statistics), theta.size), np.float32),
            "updates": np.zeros(LINE, np.int64),
        }

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        config, theta = learner.config, shared["theta"]
        seen, taken = seen_by(learner.environment.observations)
        steps, k = min(config.rollout_length, max(CHUNK // learner.group_size, 1)), learner.group_size
        own_theta, dtheta, at = *(aligned_zeros(theta.size, np.float32) for _ in range(2)), 0
        workspaces = {}
        for name, network in cls.networks(config, learner.environment).items():
            place = slice(at, at + network.layout.size)
            work = network.workspace((2 * steps + 1) * k)  # what was seen before each step, and after each if all end
            workspaces[name] = work.replace(theta=own_theta[place], dtheta=dtheta[place])
            at += network.layout.size
        samples = config.rollout_length * k
        return workspaces | {
            "optimiser": ADAM.optimiser(theta, shared["adam"], dtheta, config),
            "own_theta": own_theta,
            "discounted": np.zeros(actors),
            "taken": taken,
            "steps": steps,
            "ends": np.zeros((samples, seen.size), np.float32),
            "end": np.full(samples, NONE),
            "seen": np.zeros((ROWS, seen.size + 1)),
            "following": np.zeros(steps * k, np.int64),
            "error": np.zeros(steps * k),
        }

    def kept(self) -> dict[str, np.ndarray]:
        return {"discounted": self.discounted}

    @staticmethod
    def is_possible(field: str, array: np.ndarray) -> bool:
        none = slice(0)
        parts: Mapping[str, Any] = {
            "moments": [COUNT, M2],
            "adam": (slice(None), 1),
            "theta": none,
            "target_theta": none,
        }
        positive = array[parts[field]] if field in parts else array
        return bool(np.isfinite(array).all() and (positive >= 0).all())


def seen_by(given: Observations) -> tuple[Observations, np.ndarray]:
    """What a bonus's networks see of an observation, float32, and the places of its numbers there, int64 (size,)."""
    if not given.image:
        return Observations.vector(given.size), np.arange(given.size)
    channels = given.newest if min(given.height, given.width) >= MIN_SIDE else given.channels
    row, column, channel = given.strides or (0, 0, 0)
    places = (
        np.arange(given.height)[:, None, None] * row
        + np.arange(given.width)[:, None] * column
        + np.arange(given.channels - channels, given.channels) * channel
    )
    return Observations(spaces.Box(0.0, 1.0, places.shape, np.float32), "HWC"), places.reshape(-1)


def encoder(config: Any, environment: Any, further: tuple[Any, ...] = ()) -> Network:
    """A network from what is seen to FEATURES numbers, of the agent's layers and more; its head is "features"."""
    layers = (*(layer for layer in config.network if not isinstance(layer, Lstm | Gru)), *further)
    return Network(layers, seen_by(environment.observations)[0], {"features": FEATURES})


@generic
def predict(bonus, begin, rows, samples):
    """Fill `bonus.error` of the samples of a chunk that begins at a step, and the gradients of what is learnt.

    The network that sees has read `rows` rows.
    """


@jit
def see(bonus, t, i, actor):
    """Keep what a step of an actor led to, if the episode ended there: the rollout goes on with another's first."""
    rollout, work = bonus.rollout, bonus.work
    sample, free = t * rollout.reward.shape[1] + i, rollout.reward.size
    bonus.end[sample] = NONE
    if rollout.ended[t, i]:
        # Scaled and normalised as the agent's network reads it, where what is seen last will stand.
        finite = load_observation(work, free, bonus.actors.observation[actor])
        gather(bonus, work, free, bonus.ends[sample])
        bonus.end[sample] = SEEN if finite else BROKEN


@jit
def gather(bonus, work, sample, row):
    """Fill a row with the numbers that are taken of a sample of the agent's workspace."""
    x = observations(work, sample, 1)[0]
    for j in range(row.size):
        row[j] = x[bonus.taken[j]]


@jit
def learn(bonus, net, first, weight, apart):
    """Give a group's steps of a rollout their bonuses, and learn from them; `net` is the one that sees."""
    t_max, k = bonus.rollout.reward.shape
    for begin in range(0, t_max, bonus.steps):
        steps = min(bonus.steps, t_max - begin)
        rows = _read(bonus, net, begin, steps)
        if bonus.moments[COUNT, 0] < LEAST_SEEN:
            continue
        copy(bonus.own_theta, bonus.theta)  # theta' = theta
        predict(bonus, begin, rows, steps * k)
        for j in range(steps * k):
            if bonus.following[j] != NONE:
                actor = first + j % k
                bonus.discounted[actor] = DISCOUNT * bonus.discounted[actor] + bonus.error[j]
                measure(bonus.moments, bonus.taken.size, bonus.discounted[actor])
        scale = weight * scale_of(bonus.moments, bonus.taken.size)
        for j in range(steps * k):
            known = bonus.following[j] != NONE
            if known or apart:
                give(bonus, begin + j // k, j % k, scale * bonus.error[j] if known else 0.0, apart)
        optimiser = bonus.optimiser
        if np.isfinite(gradient_norm(optimiser.d)):
            optimiser.learning_rate = bonus.bonus_learning_rate
            optimiser.count = atomic_add(address_at(bonus.updates, 0), 1) + 1
            call_routine(optimiser.rule, optimiser, 0, 0, 0, 0, 0)


@jit
def _read(bonus, net, begin, steps):
    """Read what was seen in a chunk of steps, and note which row each sample led to: how many rows there are.

    Row j is sample j, the k behind them what came after the last step; then come ends of episodes.
    """
    work, k = bonus.work, bonus.rollout.reward.shape[1]
    rows = (steps + 1) * k
    for j in range(rows):
        gather(bonus, work, begin * k + j, observations(net, j, 1)[0])
    for j in range(steps * k):
        sample = begin * k + j
        if work.void[sample] or bonus.end[sample] == BROKEN:
            bonus.following[j] = NONE
        elif bonus.end[sample] == NONE:
            bonus.following[j] = j + k
        else:
            copy(observations(net, rows, 1)[0], bonus.ends[sample])
            bonus.following[j] = rows
            rows += 1
    _normalise(bonus, observations(net, 0, rows))
    return rows


@jit
def _normalise(bonus, x):
    """Add rows to the moments of each number, and normalise them by these."""
    rows, size, seen = x.shape[0], x.shape[1], bonus.seen
    for j in range(size):
        seen[COUNT, j], seen[MEAN, j], seen[M2, j] = rows, 0, 0
    for row in range(rows):
        for j in range(size):
            seen[MEAN, j] += x[row, j]
    for j in range(size):
        seen[MEAN, j] /= rows
    for row in range(rows):
        for j in range(size):
            difference = x[row, j] - seen[MEAN, j]
            seen[M2, j] += difference * difference
    merge(bonus.moments, seen)
    for j in range(size):
        seen[M2, j] = scale_of(bonus.moments, j)
    for row in range(rows):
        for j in range(size):
            x[row, j] = min(max(np.float32((x[row, j] - bonus.moments[MEAN, j]) * seen[M2, j]), -CLIP), CLIP)
