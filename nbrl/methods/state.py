"""What a run's threads work on, a class for each owner, its maker beside its fields.

A worker is one thread. It serves its n actors in groups of k in lockstep (k = 1 is the paper), one rollout of t_max
steps a group in turn. Sample number t * k + i of its workspace is step t of the group's actor i.

Where the environment has several agents, each is an actor, and those of one environment stand one behind the other.
"""

from typing import Any, ClassVar

import numpy as np
from numba import boolean, float32, float64, int32, int64, uint8, uint64

from nbrl.kernels.random import ROW, seed_row
from nbrl.kernels.struct import Struct, reference
from nbrl.methods.optimisers import Optimiser
from nbrl.methods.running_statistics import ROWS, RunningStatistics
from nbrl.nets.layout import aligned_zeros
from nbrl.nets.table import Workspace
from nbrl.settings import Setting
from nbrl.spaces import PRESENT

# Values of the control word.
RUN, PARK, ABANDON = 0, 1, 2  # go on; return at the next rollout's start; return from inside a rollout, uncounted

LINE = 8  # int64 in a cache line

# What a worker is doing, for who wonders why it does not go on.
RESETS, STEPS, LEARNS = range(3)
DOING = ("the reset of its environment", "a step of its environment", "learning")

# Columns of `Worker.sums`, each a sum over updates, samples or steps since the start; a method's own metrics follow.
UPDATES, SAMPLES, GRADIENT_NORM, BONUS, METRICS = range(5)

# `Episodes.ends`: episodes ever written, ever read, ever dropped; each in a cache line of its own.
WRITTEN, READ, DROPPED = 0, LINE, 2 * LINE
RING_SIZE = 4096
# Columns of an episode's record: NUMBER counts those of its environment. Of several agents RETURN is the mean of
# theirs, which follow from EPISODE on, and ACTOR the first.
RETURN, LENGTH, ACTOR, NUMBER, EPISODE = range(5)


class Shared(Struct):
    """What all threads read and write."""

    flat = float32[::1]  # all that is learnt: theta, and behind it what bonuses learn
    theta = float32[::1]  # (parameters,): its first part
    bonuses = float32[::1]  # its second part
    target = float32[::1]  # (parameters,): theta^-, the target network; empty where a method has none
    target_copies = int64[::1]  # (LINE,): how often it was due
    optimiser = float32[:, :, ::1]  # (1 or groups of actors, 1 or 2, parameters): the optimiser's statistics
    statistics = float64[:, :, :, ::1]  # (threads + 1, 2, ROWS, features): each worker's, last other machines'
    published = int64[:, ::1]  # (threads + 1, LINE): which of the two is whole, see running_statistics.py
    steps = int64[:, ::1]  # (threads, LINE): column 0 is one thread's steps, alone in its cache line
    elsewhere = int64[::1]  # (LINE,): steps by other machines
    updates = int64[::1]  # (LINE,): updates by all threads
    control = int64[::1]  # (LINE,): RUN, PARK or ABANDON

    @classmethod
    def make(
        cls,
        threads: int,
        parameters: int,
        optimiser: tuple[int, int],
        features: int,
        has_target: bool,
        of_bonuses: int = 0,
    ) -> "Shared":
        """For so many threads and parameters; `optimiser` has the first two sizes of its statistics."""
        flat = aligned_zeros(parameters + of_bonuses, np.float32)
        return cls(
            flat=flat,
            theta=flat[:parameters],
            bonuses=flat[parameters:],
            target=aligned_zeros(parameters if has_target else 0, np.float32),
            target_copies=aligned_zeros(LINE, np.int64),
            optimiser=aligned_zeros((*optimiser, parameters), np.float32),
            statistics=aligned_zeros((threads + 1, 2, ROWS, features), np.float64),
            published=aligned_zeros((threads + 1, LINE), np.int64),
            steps=aligned_zeros((threads, LINE), np.int64),
            elsewhere=aligned_zeros(LINE, np.int64),
            updates=aligned_zeros(LINE, np.int64),
            control=aligned_zeros(LINE, np.int64),
        )


