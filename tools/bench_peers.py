"""The engine against its peers: the same networks, t_max, actors and cores, in turn, several rounds.

    python tools/bench_peers.py --peers peers/bin/python [--rounds 5] [--sections pong network] [--out FILE.json]

Sections: pong, training from pixels; environments, Pong alone with random actions; network, one thread and no
environment; cartpole and halfcheetah, training on vectors; ppo, several passes in minibatches; ddpg, updates from a
replay memory. The scripts in tools/peers/ say how to make the environment of the peers; a peer that is not installed is
named and left out. Prints medians and ratios; FILE.json holds every figure. Every round runs all competitors, so that a
drift of the machine hits all. Run nothing else meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from measure_run import SETTLING, measure

from nbrl.bench import machine, machine_line
from nbrl.config import available_cores

TOOLS = Path(__file__).parent
ACTORS = 16
PFRL_STEPS = 30_000
ENDLESS = "1e12"  # steps
CHEETAH = "HalfCheetah-v5"
PONG_T_MAX, CARTPOLE_T_MAX, CHEETAH_T_MAX = 5, 16, 32
PACKAGES = ("torch", "pfrl", "stable-baselines3", "envpool", "gymnasium", "ale-py", "numpy")


@dataclass
class Competitor:
    """One program to time, and what it showed.

    Parameters
    ----------
    name : str
    time : callable
        Runs it in a fresh process and returns its figure.
    modules : tuple of str
        What it must be able to import, for a peer; empty for the engine.
    """

    name: str
    time: Callable[[], float]
    modules: tuple[str, ...] = ()
    figures: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_peer(self) -> bool:
        return bool(self.modules)

    @property
    def median(self) -> float | None:
        return statistics.median(self.figures) if self.figures else None


@dataclass
class Table:
    """Competitors with one unit. `smaller_is_better` turns the ratios around."""

    section: str
    title: str
    unit: str
    competitors: list[Competitor]
    smaller_is_better: bool = False

    def ratios(self) -> dict[str, dict[str, float]]:
        """How many times better the engine's medians are than each peer's."""
        found: dict[str, dict[str, float]] = {}
        for ours in self.competitors:
            for peer in self.competitors:
                if ours.is_peer or not peer.is_peer or ours.median is None or peer.median is None:
                    continue
                ratio = ours.median / peer.median
                found.setdefault(ours.name, {})[peer.name] = 1 / ratio if self.smaller_is_better else ratio
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "section": self.section,
            "title": self.title,
            "unit": self.unit,
            "competitors": {
                one.name: {"median": one.median, "figures": one.figures, "failures": one.failures}
                for one in self.competitors
            },
            "ratios": self.ratios(),
        }

    def text(self) -> str:
        ratios, peers = self.ratios(), [one for one in self.competitors if one.is_peer]
        lines = [f"{self.title}, {self.unit}: medians (lowest to highest), then ours against each peer"]
        for one in self.competitors:
            if one.median is None:
                shown = "no figure"
            else:
                shown = f"{one.median:,.0f} ({min(one.figures):,.0f} to {max(one.figures):,.0f})"
            against = ratios.get(one.name, {})
            compared = "  ".join(f"{against[peer.name]:.2f} x {peer.name}" for peer in peers if peer.name in against)
            failed = f"  {len(one.failures)} failed: {one.failures[-1]}" if one.failures else ""
            lines.append(f"  {one.name:28}{shown:>30}  {compared}{failed}".rstrip())
        return "\n".join(lines)


def figure(command: list[str]) -> float:
    """The last word that a program prints, a number; ValueError with its last line of errors where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True)
    words, errors = ended.stdout.split(), ended.stderr.strip().splitlines()
    if ended.returncode or not words:
        raise ValueError(errors[-1] if errors else f"exit code {ended.returncode}")
    return float(words[-1])


def training(environment: str, seconds: float, more: list[str]) -> float:
    """Frames/s of ``nbrl train`` once it has settled."""
    words = ["--threads", str(available_cores()), "--actors", str(ACTORS), "--steps", ENDLESS, *more]
    return measure(environment, SETTLING + seconds, words).frames_per_second


