"""Saving what a run learns with, and going on from it. Checkpoints hold all that training needs besides the policy."""

import logging
import os
from typing import Any

import numpy as np

from nbrl.agent import Agent
from nbrl.checkpoint import CheckpointError, read_tensors
from nbrl.envs.interface import Env
from nbrl.learner import Learner
from nbrl.methods.replay import Replay, contents, refill
from nbrl.methods.running_statistics import COUNT, LEAST_VARIANCE, M2, MEAN
from nbrl.nets import table

logger = logging.getLogger(__name__)

MOST_STEPS = 2**60  # that no run takes
PRIOR_COUNT = 10_000  # observations that the means and deviations of a policy to begin with count for

Tensors = tuple[dict[str, np.ndarray], dict[str, str]]


def take(learner: Learner, *, with_episodes: bool = True) -> Tensors:
    """One moment's state, for `checkpoint.write_tensors`: what `Agent` reads, and what training needs besides.

    `with_episodes` is for the moments when no environment is at work: with it, episodes under way are saved where the
    environment can be.
    """
    agent, layout, config = learner.agent(), learner.network.layout, learner.config
    agents = learner.environment.agents
    arrays = agent.arrays() | {"moments": learner.statistics()}
    arrays |= {name: view.copy() for name, view in _beyond_the_policy(learner).items()}
    for name, rows in _in_the_layout(learner).items():
        arrays |= {f"{name}/{part}": view for part, view in layout.views(rows.copy()).items()}
    arrays["turn"] = np.array([worker.turn for worker in learner.workers])
    for name, like in learner.workers[0].actors.kept().items():
        rows = arrays[f"actors/{name}"] = np.zeros((learner.actor_count, *like.shape[1:]), like.dtype)
        for worker, actors in zip(learner.workers, learner.actors, strict=True):
            rows[actors] = getattr(worker.actors, name)
    for name, shared, rows_of in _bonuses(learner):
        arrays |= {f"bonus/{name}/{field}": array.copy() for field, array in shared.items()}
        for field, parts in rows_of.items():
            rows = arrays[f"bonus/{name}/actors/{field}"] = np.zeros(
                (learner.actor_count, *parts[0].shape[1:]), parts[0].dtype
            )
            for part, actors in zip(parts, learner.actors, strict=True):
                rows[actors] = part
    running = {
        number: instance
        for worker, instances in enumerate(learner.instances)
        for instance, number in zip(instances, learner.environments_of(worker), strict=bool(instances))
    }
    sizes, states = np.zeros(config.actors, np.int64), []
    for number in np.flatnonzero(arrays["actors/begun"][::agents]).tolist():
        own = slice(number * agents, (number + 1) * agents)
        seen = arrays["actors/observation"][own].view(learner.environment.observations.dtype)
        can_go_on = with_episodes and number in running and np.isfinite(seen).all()
        saved = _saved(number, running[number]) if can_go_on else None
        if saved is None:  # this episode begins anew
            arrays["actors/begun"][own] = False
        else:
            sizes[number] = len(saved)
            states.append(saved)
    arrays |= {"actors/state_size": sizes, "states": np.frombuffer(b"".join(states), np.uint8)}
    memories = _memories(learner)
    if memories and config.save_replay:
        kept = [contents(memory, learner.workers[0].rollout.reward.size) for memory in memories]
        arrays |= {"replay": np.concatenate(kept), "replay_sizes": np.array([len(rows) for rows in kept])}
    counters = {"steps": str(learner.steps), "updates": str(int(learner.shared.updates[0]))}
    return arrays, agent.metadata() | counters


def _saved(actor: int, instance: Env) -> bytes | None:
    """The state of an actor's environment; None where it cannot be saved."""
    try:
        return instance.save()
    except RuntimeError as error:  # the policy is worth more than an episode
        logger.warning("the episode of actor %d could not be saved: %s", actor, error)
        return None


