"""What a run learns with: the shared arrays, what each worker owns, and how they are saved. No threads.

`nbrl.trainer` runs the method's loop over these in threads of its own.
"""

import dataclasses
import importlib
import logging
import math
import os
import secrets
from typing import Any

import numpy as np

from nbrl import envs
from nbrl.agent import Agent, Preprocessing
from nbrl.checkpoint import CheckpointError, read_tensors
from nbrl.config import Config
from nbrl.envs.interface import Instance
from nbrl.kernels.random import ROW, seed_row
from nbrl.methods import rollout
from nbrl.methods.dpg import noise_scale
from nbrl.methods.normalisation import AVERAGE, COUNT, ROWS, SMALLEST, SQUARES, fill_normal, merge
from nbrl.methods.q_values import final_epsilon
from nbrl.methods.replay import contents, new_replay, refill
from nbrl.methods.rollout import Settings, Shared, Worker
from nbrl.nets.heads import action_bounds, before_softplus
from nbrl.nets.layout import aligned_zeros
from nbrl.nets.network import Network
from nbrl.nets.workspace import MEAN, SCALE
from nbrl.optimisers import OPTIMISERS

logger = logging.getLogger(__name__)

KNOWN = 10_000  # observations that the means and deviations of a policy to begin with count for

# What each actor has in `Worker` that checkpoints keep.
PER_ACTOR = ("random", "begun", "observation", "episode_return", "episode_length", "state", "next_action", "discounted")


