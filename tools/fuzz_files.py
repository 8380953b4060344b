"""Mutated files: each must be refused with a documented error, or do no harm.

    python tools/fuzz_files.py --cases 1_000_000

Policies, checkpoints with the states of every native environment, settings and metrics are cut, flipped, and rewritten
in their inside: values, names, shapes, dtypes, with checksums that fit. What is accepted is used: a policy acts, a run
goes on for some rollouts. Cases are numbered and repeat: ``--first N --cases 1`` is case N alone. A process that dies
or hangs costs one case, which is told. It prints the number of each outcome; code 1 says that one was not documented.
"""

import argparse
import collections
import json
import math
import mmap
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

HANG = 60.0  # seconds for one case
GROWTH = 64  # MiB by which no case may raise what the process has had at most
DEPTH = 100_000


class Parcels(gymnasium.Env):
    """Observations and actions of several kinds."""

    observation_space = gymnasium.spaces.Dict(
        {
            "a": gymnasium.spaces.Discrete(3),
            "b": gymnasium.spaces.Box(-1, 1, (2,)),
            "c": gymnasium.spaces.MultiBinary(2),
        }
    )
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


Encoded = tuple[dict[str, np.ndarray], dict[str, str]]


class Corpus:
    """What is mutated, and what reads it."""

    def __init__(self) -> None:
        from nbrl import configure, envs, snapshot, train
        from nbrl.learner import Learner

        short: dict[str, Any] = {"steps": 64, "actors": 2, "threads": 1, "seed": 1}
        agents = [
            train("CartPole-v1", network=[["dense", 8], ["layer_norm"]], normalise_observations=True, **short),
            train("Bricks-v0", network=[["conv", 2, 8, 4], ["dense", 4]], **short),
            train("Catch-v0", network=[["lstm", 3], ["gru", 2]], **short),
            train("Catch-v0", method="n_step_q", network=[["dense", 4]], **short),
            train("Pendulum-v1", network=[["dense", 4]], **short),
            train("Pendulum-v1", method="dpg", network=[["dense", 4]], buffer_size=0, **short),
            train(Parcels, network=[["dense", 4]], **short),
        ]
        self.policies: list[Encoded] = [(agent.arrays(), agent.metadata()) for agent in agents]
        self.learners, self.checkpoints = [], []
        for name in [*envs.names()["native"], *envs.names()["atari"][:1]]:
            spec = envs.make(name)
            kernel = min(8, spec.observations.height) if spec.observations.image else 0
            network = [["conv", 2, kernel, kernel], ["dense", 4]] if kernel else [["dense", 4]]
            learner = Learner(configure(name, network=network, rollout_length=3, **{**short, "steps": 10**12}))
            learner.attach(0)
            learner.loop(0, 4)
            self.learners.append(learner)
            arrays, metadata = snapshot.take(learner)
            self.checkpoints.append((arrays, metadata | {"seconds": "1.0"}))
        self.configs = [learner.config.to_dict() for learner in self.learners[:3]]
        from nbrl.metrics import CHARTS

        numbers = {
            name: 1 if "int" in name or name in ("steps", "frames", "updates") else 1.5 for name in CHARTS.values()
        }
        numbers |= dict.fromkeys(
            ("steps", "frames", "total_steps", "charts/episodic_return_count", "dropped_episodes"), 7
        )
        self.lines = [json.dumps(numbers | {"updates": 3, "seconds": 1.0 * i}) for i in range(4)]
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


VALUES: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 255, 2**31, 2**33, 2**53, 2**63 - 1, 2**63, 10**30, -(2**63), 0.5, 1e308, -1e-308, math.nan,
    math.inf, "", "relu", "NaN", "dense", "Box", "x" * 20_000, [], {}, [[]], [1, 2], {"kind": "Box"}, True, False, None,
)  # fmt: skip


