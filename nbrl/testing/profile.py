"""Compiled code before hypothesis looks at the clock."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import hypothesis

from nbrl.methods import METHODS
from nbrl.trainer import train

PROFILE = "nbrl"
DEADLINE = timedelta(milliseconds=500)  # of one example, once nothing is left to be compiled


def warm_up(methods: Sequence[str] = tuple(METHODS)) -> None:
    """Load or compile what training and acting need, so that no example of a test does: about half a minute a method
    the first time, later a second for all.

    Parameters
    ----------
    methods : sequence of str, optional
        By default all.
    """
    for method in methods:
        environment = "Pendulum-v1" if method == "dpg" else "Catch-v0"
        settings: dict[str, Any] = {"threads": 1, "actors": 1, "steps": 10, "seed": 0}
        agent = train(environment, method=method, **settings | ({"buffer_size": 0} if method == "dpg" else {}))
        agent.act(agent.observation_space.sample(), greedy=True)


def load_profile(methods: Sequence[str] = tuple(METHODS)) -> None:
    """Warm up, and let hypothesis have a deadline that such tests hold: for a ``conftest.py``."""
    warm_up(methods)
    hypothesis.settings.register_profile(PROFILE, deadline=DEADLINE, print_blob=True)
    hypothesis.settings.load_profile(PROFILE)
