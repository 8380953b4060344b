"""Asynchronous deep reinforcement learning on CPUs, by hand, with Numba."""

from nbrl.agent import Agent
from nbrl.checkpoint import CheckpointError
from nbrl.config import Config, configure
from nbrl.envs.interface import NativeEnvironment
from nbrl.evaluate import Evaluation, evaluate
from nbrl.metrics import Report
from nbrl.nets.layers import Conv, Dense
from nbrl.trainer import Trainer, train

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "CheckpointError",
    "Config",
    "Conv",
    "Dense",
    "Evaluation",
    "NativeEnvironment",
    "Report",
    "Trainer",
    "configure",
    "evaluate",
    "train",
]
