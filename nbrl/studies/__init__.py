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
``loguniform(low, high)`` or ``integer(low, high)``. With ``sampler = "tpe"`` Optuna (the extra ``study``) proposes each
point from what those before it showed, and with ``pruner = "median"`` runs that do worse than others are given up.

Settings that go together are points, each a table, ``points = [{actors = 1, threads = 1}, {actors = 8, threads = 2}]``.
With ``measure = "steps"`` or ``"minutes"`` a run's score is what it took until its `target_return`.

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
from nbrl.studies.forecast import Forecast, forecast
from nbrl.studies.plan import Plan
from nbrl.studies.remote import over_cluster
from nbrl.studies.results import Results
from nbrl.studies.runs import make_runs
from nbrl.studies.search import Search


def study(
    plan: str | os.PathLike | Mapping[str, Any],
    out: str | os.PathLike,
    *,
    jobs: int | None = None,
    ray: str | None = None,
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
    ray : str, optional
        The address of a Ray cluster whose machines make the runs, see `nbrl.cluster.connect`. A run whose machine is
        lost begins anew.
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
    folder, start, cores = Path(out), None, available_cores()
    if ray is not None:
        if planned.pruner:
            raise ValueError("a pruner needs runs on this machine: leave it out, or ray")
        start, cores = over_cluster(ray)
    jobs = _jobs(planned, jobs, cores)
    search = Search(planned, folder) if planned.searches else None
    make_runs(planned, folder, jobs, on_progress or (lambda line: None), search, start)
    results = Results(planned, folder)
    results.write()
    return results


def dry_run(
    plan: str | os.PathLike | Mapping[str, Any],
    out: str | os.PathLike,
    *,
    jobs: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Forecast:
    """How many runs a study has, how many are made, and how long the rest will take; for its arguments see `study`."""
    planned, folder = Plan(plan), Path(out)
    if planned.searches:
        Search(planned, folder)  # which knows the points that were proposed
    return forecast(planned, folder, _jobs(planned, jobs, available_cores()), on_progress or (lambda line: None))


def _jobs(plan: Plan, jobs: int | None, cores: int) -> int:
    if jobs is None:
        return max(1, cores // plan.threads)
    if whole(jobs) is None or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}: it must be a whole number of at least 1")
    return jobs
