"""Learning curves by frames over several seeds, for the experiments beside."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from nbrl import Agent, Report, Trainer, configure

POINTS = 60  # of a curve


def learning_curve(environment: str, **settings: Any) -> tuple[float, np.ndarray, Agent]:
    """Train: steps/s (after the first second, if any), the mean return in POINTS equal stretches, and the policy."""
    reports: list[Report] = []
    config = configure(environment, report_interval=0.1, **settings)
    trainer = Trainer(config, on_report=reports.append)
    trainer.start(wait=True)
    last = reports[-1]
    begun = next(((report.steps, report.seconds) for report in reports[:-1] if report.seconds >= 1), (0, 0.0))
    speed = (last.steps - begun[0]) / max(last.seconds - begun[1], 1e-9)
    seen = [report for report in reports if report.episodes and report.return_mean is not None]
    place = np.array([report.steps for report in seen]) / config.steps * POINTS - 0.5
    curve = np.interp(np.arange(POINTS), place, [report.return_mean for report in seen])
    return speed, curve, trainer.snapshot()


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error, which is not a number where there is one value."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def draw(axes: Axes, curves: Sequence[np.ndarray] | np.ndarray, steps: int, label: str) -> None:
    """Add the mean of some seeds' curves, and a band of its standard error."""
    x = (np.arange(POINTS) + 0.5) / POINTS * steps
    mean = np.mean(curves, axis=0)
    [line] = axes.plot(x, mean, linewidth=2, label=label)
    if len(curves) > 1:
        error = np.std(curves, axis=0, ddof=1) / len(curves) ** 0.5
        axes.fill_between(x, mean - error, mean + error, alpha=0.15, color=line.get_color(), linewidth=0)


def finish(axes: Axes, title: str, steps: int) -> None:
    """Titles, labels and a quiet frame."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("steps")
    axes.set_ylabel("mean return of an episode")
    axes.set_xlim(0, steps)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.locator_params(axis="x", nbins=4)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
