"""Time a training run from outside: seconds to its first step, frames/s, memory.

    python tools/measure_run.py ALE/Pong-v5 --seconds 60 [--cold] [-- --threads 2 ...]

`--cold` starts from an empty cache of compiled code. What follows `--` goes to `nbrl train`. Run nothing else
meanwhile.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nbrl.metrics import read_metrics

REPORT_INTERVAL = 0.1  # seconds: how finely the first step is seen
SETTLING = 5.0  # seconds of training that the speed leaves out


class Measurement(NamedTuple):
    """What was seen of one run."""

    first_step: float  # seconds from the command to the first report of a step
    frames_per_second: float  # once settled
    resident: list[float]  # megabytes in RAM, once a second
    stopped: float  # seconds from SIGTERM to the end


def resident_megabytes(process: int) -> float:
    """Memory of a process that is in RAM (Linux)."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure(environment: str, seconds: float, more: Sequence[str] = (), *, cold: bool = False) -> Measurement:
    """Train for some seconds after the first step, then stop it as Ctrl-C does."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        variables = dict(os.environ) | ({"XDG_CACHE_HOME": folder} if cold else {})
        command = [sys.executable, "-m", "nbrl", "train", environment, "--out", str(metrics.parent), *more]
        command += ["--set", f"report_interval={REPORT_INTERVAL}"]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        first, resident = 0.0, []
        while process.poll() is None and not (first and time.perf_counter() - began > first + seconds):
            time.sleep(1.0 if first else 0.02)
            if first and process.poll() is None:
                resident.append(resident_megabytes(process.pid))
            elif metrics.exists() and any(report.steps for report in read_metrics(metrics)):
                first = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)  # as Ctrl-C, but never ignored
        stopping = time.perf_counter()
        _, errors = process.communicate()
        stopped = time.perf_counter() - stopping
        if not first:
            raise SystemExit(f"no step was taken: {errors.decode().strip()}")
        reports = [report for report in read_metrics(metrics) if report.seconds > SETTLING]
        frames, spent = (getattr(reports[-1], name) - getattr(reports[0], name) for name in ("frames", "seconds"))
    return Measurement(first, frames / spent, resident, stopped)


def read_words(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what is for nbrl train: all behind --, which argparse does not find behind an option."""
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, more than 5")
    parser.add_argument("--cold", action="store_true")
    return parser.parse_args(words[:cut]), list(words[cut + 1 :])


def main() -> None:
    options, more = read_words(sys.argv[1:])
    seen = measure(options.environment, options.seconds, more, cold=options.cold)
    half = seen.resident[len(seen.resident) // 2 :]
    print(f"first step seen after {seen.first_step:.2f} s")
    print(f"{seen.frames_per_second:,.0f} frames/s after the first {SETTLING:.0f} s")
    print(f"resident at half-time {half[0]:.0f} MB, at the end {half[-1]:.0f} MB")
    print(f"stopped {seen.stopped:.2f} s after SIGTERM")


if __name__ == "__main__":
    main()
