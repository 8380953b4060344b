"""The networks that all are timed with, in PyTorch: what lies under the heads, and how many features it gives."""

from torch import nn


def body(game: str) -> tuple[nn.Module, int]:
    """For "Pong" convolutions of 16 and 32 filters and 256 units; for "CartPole" two layers of 64."""
    if game == "Pong":
        layers = (
            nn.Conv2d(4, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(2592, 256), nn.ReLU(),
        )  # fmt: skip
        return nn.Sequential(*layers), 256
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()), 64
