"""Every method of the paper on small tasks, with its defaults and nothing tuned: curves over several seeds.

    python tools/methods.py --out DIR [--seeds 3] [--tasks Acrobot-v1 ...] [--methods a3c ...]

After training, each policy plays 100 episodes, greedy and not. Writes methods.json and methods.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from curves import draw, finish, learning_curve, mean_and_error
from matplotlib.figure import Figure

from nbrl import Dense, Lstm, evaluate
from nbrl.config import METHODS

# The length of the run, and what the task needs. FrozenLake's observations are Discrete, Bricks' are pixels, and Cue
# cannot be learnt without a memory.
TASKS: dict[str, dict[str, Any]] = {
    "Acrobot-v1": {"steps": 300_000},
    "MountainCar-v0": {"steps": 300_000},
    "FrozenLake-v1": {"steps": 300_000},
    "Rooms-v0": {"steps": 2_000_000},
    "Cue-v0": {"steps": 300_000, "network": (Dense(32, "tanh"), Lstm(32))},
    "Bricks-v0": {"steps": 1_000_000, "epsilon_steps": 200_000},
}
COLUMNS = 3
DISCRETE = [method for method in METHODS if method != "dpg"]  # which takes continuous actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=DISCRETE, default=DISCRETE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    rows = []
    figure = Figure(figsize=(13, 3.8 * -(-len(options.tasks) // COLUMNS)), dpi=120, layout="constrained")
    for place, task in enumerate(options.tasks):
        axes = figure.add_subplot(-(-len(options.tasks) // COLUMNS), min(COLUMNS, len(options.tasks)), place + 1)
        for method in options.methods:
            curves, played, greedy = [], [], []
            for seed in range(1, options.seeds + 1):
                _, curve, agent = learning_curve(task, method=method, seed=seed, **TASKS[task])
                curves.append(curve)
                played.append(evaluate(agent, episodes=100).mean_return)
                greedy.append(evaluate(agent, episodes=100, greedy=True).mean_return)
            mean, error = mean_and_error(np.array(played))
            row = {"task": task, "method": method, "return": mean, "error": error, "greedy": float(np.mean(greedy))}
            rows.append(row | {"returns": played, "curve": np.mean(curves, axis=0).tolist()})
            print(f"{task:16}{method:16}{mean:9.2f} ± {error:.2f}, greedy {row['greedy']:.2f}", flush=True)
            draw(axes, curves, TASKS[task]["steps"], method)
        finish(axes, task, TASKS[task]["steps"])
        axes.legend(frameon=False, fontsize="small")
    result = {"seeds": options.seeds, "rows": rows}
    (options.out / "methods.json").write_text(json.dumps(result, indent=1) + "\n")
    figure.savefig(options.out / "methods.png")


if __name__ == "__main__":
    main()
