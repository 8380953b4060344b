"""Checkers of agents, runs and mathematics: each raises `CheckError` with one sentence that says what is wrong."""

import math
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from nbrl import envs, snapshot
from nbrl.agent import Agent, choose_action
from nbrl.checkpoint import write_tensors
from nbrl.config import configure
from nbrl.evaluation import evaluate
from nbrl.learner import Learner
from nbrl.methods import driver
from nbrl.nets.table import outputs as rows_of
from nbrl.testing.environments import COPIES, CheckError
from nbrl.testing.strategies import Returns
from nbrl.trainer import train

# Agents


def check_agent(agent: Agent, *, observations: Iterable[Any] | None = None, seed: int = 0) -> None:
    """Check that a policy is one and the same in compiled code, in NumPy and in its file, and in several threads.

    Parameters
    ----------
    agent : Agent
    observations : iterable, optional
        Of its space, or of agents that act together batches of one of each; by default 20 samples.
    seed : int, optional

    Raises
    ------
    CheckError
        With one sentence.
    """
    actions = agent.action_space
    seen = _samples(agent, seed) if observations is None else list(observations)
    expected = _acted(agent, seen, seed)
    for observation, action in zip(seen, expected, strict=True):
        if not all(actions.contains(one) for one in (action if agent.unit > 1 else [action])):
            raise CheckError(f"act answered {observation!r:.60} with {action!r}, which is not of {actions}")
    twin = agent.to_numpy()
    _check_outputs(agent, twin, seen)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "policy.safetensors")
        agent.save(path)
        loaded = Agent.load(path)
    if not np.array_equal(loaded.parameters, agent.parameters) or not _alike(_acted(loaded, seen, seed), expected):
        raise CheckError("the policy acts otherwise once it was saved and loaded")
    found: list[Any] = [None] * COPIES
    # Others act on other observations meanwhile: what they share would show.
    orders = [np.random.default_rng(i).permutation(len(seen)) for i in range(COPIES)]

    def act(i: int) -> None:
        for _ in range(20):
            found[i] = _acted(agent, [seen[j] for j in orders[i]], seed, orders[i])
            if not _alike(found[i], [expected[j] for j in orders[i]]):
                return

    threads = [threading.Thread(target=act, args=(i,)) for i in range(COPIES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for order, answers in zip(orders, found, strict=True):
        if answers is None or not _alike(answers, [expected[j] for j in order]):
            raise CheckError("threads that share the policy get other actions than one alone: they share scratch")


def _samples(agent: Agent, seed: int) -> list[Any]:
    space: Any = agent.observation_space
    space.seed(seed)
    batches = [[space.sample() for _ in range(agent.unit)] for _ in range(20)]
    if agent.unit == 1:
        return [observation for (observation,) in batches]
    into: Any = create_empty_array
    return [concatenate(space, batch, into(space, agent.unit)) for batch in batches]


def _begins_with(agent: Agent) -> np.ndarray:
    """What it has in mind before an episode: a row for each agent that acts."""
    return np.zeros((agent.unit, agent.network.state_size), np.float32)


def _state(agent: Agent) -> np.ndarray | None:
    if not agent.recurrent:
        return None
    rows = _begins_with(agent)
    return rows if agent.unit > 1 else rows[0]


def _acted(agent: Agent, seen: list[Any], seed: int, numbers: Any = None) -> list[Any]:
    """An action for each observation, each by chance of its own."""
    numbers = range(len(seen)) if numbers is None else numbers
    return [
        agent.act(
            observation,
            _state(agent),
            rng=np.random.default_rng([seed, int(number)]),
        )
        for number, observation in zip(numbers, seen, strict=True)
    ]


def _alike(found: list[Any], expected: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def _check_outputs(agent: Agent, twin: Any, seen: list[Any]) -> None:
    policy, actor = agent.actor()
    for observation in seen:
        rows = agent.network.observations.rows(observation)[0]
        bytes_of = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
        choose_action(policy, actor, bytes_of, _begins_with(agent), True)
        theirs = twin.outputs(observation, _state(agent))
        for name in policy.heads:
            ours = rows_of(actor.work, agent.network.head(name), 0, len(rows)).reshape(theirs[name].shape)
            if not np.allclose(ours, theirs[name], rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(ours).max()))):
                raise CheckError(
                    f"NumpyPolicy's outputs of the head {name} for {observation!r:.60} are {theirs[name]}, not {ours}"
                )


# Runs


def check_resume(environment: Any, *, rollouts: int = 12, cuts: int = 3, seed: int = 0, **settings: Any) -> None:
    """Check that a run that is cut anywhere and goes on from its file is the run that was never cut, to the bit.

    Parameters
    ----------
    environment : str, callable or EnvSpec
        One whose state can be saved; of others every resume begins the episodes anew.
    rollouts : int, optional
        Length of the run.
    cuts : int, optional
        How many runs are cut, each at another rollout.
    seed : int, optional
    **settings
        As for `nbrl.configure`; by default one thread with two actors.

    Raises
    ------
    CheckError
        With one sentence.
    """
    given = {"actors": 2, "seed": seed, "steps": 10**6, **settings, "threads": 1}
    config = configure(environment, **given)
    if config.method == "dpg":
        config = config.replace(save_replay=True)
    object_ = None if isinstance(environment, str) else environment

    def begin() -> Learner:
        learner = Learner(config, object_)
        learner.attach(0)
        return learner

    def go_on(learner: Learner, count: int) -> None:
        code = learner.loop(0, count)
        if code != driver.PAUSED:
            raise CheckError(
                f"the run ended with the code {code} of nbrl.methods.driver before its {rollouts} rollouts"
            )

    whole = begin()
    try:
        if whole.instances[0][0].save() is None:
            raise CheckError(f"{whole.environment.name} cannot be saved: a run that goes on begins its episodes anew")
        go_on(whole, rollouts)
        expected, _ = snapshot.take(whole)
    finally:
        _close(whole)
    for cut in np.random.default_rng(seed).choice(rollouts + 1, min(cuts, rollouts + 1), replace=False).tolist():
        first = begin()
        try:
            go_on(first, cut)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "checkpoint.safetensors")
                write_tensors(path, *snapshot.take(first))
                second = Learner(config, object_)
                snapshot.restore(second, path)
        finally:
            _close(first)
        second.attach(0)
        try:
            go_on(second, rollouts - cut)
            found, _ = snapshot.take(second)
        finally:
            _close(second)
        for name, array in expected.items():
            if name not in found or not np.array_equal(found[name], array, equal_nan=True):
                raise CheckError(f"a run that was cut after {cut} of {rollouts} rollouts has another {name} at its end")


