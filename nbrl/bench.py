"""How fast the engine is, part by part, on this machine: what ``nbrl bench`` prints.

Each part of the loop is repeated alone, in compiled code, in units of one rollout of one group of actors: once on one
thread, then on all threads at the same time, since they share memory and the last cache. `Trainer` gives the whole.
"""

import contextlib
import dataclasses
import importlib.metadata
import math
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from nbrl.actions import env_address, random_action, to_env
from nbrl.config import Config, available_cores
from nbrl.envs.interface import TERMINATED, TRUNCATED, succeeded
from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import HOST_WIDTH
from nbrl.kernels.native import address_at, call_reset, call_step, copy, flush_denormals, restore_denormals
from nbrl.kernels.peak import CHAINS, multiply_add
from nbrl.kernels.random import next_uint64
from nbrl.learner import Learner
from nbrl.methods.driver import GO_ON, alive_address, mask_address, update
from nbrl.methods.minibatches import learn_in_minibatches
from nbrl.nets.table import Plan, backward, forward, load_observation
from nbrl.trainer import Trainer

ROUNDS = 5  # of each measurement; the median counts
PARTS_SHARE = 0.1  # seconds of each part to one second of training
LAYERS_SHARE = 0.02
WARM_UP = 0.2  # of training, to its seconds
ENDLESS = 10**15  # steps
NO_LEARNING = 1e-12  # a learning rate with which parameters stay what they are


@dataclass(frozen=True)
class Part:
    """One part of the loop.

    Attributes
    ----------
    name : str
    alone : float or None
        Microseconds a step when one thread is at work; None for the rest, which is a difference.
    together : float
        Microseconds of one thread a step when all threads are at work on this part.
    share : float
        Of the whole step's time.
    """

    name: str
    alone: float | None
    together: float
    share: float