class Learner:
    """The arrays of one run, built from its settings.

    Parameters
    ----------
    config : Config
        Without a seed it is given one.
    environment : str, callable or Environment, optional
        By default the one named in `config`.

    Attributes
    ----------
    config : Config
    environment : Environment
    network : Network
    shared : Shared
        What all threads read and write.
    workers : list of Worker
        What each thread owns.
    actors : list of numpy.ndarray
        The numbers of each worker's actors: groups of `lockstep` are dealt to the threads in turn.
    remembers : bool
        Whether it learns from a replay memory.
    instances : list of list of Instance
        The running environments of each worker's actors, once they are attached.
    method : module
        As `nbrl.methods.rollout` describes: ``method.loop(shared, worker, settings, rollouts)`` returns a code.

    Raises
    ------
    ValueError
        A setting or an environment that cannot be used, in one sentence.
    """

    def __init__(self, config: Config, environment: Any = None) -> None:
        self.config = config = dataclasses.replace(
            config, seed=secrets.randbits(63) if config.seed is None else config.seed
        )
        self.environment = envs.make(
            config.environment if environment is None else environment,
            sticky_actions=config.sticky_actions,
            cut_on_life_loss=config.cut_on_life_loss,
        )
        self.method: Any = importlib.import_module(f"nbrl.methods.{config.method}")
        discrete = self.environment.action_count > 0
        names = self.method.HEADS if discrete else self.method.CONTINUOUS_HEADS
        if not names:
            has, takes = ("discrete", "continuous") if discrete else ("continuous", "discrete")
            raise ValueError(
                f"{self.environment.name} has {has} actions: {config.method} takes an environment with {takes} ones"
            )
        if "action" in names and self.environment.kind == "image":
            raise ValueError(f"{config.method} takes vectors, and {self.environment.name} gives images")
        choices = self.environment.action_count if discrete else math.prod(self.environment.action_shape)
        self.network = Network(
            config.network,
            self.environment.observation_shape,
            {name: 1 if name == "value" or (name == "q" and not discrete) else choices for name in names},
            separate=config.separate_networks and "value" in names,
            constant=("variance",) if "variance" in names and config.policy_variance == "constant" else (),
        )
        self.remembers = "action" in names and config.replay_size > 0
        self.bounds = action_bounds(self.environment.action_low, self.environment.action_high)
        self.optimiser = OPTIMISERS[config.optimiser]
        size, groups = self.network.layout.size, np.arange(config.actors).reshape(-1, config.lockstep)
        owners = 1 if self.optimiser.shared else len(groups)
        self.shared = Shared(
            theta=aligned_zeros(size, np.float32),
            target=aligned_zeros(size if self.method.HAS_TARGET else 0, np.float32),
            target_copies=aligned_zeros(rollout.LINE, np.int64),
            moments=aligned_zeros((config.threads, 2, ROWS, self._scales() + 1), np.float64),
            published=aligned_zeros((config.threads, rollout.LINE), np.int64),
            statistics=aligned_zeros((owners, len(self.optimiser.statistics), size), np.float32),
            steps=aligned_zeros((config.threads, rollout.LINE), np.int64),
            updates=aligned_zeros(rollout.LINE, np.int64),
            control=aligned_zeros(rollout.LINE, np.int64),
        )
        theta = self.network.initial(config.seed or 0, config.initialisation)
        if "variance" in names and config.initial_deviation is not None:
            self.network.layout.view(theta, "variance/bias")[...] += before_softplus(config.initial_deviation)
        self._begin(theta)
        clip = math.inf if config.reward_clip is None else config.reward_clip
        values = {name: getattr(config, name) for name in Settings._fields if hasattr(config, name)}
        values |= {"total_steps": config.steps, "optimiser": self.optimiser.rule, "reward_clip": clip}
        values["target_rate"] = config.target_rate or 0.0
        self.settings = Settings(**values)
        self.actors = [groups[thread :: config.threads].reshape(-1) for thread in range(config.threads)]
        self.workers = [self._worker(thread, actors) for thread, actors in enumerate(self.actors)]
        self.instances: list[list[Instance]] = [[] for _ in self.workers]
        self._saved: dict[int, bytes] = {}

    def _scales(self) -> int:
        """How many running means and deviations observations are normalised by: an image's pixels have one alike."""
        if not self.config.normalise_observations:
            return 0
        return 1 if self.environment.kind == "image" else math.prod(self.environment.observation_shape)

    def _begin(self, parameters: np.ndarray) -> None:
        self.shared.theta[:] = parameters
        if self.method.HAS_TARGET:
            self.shared.target[:] = parameters

    def _worker(self, thread: int, actors: np.ndarray) -> Worker:
        config, n, seed = self.config, actors.size, self.config.seed or 0
        t_max, k = config.rollout_length, config.lockstep
        bytes_seen = math.prod(self.environment.observation_shape) * self.environment.observation_dtype.itemsize
        random = aligned_zeros((n, ROW), np.uint64)
        for row, actor in zip(random, actors, strict=True):
            seed_row(row, np.uint64(seed), np.uint64(1 + actor))
        per_step = {"action": np.int32, "reward": np.float32, "discount": np.float32, "ended": np.bool_}
        per_step |= {"truncated": np.bool_, "end_value": np.float32}
        parts = 0 if self.environment.action_count else math.prod(self.environment.action_shape)
        capacity = max((t_max + 1) * k, config.batch_size if self.remembers else 0)
        work = target = self.network.workspace(capacity, scales=self._scales())
        if self.method.HAS_TARGET:
            shared = {"theta": self.shared.target, "dtheta": work.dtheta, "normal": work.normal}
            target = self.network.workspace(capacity)._replace(**shared)
        size = -(-config.replay_size // config.threads) if self.remembers else 0
        numbers = math.prod(self.environment.observation_shape)
        if "action" in self.network.heads:
            exploration = [noise_scale(config.exploration, actor, config.actors) for actor in actors.tolist()]
        else:
            exploration = [final_epsilon(seed, actor) for actor in actors.tolist()]
        return Worker(
            work=work,
            target=target,
            replay=new_replay(size, t_max * k, numbers, parts, config.batch_size),
            thread=thread,
            group=np.zeros(1, np.int64),
            functions=np.zeros((n, 3), np.int64),
            observation=aligned_zeros((n, bytes_seen), np.uint8),
            random=random,
            begun=np.zeros(n, np.bool_),
            state=np.zeros((n, self.network.state_size), np.float32),
            exploration=np.array(exploration),
            next_action=np.full(n, -1, np.int32),
            discounted=np.zeros(n, np.float64),
            moments=np.zeros((ROWS, self._scales() + 1), np.float64),
            total=np.zeros((ROWS, self._scales() + 1), np.float64),
            motion=np.zeros((t_max, k, parts), np.float32),
            noise=np.zeros(parts, np.float32),
            sent=np.zeros(parts, np.float32),
            bounds=self.bounds,
            statistics=np.zeros(n // k, np.int64) if self.optimiser.shared else actors[::k] // k,
            episode_return=np.zeros(n, np.float64),
            episode_length=np.zeros(n, np.int64),
            **{name: np.zeros((t_max, k), dtype) for name, dtype in per_step.items()},
            ring=np.zeros((rollout.RING_SIZE, rollout.EPISODE), np.float64),
            ring_ends=aligned_zeros(3 * rollout.LINE, np.int64),
            sums=np.zeros(rollout.SUMS, np.float64),
            raw_reward=np.zeros(1, np.float32),
            failed=np.zeros(1, np.int64),
        )

    def attach(self, worker: int) -> list[Instance]:
        """Make the environments of one worker's actors; the caller closes them when the worker is done."""
        instances = [self.environment.make() for _ in self.actors[worker]]
        for functions, instance in zip(self.workers[worker].functions, instances, strict=True):
            functions[:] = instance.reset_address, instance.step_address, instance.state_address
        self.instances[worker] = instances
        for instance, actor in zip(instances, self.actors[worker].tolist(), strict=True):
            if actor in self._saved:
                instance.load(self._saved.pop(actor))
        return instances

    @property
    def steps(self) -> int:
        """Agent steps by all workers."""
        return int(self.shared.steps[:, 0].sum())

    def sums(self) -> np.ndarray:
        """Columns of `Worker.sums`, float64, over all workers."""
        return np.sum([worker.sums for worker in self.workers], axis=0)

    def new_episodes(self) -> np.ndarray:
        """The episodes that ended since the last call, float64 (n, EPISODE)."""
        records = [np.zeros((0, rollout.EPISODE))]
        for worker in self.workers:
            read, written = int(worker.ring_ends[rollout.READ]), int(worker.ring_ends[rollout.WRITTEN])
            records.append(worker.ring[np.arange(read, written) % rollout.RING_SIZE])
            worker.ring_ends[rollout.READ] = written
        return np.concatenate(records)

    def dropped_episodes(self) -> int:
        """Episodes whose record was lost, because nobody took the records out."""
        return sum(int(worker.ring_ends[rollout.DROPPED]) for worker in self.workers)

    def agent(self) -> Agent:
        """The policy of this moment."""
        seen = Preprocessing(
            self.config.environment,
            self.environment.observation_shape,
            self.environment.observation_dtype.name,
            self.config.sticky_actions,
            self.environment.action_shape,
        )
        normal = self.network.normal(self._scales())
        fill_normal(self._moments(), normal)
        return Agent(self.network, self.shared.theta, seen, normal=normal, bounds=self.bounds)

    def _moments(self) -> np.ndarray:
        """Running statistics of all workers, float64 (ROWS, features)."""
        total = np.zeros_like(self.workers[0].moments)
        for worker in self.workers:
            merge(total, worker.moments)
        return total

    def snapshot(self, *, with_episodes: bool = True) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """One moment's state, for `checkpoint.write_tensors`: what `Agent` reads, and what training needs besides.

        `with_episodes` is for the moments when no environment is at work: with it, episodes under way are saved where
        the environment can be.
        """
        agent, layout = self.agent(), self.network.layout
        arrays = agent.arrays() | {"moments": self._moments()}
        for name, rows in self._kept().items():
            arrays |= {f"{name}/{part}": view for part, view in layout.views(rows.copy()).items()}
        arrays["turn"] = np.concatenate([worker.group for worker in self.workers])
        for name in PER_ACTOR:
            like = getattr(self.workers[0], name)
            rows = arrays[f"actors/{name}"] = np.zeros((self.config.actors, *like.shape[1:]), like.dtype)
            for worker, actors in zip(self.workers, self.actors, strict=True):
                rows[actors] = getattr(worker, name)
        running = {
            actor: instance
            for instances, actors in zip(self.instances, self.actors, strict=True)
            for instance, actor in zip(instances, actors.tolist(), strict=bool(instances))
        }
        sizes, states = np.zeros(self.config.actors, np.int64), []
        for actor in np.flatnonzero(arrays["actors/begun"]).tolist():
            saved = running[actor].save() if with_episodes and actor in running else None
            if saved is None:  # this episode begins anew
                arrays["actors/begun"][actor] = False
            else:
                sizes[actor] = len(saved)
                states.append(saved)
        arrays |= {"actors/state_size": sizes, "states": np.frombuffer(b"".join(states), np.uint8)}
        if self.remembers and self.config.save_replay:
            kept = [contents(worker.replay, worker.action.size) for worker in self.workers]
            arrays |= {"replay": np.concatenate(kept), "replay_sizes": np.array([len(rows) for rows in kept])}
        counters = {"steps": str(self.steps), "updates": str(int(self.shared.updates[0]))}
        return arrays, agent.metadata() | counters

    def _kept(self) -> dict[str, np.ndarray]:
        """What checkpoints keep in the network's own layout besides theta, float32 (..., layout.size)."""
        kept = {name: self.shared.statistics[:, i] for i, name in enumerate(self.optimiser.statistics)}
        return kept | ({"target": self.shared.target} if self.method.HAS_TARGET else {})

    def begin_from(self, agent: Agent) -> None:
        """Begin with a policy's parameters; ``ValueError`` where its network or observations are others."""
        seen, environment = agent.preprocessing, self.environment
        if (agent.network.layers, agent.network.heads) != (self.network.layers, self.network.heads):
            raise ValueError(
                f"the policy to begin with has the layers {agent.network.layers} and the heads {agent.network.heads}: "
                f"the run has {self.network.layers} and {self.network.heads}"
            )
        if (seen.observation_shape, seen.observation_dtype) != (
            environment.observation_shape, environment.observation_dtype.name
        ):  # fmt: skip
            raise ValueError(
                f"the policy to begin with takes observations of {seen.observation_dtype} with shape "
                f"{seen.observation_shape}, {environment.name} gives {environment.observation_dtype} with shape "
                f"{environment.observation_shape}"
            )
        if agent.network.shapes() != self.network.shapes():
            raise ValueError("the policy to begin with has another separate_networks or policy_variance than the run")
        if agent.normal.shape != self.workers[0].work.normal.shape:
            raise ValueError(
                f"the policy to begin with takes observations {'as they are' if self.normalises else 'normalised'}, "
                f"the run has them {'normalised' if self.normalises else 'as they are'}: set normalise_observations"
            )
        self._begin(agent.parameters)
        if self.normalises:
            moments = self.workers[0].moments[:, :-1]
            variance = 1 / agent.normal[SCALE].astype(np.float64) ** 2 - SMALLEST
            moments[COUNT] = KNOWN * math.prod(environment.observation_shape) // moments.shape[1]  # pixels share one
            moments[AVERAGE], moments[SQUARES] = agent.normal[MEAN], moments[COUNT] * np.maximum(variance, 0)
            self.shared.moments[0, :] = self.workers[0].moments

    @property
    def normalises(self) -> bool:
        """Whether observations are normalised."""
        return self.workers[0].work.normal.size > 0

    def restore(self, path: str | os.PathLike) -> dict[str, str]:
        """Go on from a checkpoint, whose other metadata are returned. Environments are loaded as they are attached.

        Raises
        ------
        CheckpointError
            The file is damaged, or of a run with other settings.
        """
        arrays, metadata = read_tensors(path)
        agent = Agent.from_tensors(arrays, metadata)
        if agent.network.shapes() != self.network.shapes():
            raise CheckpointError(f"{path} holds another network than the run's settings")
        try:
            self.shared.theta[:] = agent.parameters
            for name, rows in self._kept().items():
                for part, view in self.network.layout.views(rows).items():
                    view[...] = _checked(arrays, f"{name}/{part}", view)
                if not np.isfinite(rows).all() or (name in ("g", "v") and (rows < 0).any()):  # means of squares
                    raise ValueError(f"{name} has numbers that it cannot have")
            for name in PER_ACTOR:
                like = getattr(self.workers[0], name)
                shape = (self.config.actors, *like.shape[1:])
                rows = _checked(arrays, f"actors/{name}", np.zeros(shape, like.dtype))
                for worker, actors in zip(self.workers, self.actors, strict=True):
                    getattr(worker, name)[:] = rows[actors]
            if not arrays["actors/random"].any(axis=1).all():
                raise ValueError("actors/random has a row of zeros, which gives no random numbers")
            moments = _checked(arrays, "moments", self.workers[0].moments)
            if not np.isfinite(moments).all() or (moments[[COUNT, SQUARES]] < 0).any():
                raise ValueError("moments has numbers that it cannot have")
            if not np.isfinite(arrays["actors/discounted"]).all():
                raise ValueError("actors/discounted has a number that is not finite")
            self.workers[0].moments[:] = moments
            self.shared.moments[0, :] = moments
            self._check_memory(arrays["actors/state"], arrays["actors/next_action"])
            turns = _checked(arrays, "turn", np.zeros(self.config.threads, np.int64))
            for worker, turn in zip(self.workers, turns, strict=True):
                if not 0 <= turn < worker.begun.size // self.config.lockstep:
                    raise ValueError(f"turn has {turn}, which is no group of its thread")
                worker.group[0] = turn
            sizes = _checked(arrays, "actors/state_size", np.zeros(self.config.actors, np.int64))
            states, at = arrays["states"].tobytes(), 0
            if (sizes < 0).any() or sizes.sum() != len(states):
                raise ValueError("the sizes of its environments' states do not add up")
            for actor in np.flatnonzero(arrays["actors/begun"]).tolist():
                self._saved[actor] = states[at : at + sizes[actor]]
                at += sizes[actor]
            if self.remembers and self.config.save_replay:
                self._refill(arrays)
            elif self.remembers:
                logger.info(
                    "the replay memory was not saved: learning goes on after %d steps that fill it anew",
                    self.config.warm_up,
                )
            logger.info(
                "%d of %d actors go on with their episodes; the others begin new ones",
                len(self._saved),
                self.config.actors,
            )
            steps, updates = int(metadata["steps"]), int(metadata["updates"])
            if not (0 <= steps < 2**63 and 0 <= updates < 2**63):
                raise ValueError("its counts of steps and updates are no possible numbers")
            self.shared.steps[0, 0], self.shared.updates[0] = steps, updates
            self.shared.target_copies[0] = steps // self.config.target_interval
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be gone on from: {error}") from error
        return metadata

    def _refill(self, arrays: dict[str, np.ndarray]) -> None:
        # Each worker begins with the steps that its memory had.
        sizes = _checked(arrays, "replay_sizes", np.zeros(self.config.threads, np.int64))
        ring, width = self.workers[0].replay.rows.shape
        if (sizes < 0).any() or (sizes > ring - self.workers[0].action.size).any():
            raise ValueError("replay_sizes has a size that no memory has")
        rows = _checked(arrays, "replay", np.broadcast_to(np.float32(0), (sizes.sum(), width)))
        if not np.isfinite(rows).all():
            raise ValueError("replay has a number that is not finite")
        for worker, own in zip(self.workers, np.split(rows, np.cumsum(sizes)[:-1]), strict=True):
            refill(worker.replay, own)

    def _check_memory(self, states: np.ndarray, next_actions: np.ndarray) -> None:
        if not np.isfinite(states).all():
            raise ValueError("actors/state has a number that is not finite")
        if not ((next_actions >= -1) & (next_actions < self.environment.action_count)).all():
            raise ValueError("actors/next_action has an action that there is not")


def _checked(arrays: dict[str, np.ndarray], name: str, like: np.ndarray) -> np.ndarray:
    """An array of a file, which must have the shape and dtype of `like`."""
    array = arrays[name]
    if (array.shape, array.dtype) != (like.shape, like.dtype):
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}, not {like.shape} of {like.dtype}")
    return array
