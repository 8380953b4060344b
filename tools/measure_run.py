"""Time a training run from outside: seconds to its first step, frames/s, memory.

    python tools/measure_run.py ALE/Pong-v5 --seconds 60 [--cold] [-- --threads 2 ...]

`--cold` starts from an empty cache of compiled code. What follows `--` goes to `nbrl train`. Run nothing else
meanwhile.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nbrl.metrics import read_metrics

REPORT_INTERVAL = 0.1  # seconds: how finely the first step is seen


def resident_megabytes(process: int) -> float:
    """Memory of a process that is in RAM (Linux)."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("more", nargs="*", help="for nbrl train")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        variables = dict(os.environ)
        if options.cold:
            variables["XDG_CACHE_HOME"] = folder
        command = [sys.executable, "-m", "nbrl", "train", options.environment, "--out", str(run)]
        command += ["--set", f"report_interval={REPORT_INTERVAL}", *options.more]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first, memory = None, []
        metrics = run / "metrics.jsonl"
        while process.poll() is None and (first is None or time.perf_counter() - began < first + options.seconds):
            time.sleep(0.02 if first is None else 1.0)
            if first is None:
                if metrics.exists() and any(report.steps > 0 for report in read_metrics(metrics)):
                    first = time.perf_counter() - began
            elif process.poll() is None:
                memory.append(resident_megabytes(process.pid))
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            stopping = time.perf_counter()
            process.wait()
            print(f"stopped in {time.perf_counter() - stopping:.2f} s")
        reports = read_metrics(metrics)
        settled = [report for report in reports if report.seconds > min(5.0, reports[-1].seconds / 2)]
        frames = (settled[-1].frames - settled[0].frames) / max(settled[-1].seconds - settled[0].seconds, 1e-9)
        print(f"first step seen after {first:.2f} s" if first else "no step")
        print(f"{frames:,.0f} frames/s over {settled[-1].seconds - settled[0].seconds:.0f} s")
        if memory:
            half = memory[len(memory) // 2 :]
            print(f"resident: {statistics.median(half):.0f} MB; last half: {half[0]:.0f} to {half[-1]:.0f} MB")


if __name__ == "__main__":
    main()
