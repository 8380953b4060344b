"""Time PyTorch on the network for Pong, one thread, eager: prints microseconds.

    python -m venv peers && peers/bin/pip install torch==2.13.0
    peers/bin/python tools/peers/torch_network.py forward|learn SECONDS

forward: one observation, without gradients. learn: five, forward, backward and RMSProp's step.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from networks import body
from torch import nn

ROUNDS = 9


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """Median over rounds, after a warm-up of one."""
    times, repeats = [], 0
    for _ in range(1 + ROUNDS):
        began, repeats = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds / ROUNDS:
            call()
            repeats += 1
        times.append(1e6 * spent / repeats)
    return statistics.median(times[1:])


def main() -> None:
    what, seconds = sys.argv[1], float(sys.argv[2])
    torch.set_num_threads(1)
    layers, features = body("Pong")
    network = nn.Sequential(layers, nn.Linear(features, 7))  # 6 actions and the value
    optimiser = torch.optim.RMSprop(network.parameters(), lr=1e-12, alpha=0.99, eps=0.1)
    observations = torch.rand(1 if what == "forward" else 5, 4, 84, 84)

    def forward() -> None:
        with torch.no_grad():
            network(observations)

    def learn() -> None:
        optimiser.zero_grad()
        network(observations).sum().backward()
        optimiser.step()

    print(f"{microseconds({'forward': forward, 'learn': learn}[what], seconds):.1f}")


if __name__ == "__main__":
    main()
