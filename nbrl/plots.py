"""Learning curves as pictures: matplotlib (the extra ``plot``) through its objects, never pyplot's global state."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nbrl.metrics import Report

_POINTS = 400  # of the faint line: more than the picture can show would only be ink
_SMOOTHING = 0.02  # of the run's length: the window of the strong line


def learning_curves(path: str | os.PathLike, title: str, runs: Mapping[str, Sequence["Report"]]) -> None:
    """Draw mean return against frames, a curve for each run, and write a picture.

    The strong line is the mean over a fiftieth of the run, weighted by episodes; the faint one is the mean of the
    episodes between two points. A single run also has the band between its lowest and highest episode, and an axis of
    time.

    Parameters
    ----------
    path
        The picture; its ending gives the format, such as ``.png`` or ``.svg``.
    title
        What stands above the picture.
    runs
        The reports of each run by its label.

    Raises
    ------
    ValueError
        matplotlib is not installed, a run has no finished episode, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('plots need matplotlib: pip install "nbrl[plot]"') from error
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for position, (label, reports) in enumerate(runs.items()):
        curve = _curve(label, reports)
        colour = f"C{position}"
        if len(runs) == 1:
            axes.fill_between(
                curve["frames"], curve["lowest"], curve["highest"], color=colour, alpha=0.12, linewidth=0,
                label="lowest to highest episode",
            )  # fmt: skip
            label = "mean return"
        axes.plot(curve["frames"], curve["mean"], color=colour, alpha=0.35, linewidth=0.8)
        axes.plot(curve["frames"], curve["smooth"], color=colour, linewidth=2, label=label)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("frames of the environment")
    axes.set_ylabel("mean return of an episode")
    axes.set_xlim(0, max(reports[-1].frames for reports in runs.values()))
    axes.xaxis.set_major_formatter(_short)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    if len(runs) == 1:
        _add_time(axes, next(iter(runs.values())))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"the picture {os.fspath(path)} cannot be written: {error}") from error


def _curve(label: str, reports: Sequence["Report"]) -> dict[str, np.ndarray]:
    """Return at most ``_POINTS`` points of a run: frames, mean, lowest and highest return, and the smoothed mean."""
    rows = [
        (report.frames, report.episodes, report.return_mean, report.return_minimum, report.return_maximum)
        for report in reports
        if report.episodes and report.return_mean is not None
    ]
    if not rows:
        raise ValueError(f"{label} has no finished episode to plot")
    frames, count, mean, lowest, highest = np.array(rows, dtype=np.float64).T
    bins = np.minimum((frames / frames[-1] * _POINTS).astype(np.int64), _POINTS - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    weight = np.add.reduceat(count, starts)
    total = np.add.reduceat(count * mean, starts)
    x = np.add.reduceat(count * frames, starts) / weight
    half = _SMOOTHING * frames[-1] / 2
    begin, end = np.searchsorted(x, x - half), np.searchsorted(x, x + half, side="right")
    total_before, weight_before = (np.concatenate([[0.0], np.cumsum(values)]) for values in (total, weight))
    return {
        "frames": x,
        "mean": total / weight,
        "lowest": np.minimum.reduceat(lowest, starts),
        "highest": np.maximum.reduceat(highest, starts),
        "smooth": (total_before[end] - total_before[begin]) / (weight_before[end] - weight_before[begin]),
    }


def _add_time(axes: Any, reports: Sequence["Report"]) -> None:
    """Add an axis on top with the time of training at which the frames were reached."""
    from matplotlib.ticker import MaxNLocator

    frames = np.array([0.0] + [report.frames for report in reports])
    minutes = np.array([0.0] + [report.seconds / 60 for report in reports])
    unit, scale = ("minutes", 1.0) if minutes[-1] >= 3 else ("seconds", 60.0)
    ticks: dict[float, str] = {}  # label by place; those at the start, while the program compiled, would overlap
    for tick in MaxNLocator(7).tick_values(0, minutes[-1] * scale):
        place = float(np.interp(tick, minutes * scale, frames, right=np.inf))
        if frames[-1] >= place >= max(ticks, default=-np.inf) + 0.05 * frames[-1]:
            ticks[place] = f"{tick:g}"
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks(list(ticks), list(ticks.values()))
    top.set_xlabel(f"{unit} of training")
    top.spines[["top", "right"]].set_visible(False)


def _short(number: float, _position: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g} {letter}"
    return f"{number:g}"