class Actors(Struct):
    """A worker's actors, a row each. Checkpoints hold all of it but the addresses and the count of episodes.

    What is an environment's stands in the row of its first agent: functions and episodes.
    """

    agents = int64  # actors of one environment
    functions = int64[:, ::1]  # (n, 3): addresses of reset, step and state of its environment
    alive = uint8[::1]  # (n,): bits of what it does now, ALIVE, SPEAKS and HEARS
    observation = uint8[:, ::1]  # (n, bytes): what it sees now
    mask = uint8[:, ::1]  # (n, outputs of the policy, or 0): which actions are legal now
    random = uint64[:, ::1]  # (n, 4)
    begun = boolean[::1]  # (n,): whether an episode is going on
    state = float32[:, ::1]  # (n, state_size): what a recurrent network remembers
    next_action = int32[::1]  # (n,): chosen ahead, by Sarsa at the end of a rollout; -1 for none
    discounted = float64[::1]  # (n,): discounted sum of the episode's rewards so far
    episode_return = float64[::1]  # (n,): raw rewards so far
    episode_length = int64[::1]  # (n,)
    episodes = int64[::1]  # (n,): begun since its environment was made

    @classmethod
    def make(
        cls,
        numbers: np.ndarray,
        seed: int,
        *,
        observation_bytes: int,
        mask_size: int,
        state_size: int,
        agents: int = 1,
    ) -> "Actors":
        """Actors of these numbers of the run, each with its random row."""
        n = numbers.size
        random = aligned_zeros((n, ROW), np.uint64)
        for row, actor in zip(random, numbers, strict=True):
            seed_row(row, np.uint64(seed), np.uint64(1 + actor))
        return cls(
            agents=agents,
            functions=np.zeros((n, 3), np.int64),
            alive=np.full(n, PRESENT, np.uint8),
            observation=aligned_zeros((n, observation_bytes), np.uint8),
            mask=np.ones((n, mask_size), np.uint8),
            random=random,
            begun=np.zeros(n, np.bool_),
            state=np.zeros((n, state_size), np.float32),
            next_action=np.full(n, -1, np.int32),
            discounted=np.zeros(n),
            episode_return=np.zeros(n),
            episode_length=np.zeros(n, np.int64),
            episodes=np.zeros(n, np.int64),
        )

    def kept(self) -> dict[str, np.ndarray]:
        """What checkpoints hold, a row for each actor."""
        absent = {"functions", "episodes"} | (set() if self.mask.size else {"mask"})
        absent |= {"alive"} if self.agents == 1 else set()
        return {name: rows for name, rows in self.arrays().items() if name not in absent}


class Rollout(Struct):
    """What the t_max steps of a group gave; the actions are the policy's. R is what `returns` makes of it."""

    reward = float32[:, ::1]  # (t_max, k): as learning sees it
    discount = float32[:, ::1]  # 0 where the return is cut
    ended = boolean[:, ::1]  # the episode's last step
    truncated = boolean[:, ::1]  # ended, but not terminated
    end_value = float32[:, ::1]  # value of the last observation where truncated; elsewhere its weight is 0
    value = float32[:, ::1]  # of what was seen at each step, where the return needs it
    R = float32[:, ::1]  # the return
    bonus = float32[:, ::1]  # what is new, where it has a value of its own
    bonus_R = float32[:, ::1]  # its return
    bonus_advantage = float32[:, ::1]  # that over its value; 0 where it has none
    mask = uint8[:, ::1]  # ((t_max + 1) k, outputs of the policy, or 0): which actions were legal at each sample

    @classmethod
    def make(cls, t_max: int, k: int, mask_size: int) -> "Rollout":
        """For t_max steps of k actors."""
        flags, names = {"ended", "truncated"}, [name for name in cls.names() if name != "mask"]
        return cls(
            mask=np.zeros(((t_max + 1) * k, mask_size), np.uint8),
            **{name: np.zeros((t_max, k), np.bool_ if name in flags else np.float32) for name in names},
        )


