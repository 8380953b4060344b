"""Learning: one loop, and a file for each algorithm.

A method's module and class by its name, imported when it is asked for, since that compiles.
"""

import importlib
from typing import Any

METHODS = {
    "one_step_q": "OneStepQ",
    "one_step_sarsa": "OneStepSarsa",
    "n_step_q": "NStepQ",
    "a3c": "A3C",
    "ppo": "PPO",
    "pqn": "PQN",
    "dpg": "DPG",
}


def method_class(name: str) -> Any:
    """The class of a method, one of `METHODS`."""
    return getattr(importlib.import_module(f"nbrl.methods.{name}"), METHODS[name])
