"""Hours of training at full speed: memory, threads, descriptors and the cost of a step must stay as they are.

    python tools/soak.py --minutes 40 --environments ALE/Pong-v5 CartPole-v1

Each environment trains in a process of its own, all at once, on the threads that ``--threads`` gives each. It prints,
over the last three quarters of the time: the slope of the resident memory, and the processor time of a step in the
second half against the first. Code 1 says that a limit was passed.
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

EVERY = 5.0  # seconds between measurements
SLOPE = 8.0  # MiB an hour
COST = 0.05  # change of a step's processor time, as a share


def measure(environment: str, minutes: float, threads: int) -> dict[str, object]:
    """Train for some minutes; a row of numbers every few seconds."""
    from nbrl import Trainer, configure

    rows = []

    def look(trainer: Trainer) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used = resource.getrusage(resource.RUSAGE_SELF)
        descriptors = len(os.listdir("/proc/self/fd"))
        cpu = used.ru_utime + used.ru_stime
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        # An evaluation has threads of its own while it lasts.
        threads = sum(not thread.name.endswith(("evaluation", "(play)")) for thread in threading.enumerate())
        rows.append((time.monotonic(), memory, threads, descriptors, cpu, trainer.steps))

    config = configure(environment, threads=threads, seed=1, steps=10**12, eval_interval=120.0, eval_episodes=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, directory=Path(folder, "run"))
        trainer.start()
        gc.collect()
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and trainer.running:
            trainer.join(EVERY)
            look(trainer)
        trainer.stop()
        trainer.join()
    seconds, memory, thread_counts, descriptors, cpu, steps = np.array(rows, float).T
    late = seconds - seconds[0] > (seconds[-1] - seconds[0]) / 4
    slope = np.polyfit(seconds[late] / 3600, memory[late], 1)[0]
    places = np.flatnonzero(late)
    half = places[len(places) // 2]
    costs = [1e6 * (cpu[b] - cpu[a]) / (steps[b] - steps[a]) for a, b in ((places[0], half), (half, places[-1]))]
    low, high = (int(np.quantile(thread_counts[late], q)) for q in (0.0, 1.0))
    return {
        "environment": environment,
        "steps": int(steps[-1]),
        "memory": f"{memory[late][0]:.1f} to {memory[late][-1]:.1f} MiB",
        "slope": round(float(slope), 2),
        "threads": f"{low} to {high}",
        "descriptors": f"{int(descriptors[late].min())} to {int(descriptors[late].max())}",
        "grew": bool(high > low or descriptors[late].max() - descriptors[late].min() > 4),
        "cost": [round(cost, 3) for cost in costs],
        "change": round(costs[1] / costs[0] - 1, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", default=["ALE/Pong-v5", "CartPole-v1"])
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        print(json.dumps(measure(parsed.one, parsed.minutes, parsed.threads)))
        return 0
    common = ["--minutes", str(parsed.minutes), "--threads", str(parsed.threads)]
    running = [
        subprocess.Popen([sys.executable, __file__, "--one", name, *common], stdout=subprocess.PIPE, text=True)
        for name in parsed.environments
    ]
    failed = False
    for process in running:
        found = json.loads(process.communicate()[0])
        wrong = found["slope"] > SLOPE or abs(found["change"]) > COST or found["grew"]
        failed = failed or wrong
        print(
            f"{found['environment']}: {found['steps']:,} steps; memory {found['memory']}, {found['slope']:+} MiB/h; "
            f"threads {found['threads']}; descriptors {found['descriptors']}; a step {found['cost'][0]} and "
            f"{found['cost'][1]} us of processor time ({found['change']:+.1%}){'  FAILED' if wrong else ''}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
