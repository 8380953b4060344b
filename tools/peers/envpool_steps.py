"""Time EnvPool's Pong alone, with random actions: prints frames/s of the best of several arrangements.

    python -m venv peers && peers/bin/pip install envpool==1.2.5
    peers/bin/python tools/peers/envpool_steps.py THREADS SECONDS

Screens are 84x84, grey, stacks of 4, the maximum of the last two of the four frames of a step. In an arrangement
either all environments step as one batch, or those that are ready first: the others step on meanwhile.
"""

import sys
import time

import envpool
import numpy as np

ARRANGEMENTS = ((16, 16), (32, 32), (16, 8), (16, 4), (32, 8))  # environments, batch
FRAMES_PER_STEP = 4


def speed(environments: int, batch: int, threads: int, seconds: float) -> float:
    """Frames/s, after every environment has taken some steps."""
    games = envpool.make(
        "Pong-v5", "gymnasium", num_envs=environments, batch_size=batch, num_threads=threads,
        stack_num=4, frame_skip=FRAMES_PER_STEP, img_height=84, img_width=84, gray_scale=True,
    )  # fmt: skip
    actions = np.random.default_rng(1).integers(0, games.action_space.n, (1000, batch), np.int32)
    games.async_reset()
    for number in range(20 * environments // batch):
        games.send(actions[number % 1000], games.recv()[-1]["env_id"])
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        games.send(actions[steps % 1000], games.recv()[-1]["env_id"])
        steps += 1
    return FRAMES_PER_STEP * steps * batch / spent


def main() -> None:
    threads, seconds = int(sys.argv[1]), float(sys.argv[2])
    speeds = []
    for environments, batch in ARRANGEMENTS:
        speeds.append(speed(environments, batch, threads, seconds / len(ARRANGEMENTS)))
        print(f"{environments} environments, batch {batch}: {speeds[-1]:.0f}")
    print(f"{max(speeds):.0f}")


if __name__ == "__main__":
    main()
