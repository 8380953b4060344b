"""One run on several machines, which are processes here: what it learns, what it costs, and what a loss does.

    python tools/machines.py steps [--env Catch-v0] [--machines 4] [--seeds 10] [--target 0.9] [--set field=value ...]
    python tools/machines.py loss [--env Catch-v0] [--machines 4] [--target 0.9] [--set field=value ...]
    python tools/machines.py cost [--env ALE/Pong-v5] [--seconds 60]
    python tools/machines.py model [--gigabits 1] [--interval 1] [--hub-ms 7.3] [--machine-ms 9.5]

`steps` counts the steps to a return of the last 100 episodes, by a local Ray cluster of nodes of one thread each and by
one machine of as many threads, seed by seed. `loss` kills a machine in mid-run with SIGKILL. `cost` has one machine of
the paper's network exchange once a second, and counts the time on CPUs of all processes, Ray's included, more than that
of the same cluster at rest. These need the extra ``ray``; run nothing else meanwhile.

`model` simulates 2 to 64 machines of 16 cores with what `cost` measured: changes queue for the hub's link, its core,
and its link back.
"""

import argparse
import contextlib
import heapq
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import nbrl
from nbrl import Callback, Trainer
from nbrl.arguments import settings_of
from nbrl.cluster import connect, exchange_through
from nbrl.exchange import Exchange, Hub
from nbrl.learner import Learner
from nbrl.scores import interval

PAPER_PARAMETERS = 677_968
LATEST = 0.02  # seconds between reports: how finely the end is seen


@contextlib.contextmanager
def local_cluster(machines: int) -> Iterator[Any]:
    """A cluster of Ray's of so many nodes of one core each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(machines - 1):
        nodes.add_node(num_cpus=1)
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


class Loss(Callback):
    """Kills one of the others after some steps, None for never."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at

    def on_report(self, trainer: Trainer, report: Any) -> None:
        if self.kill_at is not None and report.steps >= self.kill_at:
            self.kill_at = None
            os.kill(learning_processes()[0], signal.SIGKILL)


def learning_processes() -> list[int]:
    """The processes of Ray's that learn on other machines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if b"ray::Machine.learn" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def run_once(options: argparse.Namespace, settings: dict[str, Any], address: str | None, kill_at: int | None) -> Any:
    """Train until the return is reached; all reports."""
    config = nbrl.configure(options.env, **settings)
    others = [] if address is None else [nbrl.Cluster(address, machines=options.machines)]
    reports: list[Any] = []
    trainer = Trainer(config, callbacks=[*others, Loss(kill_at)], on_report=reports.append)
    trainer.start(wait=True)
    return reports


def settings_for(options: argparse.Namespace, seed: int, threads: int) -> dict[str, Any]:
    """One actor a thread, until the target."""
    common = {"method": "a3c", "threads": threads, "actors": threads, "seed": seed, "report_interval": LATEST}
    return common | {"target_return": options.target} | settings_of(options)


def steps(options: argparse.Namespace) -> None:
    """Print the steps of each seed and their means."""
    found: dict[str, list[int]] = {"machines": [], "threads": []}
    speeds: list[float] = []
    with local_cluster(options.machines) as nodes:
        for seed in range(1, options.seeds + 1):
            apart = run_once(options, settings_for(options, seed, 1), nodes.address, None)
            together = run_once(options, settings_for(options, seed, options.machines), None, None)
            found["machines"].append(apart[-1].steps)
            found["threads"].append(together[-1].steps)
            seen = [report.metrics["cluster/bytes_per_second"] for report in apart[1:] if report.metrics]
            speeds.append(float(np.mean(seen)) if seen else 0.0)
            print(seed, found["machines"][-1], found["threads"][-1], flush=True)
    for name, counts in found.items():
        low, high = interval([np.array(counts, float)])
        print(f"{name:9} {np.mean(counts):12,.0f} steps, 95% interval {low:,.0f} to {high:,.0f}")
    print(f"a machine's traffic: {np.mean(speeds):,.0f} bytes/s")


def loss(options: argparse.Namespace) -> None:
    """Kill one in mid-run, and say what came of the run."""
    with local_cluster(options.machines) as nodes:
        began = time.perf_counter()
        reports = run_once(options, settings_for(options, 1, 1), nodes.address, kill_at=options.kill_at)
        seen = [int(report.metrics["cluster/machines"]) for report in reports if report.metrics]
        words = f"{reports[-1].steps:,} steps, return {reports[-1].recent_return:.3g}"
        print(f"{words}, {time.perf_counter() - began:.1f} s; machines {sorted(set(seen))}, last {seen[-1]}")


def processor_seconds() -> dict[str, float]:
    """Of the hub's process, of this one and of the rest of Ray, so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = {"hub": 0.0, "machine": 0.0, "ray": 0.0}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, line = (path / "cmdline").read_bytes(), (path / "stat").read_text()
        except OSError:  # it has ended
            continue
        owner = "machine" if int(path.name) == os.getpid() else "hub" if b"ray::Hub" in words else "ray"
        if owner != "ray" or b"ray" in words:
            fields = line.rsplit(")", 1)[1].split()
            total[owner] += (int(fields[11]) + int(fields[12])) / ticks
    return total