def tables(python: str, seconds: float, lockstep: int) -> list[Table]:
    """All competitors; each figure takes about `seconds`, and some more for starting."""
    cores = str(available_cores())

    def ours(script: str, *words: object) -> Callable[[], float]:
        return partial(figure, [sys.executable, str(TOOLS / script), *map(str, words)])

    def peer(script: str, *words: object) -> Callable[[], float]:
        return partial(figure, [python, str(TOOLS / "peers" / script), *map(str, words)])

    def nbrl(environment: str, k: int, *more: str) -> Competitor:
        return Competitor(
            f"nbrl, lockstep {k}", partial(training, environment, seconds, ["--set", f"envs_per_batch={k}", *more])
        )

    pong = ("Pong", ACTORS, PONG_T_MAX, cores, seconds)
    cartpole = ("CartPole", ACTORS, CARTPOLE_T_MAX, 1, seconds)  # a network too small for PyTorch's threads

    def ddpg(units: list[int], batch: int, threads: str | int) -> Table:
        network = json.dumps([["dense", n, "relu"] for n in units])
        words = ["--method", "dpg", "--network", network, "--set", f"batch_size={batch}", f"learning_starts={batch}"]
        layers = ",".join(map(str, units))
        return Table(
            "ddpg", f"DDPG on {CHEETAH}, network {layers}, batch {batch}, {cores} cores", "updates/s", [
                Competitor("nbrl", partial(training, CHEETAH, seconds, words)),  # an update for each step
                Competitor("SB3 DDPG", peer("sb3_ddpg.py", CHEETAH, layers, batch, threads, seconds), mujoco),
            ],
        )  # fmt: skip

    def ppo(game: str, environment: str, k: int, t_max: int, epochs: int, batch: int, needs: tuple[str, ...]) -> Table:
        parts, copies = k * t_max // batch, 2 if game == "Pong" else 1
        shape = [f"envs_per_batch={k}", f"rollout_length={t_max}", f"epochs={epochs}", f"minibatches={parts}"]
        words = ["--method", "ppo", *(["--network", "paper"] if game == "Pong" else []), "--set", *shape]
        theirs = {
            threads: peer("sb3_on_policy.py", game, copies * k, t_max, threads, seconds, epochs, batch)
            for threads in sorted({"1", cores})
        }
        return Table(
            "ppo", f"PPO on {game}, rollouts of {t_max}, {epochs} passes, minibatches of {batch}, {cores} cores",
            "frames/s" if game == "Pong" else "steps/s", [
                Competitor("nbrl", partial(training, environment, seconds, words)),
                *(Competitor(f"SB3 PPO, {n} threads of PyTorch", time, needs) for n, time in theirs.items()),
            ],
        )  # fmt: skip

    atari = ("stable_baselines3", "torch", "ale_py", "cv2")
    mujoco, paper = ("stable_baselines3", "torch", "mujoco"), ("--preset", "paper")
    return [
        Table("pong", f"Training on Pong, {ACTORS} actors, t_max {PONG_T_MAX}, {cores} cores", "frames/s", [
            nbrl("ALE/Pong-v5", 1, *paper),
            nbrl("ALE/Pong-v5", lockstep, *paper),
            Competitor("pfrl A3C", peer("pfrl_a3c.py", cores, PFRL_STEPS), ("pfrl", "torch", "gym", "ale_py")),
            Competitor("SB3 A2C", peer("sb3_on_policy.py", *pong), atari),
            Competitor("EnvPool + PyTorch A2C", peer("envpool_a2c.py", *pong), ("envpool", "torch")),
        ]),
        Table("environments", f"Pong alone, random actions, {cores} threads", "frames/s", [
            Competitor("nbrl", ours("time_engine.py", "environments", cores, seconds)),
            Competitor("EnvPool", peer("envpool_steps.py", cores, seconds), ("envpool",)),
        ]),
        Table("network", "Network 16-32-256, forward, batch 1, 1 thread", "microseconds", [
            Competitor("nbrl", ours("time_engine.py", "forward", seconds / 5)),
            Competitor("PyTorch eager", peer("torch_network.py", "forward", seconds / 5), ("torch",)),
        ], smaller_is_better=True),
        Table("network", "Network 16-32-256, forward, backward and RMSProp, batch 5, 1 thread", "microseconds", [
            Competitor("nbrl", ours("time_engine.py", "learn", seconds / 5)),
            Competitor("PyTorch eager", peer("torch_network.py", "learn", seconds / 5), ("torch",)),
        ], smaller_is_better=True),
        Table("cartpole", f"Training on CartPole, {ACTORS} actors, t_max {CARTPOLE_T_MAX}, {cores} cores", "steps/s", [
            *(nbrl("CartPole-v1", k, "method=a3c") for k in sorted({1, 4, lockstep})),
            Competitor("SB3 A2C", peer("sb3_on_policy.py", *cartpole), atari),
            Competitor("EnvPool + PyTorch A2C", peer("envpool_a2c.py", *cartpole), ("envpool", "torch")),
        ]),
        *(Table("halfcheetah", f"Training on HalfCheetah, {ACTORS} actors, t_max {t_max}, {cores} cores", "steps/s", [
            nbrl(CHEETAH, 4, "method=a3c", f"rollout_length={t_max}"),
            *(Competitor(
                f"SB3 A2C, {threads} threads of PyTorch",
                peer("sb3_on_policy.py", "HalfCheetah", ACTORS, t_max, threads, seconds), (*atari, "mujoco"),
            ) for threads in sorted({"1", cores})),
        ]) for t_max in (5, CHEETAH_T_MAX)),
        ppo("Pong", "ALE/Pong-v5", 8, 128, 4, 256, atari),
        ppo("HalfCheetah", CHEETAH, 4, 512, 10, 64, (*atari, "mujoco", "imageio")),
        ddpg([400, 300], 256, cores),
        ddpg([64, 64], 64, 1),  # too small for PyTorch's threads
    ]  # fmt: skip


