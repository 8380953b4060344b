"""Time stops of training by Ctrl-C and by SIGTERM, while other processes keep the cores busy.

    python tools/time_stops.py [ALE/Pong-v5 CartPole-v1] [--stops 100] [--busy 2]

Half of an environment's stops are by each signal: `nbrl train` is started, and after its first step and a random time
of up to two seconds the signal comes. Printed are the seconds until the process has ended, and how many stops ended
with the right code and left a checkpoint that can be read and holds all steps that were reported.
"""

import argparse
import contextlib
import multiprocessing
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nbrl.checkpoint import newest
from nbrl.metrics import RunDirectory, read_metrics

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
REPORT_INTERVAL = 0.1  # seconds: how finely the first step is seen
LONGEST_WAIT = 2.0  # seconds of training before the signal


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Some processes that compute without end."""
    spinning = [multiprocessing.Process(target=spin, daemon=True) for _ in range(processes)]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.terminate()
            process.join()


def steps_reported(run: RunDirectory) -> int:
    """Steps of a run's last report, 0 before there is one."""
    reports = read_metrics(run.metrics_file) if run.metrics_file.exists() else []
    return reports[-1].steps if reports else 0


def stop_once(environment: str, number: signal.Signals, folder: str) -> tuple[float, str]:
    """Start a run and stop it: seconds from the signal to the end, and what was wrong, if anything."""
    run = RunDirectory(Path(folder) / "run")
    command = [sys.executable, "-m", "nbrl", "train", environment, "--steps", "1e12", "--out", str(run.path)]
    command += ["--set", f"report_interval={REPORT_INTERVAL}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while process.poll() is None and not steps_reported(run):
        time.sleep(REPORT_INTERVAL / 2)
    time.sleep(random.uniform(0, LONGEST_WAIT))
    process.send_signal(number)
    began = time.perf_counter()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode != EXIT_CODES[number]:
        return seconds, f"exit code {process.returncode}: {errors.strip()}"
    saved = newest(run.checkpoints)
    if saved is None:
        return seconds, "no checkpoint"
    if int(saved.stem.removeprefix("step-")) < steps_reported(run):
        return seconds, "a checkpoint that lacks steps"
    return seconds, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", default=["ALE/Pong-v5", "CartPole-v1"])
    parser.add_argument("--stops", type=int, default=100, help="of each environment")
    parser.add_argument("--busy", type=int, default=2, help="processes that keep the cores busy")
    options = parser.parse_args()

    print(f"{'environment':20} {'signal':8} {'stops':>6} {'saved':>6} {'median s':>9} {'longest s':>10}")
    with busy(options.busy):
        for environment in options.environments:
            stops: dict[signal.Signals, list[tuple[float, str]]] = {number: [] for number in EXIT_CODES}
            for stop in range(options.stops):
                number = list(EXIT_CODES)[stop % 2]
                with tempfile.TemporaryDirectory() as folder:
                    stops[number].append(stop_once(environment, number, folder))
            for number, seen in stops.items():
                seconds = [second for second, _ in seen]
                wrong = [reason for _, reason in seen if reason]
                print(
                    f"{environment:20} {number.name:8} {len(seen):6} {len(seen) - len(wrong):6} "
                    f"{statistics.median(seconds):9.2f} {max(seconds):10.2f}"
                )
                for reason in wrong:
                    print(f"  {reason}")


if __name__ == "__main__":
    main()