def _close(learner: Learner) -> None:
    for instances in learner.instances:
        for instance in instances:
            instance.close()


def check_learns(
    environment: Any,
    required: float,
    *,
    learns: float = 0.9,
    fails: float = 0.5,
    chance: float = 1e-3,
    episodes: int = 20,
    greedy: bool = True,
    **settings: Any,
) -> None:
    """Check that a task of known optimum is learnt: a verdict over as many seeds as it takes, whose chance of error is
    known, in place of one seed and a threshold.

    Each seed is trained and evaluated, and has learnt if its mean return is at least `required`. Wald's sequential test
    (1945) then decides between "a share of `learns` of all seeds learns" and "at most a share of `fails` does": either
    verdict is wrong with a probability of at most about `chance`. By default 12 seeds that learn are enough, and 5 that
    do not.

    Parameters
    ----------
    environment : str, callable or EnvSpec
    required : float
        Mean return that counts as learnt.
    learns, fails, chance : float, optional
    episodes, greedy
        As for `nbrl.evaluate`.
    **settings
        As for `nbrl.configure`; the seeds are 0, 1 and so on.

    Raises
    ------
    CheckError
        It is not learnt; the sentence has every seed's mean return.
    """
    if not 0 < fails < learns < 1 or not 0 < chance < 0.5:
        raise ValueError(f"shares must be 0 < fails < learns < 1, and chance below 0.5: {fails}, {learns}, {chance}")
    limit, evidence = math.log((1 - chance) / chance), 0.0
    found: list[float] = []
    while abs(evidence) < limit:
        agent = train(environment, **{"threads": 1, **settings, "seed": len(found)})
        found.append(evaluate(agent, environment, episodes=episodes, greedy=greedy).mean_return)
        good = found[-1] >= required
        evidence += math.log(learns / fails) if good else math.log((1 - learns) / (1 - fails))
    if evidence < 0:
        each = ", ".join(f"{mean:.4g}" for mean in found)
        raise CheckError(f"{_called(environment)} is not learnt: {required:g} was required, the seeds ended at {each}")