def missing(python: str, modules: tuple[str, ...]) -> list[str]:
    """Those of some modules that the peers' Python cannot find."""
    program = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
    return subprocess.run([python, "-c", program, *modules], capture_output=True, text=True, check=True).stdout.split()


def versions(python: str) -> dict[str, str]:
    """The peers' packages."""
    program = (
        "import importlib.metadata, json, platform, sys\n"
        "names = {i.metadata['Name'].lower(): i.version for i in importlib.metadata.distributions()}\n"
        "print(json.dumps({'python': platform.python_version()} | {n: names[n] for n in sys.argv[1:] if n in names}))\n"
    )
    ended = subprocess.run([python, "-c", program, *PACKAGES], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def leave_out_absent(table: Table, python: str) -> None:
    """Take the peers out of a table that cannot be imported, and say so."""
    for one in list(table.competitors):
        if absent := missing(python, one.modules):
            print(f"left out: {one.name} needs {', '.join(absent)}; tools/peers/ says what to install", flush=True)
            table.competitors.remove(one)


def run(chosen: list[Table], rounds: int) -> None:
    """Fill the competitors' figures and failures, all in turn in each round."""
    for number in range(1, rounds + 1):
        for table in chosen:
            for one in table.competitors:
                try:
                    one.figures.append(one.time())
                    shown = f"{one.figures[-1]:,.1f} {table.unit}"
                except (ValueError, SystemExit) as error:
                    reason = str(error).splitlines()[-1]
                    one.failures.append(f"round {number}: {reason}")
                    shown = f"failed: {reason}"
                print(f"round {number}, {table.title}: {one.name} {shown}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each figure")
    parser.add_argument("--lockstep", type=int, default=8, help="the batch of actors that is compared with 1")
    parser.add_argument("--sections", nargs="+", help="by default all")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()

    chosen = tables(options.peers, options.seconds, options.lockstep)
    known = list(dict.fromkeys(table.section for table in chosen))
    if unknown := sorted(set(options.sections or known) - set(known)):
        parser.error(f"no section {', '.join(unknown)}: there are {', '.join(known)}")
    chosen = [table for table in chosen if table.section in (options.sections or known)]
    try:
        peers = versions(options.peers)
        for table in chosen:
            leave_out_absent(table, options.peers)
    except (OSError, subprocess.CalledProcessError) as error:
        parser.error(f"{options.peers} is no Python that runs: {error}")

    run(chosen, options.rounds)
    described = machine()
    print(machine_line(described))
    print("peers: " + ", ".join(f"{name} {number}" for name, number in peers.items()))
    print(f"{options.rounds} rounds, load {os.getloadavg()[0]:.1f} at the end")
    for table in chosen:
        print("\n" + table.text())
    if options.out:
        result = {"machine": described, "peers": peers, "rounds": options.rounds, "seconds": options.seconds}
        result["tables"] = [table.to_dict() for table in chosen]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