def cost(options: argparse.Namespace) -> None:
    """Print the share of a core that exchanges once a second take."""
    learner = Learner(nbrl.configure(options.env, preset="paper", threads=1, seed=1))
    with local_cluster(1) as nodes:
        ray = connect(nodes.address)
        hub = ray.remote(Hub).options(num_cpus=0).remote(learner.shared.flat, learner.scales + 1, 1.0, 0.0)
        exchange = Exchange(0, lambda machine, handed_in: exchange_through(ray, hub, machine, handed_in))
        exchange.begin(learner)
        exchange.exchange()
        used = []
        for at_rest in (True, False):
            time.sleep(5)
            before = processor_seconds()
            for _ in range(int(options.seconds)):
                began = time.perf_counter()
                if not at_rest:
                    exchange.exchange()
                time.sleep(max(0.0, 1 - (time.perf_counter() - began)))
            used.append({name: (now - before[name]) / options.seconds for name, now in processor_seconds().items()})
        took = [time.perf_counter()]
        for _ in range(100):
            exchange.exchange()
            took.append(time.perf_counter())
    print(
        json.dumps(
            {
                "parameters": learner.shared.flat.size,
                "share_of_a_core": {name: used[1][name] - used[0][name] for name in used[0]},
                "at_rest": used[0],
                "milliseconds_an_exchange": float(1000 * np.median(np.diff(took))),
            }
        )
    )


def simulate(machines: int, size: float, link: float, hub: float, interval: float, seconds: float) -> dict[str, float]:
    """Exchanges of so many machines with a hub, each in its turn.

    Parameters
    ----------
    machines : int
    size : float
        Bytes that go each way in an exchange.
    link : float
        Bytes a second of the hub's link, each way.
    hub : float
        Seconds of the hub's core for an exchange.
    interval, seconds : float
        Between a machine's exchanges, and of the whole simulation.

    Returns
    -------
    dict
        `exchange`, the mean seconds that one takes; `exchanges`, of a machine in a second; and how much of the time the
        `link` and the `core` of the hub are busy.
    """
    waiting = [(interval * number / machines, number) for number in range(machines)]
    there = done = back = 0.0  # until when the link there, the core and the link back are busy
    took = list[float]()
    while waiting[0][0] < seconds:
        asked, number = heapq.heappop(waiting)
        there = max(asked, there) + size / link
        done = max(there, done) + hub
        back = max(done, back) + size / link
        took.append(back - asked)
        heapq.heappush(waiting, (back + interval, number))
    rate = len(took) / seconds
    return {
        "exchange": float(np.mean(took)), "exchanges": rate / machines, "link": rate * size / link, "core": rate * hub,
    }  # fmt: skip


def model(options: argparse.Namespace) -> None:
    """Print what bounds 2 to 64 machines of 16 cores that learn with the paper's network."""
    size, link = 4 * PAPER_PARAMETERS, options.gigabits * 1e9 / 8
    print("machines  exchange ms  a second  link busy  hub's core  of each machine's 16 cores")
    for machines in (2, 4, 8, 16, 32, 64):
        found = simulate(machines, size, link, options.hub_ms / 1000, options.interval, 200 * options.interval)
        own = found["exchanges"] * options.machine_ms / 1000 / 16
        print(
            f"{machines:8} {1000 * found['exchange']:12.0f} {found['exchanges']:9.2f} {found['link']:10.0%} "
            f"{found['core']:11.0%} {own:10.2%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("steps", "loss", "cost", "model"))
    parser.add_argument("--env")
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--kill-at", type=int, default=20_000, help="steps after which a machine is killed")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gigabits", type=float, default=1.0, help="of the hub's link")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between a machine's exchanges")
    parser.add_argument("--hub-ms", type=float, default=7.3, help="of the hub's core for an exchange")
    parser.add_argument("--machine-ms", type=float, default=9.5, help="of a machine's cores")
    parser.add_argument("--set", metavar="field=value", action="append", default=[], help="as for nbrl train")
    options = parser.parse_args()
    options.env = options.env or ("ALE/Pong-v5" if options.what == "cost" else "Catch-v0")
    {"steps": steps, "loss": loss, "cost": cost, "model": model}[options.what](options)


if __name__ == "__main__":
    sys.exit(main())
