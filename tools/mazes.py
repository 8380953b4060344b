"""Learn to explore mazes in small ones, where rewards are dense, and play nbrl/Maze-v0 with what was learnt.

    python tools/mazes.py --out DIR --network paper [--size 4] [--minutes 9] [--threads 1] [--seed 2]

In a large maze a beginner finds an apple in a minute, and little can be learnt from that; in 16 cells ten apples lie
around. DIR/run keeps the run; DIR/mazes.json has 100 episodes of nbrl/Maze-v0, in mazes that training leaves out.
"""

import argparse
import json
from pathlib import Path

from nbrl import Report, evaluate, train
from nbrl.config import NETWORKS
from nbrl.envs.maze import maze

# Pixels of a bright world are far from 0, and most units of the first layer die unless they are normalised. The
# entropy's weight is for rewards that are rarer than Atari's; the portal's 10 would drown the apples' 1.
SETTINGS = {
    "preset": "quick",
    "normalise_observations": True,
    "learning_rate": 1e-4,
    "gradient_clip": 5.0,
    "entropy_weight": 0.003,
    "reward_clip": 3.0,
    "steps": 10**9,  # the minutes end it first
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=["paper", "paper-lstm"], default="paper")
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True)

    chosen = {name: getattr(options, name) for name in ("minutes", "threads", "seed")}
    chosen["network"] = NETWORKS[options.network]
    reports: list[Report] = []
    agent = train(
        maze(size=options.size), directory=options.out / "run", on_report=reports.append, **SETTINGS | chosen
    )
    agent.save(options.out / "run" / "policy.safetensors")
    result = {"network": options.network, "size": options.size, "steps": reports[-1].steps} | {
        name: getattr(options, name) for name in ("minutes", "threads", "seed")
    }
    for name, greedy in (("sampled", False), ("greedy", True)):
        played = evaluate(agent, "nbrl/Maze-v0", episodes=options.episodes, greedy=greedy)
        result[name] = {"mean": played.mean_return, "error": played.standard_error, "returns": list(played.returns)}
        print(f"nbrl/Maze-v0, {name}: {played.mean_return:.2f} (standard error {played.standard_error:.2f})")
    (options.out / "mazes.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