@dataclass(frozen=True)
class LayerSpeed:
    """GFLOP/s of one layer's products on one thread: forward for one acting step, backward for one rollout."""

    name: str
    forward: float
    backward: float


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` measured.

    Attributes
    ----------
    machine : dict
        As from `machine`.
    config : Config
    parameters : int
        Of the network.
    frames_per_step : int
    steps_per_second : float
        Of training, all threads together.
    parts : tuple of Part
        environment, acting, learning, copy, update, and the rest, such as a target network's forward passes; their
        shares add up to 1. With minibatches learning is all passes over a rollout, with their copies and updates.
    peak : float
        GFLOP/s of multiply-adds that one core can do.
    layers : tuple of LayerSpeed
    """

    machine: dict[str, Any]
    config: Config
    parameters: int
    frames_per_step: int
    steps_per_second: float
    parts: tuple[Part, ...]
    peak: float
    layers: tuple[LayerSpeed, ...]

    @property
    def whole(self) -> float:
        """Microseconds of one thread for a step of training."""
        return 1e6 * self.config.threads / self.steps_per_second

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {name: [dataclasses.asdict(line) for line in values[name]] for name in ("parts", "layers")}
        return values | lists | {"config": self.config.to_dict(), "whole": self.whole}

    def table(self) -> str:
        """The result as people read it."""
        config, cores = self.config, f"{self.config.threads} thread{'s' if self.config.threads > 1 else ''}"
        samples = config.envs_per_batch * config.rollout_length
        lines = [
            machine_line(self.machine),
            f"{config.environment}, {config.method}: {config.actors} actors, {cores}, {config.envs_per_batch} a batch, "
            f"rollouts of {config.rollout_length} steps, {self.parameters:,} parameters",
            "",
            *self._speeds(cores),
            "",
            f"{'microseconds a step':24}{'1 thread':>12}{cores:>12}{'of the whole':>16}",
        ]
        for part in self.parts:
            alone = "" if part.alone is None else f"{part.alone:,.2f}"
            lines.append(f"  {part.name:22}{alone:>12}{part.together:>12,.2f}{part.share:>16.1%}")
        lines += [
            f"  {'whole':22}{'':12}{self.whole:>12,.2f}{1:>16.1%}",
            "",
            f"GFLOP/s on one core; {self.peak:,.1f} is the most that multiply-adds reach here",
            f"  {'layer':22}{f'forward, batch {config.envs_per_batch}':>24}{f'backward, batch {samples}':>24}",
        ]
        for layer in self.layers:
            speeds = (f"{speed:,.1f} ({speed / self.peak:.0%})" for speed in (layer.forward, layer.backward))
            lines.append(f"  {layer.name:22}" + "".join(f"{speed:>24}" for speed in speeds))
        return "\n".join(lines)

    def _speeds(self, cores: str) -> Iterator[str]:
        environment = self.parts[0]
        assert environment.alone is not None
        speeds = [("environments alone, 1 thread", 1e6 / environment.alone)]
        if self.config.threads > 1:
            speeds.append((f"environments alone, {cores}", 1e6 * self.config.threads / environment.together))
        for name, speed in (*speeds, (f"training, {cores}", self.steps_per_second)):
            frames = f"{speed * self.frames_per_step:>14,.0f} frames/s" if self.frames_per_step > 1 else ""
            yield f"{name:32}{speed:>14,.0f} steps/s{frames}"


def benchmark(
    config: Config,
    environment: Any = None,
    *,
    seconds: float = 10.0,
    on_progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Time the engine part by part. Run nothing else meanwhile.

    Parameters
    ----------
    config : Config
        As `nbrl.configure` makes it; the length of the run in it does not matter.
    environment : str, callable or EnvSpec, optional
        As for `Trainer`.
    seconds : float, optional
        Of training. All that is measured besides takes about as long again.
    on_progress : callable, optional
        Called with a few words as each measurement begins.

    Returns
    -------
    Benchmark

    Raises
    ------
    ValueError
        Seconds, a method, a setting or an environment that cannot be used, in one sentence.
    BaseException
        What the environment raised.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds!r}: it must be a finite number above 0")
    if config.method == "dpg":
        raise ValueError(
            "dpg has no parts to time: its updates are not rollouts'; a run's metrics.jsonl counts steps and updates"
        )
    report = on_progress or (lambda words: None)
    report("compiling")
    # A learning rate that changes nothing: the parts are repeated with the parameters of a new network.
    still = config.replace(steps=ENDLESS, learning_rate=NO_LEARNING)
    learner = Learner(still, environment)
    with Parts(learner) as parts:
        times = {}
        for name in parts_of(learner):
            report(name)
            times[name] = parts.microseconds_in_turn(name, sorted({1, config.threads}), seconds * PARTS_SHARE)
        report("kernels")
        peak = peak_gflops(seconds * LAYERS_SHARE)
        layers = tuple(_layer_speeds(learner, seconds * LAYERS_SHARE))
    report("training")
    steps_per_second = training_speed(config, environment, seconds)
    whole = 1e6 * config.threads / steps_per_second
    measured = [Part(name, spent[0], spent[-1], spent[-1] / whole) for name, spent in times.items()]
    rest = whole - sum(part.together for part in measured)
    return Benchmark(
        machine=machine(),
        config=config,
        parameters=learner.network.layout.size,
        frames_per_step=learner.environment.frames_per_step,
        steps_per_second=steps_per_second,
        parts=(*measured, Part("rest", None, rest, rest / whole)),
        peak=peak,
        layers=layers,
    )


def machine() -> dict[str, Any]:
    """This machine and the versions that its speed depends on, as JSON can hold them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("numpy", "numba", "ale-py"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": next(models, platform.processor() or platform.machine()),
        "architecture": llvm.get_host_cpu_name(),
        "cores": available_cores(),
        "vector_bits": 32 * HOST_WIDTH,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def machine_line(described: dict[str, Any]) -> str:
    """What `machine` found, in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in described["versions"].items() if number)
    return (
        f"{described['processor']} ({described['architecture']}), {described['cores']} cores, "
        f"{described['vector_bits']}-bit vectors, {described['system']}; {versions}"
    )


# Parts of the loop, each for some rollouts of the groups in turn: what `a3c` does, without what it does in between.


@jit
def _step_environments(method, policy, shared, worker, rollouts):
    """Random actions; whether no environment failed."""
    actors, (t_max, k) = worker.actors, worker.rollout.reward.shape
    groups = worker.owners.size
    for rollout in range(rollouts):
        first = rollout % groups * k
        for _ in range(t_max):
            for actor in range(first, first + k, actors.agents):
                functions, row = actors.functions[actor], actors.random[actor]
                observation, mask = address_at(actors.observation[actor], 0), mask_address(actors, actor)
                alive = alive_address(actors, actor)
                worker.at = actor
                if not actors.begun[actor] and not succeeded(
                    call_reset(functions[0], functions[2], next_uint64(row), observation, mask, alive)
                ):
                    return False
                for agent in range(actors.agents):
                    random_action(policy, row, actors.mask[actor + agent], policy.action[0, agent])
                to_env(policy, 0)
                sent, reward = env_address(policy, 0, 0), address_at(worker.raw_reward, 0)
                status = call_step(functions[1], functions[2], sent, observation, reward, mask, alive)
                if not succeeded(status):
                    return False
                actors.begun[actor] = status & (TERMINATED | TRUNCATED) == 0
    return True


@jit
def _act(method, policy, shared, worker, rollouts):
    """Observations in, forward at the batch of a group; once more at a rollout's end, for the value there."""
    mode = flush_denormals()
    t_max, k = worker.rollout.reward.shape
    groups = worker.owners.size
    for rollout in range(rollouts):
        first = rollout % groups * k
        for t in range(t_max + 1):
            for i in range(k):
                load_observation(worker.work, t * k + i, worker.actors.observation[first + i])
            forward(worker.work, t * k, k)
    restore_denormals(mode)
    return True


@jit
def _learn(method, policy, shared, worker, rollouts):
    """Backward over a rollout."""
    mode = flush_denormals()
    for _ in range(rollouts):
        backward(worker.work, worker.rollout.reward.size, worker.rollout.reward.shape[1])
    restore_denormals(mode)
    return True


@jit
def _learn_in_minibatches(method, policy, shared, worker, rollouts):
    """All passes over a rollout."""
    mode, code = flush_denormals(), GO_ON
    for _ in range(rollouts):
        code = learn_in_minibatches(method, policy, shared, worker, 0)
        if code != GO_ON:
            break
    restore_denormals(mode)
    return code == GO_ON


@jit
def _copy(method, policy, shared, worker, rollouts):
    """theta' = theta."""
    for _ in range(rollouts):
        copy(worker.work.theta, shared.theta)
    return True


@jit
def _update(method, policy, shared, worker, rollouts):
    """The gradient's norm and the optimiser."""
    mode = flush_denormals()
    for _ in range(rollouts):
        code = update(method, shared, worker, 0)
        if code != GO_ON:
            break
    restore_denormals(mode)
    return True


KERNELS: dict[str, Any] = {
    "environment": _step_environments,
    "acting": _act,
    "learning": _learn,
    "copy": _copy,
    "update": _update,
}


def parts_of(learner: Learner) -> dict[str, Any]:
    """The parts that a learner's method has."""
    if "batches" not in learner.method.names():
        return KERNELS
    return {name: KERNELS[name] for name in ("environment", "acting")} | {"learning": _learn_in_minibatches}


class Parts(contextlib.AbstractContextManager):
    """A learner with its environments, whose workers run one part of the loop after the other.

    Parameters
    ----------
    learner : Learner
        The updates are applied: a learning rate of `NO_LEARNING` keeps its parameters what they are.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.instances = [learner.attach(worker) for worker in range(learner.config.threads)]
        random = np.random.default_rng(0)
        for worker in learner.workers:  # the heads' gradients; backward fills those of the layers below
            worker.work.dactivations[:] = random.normal(0, 1e-3, worker.work.dactivations.size)

    def __exit__(self, *_: object) -> None:
        for group in self.instances:
            for instance in group:
                instance.close()

    def microseconds(self, part: str, threads: int, seconds: float) -> float:
        """Of one thread for one step when `threads` are at work on a part, one of `parts_of`."""
        return self.microseconds_in_turn(part, (threads,), seconds)[0]

    def microseconds_in_turn(self, part: str, counts: Sequence[int], seconds: float) -> list[float]:
        """The same with each of several numbers of threads, a round of one after a round of the other."""
        config = self.learner.config
        calls = [partial(self.run, part, worker) for worker in range(max(counts))]
        for call in calls:
            call(config.actors)  # every actor's first reset, which may take long
        found = seconds_in_turn([calls[:count] for count in counts], seconds)
        return [1e6 * spent / (config.rollout_length * config.envs_per_batch) for spent in found]

    def run(self, part: str, worker: int, rollouts: int) -> None:
        """Repeat a part; what an environment raised is raised."""
        learner, failed = self.learner, self.learner.workers[worker]
        if not parts_of(learner)[part](*learner.arguments(worker), rollouts):
            error = self.instances[worker][failed.at // learner.environment.agents].error
            name = learner.environment.name
            raise RuntimeError(f"the environment {name} reported a failure") if error is None else error


def seconds_each(calls: Sequence[Callable[[int], Any]], seconds: float) -> float:
    """Seconds for one repeat of compiled work: the median of several rounds.

    Parameters
    ----------
    calls : sequence of callable
        ``call(repeats)``, each in a thread of its own, all at the same time.
    seconds : float
        For all rounds together; compiling and finding the number of repeats come besides.
    """
    return seconds_in_turn([calls], seconds)[0]


def seconds_in_turn(groups: Sequence[Sequence[Callable[[int], Any]]], seconds: float) -> list[float]:
    """`seconds_each` for several groups of calls, a round of each in turn: a machine's speed drifts."""

    def timed(call: Callable[[int], Any], barrier: threading.Barrier, repeats: int) -> float:
        barrier.wait()
        began = time.perf_counter()
        call(repeats)
        return time.perf_counter() - began

    with ThreadPoolExecutor(max(map(len, groups))) as pool:

        def round_(calls: Sequence[Callable[[int], Any]], repeats: int) -> float:
            barrier = threading.Barrier(len(calls))
            return statistics.mean(pool.map(partial(timed, barrier=barrier, repeats=repeats), calls))

        counts = []
        for calls in groups:
            for call in calls:
                call(1)  # compiles
            repeats, wanted = 1, seconds / ROUNDS
            while (taken := round_(calls, repeats)) < wanted / 4:
                repeats *= 2
            counts.append(max(1, round(repeats * wanted / taken)))
        plan = list(zip(groups, counts, strict=True))
        rounds = [[round_(calls, repeats) / repeats for calls, repeats in plan] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def training_speed(config: Config, environment: Any, seconds: float) -> float:
    """Steps/s of a whole run that has warmed up, whatever length its settings say."""
    trainer = Trainer(config.replace(steps=ENDLESS), environment)
    try:
        trainer.start()
        trainer.join(WARM_UP * seconds)
        speeds = []
        for _ in range(ROUNDS):
            steps, began = trainer.steps, time.perf_counter()
            while trainer.steps == steps or time.perf_counter() - began < seconds / ROUNDS:
                trainer.join(seconds / ROUNDS / 10)  # raises what ended the run
            speeds.append((trainer.steps - steps) / (time.perf_counter() - began))
    finally:
        trainer.stop()
    return statistics.median(speeds)


# Arithmetic


def layer_flops(plan: Plan, samples: int) -> tuple[int, int]:
    """Floating-point operations of a layer's products, two a multiply-add, forward and backward.

    Backward is the gradient of the weights and, except in a layer that reads observations, that of the inputs.
    """
    shapes = dict(plan.parameters)
    weights, recurrent = (math.prod(shapes.get(name, (0,))) for name in ("weights", "recurrent"))
    product, own = 2 * samples * plan.rows * weights, 2 * samples * recurrent
    return product + own, product * (1 if plan.block == 0 else 2) + 2 * own


@jit
def _repeat_forward(work, samples, repeats):
    mode = flush_denormals()
    for _ in range(repeats):
        forward(work, 0, samples)
    restore_denormals(mode)


def _layer_speeds(learner: Learner, seconds: float) -> Iterator[LayerSpeed]:
    """Each layer as a network of its own: a table of one row over the arrays of the first worker."""
    (method, policy, shared, worker), config = learner.arguments(0), learner.config
    acting, learning = config.envs_per_batch, config.envs_per_batch * config.rollout_length
    for place, plan in enumerate(learner.network.plans):
        layer = worker.work.replace(table=worker.work.table[place : place + 1])
        learn = partial(_learn, method, policy, shared, worker.replace(work=layer))
        flops = layer_flops(plan, acting)[0], layer_flops(plan, learning)[1]
        times = (
            seconds_each([partial(_repeat_forward, layer, acting)], seconds),
            seconds_each([learn], seconds),
        )
        yield LayerSpeed(plan.name, *(float(count / spent / 1e9) for count, spent in zip(flops, times, strict=True)))


def peak_gflops(seconds: float) -> float:
    """GFLOP/s of fused multiply-adds on one core, as measured."""
    # From factor 0.5 and term 1 all tend to 2: no infinity, no denormal number.
    spent = seconds_each([partial(multiply_add, 0.5, 1.0)], seconds)
    return 2 * CHAINS * HOST_WIDTH / spent / 1e9