def restore(learner: Learner, path: str | os.PathLike) -> dict[str, str]:
    """Go on from a checkpoint, whose other metadata are returned. Environments are loaded as they are attached.

    Raises
    ------
    CheckpointError
        The file is damaged, or of a run with other settings.
    """
    arrays, metadata = read_tensors(path)
    agent = Agent.from_tensors(arrays, metadata)
    if agent.network.shapes() != learner.policy_network.shapes():
        raise CheckpointError(f"{path} holds another network than the run's settings")
    try:
        learner.shared.theta[: agent.parameters.size] = agent.parameters
        for name, view in _beyond_the_policy(learner).items():
            view[...] = _checked(arrays, name, view)
        if not np.isfinite(learner.shared.theta).all():
            raise ValueError("a value that it learns by has numbers that are not finite")
        _restore_layout(learner, arrays)
        _restore_actors(learner, arrays)
        _restore_statistics(learner, arrays)
        _restore_environments(learner, arrays)
        _restore_bonuses(learner, arrays)
        if _memories(learner) and learner.config.save_replay:
            _restore_memories(learner, arrays)
        elif _memories(learner):
            logger.info(
                "the replay memory was not saved: learning goes on after %d steps that fill it anew",
                learner.config.learning_starts,
            )
        going, actors = len(learner.saved_environments), learner.config.actors
        if going == actors:
            logger.info("all %d actors go on with their episodes", actors)
        else:
            logger.info("%d of %d actors go on with their episodes, %d begin new ones", going, actors, actors - going)
        steps, updates = int(metadata["steps"]), int(metadata["updates"])
        if not (0 <= steps <= MOST_STEPS and 0 <= updates <= MOST_STEPS):
            raise ValueError("its counts of steps and updates are no possible numbers")
        learner.shared.steps[0, 0], learner.shared.updates[0] = steps, updates
        learner.shared.target_copies[0] = steps // learner.config.target_interval
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot resume from: {error}") from error
    return metadata


def begin_from(learner: Learner, agent: Agent) -> None:
    """Begin with a policy's parameters; ``ValueError`` where its network or observations are others."""
    network = learner.policy_network
    if (agent.network.layers, agent.network.heads) != (network.layers, network.heads):
        raise ValueError(
            f"the policy to begin with has the layers {agent.network.layers} and the heads {agent.network.heads}: "
            f"the run has {network.layers} and {network.heads}"
        )
    if agent.network.observations.format != network.observations.format:
        raise ValueError(
            f"the policy to begin with takes {agent.network.observations}, {learner.environment.name} gives "
            f"{network.observations}"
        )
    if agent.agents != learner.environment.agents:
        raise ValueError(
            f"the policy to begin with is of {agent.agents} agents, {learner.environment.name} has "
            f"{learner.environment.agents}"
        )
    if agent.network.shapes() != network.shapes():
        raise ValueError("the policy to begin with has another separate_networks or policy_variance than the run")
    if agent.normal.shape != learner.workers[0].work.normal.shape:
        words = ("as they are", "normalised")
        raise ValueError(
            f"the policy to begin with takes observations {words[learner.scales == 0]}, the run has them "
            f"{words[learner.scales > 0]}: set normalise_observations"
        )
    learner.begin_with(agent.parameters)
    if learner.scales:
        own = learner.workers[0].statistics.own
        known = own[:, :-1]
        variance = 1 / agent.normal[table.SCALE].astype(np.float64) ** 2 - LEAST_VARIANCE
        known[COUNT] = PRIOR_COUNT * network.observations.size // known.shape[1]  # pixels share one
        known[MEAN], known[M2] = agent.normal[table.MEAN], known[COUNT] * np.maximum(variance, 0)
        learner.shared.statistics[0, :] = own


def _beyond_the_policy(learner: Learner) -> dict[str, np.ndarray]:
    """The part of theta that policies know nothing of, by name: views."""
    layout, known = learner.network.layout, learner.policy_network.layout.names
    return {f"learner/{name}": layout.view(learner.shared.theta, name) for name in layout.names if name not in known}


def _in_the_layout(learner: Learner) -> dict[str, np.ndarray]:
    """What checkpoints keep in the network's own layout besides theta, float32 (..., layout.size)."""
    kept = {name: learner.shared.optimiser[:, i] for i, name in enumerate(learner.optimiser.statistics)}
    return kept | ({"target": learner.shared.target} if learner.method.has_target else {})


def _bonuses(learner: Learner) -> list[tuple[str, dict[str, np.ndarray], dict[str, list[np.ndarray]]]]:
    """Of each bonus its name, what all threads write to, and what each thread has of its actors, by field."""
    found = []
    for name, shared in learner.bonus_arrays.items():
        kept = [own[name].kept() for own in learner.own_bonuses]
        found.append((name, shared, {field: [each[field] for each in kept] for field in kept[0]}))
    return found


def _memories(learner: Learner) -> list[Replay]:
    """The workers' replay memories, where they learn from them."""
    methods: list[Any] = learner.methods
    return [method.replay for method in methods if getattr(method, "uses_replay", False)]


def _restore_layout(learner: Learner, arrays: dict[str, np.ndarray]) -> None:
    for name, rows in _in_the_layout(learner).items():
        for part, view in learner.network.layout.views(rows).items():
            view[...] = _checked(arrays, f"{name}/{part}", view)
        if not np.isfinite(rows).all() or (name in ("g", "v") and (rows < 0).any()):  # means of squares
            raise ValueError(f"{name} has numbers that it cannot have")


