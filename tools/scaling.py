"""How the cost of a step grows with actors, parameters and threads, and what would bound many cores.

    python tools/scaling.py [--out DIR] [--quick]

Measured here: the step by number of actors and by size of the network; threads on an environment that computes or
sleeps (sleepers share a core, so 16 threads can be tried on two); memory; the share of updates that threads without
locks overwrite. The model of scaling_model.py is fitted to these. DIR gets scaling.json and, with matplotlib,
scaling.png. Run nothing else meanwhile.
"""

import argparse
import concurrent.futures
import ctypes
import dataclasses
import json
import multiprocessing
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from measure_run import resident_megabytes
from numba import carray, cfunc
from scaling_model import Model, Run, bound, fit_model

from nbrl import NativeEnvironment, configure
from nbrl.bench import NO_LEARNING, Parts, machine, machine_line, seconds_each, seconds_in_turn, training_speed
from nbrl.config import available_cores
from nbrl.envs import names
from nbrl.envs.interface import STEPPED, TRUNCATED, Env
from nbrl.kernels.compile import jit
from nbrl.kernels.native import atomic_load, atomic_store, flush_denormals, restore_denormals
from nbrl.learner import Learner
from nbrl.methods.driver import update
from nbrl.nets.layout import aligned_zeros

CORES = (1, 2, 4, 8, 16, 32, 64, 128)  # of the prediction
EPISODE = 100  # steps of the waiting environment
SPINS_KNOWN = 1_000_000  # by which a spin is timed
MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is tried, and how long."""

    seconds: float = 1.0  # of each figure
    actors: tuple[int, ...] = (1, 4, 16, 64, 256)
    widths: tuple[int, ...] = (95, 310, 1000, 3150)  # of two dense layers: 10^4 to 10^7 parameters
    threads: tuple[int, ...] = (1, 2, 4, 8, 16)
    updating_threads: tuple[int, ...] = (2, 4, 16)
    wait: int = 300  # microseconds of the waiting environment's step


QUICK = Plan(0.05, actors=(1, 4), widths=(30, 95, 200), threads=(1, 2), updating_threads=(2,), wait=50)

# An environment whose step takes time and nothing else. State, int64: microseconds to sleep, rounds to spin, steps.

usleep = ctypes.CDLL(None).usleep
usleep.argtypes, usleep.restype = [ctypes.c_uint32], ctypes.c_int32


@jit
def spin(rounds, start):
    """Marsaglia's xorshift: compilers shorten it in no way, where its result is used and each start another."""
    x = np.uint64(start)
    for _ in range(rounds):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
    return x


@cfunc("int32(CPointer(int64), uint64, CPointer(float32))")
def waiting_reset(state_pointer, seed, observation_pointer):
    """A fixed observation."""
    observation = carray(observation_pointer, 4)
    carray(state_pointer, 3)[2] = 0
    for i in range(4):
        observation[i] = i
    return STEPPED


