"""What lockstep does to speed and to learning by frames: the native pixel game Bricks, over several seeds.

    python tools/lockstep.py --out DIR [--steps 600000] [--seeds 10] [--lockstep 1 2 4 8]

Seeds are the outer loop, so that a drift of the machine meets every lockstep alike. The area is the mean return over
the whole run, by frames; differences from the first lockstep are taken seed by seed. Writes lockstep.json and
lockstep.png. Run nothing else meanwhile.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from curves import POINTS, draw, finish, learning_curve, mean_and_error
from matplotlib.figure import Figure

from nbrl import configure

# The paper's A3C, whose updates are of one actor, at a somewhat higher rate.
SETTINGS = {"preset": "paper", "learning_rate": 1e-3, "normalise_rewards": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--lockstep", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    speeds: dict[int, list[float]] = {k: [] for k in options.lockstep}
    curves: dict[int, list[np.ndarray]] = {k: [] for k in options.lockstep}
    for seed in range(1, options.seeds + 1):
        for k in options.lockstep:
            speed, curve, _ = learning_curve("Bricks-v0", envs_per_batch=k, seed=seed, steps=options.steps, **SETTINGS)
            speeds[k].append(speed)
            curves[k].append(curve)
            print(f"seed {seed}, lockstep {k}: {speed:,.0f} steps/s, area {curve.mean():.2f}", flush=True)

    areas = {k: np.mean(curves[k], axis=1) for k in options.lockstep}
    last = {k: np.mean(curves[k], axis=0)[-POINTS // 10 :].mean() for k in options.lockstep}
    base, rows = options.lockstep[0], []
    print(f"\n{'lockstep':>8}{'steps/s':>12}{'ratio':>8}{'area':>16}{'difference':>18}{'last tenth':>12}")
    for k in options.lockstep:
        speed, (area, error) = statistics.median(speeds[k]), mean_and_error(areas[k])
        difference, spread = mean_and_error(areas[k] - areas[base])
        ratio = speed / statistics.median(speeds[base])
        rows.append(
            {
                "envs_per_batch": k,
                "steps_per_second": speed,
                "area": area,
                "area_error": error,
                "difference": difference,
            }
            | {"difference_error": spread, "last_tenth": float(last[k]), "curve": np.mean(curves[k], axis=0).tolist()}
        )
        between = f"{difference:+.2f} ± {spread:.2f}"
        print(f"{k:8}{speed:12,.0f}{ratio:8.2f}{f'{area:.2f} ± {error:.2f}':>16}{between:>18}{last[k]:12.2f}")
    config = configure("Bricks-v0", steps=options.steps, **SETTINGS).to_dict()
    result = {"seeds": options.seeds, "config": config, "rows": rows}
    (options.out / "lockstep.json").write_text(json.dumps(result, indent=1) + "\n")

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for k in options.lockstep:
        draw(axes, curves[k], options.steps, f"lockstep {k}: {statistics.median(speeds[k]):,.0f} steps/s")
    finish(axes, f"Bricks-v0, mean and standard error over {options.seeds} seeds", options.steps)
    axes.legend(frameon=False)
    figure.savefig(options.out / "lockstep.png")


if __name__ == "__main__":
    main()