def _restore_actors(learner: Learner, arrays: dict[str, np.ndarray]) -> None:
    for name, like in learner.workers[0].actors.kept().items():
        shape = (learner.actor_count, *like.shape[1:])
        rows = _checked(arrays, f"actors/{name}", np.zeros(shape, like.dtype))
        for worker, actors in zip(learner.workers, learner.actors, strict=True):
            getattr(worker.actors, name)[:] = rows[actors]
    if not arrays["actors/random"].any(axis=1).all():
        raise ValueError("actors/random has a row of zeros, which gives no random numbers")
    for name in ("discounted", "state"):
        if not np.isfinite(arrays[f"actors/{name}"]).all():
            raise ValueError(f"actors/{name} has a number that is not finite")
    next_actions = arrays["actors/next_action"]
    if not ((next_actions >= -1) & (next_actions < sum(learner.environment.actions.counts))).all():
        raise ValueError("actors/next_action has an action that there is not")
    turns = _checked(arrays, "turn", np.zeros(learner.config.threads, np.int64))
    for worker, turn in zip(learner.workers, turns.tolist(), strict=True):
        if not 0 <= turn < worker.owners.size:
            raise ValueError(f"turn has {turn}, which is no group of its thread")
        worker.turn = turn


def _restore_statistics(learner: Learner, arrays: dict[str, np.ndarray]) -> None:
    statistics = _checked(arrays, "moments", learner.workers[0].statistics.own)
    if not np.isfinite(statistics).all() or (statistics[[COUNT, M2]] < 0).any():
        raise ValueError("moments has numbers that it cannot have")
    learner.workers[0].statistics.own[:] = statistics
    learner.shared.statistics[0, :] = statistics


def _restore_environments(learner: Learner, arrays: dict[str, np.ndarray]) -> None:
    sizes = _checked(arrays, "actors/state_size", np.zeros(learner.config.actors, np.int64))
    states, at = arrays["states"].tobytes(), 0
    if (sizes < 0).any() or sizes.sum() != len(states):
        raise ValueError("the sizes of its environments' states do not add up")
    for number in np.flatnonzero(arrays["actors/begun"][:: learner.environment.agents]).tolist():
        saved = learner.saved_environments[number] = states[at : at + sizes[number]]
        learner.environment.check_state(saved)
        at += sizes[number]
    if learner.saved_environments and not learner.environment.checks_states:
        logger.warning(
            "%s does not say which states are possible: those of the checkpoint are trusted", learner.environment.name
        )


def _restore_bonuses(learner: Learner, arrays: dict[str, np.ndarray]) -> None:
    for name, shared, rows_of in _bonuses(learner):
        for field, array in shared.items():
            array[:] = _checked(arrays, f"bonus/{name}/{field}", array)
            if not learner.bonuses[name].is_possible(field, array):
                raise ValueError(f"bonus/{name}/{field} has a number that it cannot have")
        for field, parts in rows_of.items():
            like = np.broadcast_to(parts[0][0], (learner.actor_count, *parts[0].shape[1:]))
            rows = _checked(arrays, f"bonus/{name}/actors/{field}", like)
            if not learner.bonuses[name].is_possible(field, rows):
                raise ValueError(f"bonus/{name}/actors/{field} has a number that it cannot have")
            for part, actors in zip(parts, learner.actors, strict=True):
                part[:] = rows[actors]


def _restore_memories(learner: Learner, arrays: dict[str, np.ndarray]) -> None:
    """Let each worker begin with the steps that its memory had."""
    memories = _memories(learner)
    sizes = _checked(arrays, "replay_sizes", np.zeros(learner.config.threads, np.int64))
    ring, width = memories[0].rows.shape
    if (sizes < 0).any() or (sizes > ring - learner.workers[0].rollout.reward.size).any():
        raise ValueError("replay_sizes has a size that no memory has")
    rows = _checked(arrays, "replay", np.broadcast_to(np.float32(0), (sizes.sum(), width)))
    if not np.isfinite(rows).all():
        raise ValueError("replay has a number that is not finite")
    for memory, own in zip(memories, np.split(rows, np.cumsum(sizes)[:-1]), strict=True):
        refill(memory, own)


def _checked(arrays: dict[str, np.ndarray], name: str, like: np.ndarray) -> np.ndarray:
    """An array of a file, which must have the shape and dtype of `like`."""
    array = arrays[name]
    if (array.shape, array.dtype) != (like.shape, like.dtype):
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}, not {like.shape} of {like.dtype}")
    return array
