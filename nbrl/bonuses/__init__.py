"""Exploration: what is new is rewarded, whatever the method. A file for each bonus.

A bonus sees every step, (s_t, a_t, s_t+1), and adds to the reward that learning sees, after that was clipped and
normalised. Returns that are reported, evaluation and policy files know nothing of it.

A bonus's module and class by its name, imported when it is asked for, since that compiles.
"""

import importlib
from typing import Any

BONUSES = {
    "count": "Count",
    "episodic": "Episodic",
    "icm": "Icm",
    "novelty": "Novelty",
    "rnd": "Rnd",
}


def bonus_class(name: str) -> Any:
    """The class of a bonus, one of `BONUSES`."""
    return getattr(importlib.import_module(f"nbrl.bonuses.{name}"), BONUSES[name])


def bonus_names(text: str | None) -> list[str]:
    """The names in the setting `bonus`."""
    return text.split("+") if text else []
