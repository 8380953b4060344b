"""Asynchronous deep reinforcement learning on CPUs, by hand, with Numba."""

import importlib
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbrl.agent import Agent
    from nbrl.animation import play
    from nbrl.callbacks import Callback
    from nbrl.checkpoint import CheckpointError
    from nbrl.cluster import Cluster
    from nbrl.config import Config, configure
    from nbrl.envs.interface import NativeEnvironment
    from nbrl.evaluation import Evaluation, evaluate
    from nbrl.metrics import Report
    from nbrl.nets.layers import Conv, Dense, Gru, LayerNorm, Lstm
    from nbrl.numpy_policy import NumpyPolicy
    from nbrl.online import OnlineLearner
    from nbrl.studies import study
    from nbrl.trainer import Trainer, train

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "Callback",
    "CheckpointError",
    "Cluster",
    "Config",
    "Conv",
    "Dense",
    "Evaluation",
    "Gru",
    "LayerNorm",
    "Lstm",
    "NativeEnvironment",
    "NumpyPolicy",
    "OnlineLearner",
    "Report",
    "Trainer",
    "configure",
    "evaluate",
    "play",
    "study",
    "train",
]

# Each name is imported when it is first asked for: numba and gymnasium take a third of a second.
_MODULES = {
    "Agent": "agent",
    "Callback": "callbacks",
    "CheckpointError": "checkpoint",
    "Cluster": "cluster",
    "Config": "config",
    "Conv": "nets.layers",
    "Dense": "nets.layers",
    "Evaluation": "evaluation",
    "Gru": "nets.layers",
    "LayerNorm": "nets.layers",
    "Lstm": "nets.layers",
    "NativeEnvironment": "envs.interface",
    "NumpyPolicy": "numpy_policy",
    "OnlineLearner": "online",
    "Report": "metrics",
    "Trainer": "trainer",
    "configure": "config",
    "evaluate": "evaluation",
    "play": "animation",
    "study": "studies",
    "train": "trainer",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library is silent where its host sets nothing up

if sys.modules.get("gymnasium"):  # else importing nbrl.envs tells it of the mazes
    importlib.import_module("nbrl.registration").register()

# Python gives up where two threads import a module and its package from both ends.
_importing = threading.RLock()

if not TYPE_CHECKING:  # else a type checker takes any name for a public one

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with _importing:
            try:
                value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
            except ModuleNotFoundError as error:
                raise ImportError(
                    f"nbrl.{name} needs {error.name}, which is not installed; nbrl.NumpyPolicy needs numpy alone",
                    name=error.name,
                ) from None
            except AttributeError as error:  # Python would say that there is no such name
                raise ImportError(f"nbrl.{_MODULES[name]} cannot be imported: {error}") from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
