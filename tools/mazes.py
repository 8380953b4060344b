"""Learn to explore random mazes from small ones to nbrl/Maze-v0's, with and without a memory.

    python tools/mazes.py --out DIR --network paper-lstm [--minutes 60] [--threads 2]

In a large maze a beginner finds an apple in a minute, and little can be learnt from that. So training begins where ten
apples lie in 16 cells, and goes on in larger and larger mazes. A folder for each stage keeps the run; mazes.json has
100 episodes of nbrl/Maze-v0, in mazes that training leaves out, with the policy after each stage.
"""

import argparse
import json
from pathlib import Path

from nbrl import Report, evaluate, train
from nbrl.config import NETWORKS
from nbrl.envs.maze import maze

STAGES = {4: 0.3, 7: 0.3, 11: 0.4}  # cells of a side, and part of the time
# Pixels of a bright world are far from 0, and most units of the first layer die unless they are normalised. The
# entropy's weight is for rewards that are rarer than Atari's; the portal's 10 would drown the apples' 1.
SETTINGS = {
    "preset": "quick",
    "normalise_observations": True,
    "learning_rate": 3e-4,
    "gradient_clip": 5.0,
    "entropy_weight": 0.003,
    "reward_clip": 3.0,
}
ENDLESS = 10**12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=["paper", "paper-lstm"], default="paper-lstm")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True)

    settings = SETTINGS | {name: getattr(options, name) for name in ("threads", "seed")}
    settings["network"] = NETWORKS[options.network]
    agent, rows, speed, steps = None, [], 0.0, 0
    for size, part in STAGES.items():
        minutes, reports, kept = part * options.minutes, list[Report](), options.out / f"size-{size}"
        last = size == max(STAGES)  # only there the learning rate falls to 0
        length = round(60 * minutes * speed) if last else ENDLESS
        agent = train(
            maze(size=size), init=agent, directory=kept, on_report=reports.append,
            steps=length, minutes=None if last else minutes, **settings,
        )  # fmt: skip
        agent.save(kept / "policy.safetensors")
        speed, steps = reports[-1].steps / reports[-1].seconds, steps + reports[-1].steps
        row = {"size": size, "minutes": reports[-1].seconds / 60, "steps": reports[-1].steps}
        for name, greedy in (("sampled", False), ("greedy", True)):
            played = evaluate(agent, "nbrl/Maze-v0", episodes=options.episodes, greedy=greedy)
            row[name] = {"mean": played.mean_return, "error": played.standard_error, "returns": list(played.returns)}
        rows.append(row)
        print(
            f"size {size:2}: {row['minutes']:.1f} min, {row['steps']:,} steps; nbrl/Maze-v0 "
            f"{row['sampled']['mean']:.2f} ± {row['sampled']['error']:.2f}, greedy {row['greedy']['mean']:.2f}",
            flush=True,
        )
        result = {"network": options.network, "threads": options.threads, "seed": options.seed, "rows": rows}
        (options.out / "mazes.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
