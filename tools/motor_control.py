"""Gymnasium's motor control tasks, one setting for all: returns and curves by steps and minutes over several seeds.

    python tools/motor_control.py --out DIR [--method a3c] [--steps 1_000_000] [--seeds 3] [--threads 2]
        [--tasks Hopper-v5 ...] [--set initial_std=0.5 ...]

After training, each policy plays 30 episodes, with its mean actions and with sampled ones (dpg's are its mean ones).
DIR/motor_control.json has what was measured, one row a task, and DIR/motor_control.png the curves; the first is
written again after each seed. What is in the file already is not run again, so more seeds go on from fewer.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from curves import draw, finish, learning_curve, mean_and_error
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nbrl import evaluate
from nbrl.cli import settings_of
from nbrl.envs.mujoco.tasks import TASKS

COLUMNS = 4


def by_minutes(axes: Axes, steps: int, minutes: float) -> None:
    """A second axis above the curves, in minutes of training."""
    above = axes.secondary_xaxis("top", functions=(lambda x: x * minutes / steps, lambda x: x * steps / minutes))
    above.set_xlabel("minutes", loc="right")
    above.spines["top"].set_visible(False)


def measured(task: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and play with one seed: what the lists of a row get."""
    begun = time.perf_counter()
    speed, curve, agent = learning_curve(task, seed=seed, **settings)
    minutes = (time.perf_counter() - begun) / 60
    return {
        "returns": evaluate(agent, episodes=30, greedy=True).mean_return,
        "sampled": evaluate(agent, episodes=30).mean_return,
        "steps_per_second": speed,
        "minutes": minutes,
        "curves": curve.tolist(),
    }


def draw_all(rows: list[dict[str, Any]]) -> Figure:
    """The curves of all tasks."""
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(4.5 * min(COLUMNS, len(rows)), 3.4 * lines), dpi=110, layout="constrained")
    for place, row in enumerate(rows):
        axes = figure.add_subplot(lines, min(COLUMNS, len(rows)), place + 1)
        steps = row["settings"]["steps"]
        draw(axes, np.array(row["curves"]), steps, "")
        finish(axes, row["task"], steps)
        by_minutes(axes, steps, steps / np.mean(row["steps_per_second"]) / 60)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", choices=["a3c", "dpg"], default="a3c")
    parser.add_argument("--steps", default="1_000_000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--set", metavar="field=value", nargs="+", default=[], help="as for nbrl train")
    options = parser.parse_args()
    try:
        settings = settings_of(options)
    except ValueError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)

    results = options.out / "motor_control.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text()) if results.exists() else []
    if any(row.get("settings") != settings for row in rows):
        parser.error(f"{results} holds results of other settings: give another folder, or the same settings")
    for task in options.tasks:
        row = next((row for row in rows if row["task"] == task), None)
        if row is None:
            rows.append(row := {"task": task, "settings": settings})
        for seed in range(len(row.get("returns", [])) + 1, options.seeds + 1):
            for name, value in measured(task, seed, settings).items():
                row.setdefault(name, []).append(value)
            row["return"], row["error"] = mean_and_error(np.array(row["returns"]))
            results.write_text(json.dumps(rows, indent=1) + "\n")
            print(
                f"{task:28}{row['returns'][-1]:10.1f}   mean of {seed:2} {row['return']:10.1f} ± {row['error']:<8.1f}"
                f"{row['minutes'][-1]:5.1f} min  {row['steps_per_second'][-1]:9,.0f} steps/s",
                flush=True,
            )
    draw_all(rows).savefig(options.out / "motor_control.png")


if __name__ == "__main__":
    main()
