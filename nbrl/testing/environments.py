"""`check_environment`: the rules that learning relies on, tried with gymnasium's environments and with native ones."""

import contextlib
import math
import threading
from typing import Any, NamedTuple

import numpy as np

from nbrl import envs
from nbrl.envs.gym import GymEnvironment
from nbrl.envs.interface import (
    ALL_BITS,
    STEPPED,
    TERMINATED,
    TRUNCATED,
    EnvSpec,
    ResetFunction,
    StepFunction,
    succeeded,
)
from nbrl.spaces import ALIVE, PRESENT

GUARD, PATTERN = 64, 0xA5  # bytes around what a native function writes, and what they hold
UNWRITTEN = 0xFF  # bytes of what it must write: of float32, no number
COPIES = 4  # that are stepped side by side


class CheckError(AssertionError):
    """What a checker found; the message is one sentence."""


class _Moment(NamedTuple):
    """What one call gave: the observation as a row, what is legal then, and the rest."""

    observation: np.ndarray
    mask: np.ndarray
    reward: float | tuple[float, ...] = 0.0  # of several agents each one's
    terminated: bool = False
    truncated: bool = False

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated


def check_environment(environment: Any, *, seed: int = 0, steps: int = 200, time_limit: int | None = None) -> None:
    """Check that an environment keeps the rules that learning relies on.

    Observations, rewards and flags are of their spaces and kinds; no buffer is returned twice; the seed decides
    everything, and nothing of an episode is left to the next one; a time limit truncates and does not terminate; copies
    can be stepped side by side; a saved state goes on as the first did. Of a native one also: functions write their
    rows whole and nothing beyond them, nor beyond their state, and statuses have their first bit.

    Parameters
    ----------
    environment : str, callable, gymnasium.vector.VectorEnv or EnvSpec
        Whatever can be trained on.
    seed : int, optional
    steps : int, optional
        How long each course is.
    time_limit : int, optional
        Steps after which episodes are truncated; by default what gymnasium's registration says.

    Raises
    ------
    CheckError
        With one sentence.
    ValueError
        It is no environment that can be trained on.
    """
    spec = envs.make(environment)
    if spec.vector:
        _check_group(spec, seed, steps)
        return
    kind: Any = _Gymnasium if isinstance(spec, GymEnvironment) else _Native
    with contextlib.closing(kind(spec)) as first:
        course = _course(first, spec, seed, steps)
        limit = first.time_limit if time_limit is None else time_limit
        _check_limit(first.name, course, limit)
        again = _course(first, spec, seed, steps)
        _same(course, again, f"{first.name}.reset with the same seed, in the same environment")
        with contextlib.closing(kind(spec)) as other:
            _same(course, _course(other, spec, seed, steps), f"{first.name}.reset with the same seed, in another one")
            other.check_saving(first, seed, steps)
    _check_threads(kind, spec, course, seed, steps)


def _course(player: Any, spec: EnvSpec, seed: int, steps: int) -> list[list[_Moment]]:
    """Episodes by random actions that the seed decides."""
    rng = np.random.default_rng(seed)
    episodes: list[list[_Moment]] = []
    for taken in range(steps):
        if not episodes or episodes[-1][-1].over:
            episodes.append([player.reset(seed + len(episodes))])
            if taken and len(episodes) > 50:
                break
        episodes[-1].append(player.step(_random_parts(spec, episodes[-1][-1].mask, rng)))
    return episodes


