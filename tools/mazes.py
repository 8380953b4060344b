"""Learn to explore mazes in three lessons, from small ones to large, and play nbrl/Maze-v0 with what was learnt.

    python tools/mazes.py --out DIR --network paper-lstm [--minutes 60] [--threads 1] [--seed 2]

In a large maze a beginner finds an apple in a minute, and little can be learnt from that; in 16 cells ten apples lie
around. DIR/small, DIR/middle and DIR/large keep the runs; DIR/mazes.json has 100 episodes of nbrl/Maze-v0, in mazes
that training leaves out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from nbrl import Report, evaluate, train
from nbrl.config import NETWORKS
from nbrl.envs.maze import maze

# Pixels of a bright world are far from 0: normalised, more units of the first layers stay alive. The portal's 10 would
# drown the apples' 1.
SETTINGS: dict[str, Any] = {
    "preset": "quick",
    "normalise_observations": True,
    "gradient_clip": 5.0,
    "reward_clip": 3.0,
    "steps": 10**9,  # the minutes end it first
}
# In mazes of 4x4 cells: what suited each network, and its part of the minutes.
SMALL: dict[str, dict[str, Any]] = {
    "paper": {"learning_rate": 1e-4, "entropy_weight": 0.003, "minutes": 0.15},
    "paper-lstm": {"learning_rate": 2e-4, "entropy_weight": 0.002, "minutes": 0.25},
}
# Rewards are rarer in larger ones: the entropy's weight that suits small ones is more than they are, and within minutes
# the policy is uniform.
LARGER: dict[str, Any] = {"learning_rate": 1e-4, "entropy_weight": 0.0003}
MIDDLE = 0.05  # of the minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=list(SMALL), default="paper-lstm")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True)

    small = SMALL[options.network]
    agent, steps = None, 0
    for name, world, chosen in (
        ("small", maze(size=4), small),
        ("middle", maze(size=7, smallest=4), LARGER | {"minutes": MIDDLE}),
        ("large", maze(smallest=5), LARGER | {"minutes": 1 - small["minutes"] - MIDDLE}),
    ):
        settings = SETTINGS | chosen | {"network": NETWORKS[options.network]}
        settings |= {"threads": options.threads, "seed": options.seed, "minutes": chosen["minutes"] * options.minutes}
        reports: list[Report] = []
        agent = train(world, directory=options.out / name, on_report=reports.append, init=agent, **settings)
        agent.save(options.out / name / "policy.safetensors")
        steps += reports[-1].steps
        print(f"{world.name}: {reports[-1].steps:,} steps, mean return {reports[-1].return_mean}", flush=True)
    assert agent is not None
    result = {name: getattr(options, name) for name in ("network", "minutes", "threads", "seed")} | {"steps": steps}
    for name, greedy in (("sampled", False), ("greedy", True)):
        played = evaluate(agent, "nbrl/Maze-v0", episodes=options.episodes, greedy=greedy)
        result[name] = {"mean": played.mean_return, "error": played.standard_error, "returns": list(played.returns)}
        print(f"nbrl/Maze-v0, {name}: {played.mean_return:.2f} (standard error {played.standard_error:.2f})")
    (options.out / "mazes.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
