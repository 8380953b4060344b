"""What a step costs in each part of the engine, counted in the work of a fixed yardstick, beside a committed table.

    python tools/engine_speeds.py [--seconds 1] [--rounds 3] [--write]

A part's microseconds a step on one thread are multiplied by the GFLOP/s of multiply-adds that the core does in the same
minute, so the figures, in thousands of multiply-adds and additions, travel between machines of a kind where times do
not. The medians of several rounds are printed with their ratios to those in runs/reference/benchmarks/engine.json; it
ends with code 1 where one has grown by more than a quarter. ``--write`` makes the table anew. Run nothing else
meanwhile.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from nbrl import configure
from nbrl.bench import KERNELS, NO_LEARNING, Parts, machine, peak_gflops, training_speed
from nbrl.learner import Learner

TABLE = Path(__file__).parents[1] / "runs/reference/benchmarks/engine.json"
CASES: dict[str, tuple[str, dict]] = {
    "CartPole": ("CartPole-v1", {}),
    "CartPole, batches of 8": ("CartPole-v1", {"envs_per_batch": 8}),
    "CartPole, n-step Q": ("CartPole-v1", {"method": "n_step_q"}),
    "CartPole, LSTM": ("CartPole-v1", {"network": [["dense", 64, "tanh"], ["lstm", 64]]}),
    "Pendulum": ("Pendulum-v1", {}),
    "Bricks": ("Bricks-v0", {"preset": "paper"}),
}
GROWN = 1.25  # a ratio to the table


def costs(environment: str, settings: dict, seconds: float) -> dict[str, float]:
    """Thousands of the yardstick's operations a step, of each part and of training as a whole, on one thread."""
    config = configure(environment, **{"method": "a3c", "threads": 1, "steps": 10**12} | settings)
    found = {}
    with Parts(Learner(config.replace(learning_rate=NO_LEARNING))) as parts:
        for part in KERNELS:
            found[part] = parts.microseconds(part, 1, seconds) * peak_gflops(seconds / 4)
    found["training"] = 1e6 / training_speed(config, None, 2 * seconds) * peak_gflops(seconds / 4)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement; default: 1")
    parser.add_argument("--rounds", type=int, default=3, help="whose medians count; default: 3")
    parser.add_argument("--write", action="store_true", help="make the table anew")
    options = parser.parse_args()
    rounds = [{name: costs(*case, options.seconds) for name, case in CASES.items()} for _ in range(options.rounds)]
    now = {
        name: {part: statistics.median(one[name][part] for one in rounds) for part in rounds[0][name]} for name in CASES
    }
    then = {} if options.write or not TABLE.exists() else json.loads(TABLE.read_text())["thousands"]
    grown = False
    for name, parts in now.items():
        print(name)
        for part, cost in parts.items():
            ratio = cost / then[name][part] if part in then.get(name, {}) else None
            grown |= ratio is not None and ratio > GROWN
            print(f"  {part:12}{cost:12,.2f}" + ("" if ratio is None else f"{ratio:8.2f} of the table's"))
    if options.write:
        rounded = {name: {part: round(cost, 3) for part, cost in parts.items()} for name, parts in now.items()}
        TABLE.write_text(json.dumps({"machine": machine(), "thousands": rounded}, indent=1) + "\n")
    return int(grown)


if __name__ == "__main__":
    sys.exit(main())
