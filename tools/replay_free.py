"""Deterministic policy gradient without a replay memory: do parallel actors take its place? Curves over several seeds.

    python tools/replay_free.py --out DIR [--seeds 5] [--tasks Pendulum-v1 ...] [--actors 1 4 16 64] [--steps 1000000]

Everything else is as by default, but for two ways to spend the steps, which are one where eight actors or more step
together: updates from rollouts of 2 steps, the fewer samples the fewer the actors; or from 16 samples, the longer
rollouts the fewer the actors. After training each policy plays 100 episodes. The best of a run is the highest point of
its curve, the fall how far below that the curve ends. Writes replay_free.json and replay_free.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from curves import draw, finish, learning_curve, mean_and_error
from matplotlib.figure import Figure

from nbrl import evaluate

TASKS = ("Pendulum-v1", "InvertedPendulum-v5", "Reacher-v5", "HalfCheetah-v5")
TOGETHER = 8  # actors in lockstep, where there are so many
STEPS, SAMPLES = 2, 16  # of a rollout; of an update
COLUMNS = 2


def ways(actors: int) -> dict[str, dict[str, Any]]:
    """The settings to compare for a number of actors, by what their lines are called."""
    lockstep = min(actors, TOGETHER)
    lengths = {SAMPLES // lockstep: f"{SAMPLES} samples an update", STEPS: f"rollouts of {STEPS} steps"}
    shared = {"actors": actors, "envs_per_batch": lockstep}
    return {
        f"{actors} actor{'s' if actors > 1 else ''}, {name}": shared | {"rollout_length": length}
        for length, name in lengths.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 4, 16, 64])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    rows = []
    lines = -(-len(options.tasks) // COLUMNS)
    figure = Figure(figsize=(13, 3.8 * lines), dpi=120, layout="constrained")
    for place, task in enumerate(options.tasks):
        axes = figure.add_subplot(lines, min(COLUMNS, len(options.tasks)), place + 1)
        for actors in options.actors:
            for name, settings in ways(actors).items():
                curves, played = [], []
                for seed in range(1, options.seeds + 1):
                    _, curve, agent = learning_curve(
                        task, method="dpg", buffer_size=0, seed=seed, steps=options.steps, **settings
                    )
                    curves.append(curve)
                    played.append(evaluate(agent, episodes=100).mean_return)
                mean, error = mean_and_error(np.array(played))
                row = {"task": task, "actors": actors, "name": name, "return": mean, "error": error, "returns": played}
                row |= {"best": [float(curve.max()) for curve in curves]}
                row |= {"fall": [float(curve.max() - curve[-1]) for curve in curves]}
                rows.append(row | {"curve": np.mean(curves, axis=0).tolist()})
                fall = np.mean(row["fall"])
                print(
                    f"{task:20}{name:36}{mean:9.1f} ± {error:.1f}, worst {min(played):.1f}, fall {fall:.1f}", flush=True
                )
                draw(axes, curves, options.steps, name)
        finish(axes, task, options.steps)
        axes.legend(frameon=False, fontsize="small")
    result = {"seeds": options.seeds, "steps": options.steps, "rows": rows}
    (options.out / "replay_free.json").write_text(json.dumps(result, indent=1) + "\n")
    figure.savefig(options.out / "replay_free.png")


if __name__ == "__main__":
    main()
