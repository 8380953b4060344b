"""Time pfrl's A3C on Pong, in an environment of its own: prints frames/s once it has settled.

    python -m venv peers && peers/bin/pip install torch==2.13.0 pfrl==0.4.0 gym ale-py
    peers/bin/python tools/peers/pfrl_a3c.py PROCESSES STEPS

The same network, t_max and optimiser as ours, and ALE's own C++ preprocessing, the cheapest environment to be had.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import gym
import numpy as np
import pfrl
import torch
from ale_py.vector_env import AtariVectorEnv
from pfrl.agents import a3c
from pfrl.experiments import train_agent_async
from pfrl.optimizers import SharedRMSpropEpsInsideSqrt
from pfrl.policies import SoftmaxCategoricalHead
from torch import nn

WARM_UP = 4000  # steps before the clock starts


class Pong:
    """The old gym's interface, which pfrl takes, over ale-py's vector environment of one game."""

    def __init__(self, seed: int) -> None:
        self.games = AtariVectorEnv(
            "pong", 1, num_threads=1, reward_clipping=True, use_fire_reset=False, episodic_life=True
        )
        self.action_space, self.spec, self.seed = gym.spaces.Discrete(6), None, seed
        self.observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)

    def reset(self) -> np.ndarray:
        observation, _ = self.games.reset(seed=self.seed)
        return observation[0].copy()

    def step(self, action: int) -> tuple:
        observation, reward, terminated, truncated, _ = self.games.step(np.array([action], np.int64))
        return observation[0].copy(), float(reward[0]), bool(terminated[0] or truncated[0]), {}

    def close(self) -> None:
        """Nothing to let go of."""


def scaled(observation: np.ndarray) -> np.ndarray:
    return np.asarray(observation, np.float32) / 255


def main() -> None:
    processes, steps = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Conv2d(4, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(2592, 256), nn.ReLU(),
        pfrl.nn.Branched(nn.Sequential(nn.Linear(256, 6), SoftmaxCategoricalHead()), nn.Linear(256, 1)),
    )  # fmt: skip
    optimiser = SharedRMSpropEpsInsideSqrt(model.parameters(), lr=7e-4, eps=1e-1, alpha=0.99)
    agent = a3c.A3C(model, optimiser, t_max=5, gamma=0.99, beta=1e-2, phi=scaled, max_grad_norm=40.0)
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times"

        def note(_environment: object, _agent: object, step: int) -> None:
            if step in (WARM_UP, steps):  # the shared count: one process sees each
                with times.open("a") as file:
                    file.write(f"{step} {time.perf_counter()}\n")

        train_agent_async(
            agent=agent, outdir=folder, processes=processes, make_env=lambda i, test: Pong(i + 100 * test), steps=steps,
            eval_n_steps=None, eval_n_episodes=1, eval_interval=10**9, global_step_hooks=[note],
            random_seeds=list(range(processes)),
        )  # fmt: skip
        (first, began), (last, ended) = sorted(
            tuple(map(float, line.split())) for line in times.read_text().splitlines()
        )
    print(f"{4 * (last - first) / (ended - began):.0f}")


if __name__ == "__main__":
    main()