@cfunc("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def waiting_step(state_pointer, action, observation_pointer, reward):
    """Sleep or spin; the spin's last bits are observed."""
    state, observation = carray(state_pointer, 3), carray(observation_pointer, 4)
    if state[0]:
        usleep(np.uint32(state[0]))
    observation[0] = np.float32(spin(state[1], state[2]) >> np.uint64(63))
    reward[0] = observation[0]
    state[2] += 1
    return STEPPED | (TRUNCATED if state[2] >= EPISODE else 0)


class Waiting(NativeEnvironment):
    """The environment above, which computes for a number of rounds or sleeps for a number of microseconds."""

    def __init__(self, sleep: int, spins: int) -> None:
        super().__init__(
            waiting_reset, waiting_step, state_size=24, observation_space=Box(0, 3, (4,)), action_space=Discrete(2),
            name="waiting",
        )  # fmt: skip
        self._state = sleep, spins

    def make(self) -> Env:
        instance = super().make()
        (ctypes.c_int64 * 2).from_address(instance.state_address)[:] = self._state
        return instance


def dense(width: int) -> list[list[Any]]:
    """Two layers of a width, as settings."""
    return [["dense", width, "relu"]] * 2


def still(environment: Any, **settings: Any) -> Learner:
    """A learner whose updates change nothing."""
    return Learner(configure(environment, learning_rate=NO_LEARNING, preset="paper", **settings), environment)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


# Actors and memory


def by_actors(plan: Plan) -> list[dict[str, Any]]:
    """Microseconds a step on one thread, in compiled code alone, by number of actors."""
    rows = []
    for label, width in (("2 x 64", 64), ("2 x 512", 512)):
        for actors in plan.actors:
            say(f"actors: {label}, {actors}")
            learner = still("CartPole-v1", threads=1, actors=actors, network=dense(width), steps=10**15)
            instances = learner.attach(0)
            spent = 1e6 * seconds_each([partial(learner.loop, 0)], plan.seconds) / learner.config.rollout_length
            rows.append({"network": label, "actors": actors, "microseconds": spent})
            for instance in instances:
                instance.close()
    return rows


def resident(environment: str, actors: int) -> float:
    """Megabytes in RAM of this process, once every actor has run."""
    learner = Learner(configure(environment, method="a3c", threads=1, actors=actors))
    instances = learner.attach(0)
    learner.loop(0, 2 * actors)
    megabytes = resident_megabytes(multiprocessing.current_process().pid or 0)
    for instance in instances:
        instance.close()
    return megabytes


def memory(plan: Plan) -> list[dict[str, Any]]:
    """Of a fresh process by number of actors; Linux."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for environment in ("CartPole-v1", *(name for name in names()["atari"] if name == "ALE/Pong-v5")):
        for actors in plan.actors:
            say(f"memory: {environment}, {actors} actors")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
                megabytes = process.submit(resident, environment, actors).result()
            rows.append({"environment": environment, "actors": actors, "megabytes": megabytes})
    return rows


# Threads


def by_threads(plan: Plan) -> list[dict[str, Any]]:
    """Speed of whole runs on environments that sleep or compute, a small network."""
    spins = round(SPINS_KNOWN * plan.wait / (1e6 * seconds_each([partial(repeat_spin, SPINS_KNOWN)], 0.1)))
    rows: list[dict[str, Any]] = []
    for kind, environment in (("sleep", Waiting(plan.wait, 0)), ("spin", Waiting(0, spins))):
        for threads in plan.threads:
            say(f"threads: {kind}, {threads}")
            config = configure(environment, method="a3c", threads=threads, actors=max(plan.threads))
            speed = training_speed(config, environment, plan.seconds)
            first = next((row["steps_per_second"] for row in rows if row["kind"] == kind), speed)
            # Of sleepers every thread counts, of those that compute every core.
            fair = threads if kind == "sleep" else min(threads, available_cores())
            rows.append({
                "kind": kind, "threads": threads, "steps_per_second": speed, "speedup": speed / first,
                "efficiency": speed / first / fair,
            })  # fmt: skip
    return rows


@jit
def repeat_spin(rounds, repeats):
    """For `seconds_each`."""
    total = np.uint64(0)
    for _ in range(repeats):
        total = spin(rounds, total)
    return total


# Lost updates


@jit
def repeat_update(method, shared, worker, pause, repeats):
    """The shared update, and a pause before each; what the pauses computed."""
    mode, total = flush_denormals(), np.uint64(0)
    for _ in range(repeats):
        total = spin(pause, total)
        update(method, shared, worker, 0)
    restore_denormals(mode)
    return total


def lost_updates(plan: Plan) -> list[dict[str, Any]]:
    """The share of updates that is overwritten, by what theta has come to.

    The engine's own update, with the optimiser's constants such that each adds the same to every element: RMSProp
    without memory (decay 0) and a gradient of -1 everywhere. One thread alone shows how much that is.
    """
    rows = []
    for width in (plan.widths[0], plan.widths[-2]):
        for busy in (1.0, 0.1):
            for threads in plan.updating_threads:
                settings = {"optimiser": "shared_rmsprop", "rmsprop_decay": 0.0, "rmsprop_epsilon": 1e-12}
                settings |= {"learning_rate": 1.0, "gradient_clip": 1e12, "steps": 10**15, "reward_clip": None}
                learner = Learner(configure(
                    "CartPole-v1", method="a3c", network=dense(width), threads=threads, actors=threads, **settings
                ))  # fmt: skip
                shared = learner.shared
                for worker in learner.workers:
                    worker.work.dtheta[:] = -1
                shared.theta[:] = 0
                repeat_update(*_updating(learner, 0), 0, 100)
                gain = float(shared.theta.mean()) / 100
                alone = seconds_each([partial(repeat_update, *_updating(learner, 0), 0)], plan.seconds / 10)
                spin_seconds = seconds_each([partial(repeat_spin, SPINS_KNOWN)], plan.seconds / 10) / SPINS_KNOWN
                pause = round((1 / busy - 1) * alone / spin_seconds)
                say(f"lost updates: {learner.network.layout.size:,} parameters, {threads} threads, busy {busy:.0%}")
                shared.theta[:] = 0
                before = int(shared.updates[0])
                calls = [partial(repeat_update, *_updating(learner, worker), pause) for worker in range(threads)]
                seconds_each(calls, min(plan.seconds, 1e5 * alone))  # far from 2^24, where float32 stops counting
                applied = int(shared.updates[0]) - before
                lost = 1 - float(shared.theta.astype(np.float64).mean()) / (gain * applied)
                rows.append({
                    "parameters": learner.network.layout.size, "threads": threads, "busy": busy, "updates": applied,
                    "lost": lost,
                })  # fmt: skip
    return rows


def _updating(learner: Learner, worker: int) -> tuple[Any, ...]:
    return learner.methods[worker], learner.shared, learner.workers[worker]


# Parameters, and the model


@jit
def exchange(counters, own, repeats):
    """Write one's own counter and read all, each in a cache line of its own."""
    total = 0
    for i in range(repeats):
        atomic_store(counters[own:].ctypes.data, i)
        for other in range(counters.shape[0]):
            # The address waits for the number before, which has no such high bits; else reads would overlap.
            total = atomic_load(counters[other + (total >> 62) :].ctypes.data)
    return total


def fetch_microseconds(plan: Plan) -> float:
    """What it takes to read a line that another core has just written."""
    counters = aligned_zeros((2, 8), np.int64)
    calls = [partial(exchange, counters, own) for own in range(2)]
    alone, together = seconds_in_turn([calls[:1], calls], plan.seconds / 5)
    return max(0.0, 1e6 * (together - alone))


def by_parameters(plan: Plan) -> list[dict[str, Any]]:
    """Microseconds of one thread by size of the network: a step's parts, and a rollout's copy and update."""
    rows = []
    for width in plan.widths:
        learner = still("CartPole-v1", network=dense(width), threads=available_cores(), rollout_length=5)
        say(f"parameters: {learner.network.layout.size:,}")
        with Parts(learner) as parts:
            row: dict[str, Any] = {"parameters": learner.network.layout.size}
            for part in ("acting", "learning"):
                row[part] = parts.microseconds(part, 1, plan.seconds)
            row["update"] = {
                threads: 5 * sum(parts.microseconds(part, threads, plan.seconds) for part in ("copy", "update"))
                for threads in _doublings(available_cores())
            }
        rows.append(row)
    return rows


def _doublings(largest: int) -> list[int]:
    return sorted({*(2**i for i in range(largest.bit_length()) if 2**i <= largest), largest})


def predict(plan: Plan, model: Model) -> list[dict[str, Any]]:
    """Runs measured on one thread and on all cores here, and what the model makes of them on more."""
    cases = [("CartPole, 2 x 64", configure("CartPole-v1", method="a3c", actors=max(16, available_cores())))]
    if "ALE/Pong-v5" in names()["atari"]:
        pong = configure("ALE/Pong-v5", preset="paper", actors=max(16, 8 * available_cores()))
        cases += [(f"Pong, lockstep {k}", dataclasses.replace(pong, envs_per_batch=k)) for k in (1, 8)]
    rows = []
    for label, config in cases:
        say(f"prediction: {label}")
        one_thread = dataclasses.replace(config, threads=1)
        speeds = {each.threads: training_speed(each, None, 5 * plan.seconds) for each in (one_thread, config)}
        learner = Learner(dataclasses.replace(one_thread, learning_rate=NO_LEARNING))
        with Parts(learner) as parts:
            environment = parts.microseconds("environment", 1, plan.seconds)
        run = Run(
            config.rollout_length * config.envs_per_batch, learner.network.layout.size, environment, 1e6 / speeds[1]
        )
        predicted = [model.predict(run, cores) for cores in CORES]
        rows.append({"case": label, **dataclasses.asdict(run), "measured": speeds, "predicted": predicted})
    return rows


# Words and pictures


def table(title: str, heads: list[str], rows: list[list[Any]]) -> str:
    """Columns of text."""
    lines = [heads, *[[f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    texts = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(["", title, *texts])


def text(result: dict[str, Any]) -> str:
    """Every table."""

    def plain(name: str, title: str) -> str:
        return table(title, list(result[name][0]), [list(row.values()) for row in result[name]])

    model = Model(**result["model"])
    parts = [
        machine_line(result["machine"]),
        plain("actors", "Microseconds a step, one thread, by actors (CartPole, t_max 5)"),
        plain("memory", "Resident memory of a process, by actors"),
        plain("threads", f"Threads on an environment of {result['wait']} microseconds"),
        plain("lost", "Share of updates lost, by share of time spent updating"),
        table(
            "Microseconds of one thread by parameters: a step's acting and learning, a rollout's copy and update",
            ["parameters", "acting", "learning", *(f"update on {n}" for n in result["parameters"][0]["update"])],
            [[row["parameters"], row["acting"], row["learning"], *row["update"].values()]
             for row in result["parameters"]],
        ),
        "",
        f"Model: a sample {model.network[0]:.3g} + {1e6 * model.network[1]:.3g} us for a million parameters; copy and "
        f"update {model.update[0]:.3g} + {1e6 * model.update[1]:.3g}, and {1e6 * model.update[2]:.3g} more from other "
        f"cores; a line {model.fetch:.3g} us; errors of the fit at most {model.error:.0%}",
    ]  # fmt: skip
    for row in result["predictions"]:
        measured = ", ".join(f"{speed:,.0f} on {n}" for n, speed in row["measured"].items())
        lines = [
            [one["cores"], f"{one['at_least']:,.0f} to {one['steps_per_second']:,.0f}",
             *(f"{share:.1%}" for share in one["shares"].values()), bound(one)]
            for one in row["predicted"]
        ]  # fmt: skip
        title = f"{row['case']}: steps/s measured {measured}; predicted, and each thread's time"
        parts.append(table(title, ["cores", "steps/s", *row["predicted"][0]["shares"], "bound by"], lines))
    return "\n".join(parts)


def draw(result: dict[str, Any], path: Path) -> None:
    """Four pictures in one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    actors, parameters, threads, cores = figure.subplots(2, 2).ravel()
    for axes, rows, group, x, y in (
        (actors, result["actors"], "network", "actors", "microseconds"),
        (threads, result["threads"], "kind", "threads", "speedup"),
    ):
        for kind in dict.fromkeys(row[group] for row in rows):
            chosen = [row for row in rows if row[group] == kind]
            axes.plot([row[x] for row in chosen], [row[y] for row in chosen], "o-", label=kind)
    sizes = [row["parameters"] for row in result["parameters"]]
    for part in ("acting", "learning"):
        parameters.plot(sizes, [row[part] for row in result["parameters"]], "o-", label=f"{part}, a step")
    for n in result["parameters"][0]["update"]:
        times = [row["update"][n] for row in result["parameters"]]
        parameters.plot(sizes, times, "o-", label=f"copy and update, a rollout, on {n}")
    for row in result["predictions"]:
        first = row["predicted"][0]["steps_per_second"]
        (line,) = cores.plot(CORES, [one["steps_per_second"] / first for one in row["predicted"]], label=row["case"])
        cores.plot(CORES, [one["at_least"] / first for one in row["predicted"]], "--", color=line.get_color())
    actors.set(xscale="log", xlabel="actors", ylabel="microseconds a step, 1 thread")
    parameters.set(xscale="log", yscale="log", xlabel="parameters", ylabel="microseconds")
    threads.set(xlabel="threads", ylabel="times the speed of one thread")
    cores.set(xscale="log", yscale="log", xlabel="cores", ylabel="predicted speedup (dashed: at least)")
    for axes in (actors, parameters, threads, cores):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="few points, seconds of measuring: not to be believed")
    options = parser.parse_args()

    plan = QUICK if options.quick else Plan()
    sizes = by_parameters(plan)
    model = fit_model(sizes, fetch_microseconds(plan))
    result = {
        "machine": machine(),
        "wait": plan.wait,
        "actors": by_actors(plan),
        "memory": memory(plan),
        "threads": by_threads(plan),
        "lost": lost_updates(plan),
        "parameters": sizes,
        "model": dataclasses.asdict(model),
        "predictions": predict(plan, model),
    }
    print(text(result))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
        try:
            draw(result, options.out / "scaling.png")
        except ImportError:
            print('no picture: it needs matplotlib, pip install "nbrl[plot]"')


if __name__ == "__main__":
    main()
