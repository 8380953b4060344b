"""Gymnasium's motor control tasks, one setting for all: returns and curves by steps and minutes over several seeds.

    python tools/motor_control.py --out DIR [--method a3c] [--steps 1_000_000] [--seeds 3] [--threads 2]
        [--tasks Hopper-v5 ...] [--set initial_deviation=0.5 ...]

After training, each policy plays 30 episodes, with its mean actions and with sampled ones (dpg's are its mean ones).
DIR/motor_control.json has what was measured, one row a task, and DIR/motor_control.png the curves; the first is
written again after each task. Tasks that are in the file already are drawn and not run again.
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


def measured(task: str, seeds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and play: a row of the results."""
    curves, means, sampled, speeds, minutes = [], [], [], [], []
    for seed in range(1, seeds + 1):
        begun = time.perf_counter()
        speed, curve, agent = learning_curve(task, seed=seed, **settings)
        minutes.append((time.perf_counter() - begun) / 60)
        speeds.append(speed)
        curves.append(curve.tolist())
        means.append(evaluate(agent, episodes=30, greedy=True).mean_return)
        sampled.append(evaluate(agent, episodes=30).mean_return)
    mean, error = mean_and_error(np.array(means))
    print(
        f"{task:28}{mean:10.1f} ± {error:<8.1f} sampled {np.mean(sampled):10.1f}  "
        f"{np.mean(minutes):5.1f} min  {np.mean(speeds):9,.0f} steps/s",
        flush=True,
    )
    row = {"task": task, "return": mean, "error": error, "returns": means, "sampled": sampled}
    return row | {"settings": settings, "steps_per_second": speeds, "minutes": minutes, "curves": curves}


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
    if any(row.get("settings") != settings or len(row["returns"]) != options.seeds for row in rows):
        parser.error(f"{results} holds results of other settings: give another folder, or the same settings")
    for task in options.tasks:
        if all(row["task"] != task for row in rows):
            rows.append(measured(task, options.seeds, settings))
            results.write_text(json.dumps(rows, indent=1) + "\n")
    draw_all(rows).savefig(options.out / "motor_control.png")


if __name__ == "__main__":
    main()
