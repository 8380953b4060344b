"""Time advantage actor-critic on EnvPool's environments and PyTorch, as fast as it can be written: prints frames/s.

    python -m venv peers && peers/bin/pip install torch==2.13.0 envpool==1.2.5
    peers/bin/python tools/peers/envpool_a2c.py Pong|CartPole ENVIRONMENTS T_MAX THREADS SECONDS

All environments step as one batch, and so does the network, here and in learning. A step of Pong is four frames.
"""

import sys
import time
from typing import Any

import envpool
import numpy as np
import torch
import torch.nn.functional as F
from networks import body
from torch import nn

WARM_UP = 3  # updates before the clock starts
DISCOUNT = 0.99
SETTINGS: dict[str, dict[str, Any]] = {"Pong": {"reward_clip": True}, "CartPole": {}}
IDS = {"Pong": "Pong-v5", "CartPole": "CartPole-v1"}


class Learner:
    """The environments and the network; `update` acts for t_max steps and learns from them."""

    def __init__(self, game: str, environments: int, t_max: int, threads: int) -> None:
        self.t_max, self.scale = t_max, 1 / 255 if game == "Pong" else 1.0
        self.games = envpool.make(
            IDS[game], "gymnasium", num_envs=environments, batch_size=environments, num_threads=threads,
            **SETTINGS[game],
        )  # fmt: skip
        self.actions = int(self.games.action_space.n)
        layers, features = body(game)
        self.network = nn.Sequential(layers, nn.Linear(features, self.actions + 1))
        self.optimiser = torch.optim.RMSprop(self.network.parameters(), lr=7e-4, alpha=0.99, eps=1e-5)
        self.seen, _ = self.games.reset()
        self.observation = np.empty((t_max, *self.seen.shape), self.seen.dtype)
        self.action = np.empty((t_max, environments), np.int64)
        self.reward, self.ended, self.target = (np.empty((t_max, environments), np.float32) for _ in range(3))

    def forward(self, observations: np.ndarray) -> torch.Tensor:
        return self.network(torch.from_numpy(observations).float().mul_(self.scale))

    def update(self) -> None:
        with torch.no_grad():
            for t in range(self.t_max):
                probabilities = F.softmax(self.forward(self.seen)[:, : self.actions], 1)
                action = torch.multinomial(probabilities, 1)[:, 0].numpy()
                self.observation[t], self.action[t] = self.seen, action
                self.seen, self.reward[t], terminated, truncated, _ = self.games.step(action.astype(np.int32))
                self.ended[t] = terminated | truncated
            value = self.forward(self.seen)[:, self.actions].numpy()
        for t in reversed(range(self.t_max)):
            value = self.reward[t] + DISCOUNT * value * (1 - self.ended[t])
            self.target[t] = value

        output = self.forward(self.observation.reshape(-1, *self.seen.shape[1:]))
        log_pi, values = F.log_softmax(output[:, : self.actions], 1), output[:, self.actions]
        target, action = torch.from_numpy(self.target.ravel()), torch.from_numpy(self.action.ravel())
        chosen = log_pi.gather(1, action[:, None])[:, 0]
        policy_loss = -(chosen * (target - values.detach())).mean()
        loss = policy_loss + 0.25 * F.mse_loss(values, target) + 0.01 * (log_pi.exp() * log_pi).sum(1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        self.optimiser.step()


def main() -> None:
    game, (environments, t_max, threads), seconds = sys.argv[1], map(int, sys.argv[2:5]), float(sys.argv[5])
    torch.set_num_threads(threads)
    learner = Learner(game, environments, t_max, threads)
    for _ in range(WARM_UP):
        learner.update()
    began, updates = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        learner.update()
        updates += 1
    frames = updates * t_max * environments * (4 if game == "Pong" else 1)
    print(f"{frames / spent:.0f}")


if __name__ == "__main__":
    main()