def _called(environment: Any) -> str:
    return environment if isinstance(environment, str) else envs.make(environment).name


# Mathematics


def check_gradients(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    at: np.ndarray,
    *,
    seed: int = 0,
    step: float = 1e-2,
    tolerance: float = 0.03,
) -> None:
    """Check a gradient against the slope of its own function, in one random direction.

    An error of a share e of the gradient's size is found with a probability of about 1 - tolerance / e.

    Parameters
    ----------
    function : callable
        Of an array like `at`: a number, and the gradient, of the array's shape. See `nbrl.testing.network_loss`.
    at : numpy.ndarray
    seed : int, optional
    step : float, optional
        Length of the step, in deviations of `at`.
    tolerance : float, optional
        Of the difference, as a share of the gradient's norm.

    Raises
    ------
    CheckError
        With one sentence.
    """
    at = np.array(at)
    direction = np.random.default_rng(seed).standard_normal(at.shape)
    _, gradient = function(at)
    gradient = np.array(gradient, np.float64)
    if gradient.shape != at.shape:
        raise CheckError(f"the gradient has shape {gradient.shape}: its argument has {at.shape}")
    h = step * max(float(np.std(at)), 1e-3) / math.sqrt(max(at.size, 1))
    ahead, behind = ((at + sign * h * direction).astype(at.dtype) for sign in (1, -1))
    # What the array's precision makes of the step, too.
    moved = (ahead.astype(np.float64) - behind.astype(np.float64)) / 2
    slope, expected = (function(ahead)[0] - function(behind)[0]) / 2, float(np.sum(gradient * moved))
    size = float(np.linalg.norm(gradient)) * float(np.linalg.norm(moved)) / math.sqrt(max(at.size, 1))
    rounding = 4 * np.finfo(at.dtype).eps * max(1.0, abs(function(at)[0]))
    if not abs(slope - expected) <= tolerance * size + rounding:
        raise CheckError(
            f"the gradient says {expected:.6g} for a step in a random direction, but the function changes by "
            f"{slope:.6g}"
        )


def check_returns(function: Callable[..., Any], case: Returns) -> None:
    """Check returns against the definition of the lambda-return, summed term by term.

    G_t = (1 - lambda) sum_n lambda^(n-1) R_t^(n), where R_t^(n) has n rewards and then the value of what is seen; the
    last R_t^(n), at the end of the episode or of the steps, has all the weight that is left.

    Parameters
    ----------
    function : callable
        Called as `nbrl.testing.returns` is.
    case : Returns
        As `nbrl.testing.returns_cases` draws them.

    Raises
    ------
    CheckError
        With one sentence.
    """
    found = np.asarray(
        function(
            case.rewards,
            case.discounts,
            case.values,
            case.last_value,
            ended=case.ended,
            end_values=case.end_values,
            gae_lambda=case.gae_lambda,
        ),
        np.float64,
    )
    T = len(case.rewards)
    if found.shape != (T,):
        raise CheckError(f"the returns of {T} steps have shape {found.shape}")
    for t in range(T):
        expected = _lambda_return(case, t)
        if not abs(found[t] - expected) <= 1e-4 * max(1.0, abs(expected)):
            raise CheckError(f"the return of step {t} is {found[t]:.6g}: by its definition it is {expected:.6g}")


def _lambda_return(case: Returns, t: int) -> float:
    T, lambda_ = len(case.rewards), case.gae_lambda
    total, weight, rewards, discount = 0.0, 1.0, 0.0, 1.0
    for n in range(t, T):
        rewards += discount * float(case.rewards[n])
        discount *= float(case.discounts[n])
        last = bool(case.ended[n]) or n == T - 1
        if case.ended[n]:
            value = float(case.end_values[n])
        else:
            value = case.last_value if n == T - 1 else float(case.values[n + 1])
        share = weight if last else weight * (1 - lambda_)
        total += share * (rewards + discount * value)
        weight *= lambda_
        if last:
            break
    return total