def mutated_json(value: Any, rng: np.random.Generator) -> Any:
    """A tree with one node changed."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    root = [json.loads(json.dumps(value))]
    walk(root)
    node, key = places[rng.integers(len(places))]
    match rng.integers(7):
        case 0 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] += int(rng.integers(-2, 3))
        case 1 if isinstance(node, dict):
            node[str(VALUES[rng.integers(len(VALUES))])[:50]] = node.pop(key)
        case 2 if isinstance(node, list) and len(node) > 1:
            node.insert(int(rng.integers(len(node))), node[key])
        case 3:
            del node[key]
        case _:
            node[key] = VALUES[rng.integers(len(VALUES))]
    return root[0] if root else None


def mutated_text(text: str, rng: np.random.Generator) -> str:
    """JSON with a node changed, or another text."""
    match rng.integers(8):
        case 0:
            return "[" * DEPTH
        case 1:
            return str(VALUES[rng.integers(len(VALUES))])
        case 2:
            return mutated_bytes(text.encode(), rng).decode(errors="replace")
        case _:
            try:
                return json.dumps(mutated_json(json.loads(text), rng))
            except (ValueError, IndexError, RecursionError):
                return text[::-1]


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut out, put in, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(changed) + 1))
        match rng.integers(4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[at : at + int(rng.integers(1, 9))]
            case 2:
                changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case _:
                changed[at : at + 8] = struct.pack("<q", int(VALUES[rng.integers(3, 10)]))
    return bytes(changed[: rng.integers(len(changed) + 1)] if rng.random() < 0.1 else changed)


def mutated_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An array with numbers, its shape or its dtype changed."""
    array = np.array(array)
    match rng.integers(8):
        case 0:
            return array.reshape(-1)
        case 1:
            return array.astype([np.float64, np.int64, np.uint8, np.float16][rng.integers(4)])
        case 2:
            return np.concatenate([array.reshape(-1), array.reshape(-1)[:1]])
        case 3:
            return array.reshape(-1)[: int(rng.integers(array.size + 1))]
        case 4 if array.ndim > 1:
            return array.T.copy()
        case _:
            raw = array.reshape(-1).view(np.uint8)
            for _ in range(rng.integers(1, 9) if raw.size else 0):
                at = int(rng.integers(raw.size))
                if rng.random() < 0.5:
                    raw[at] = rng.integers(256)
                    continue
                width = array.itemsize
                begin = at // width * width
                special: list[Any] = [np.nan, np.inf, 0, -1, 1, 3.0e38]
                with np.errstate(all="ignore"):
                    if array.dtype.kind == "f":
                        number = np.array(special[rng.integers(len(special))], array.dtype)
                    else:
                        number = np.frombuffer(rng.bytes(8), np.uint64)[:1].astype(array.dtype)
                raw[begin : begin + width] = np.frombuffer(number.tobytes()[:width], np.uint8)
            return array


def mutated_tensors(encoded: Encoded, rng: np.random.Generator) -> bytes:
    """The bytes of a file: some with a wrong inside and a right checksum, some damaged."""
    from nbrl.checkpoint import _encode

    arrays, metadata = dict(encoded[0]), dict(encoded[1])
    outside = rng.random() < 0.2
    for _ in range(0 if outside else int(rng.integers(1, 4))):
        kind = rng.integers(6)
        if not arrays or not metadata:
            break
        name, key = (list(group)[rng.integers(len(group))] for group in (arrays, metadata))
        if kind == 0:
            del arrays[name]
        elif kind == 1:
            other = list(arrays)[rng.integers(len(arrays))]
            arrays[name], arrays[other] = arrays[other], arrays[name]
        elif kind == 2:
            del metadata[key]
        elif kind == 3:
            metadata[key] = mutated_text(metadata[key], rng)
        else:
            arrays[name] = mutated_array(arrays[name], rng)
    header, chunks = _encode(arrays, metadata)
    whole = b"".join([len(header).to_bytes(8, "little"), header, *map(bytes, chunks)])
    return mutated_bytes(whole, rng) if outside else whole


def check(error: Exception) -> None:
    """A documented error is one sentence that a person reads."""
    if len(str(error)) > 300:
        raise AssertionError(f"a message of {len(str(error))} characters")


def read_policy(corpus: Corpus, rng: np.random.Generator) -> str:
    """A policy's file: both engines read it alike, and what they accept acts."""
    from nbrl import Agent, CheckpointError, NumpyPolicy

    data = mutated_tensors(corpus.policies[rng.integers(len(corpus.policies))], rng)
    outcomes: list[Any] = []
    for kind in (Agent, NumpyPolicy):
        try:
            outcomes.append(kind.load(data))
        except CheckpointError as error:
            check(error)
            outcomes.append(None)
    agent, twin = outcomes
    assert (agent is None) == (twin is None), "Agent and NumpyPolicy do not agree"
    if agent is None:
        return "CheckpointError"
    for policy in (agent, twin):
        state = policy.initial_state() if policy.initial_state().size else None
        try:
            action = policy.act(agent.observation_space.sample(), state)
        except ValueError as error:
            if "too large" not in str(error):
                raise
            return "accepted, and says that its outputs are not finite"
        assert agent.action_space.contains(action) or agent.action_space.dtype == np.float16
    return "accepted, and acts"


def read_checkpoint(corpus: Corpus, rng: np.random.Generator) -> str:
    """A checkpoint: refused, or the run goes on with it."""
    from nbrl import CheckpointError, snapshot
    from nbrl.methods import driver

    number = int(rng.integers(len(corpus.learners)))
    learner, path = corpus.learners[number], Path(corpus.folder.name, "checkpoint.safetensors")
    path.write_bytes(mutated_tensors(corpus.checkpoints[number], rng))
    learner.saved_environments.clear()
    try:
        snapshot.restore(learner, path)
    except CheckpointError as error:
        check(error)
        for worker in learner.workers:
            worker.actors.begun[:] = False
        return "CheckpointError"
    for actor, saved in learner.saved_environments.items():
        try:
            learner.instances[0][actor].load(saved)
        except RuntimeError:
            return "accepted, an environment refuses its state"
    learner.shared.steps[:] = 0
    code = learner.loop(0, 3)
    if not np.isfinite(learner.shared.theta).all():
        return "accepted, and diverges"
    known = (driver.PAUSED, driver.FAILED_ENVIRONMENT, driver.BAD_OBSERVATION, driver.BAD_REWARD, driver.BAD_GRADIENT)
    assert code in known, f"the loop returned {code}"
    return "accepted, and goes on" if code == driver.PAUSED else "accepted, and the run ends with a sentence"


