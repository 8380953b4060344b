"""Time Stable-Baselines3's DDPG: prints gradient steps/s, one for each step of the environment.

    python -m venv peers && peers/bin/pip install torch==2.13.0 stable-baselines3 "gymnasium[mujoco]"
    peers/bin/python tools/peers/sb3_ddpg.py ENVIRONMENT UNITS BATCH THREADS SECONDS

UNITS are those of the layers, such as 400,300, its default. The memory and all other settings are its defaults.
"""

import sys
import time

import torch
from stable_baselines3 import DDPG

WARM_UP = 500  # steps before it learns
STEPS = 50  # between two looks at the clock


def main() -> None:
    environment, units = sys.argv[1], [int(word) for word in sys.argv[2].split(",")]
    (batch, threads), seconds = map(int, sys.argv[3:5]), float(sys.argv[5])
    torch.set_num_threads(threads)
    model = DDPG(
        "MlpPolicy", environment, batch_size=batch, learning_starts=WARM_UP, policy_kwargs={"net_arch": units},
        device="cpu",
    )  # fmt: skip
    model.learn(WARM_UP + STEPS)
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        model.learn(STEPS, reset_num_timesteps=False)
        steps += STEPS
    print(f"{steps / spent:.1f}")


if __name__ == "__main__":
    main()
