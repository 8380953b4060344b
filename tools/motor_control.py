"""A3C on gymnasium's motor control tasks, one setting for all: returns and curves over several seeds.

    python tools/motor_control.py --out DIR [--steps 1_000_000] [--seeds 3] [--tasks Hopper-v5 ...]

After training, each policy plays 30 episodes, with its mean actions and with sampled ones. DIR/motor_control.json has
what was measured, one row a task, and DIR/motor_control.png the curves; both are written again after each task.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from curves import draw, finish, learning_curve, mean_and_error
from matplotlib.figure import Figure

from nbrl import evaluate
from nbrl.envs.mujoco.tasks import TASKS

COLUMNS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    rows: list[dict[str, Any]] = []
    lines = -(-len(options.tasks) // COLUMNS)
    figure = Figure(figsize=(4.5 * min(COLUMNS, len(options.tasks)), 3.4 * lines), dpi=110, layout="constrained")
    for place, task in enumerate(options.tasks):
        axes = figure.add_subplot(lines, min(COLUMNS, len(options.tasks)), place + 1)
        curves, means, sampled, speeds, minutes = [], [], [], [], []
        for seed in range(1, options.seeds + 1):
            begun = time.perf_counter()
            speed, curve, agent = learning_curve(task, seed=seed, steps=options.steps)
            minutes.append((time.perf_counter() - begun) / 60)
            speeds.append(speed)
            curves.append(curve)
            means.append(evaluate(agent, episodes=30, greedy=True).mean_return)
            sampled.append(evaluate(agent, episodes=30).mean_return)
        mean, error = mean_and_error(np.array(means))
        row = {"task": task, "return": mean, "error": error, "returns": means, "sampled": sampled}
        rows.append(row | {"steps_per_second": speeds, "minutes": minutes, "curve": np.mean(curves, axis=0).tolist()})
        print(
            f"{task:28}{mean:10.1f} ± {error:<8.1f} sampled {np.mean(sampled):10.1f}  "
            f"{np.mean(minutes):5.1f} min  {np.mean(speeds):9,.0f} steps/s",
            flush=True,
        )
        draw(axes, curves, options.steps, "")
        finish(axes, task, options.steps)
        result = {"steps": options.steps, "seeds": options.seeds, "rows": rows}
        (options.out / "motor_control.json").write_text(json.dumps(result, indent=1) + "\n")
        figure.savefig(options.out / "motor_control.png")


if __name__ == "__main__":
    main()