def read_config(corpus: Corpus, rng: np.random.Generator) -> str:
    """A run's settings."""
    from nbrl.metrics import RunDirectory

    run = RunDirectory(corpus.folder.name)
    text = json.dumps(corpus.configs[rng.integers(len(corpus.configs))])
    run.config_file.write_text(mutated_text(text, rng), encoding="utf-8")
    try:
        run.config()
    except ValueError as error:
        check(error)
        return "ValueError"
    return "accepted"


def read_lines(corpus: Corpus, rng: np.random.Generator) -> str:
    """A run's metrics, some lines of them changed, and what is drawn and printed of them."""
    from nbrl.metrics import progress_line, read_metrics, write_csv
    from nbrl.plots import _curve

    path = Path(corpus.folder.name, "metrics.jsonl")
    lines = [mutated_text(line, rng) if rng.random() < 0.5 else line for line in corpus.lines]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    reports = read_metrics(path)
    for report in reports:
        progress_line(report)
    write_csv(Path(corpus.folder.name, "metrics.csv"), reports)
    if reports:
        try:
            _curve("run", reports, np.array([report.frames for report in reports], float))
        except ValueError:
            return "read, and nothing to draw"
    return f"read, {len(corpus.lines) - len(reports)} lines passed over"


KINDS: tuple[Callable[[Corpus, np.random.Generator], str], ...] = (
    read_policy,
    read_checkpoint,
    read_config,
    read_lines,
)


def outcome(corpus: Corpus, number: int) -> str:
    """What comes of one case."""
    kind = KINDS[number % len(KINDS)]
    rng = np.random.default_rng(number)
    try:
        result = kind(corpus, rng)
    except Exception as error:  # all that is not documented
        result = f"NOT DOCUMENTED, case {number}: {type(error).__name__}: {str(error)[:120]}"
    return f"{kind.__name__.removeprefix('read_')}: {result}"


def child(first: int, cases: int, progress: Path) -> None:
    """Go through cases, and keep the number of the one at hand and the outcomes so far where the parent finds them."""
    import logging

    logging.getLogger("nbrl").setLevel(logging.CRITICAL)
    corpus, counts = Corpus(), collections.Counter()
    with open(progress, "r+b") as file, mmap.mmap(file.fileno(), 16) as shared:
        most = 0
        for number in range(first, first + cases):
            shared[:8] = struct.pack("<q", number)
            counts[outcome(corpus, number)] += 1
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if most and now > most + GROWTH:
                counts[f"NOT DOCUMENTED, case {number}: {now - most} MiB more"] += 1
            most = now if number > first + 50 else 0
            if number % 500 == 0 or number == first + cases - 1:
                progress.with_suffix(".json").write_text(json.dumps([number, counts]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=lambda text: int(text.replace("_", "")), default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.child:
        child(parsed.first, parsed.cases, parsed.child)
        return 0
    total: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        share = -(-parsed.cases // parsed.processes)
        work = [(parsed.first + i * share, min(share, parsed.cases - i * share)) for i in range(parsed.processes)]
        running: dict[int, Any] = {}

        def start(i: int, first: int, cases: int) -> None:
            place = Path(folder, f"{i}-{first}")
            place.write_bytes(bytes(16))
            words = [sys.executable, __file__, "--first", str(first), "--cases", str(cases), "--child", str(place)]
            running[i] = (subprocess.Popen(words, stderr=subprocess.DEVNULL), place, first, cases, time.monotonic(), -1)

        for i, (first, cases) in enumerate(work):
            if cases > 0:
                start(i, first, cases)
        while running:
            time.sleep(1)
            for i, (process, place, first, cases, since, last) in list(running.items()):
                at = struct.unpack("<q", place.read_bytes()[:8])[0]
                if at != last:
                    running[i] = (process, place, first, cases, time.monotonic(), at)
                hung = time.monotonic() - since > HANG + 240 * (last <= 0)
                if hung:
                    process.kill()
                code = process.poll()
                if code is None and not hung:
                    continue
                code = process.wait()
                report = place.with_suffix(".json")
                done, counts = json.loads(report.read_text()) if report.exists() else (first - 1, {})
                total.update(counts)
                del running[i]
                if code != 0:
                    total[f"NOT DOCUMENTED, case {at}: {'hung' if hung else f'code {code}'}"] += 1
                    total["(cases of a report that was lost)"] += at - done - 1
                    if first + cases - at - 1 > 0:
                        start(i, at + 1, first + cases - at - 1)
    for words, count in sorted(total.items()):
        print(f"{count:>9,}  {words}")
    failed = sum(count for words, count in total.items() if words.startswith("NOT") or ": NOT" in words)
    print(f"{sum(total.values()):,} cases from {parsed.first:,} on, {failed} not documented")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
