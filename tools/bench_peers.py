"""Training speed on Pong against pfrl's A3C: in turn, several rounds, the same network and t_max, the same cores.

    python tools/bench_peers.py --peers peers/bin/python [--rounds 5]

`tools/peers/pfrl_a3c.py` says how to make the other environment. Prints frames/s of both, medians and their ratio.
Run nothing else meanwhile.
"""

import argparse
import platform
import statistics
import subprocess
from pathlib import Path

from measure_run import measure

from nbrl.config import available_cores

PFRL = Path(__file__).parent / "peers" / "pfrl_a3c.py"
SECONDS = 30  # of our training, a round
PFRL_STEPS = 30_000


def pfrl_speed(python: str, processes: int) -> float:
    """Frames/s of pfrl's A3C."""
    command = [python, str(PFRL), str(processes), str(PFRL_STEPS)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"pfrl failed: {ended.stderr.strip().splitlines()[-1]}")
    return float(ended.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    cores = available_cores()
    ours, pfrl = [], []
    for number in range(1, options.rounds + 1):
        ours.append(measure("ALE/Pong-v5", SECONDS, ["--threads", str(cores), "--preset", "paper"]).frames_per_second)
        pfrl.append(pfrl_speed(options.peers, cores))
        print(f"round {number}: nbrl {ours[-1]:,.0f}, pfrl {pfrl[-1]:,.0f} frames/s", flush=True)
    medians = statistics.median(ours), statistics.median(pfrl)
    print(f"{platform.processor() or platform.machine()}, {cores} cores")
    print(f"medians: nbrl {medians[0]:,.0f}, pfrl {medians[1]:,.0f} frames/s; ratio {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
