"""Learn to explore mazes in lessons, from small ones or rich ones on, and play nbrl/Maze-v0 with what was learnt.

    python tools/mazes.py --out DIR --network paper-lstm [--minutes 60] [--threads 1] [--seed 2]

In a large maze a beginner finds an apple in a minute, and little can be learnt from that; in 16 cells ten apples lie
around. Each lesson's run is kept in DIR under its name; DIR/mazes.json has 100 episodes of nbrl/Maze-v0, in mazes that
training leaves out, and DIR/paths.png four of these from above.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from PIL import Image

from nbrl import Agent, Report, Trainer, configure, evaluate, train
from nbrl.config import NETWORKS
from nbrl.envs.interface import NativeEnvironment
from nbrl.envs.maze import maze
from nbrl.envs.maze.world import TURN_LEFT, TURN_RIGHT


class Lesson(NamedTuple):
    """One run: where, until which part of the minutes has passed, and what is set there alone."""

    name: str
    world: NativeEnvironment
    until: float
    settings: dict[str, Any]


class School(NamedTuple):
    """What suited a network."""

    turning: float  # what the logits of turning begin with; the others begin with 0
    settings: dict[str, Any]
    lessons: tuple[Lesson, ...]


# Pixels of a bright world are far from 0: normalised, more units of the first layers stay alive.
SETTINGS: dict[str, Any] = {
    "normalise_rewards": False,
    "method": "a3c",
    "normalise_observations": True,
    "steps": 10**9,  # the minutes end it first
}
RICH = {"entropy_weight": 0.001, "envs_per_batch": 16, "rollout_length": 120}
# Rewards are rarer in larger mazes: the entropy's weight that suits small ones is more than they are.
SCHOOLS = {
    # It turns towards what it sees. The portal's 10 would drown the apples' 1.
    "paper": School(
        turning=0,
        settings={"gradient_clip": 5.0, "reward_clip": 3.0, "learning_rate": 1e-4, "entropy_weight": 0.0003},
        lessons=(
            Lesson("small", maze(size=4), 0.15, {"entropy_weight": 0.003}),
            Lesson("middle", maze(size=7, smallest=4), 0.2, {}),
            Lesson("large", maze(smallest=5), 1, {}),
        ),
    ),
    # Turning takes as long as going to the next cell, but who turns sees more and learns sooner, and never learns to go
    # sideways. So this one begins without: it feels its way along the walls, for which it must remember where it came
    # from. At the small mazes' rate what is learnt there is lost again later, so a return ends them. With an apple in
    # half of all cells a large maze says often enough whether a way leads to where it has not been, which it takes
    # longer rollouts to learn. A lower rate at the end settles it.
    "paper-lstm": School(
        turning=-7,
        settings={"gradient_clip": 40.0, "reward_clip": 10.0, "normalise_rewards": True, "rollout_length": 40},
        lessons=(
            Lesson(
                "small",
                maze(size=4),
                0.4,
                {"learning_rate": 2e-4, "entropy_weight": 0.003, "envs_per_batch": 8, "target_return": 120},
            ),
            Lesson("rich", maze(apples=60), 0.88, RICH | {"learning_rate": 8e-5}),
            Lesson("settle", maze(apples=60), 1, RICH | {"learning_rate": 2e-5}),
        ),
    ),
}


def beginner(world: NativeEnvironment, turning: float, settings: dict[str, Any]) -> Agent:
    """A policy before training, that turns more or less often than it does anything else."""
    agent = Trainer(configure(world, **settings), world).snapshot()
    arrays = agent.arrays()
    arrays["policy/bias"] = arrays["policy/bias"].copy()
    arrays["policy/bias"][[TURN_LEFT, TURN_RIGHT]] = turning
    return Agent.from_tensors(arrays, agent.metadata())


def draw_paths(agent: Agent, file: Path) -> None:
    """Mazes from above, with the agent's way through each."""
    game = gymnasium.make("nbrl/Maze-v0", render_mode="rgb_array", view="plan", evaluation=True)
    plans = []
    for seed in range(4):
        observation, _ = game.reset(seed=seed)
        state, rng, truncated = agent.initial_state(), np.random.default_rng(seed), False
        while not truncated:
            observation, _, _, truncated, _ = game.step(agent.act(observation, state, rng=rng))
        plans.append(np.pad(np.asarray(game.render()), ((6, 6), (6, 6), (0, 0)), constant_values=255))
    game.close()
    Image.fromarray(np.concatenate(plans, axis=1)).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=list(SCHOOLS), default="paper-lstm")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True)

    school = SCHOOLS[options.network]
    common = SETTINGS | school.settings | {"network": NETWORKS[options.network]}
    common |= {"threads": options.threads, "actors": 16 * options.threads, "seed": options.seed}
    agent = beginner(school.lessons[0].world, school.turning, common)
    steps, minutes = 0, 0.0
    for lesson in school.lessons:
        left = max(lesson.until * options.minutes - minutes, 0.01)  # the lesson before may have ended late
        settings = common | lesson.settings | {"minutes": left}
        reports: list[Report] = []
        directory = options.out / lesson.name
        agent = train(lesson.world, directory=directory, on_report=reports.append, init=agent, **settings)
        agent.save(directory / "policy.safetensors")
        steps += reports[-1].steps
        minutes += reports[-1].seconds / 60
        print(f"{lesson.world.name}: {reports[-1].steps:,} steps, mean return {reports[-1].recent_return}", flush=True)
    result = {name: getattr(options, name) for name in ("network", "threads", "seed")}
    result |= {"minutes": minutes, "steps": steps}
    for name, greedy in (("sampled", False), ("greedy", True)):
        played = evaluate(agent, "nbrl/Maze-v0", episodes=options.episodes, greedy=greedy)
        result[name] = {"mean": played.mean_return, "error": played.standard_error, "returns": list(played.returns)}
        print(f"nbrl/Maze-v0, {name}: {played.mean_return:.2f} (standard error {played.standard_error:.2f})")
    (options.out / "mazes.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_paths(agent, options.out / "paths.png")


if __name__ == "__main__":
    main()