class Episodes(Struct):
    """Finished episodes on their way out, a ring that one thread writes and another reads."""

    ring = float64[:, ::1]  # (RING_SIZE, EPISODE, and more with several agents)
    ends = int64[::1]  # (3 * LINE,): WRITTEN, READ and DROPPED

    @classmethod
    def make(cls, agents: int = 1) -> "Episodes":
        """An empty ring."""
        columns = EPISODE + (agents if agents > 1 else 0)
        return cls(ring=np.zeros((RING_SIZE, columns)), ends=aligned_zeros(3 * LINE, np.int64))

    def take(self) -> np.ndarray:
        """The records that were written since the last call, float64 (episodes, columns)."""
        read, written = int(self.ends[READ]), int(self.ends[WRITTEN])
        records = self.ring[np.arange(read, written) % RING_SIZE]
        self.ends[READ] = written
        return records


class Configured(Struct):
    """A struct whose class declares settings of its own, as attributes that are a `Setting`.

    Attributes
    ----------
    settings : dict of str to Setting
        Its own, and those of its bases.
    """

    settings: ClassVar[dict[str, Setting]] = {}

    def __init_subclass__(cls) -> None:
        cls.settings = cls.settings | {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}
        super().__init_subclass__()


class Bonus(Configured):
    """What a worker's steps are given for what is new besides their rewards: a kind is a file of `nbrl.bonuses`.

    Attributes
    ----------
    has_value : bool
        Whether it is learnt apart from rewards, by a value of its own, where the method has one.
    """

    see = int64  # the address of what it does with a step (t, i, actor); 0 for nothing
    learn = int64  # of what it does with a rollout of the group that begins at an actor, before the method learns; or 0
    actors = reference(Actors)
    rollout = reference(Rollout)
    work = reference(Workspace)  # the worker's, which has what was seen at each step of the rollout
    sums = float64[::1]  # the worker's
    lost = int64[::1]  # (1,): steps whose place found no room in a table

    has_value = False

    @classmethod
    def parameters(cls, config: Any, environment: Any) -> int:
        """How many parameters it learns."""
        return 0

    @classmethod
    def shared_arrays(cls, config: Any, environment: Any, theta: np.ndarray) -> dict[str, np.ndarray]:
        """What all workers write to, by field; `theta` is its part of the flat array of parameters."""
        return {}

    @classmethod
    def own(cls, learner: Any, actors: int, policy: Any, shared: dict[str, np.ndarray]) -> dict[str, Any]:
        """Its addresses and state for a worker with so many actors and this policy, by field."""
        return {}

    def kept(self) -> dict[str, np.ndarray]:
        """What checkpoints hold of its actors, a row for each."""
        return {}

    @staticmethod
    def is_possible(field: str, array: np.ndarray) -> bool:
        """Whether what all workers write to, or what it has of its actors, may be such."""
        return bool((array >= 0).all())


class Worker(Struct):
    """What one thread owns."""

    thread = int64
    turn = int64  # the group whose turn it is
    at = int64  # the actor at hand: the one whose environment failed, or does not return
    doing = int64  # what, of `DOING`
    work = reference(Workspace)
    actors = reference(Actors)
    rollout = reference(Rollout)
    episodes = reference(Episodes)
    statistics = reference(RunningStatistics)
    optimiser = reference(Optimiser)
    bonus = reference(Bonus)
    owners = int64[::1]  # (groups,): each group's row of the optimiser's statistics
    sums = float64[::1]  # (METRICS + the method's own,)
    raw_reward = float32[::1]  # (agents,)