def _random_parts(spec: EnvSpec, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of each agent's action the parts, one behind the other."""
    n = spec.agents
    if not spec.actions.discrete:
        low, high = np.tile(np.clip(spec.actions.bounds[2:], -1e3, 1e3), n)
        return (low + rng.random(n * spec.actions.parts) * (high - low)).astype(np.float32)
    rows = np.split(mask if mask.size else np.ones(n * spec.actions.outputs), np.cumsum(spec.actions.counts * n)[:-1])
    return np.array([rng.choice(np.flatnonzero(row)) if row.any() else 0 for row in rows], np.int32)


def _same(expected: list[list[_Moment]], found: list[list[_Moment]], what: str) -> None:
    for number, (one, other) in enumerate(zip(expected, found, strict=False)):
        for t, (a, b) in enumerate(zip(one, other, strict=False)):
            if not np.array_equal(a.observation, b.observation, equal_nan=True) or a[2:] != b[2:]:
                where = "at once" if t == 0 else f"after {t} steps"
                raise CheckError(
                    f"{what}, gave another course of episode {number + 1} {where}: a seed must decide everything "
                    "random, and nothing of an earlier episode may be left"
                )


def _check_limit(name: str, course: list[list[_Moment]], limit: int | None) -> None:
    for episode in course if limit is not None else ():
        if len(episode) - 1 == limit and episode[-1].terminated and not episode[-1].truncated:
            raise CheckError(
                f"{name}.step says terminated at the time limit of {limit} steps: an episode that a limit ends is "
                "truncated, since it would have gone on"
            )
        if limit is not None and len(episode) - 1 > limit:
            raise CheckError(f"{name} had an episode of {len(episode) - 1} steps: its time limit is {limit}")


def _check_threads(kind: Any, spec: EnvSpec, course: list[list[_Moment]], seed: int, steps: int) -> None:
    found: list[Any] = [None] * COPIES

    def play(i: int) -> None:
        try:
            with contextlib.closing(kind(spec)) as player:
                found[i] = _course(player, spec, seed, steps)
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=play, args=(i,)) for i in range(COPIES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        if isinstance(result, BaseException):
            raise CheckError(
                f"{spec.name} fails where several are stepped side by side: {type(result).__name__}: {result}"
            ) from result
        _same(course, result, f"{spec.name}, several of them stepped side by side")


class _Gymnasium:
    """Calls a gymnasium environment and checks what it gives."""

    def __init__(self, spec: GymEnvironment) -> None:
        self.spec, self.environment = spec, spec._build()
        self.name = type(self.environment.unwrapped).__name__
        registered = self.environment.spec
        self.time_limit = None if registered is None else registered.max_episode_steps
        self._last: tuple[Any, bytes] | None = None

    def _moment(self, call: str, value: Any, info: Any, **rest: Any) -> _Moment:
        spec, space = self.spec, self.environment.observation_space
        if isinstance(value, np.ndarray) and hasattr(space, "dtype") and value.dtype != space.dtype:
            raise CheckError(f"{self.name}.{call} gave an observation of {value.dtype}: its space has {space.dtype}")
        if not space.contains(value):
            shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
            raise CheckError(f"{self.name}.{call} gave an observation{shape} that its space {space} does not contain")
        if self._last is not None and isinstance(self._last[0], np.ndarray):
            kept, before = self._last
            if isinstance(value, np.ndarray) and np.shares_memory(kept, value):
                raise CheckError(
                    f"{self.name}.{call} returned the buffer of the observation before it: who kept that has lost it; "
                    "return a copy"
                )
            if kept.tobytes() != before:
                raise CheckError(f"{self.name}.{call} changed the observation that it gave before: return a copy")
        self._last = (value, value.tobytes()) if isinstance(value, np.ndarray) else None
        row = np.zeros(spec.observations.shape, spec.observations.dtype)
        spec.observations.write(value, row)
        if not np.isfinite(row).all():
            raise CheckError(f"{self.name}.{call} gave an observation with a number that is not finite")
        if not isinstance(info, dict):
            raise CheckError(f"{self.name}.{call} gave {type(info).__name__} as info: it must be a dict")
        mask = np.zeros(0, np.uint8)
        over = rest.get("terminated", False) or rest.get("truncated", False)
        if "action_mask" in info:
            mask = spec.actions.mask(info["action_mask"], ended=over)
        return _Moment(row, mask, **rest)

    def reset(self, seed: int) -> _Moment:
        given = self.environment.reset(seed=seed)
        if not isinstance(given, tuple) or len(given) != 2:
            raise CheckError(f"{self.name}.reset must return an observation and a dict")
        return self._moment("reset", *given)

    def step(self, parts: np.ndarray) -> _Moment:
        given = self.environment.step(self.spec.actions.decode(parts))
        if not isinstance(given, tuple) or len(given) != 5:
            raise CheckError(f"{self.name}.step must return five values: it returned {given!r:.60}")
        value, reward, terminated, truncated, info = given
        if isinstance(reward, bool) or not isinstance(reward, int | float | np.number) or not math.isfinite(reward):
            raise CheckError(f"{self.name}.step gave the reward {reward!r}: it must be a finite number")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise CheckError(f"{self.name}.step gave {name} as {flag!r}: it must be true or false")
        ends = {"terminated": bool(terminated), "truncated": bool(truncated)}
        return self._moment("step", value, info, reward=float(reward), **ends)

    def check_saving(self, other: "_Gymnasium", seed: int, steps: int) -> None:
        """It cannot be saved."""

    def close(self) -> None:
        self.environment.close()


class _Native:
    """Calls the functions of the environment interface with guarded rows."""

    time_limit = None

    def __init__(self, spec: EnvSpec) -> None:
        self.spec, self.name, self.instance = spec, spec.name, spec.make()
        self._reset = ResetFunction(self.instance.reset_address)
        self._step = StepFunction(self.instance.step_address)
        sizes = {"observation": spec.observations.bytes, "reward": 4, "mask": spec.mask_size, "alive": 1}
        self.rows = {name: np.full(spec.agents * size + 2 * GUARD, PATTERN, np.uint8) for name, size in sizes.items()}
        self._row("alive")[:] = PRESENT

    def _row(self, name: str) -> np.ndarray:
        return self.rows[name][GUARD : self.rows[name].size - GUARD]

    def _call(self, call: str, function: Any, *before: int) -> int:
        written = ["observation"] + (["reward"] if call == "step" else []) + (["mask"] if self.spec.mask_size else [])
        for name in written:
            self._row(name)[:] = UNWRITTEN
        pointers = [
            self._row(name).ctypes.data for name in (["observation", "reward"] if call == "step" else ["observation"])
        ]
        mask = self._row("mask").ctypes.data if self.spec.mask_size else 0
        alive = self._row("alive").ctypes.data if self.spec.agents > 1 else 0
        status = function(self.instance.state_address, *before, *pointers, mask, alive)
        if self.instance.error is not None:
            raise self.instance.error
        if not succeeded(status):
            why = (
                "bit 0, which is 1, must be set on every success"
                if not status & STEPPED
                else f"it has bits beyond {ALL_BITS}"
            )
            raise CheckError(f"{self.name}: {call} returned the status {status}: {why}")
        for name, row in self.rows.items():
            if (row[:GUARD] != PATTERN).any() or (row[-GUARD:] != PATTERN).any():
                raise CheckError(
                    f"{self.name}: {call} wrote beyond its row of the {name}, of {row.size - 2 * GUARD} bytes"
                )
        if not self.instance.guard_holds():
            raise CheckError(f"{self.name}: {call} wrote beyond its state: state_size must be larger")
        for name in written:
            missing = self._unwritten(name)
            if missing is not None:
                raise CheckError(f"{self.name}: {call} left number {missing} of the {name} unwritten")
        return status

    def _unwritten(self, name: str) -> int | None:
        row = self._row(name)
        if name == "mask":
            bad = np.flatnonzero(row > 1)
        elif name == "observation" and self.spec.observations.dtype == np.uint8:
            return None  # 255 is a number like others
        else:
            bad = np.flatnonzero((row.view(np.uint8).reshape(-1, 4) == UNWRITTEN).all(axis=1))
        return int(bad[0]) if bad.size else None

    def _moment(self, call: str, rewards: tuple[float, ...] = (0.0,), status: int = STEPPED) -> _Moment:
        shape, dtype = self.spec.observations.shape, self.spec.observations.dtype
        shape = shape if self.spec.agents == 1 else (self.spec.agents, *shape)
        seen = self._row("observation").copy().view(dtype).reshape(shape)
        if not np.isfinite(seen).all():
            raise CheckError(f"{self.name}: {call} gave an observation with a number that is not finite")
        for reward in rewards:
            if not math.isfinite(reward):
                raise CheckError(f"{self.name}: {call} gave the reward {reward}: it must be finite")
        ends = bool(status & TERMINATED), bool(status & TRUNCATED)
        mask = self._row("mask").copy()
        if mask.size and not any(ends):
            for own, alive in zip(mask.reshape(self.spec.agents, -1), self._row("alive"), strict=True):
                parts = np.split(own, np.cumsum(self.spec.actions.counts)[:-1])
                if alive & ALIVE and not all(part.any() for part in parts):
                    raise CheckError(f"{self.name}: {call} gave a mask that allows no action")
        return _Moment(seen, mask, rewards if len(rewards) > 1 else rewards[0], *ends)

    def reset(self, seed: int) -> _Moment:
        self._call("reset", self._reset, seed)
        return self._moment("reset")

    def step(self, parts: np.ndarray) -> _Moment:
        action = np.full(parts.nbytes + 2 * GUARD, PATTERN, np.uint8)
        inner = action[GUARD:-GUARD].view(parts.dtype)
        inner[:] = parts
        status = self._call("step", self._step, inner.ctypes.data)
        if (action[:GUARD] != PATTERN).any() or (action[-GUARD:] != PATTERN).any() or (inner != parts).any():
            raise CheckError(f"{self.name}: step wrote to its action, which it may only read")
        return self._moment("step", tuple(self._row("reward").view(np.float32).tolist()), status)

    def check_saving(self, other: "_Native", seed: int, steps: int) -> None:
        """What is saved goes on, here and in another one, as the first did."""
        rng, last = np.random.default_rng(seed), self.reset(seed)
        for taken in range(steps):  # to the middle of an episode
            if last.over:
                last = self.reset(seed + 1)
            last = self.step(_random_parts(self.spec, last.mask, rng))
            if taken >= min(steps // 4, 20) and not last.over:
                break
        if last.over:
            return
        saved = self.instance.save()
        if saved is None:
            return
        self.spec.check_state(saved)
        courses: list[list[list[_Moment]]] = []
        for player in (self, self, other):
            if courses:
                player.instance.load(saved)
            chance, course, now = np.random.default_rng(seed), [], last
            for _ in range(min(steps // 4, 20)):
                now = player.step(_random_parts(self.spec, now.mask, chance))
                course.append(now)
                if now.over:
                    break
            courses.append([course])
        _same(courses[0], courses[1], f"{self.name}: a state that was saved and loaded")
        _same(courses[0], courses[2], f"{self.name}: a state that was loaded into another environment")

    def close(self) -> None:
        self.instance.close()


def _check_group(spec: Any, seed: int, steps: int) -> None:
    """Of a vector environment: what it gives can be used, and the seed decides it."""
    first = _group_course(spec, seed, steps)
    if spec.groups is None:  # else it is one object, whose environments go on with their random numbers
        _same(first, _group_course(spec, seed, steps), f"{spec.name}.reset with the same seed")


def _group_course(spec: Any, seed: int, steps: int) -> list[list[_Moment]]:
    """What each step gave, for all environments of a group."""
    rng, course = np.random.default_rng(seed), []
    with contextlib.closing(spec.stepper()) as vector:
        for i in range(spec.group):
            vector.reset(i, seed)
        for _ in range(steps):
            masks = [np.zeros(0, np.uint8) if mask is None else mask for mask in vector.masks]
            vector.step([spec.actions.decode(_random_parts(spec, mask, rng)) for mask in masks])
            moments = []
            for i in range(spec.group):
                value, reward, status = vector.result(i)
                row = np.zeros(spec.observations.shape, spec.observations.dtype)
                spec.observations.write(value, row)
                moments.append(_Moment(row, masks[i], reward, bool(status & TERMINATED), bool(status & TRUNCATED)))
                if moments[-1].over:
                    vector.reset(i, seed)
            course.append(moments)
    return course
