"""Studies: runs that differ in environment, settings and seed, side by side, each in a process of its own.

A study is a file of a few lines (TOML), or the same as a mapping:

    environment = ["CartPole-v1", "Acrobot-v1"]     # one, or several
    seeds = 5                                       # 1 to 5, or a list
    episodes = 100                                  # of the evaluation of each policy

    [settings]                                      # as for nbrl.configure, preset and frames among them
    method = ["a3c", "ppo"]                         # a list: all of its values
    steps = 300_000

What is a list is an axis of a grid; a table of layers is one value, given as JSON text or within a list. With `trials`
settings are drawn at random instead, so many times: one of a list, and a number from ``uniform(low, high)``,
``loguniform(low, high)`` or ``integer(low, high)``.

Where environments need settings of their own, they are a table, ``[environment."Cue-v0"]`` with ``steps = 300_000``.

Each run has a folder, named by what it is, so a study goes on where it stopped, and one that has got more seeds, values
or environments makes what is new alone. A run that ends by `minutes` begins anew if it is cut short.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbrl.config import available_cores
from nbrl.settings import whole
from nbrl.studies.plan import Plan
from nbrl.studies.results import Results
from nbrl.studies.runs import make_runs


def study(
    plan: str | os.PathLike | Mapping[str, Any],
    out: str | os.PathLike,
    *,
    jobs: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Results:
    """Make the runs of a study that are not made yet, side by side, and return what all of them show.

    Parameters
    ----------
    plan : path or mapping
        The study's file, or what such a file holds.
    out : path
        Its folder, which keeps everything.
    jobs : int, optional
        Runs at once. By default as many as the cores can serve.
    on_progress : callable, optional
        Called now and then with a line of how far it is.

    Returns
    -------
    Results

    Raises
    ------
    ValueError
        A plan that cannot be, in one sentence.
    """
    planned = Plan(plan)
    if jobs is None:
        jobs = max(1, available_cores() // planned.threads)
    elif whole(jobs) is None or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}: it must be a whole number of at least 1")
    folder = Path(out)
    make_runs(planned, folder, jobs, on_progress or (lambda line: None))
    results = Results(planned, folder)
    results.write()
    return results
