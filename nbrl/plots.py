"""Learning curves as pictures: matplotlib (the extra ``plot``) through its objects, never pyplot's global state."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbrl.scores import interval

if TYPE_CHECKING:
    from nbrl.metrics import Report

AXES = ("frames", "steps", "minutes", "seconds")  # what a curve may be drawn against
_POINTS = 400  # of the faint line: more than the picture can show would only be ink
_PANELS = ("charts/SPS", "charts/episodic_length", "charts/learning_rate", "charts/bonus", "losses/", "own/")
_FEW = 5  # points that are marked
_COLUMNS = 4  # of a study without settings to draw scores by
_VALUES = 8  # of a setting whose mean scores are drawn
_NAMED, _LETTERS = 8, 44  # points of a study that a legend names, and of each name
_LOGARITHMIC = 10  # times the least value of a setting that the largest is, for a logarithmic axis
_SMOOTHING = 0.02  # of the run's length: the window of the strong line


def learning_curves(
    path: str | os.PathLike, title: str, runs: Mapping[str, Sequence["Report"]], by: str = "frames"
) -> None:
    """Draw mean return against frames or time, a curve for each run, and write a picture.

    The strong line is the mean over a fiftieth of the run, weighted by episodes; the faint one is the mean of the
    episodes between two points. A single run also has the band between its lowest and highest episode, and against
    frames an axis of time.

    Parameters
    ----------
    path
        The picture; its ending gives the format, such as ``.png`` or ``.svg``.
    title
        What stands above the picture.
    runs
        The reports of each run by its label.
    by
        One of `AXES`: frames or steps of the environment, minutes or seconds of training, which a run that goes on
        counts on.

    Raises
    ------
    ValueError
        matplotlib is not installed, a run has no finished episode, or the picture cannot be written.
    """
    figure, [axes] = _axes(1)
    end = 0.0
    for position, (label, reports) in enumerate(runs.items()):
        places = _places(reports, by)
        curve = _curve(label, reports, places)
        end = max(end, places[-1])
        colour = f"C{position}"
        if len(runs) == 1:
            axes.fill_between(
                curve["x"], curve["lowest"], curve["highest"], color=colour, alpha=0.12, linewidth=0,
                label="lowest to highest episode",
            )  # fmt: skip
            label = "mean return"
        axes.plot(curve["x"], curve["mean"], color=colour, alpha=0.35, linewidth=0.8)
        evaluated = [
            (x, r.evaluation_return) for x, r in zip(places, reports, strict=True) if r.evaluation_return is not None
        ]
        if evaluated:
            axes.plot(*zip(*evaluated, strict=True), "D", color=colour, markersize=4, label=f"{label}, evaluated")
        points = "o" if len(curve["x"]) < _FEW else None  # of a single one, no line would be seen
        axes.plot(curve["x"], curve["smooth"], color=colour, linewidth=2, marker=points, clip_on=False, label=label)
    axes.set_xlim(0, end)
    if len(runs) == 1 and by in ("frames", "steps"):
        _add_time(axes, next(iter(runs.values())), by)
    _finish(figure, axes, path, title, by, end)


def mean_curves(
    path: str | os.PathLike, title: str, groups: Sequence[Mapping[str, Sequence["Report"]]], by: str = "frames"
) -> None:
    """Draw, for each group of runs, the mean of their smoothed curves, its 95% interval and, faint, each of them.

    The interval is the percentile bootstrap's of the mean over runs. Curves end where the shortest of their group does.

    Parameters
    ----------
    path, title, by
        As for `learning_curves`.
    groups
        Of each group the reports of its runs by label.

    Raises
    ------
    ValueError
        As for `learning_curves`.
    """
    figure, [axes] = _axes(1)
    end = 0.0
    for position, group in enumerate(groups):
        label = next(iter(group))
        if len(group) > 1:
            label = f"mean of {len(group)} runs, 95% interval ({label}, ...)"
        end = max(end, _draw_mean(axes, group, f"C{position}", label, by))
    _finish(figure, axes, path, title, by, end)


def metric_panels(path: str | os.PathLike, runs: Mapping[str, Sequence["Report"]]) -> None:
    """Draw speed, losses and whatever else runs report against their steps, a panel for each.

    Parameters
    ----------
    path
        The picture.
    runs
        The reports of each run by its label.

    Raises
    ------
    ValueError
        matplotlib is not installed, or the picture cannot be written.
    """
    rows = {label: [report.to_dict() for report in reports] for label, reports in runs.items()}
    told = dict.fromkeys(name for table in rows.values() for row in table for name in row if name.startswith(_PANELS))
    names = [name for name in told if any(row.get(name) is not None for table in rows.values() for row in table)]
    figure, panels = _axes(max(math.ceil(len(names) / 3), 1), 3)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, names, strict=False):
        for position, (label, table) in enumerate(rows.items()):
            known = [(row["steps"], row[name]) for row in table if row.get(name) is not None]
            axes.plot(*np.array(known or [(np.nan, np.nan)]).T, color=f"C{position}", linewidth=1, label=label)
        axes.set_title(name, loc="left", fontsize=10)
        axes.xaxis.set_major_formatter(_short)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def histogram(path: str | os.PathLike, returns: Mapping[str, Sequence[float]]) -> None:
    """Draw how often evaluations had which return.

    Parameters
    ----------
    path
        The picture.
    returns
        Those of each run's episodes by its label.

    Raises
    ------
    ValueError
        matplotlib is not installed, or the picture cannot be written.
    """
    figure, [axes] = _axes(1)
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(each, np.float64) for each in returns.values()]), 20)
    for position, (label, each) in enumerate(returns.items()):
        axes.hist(each, bins=edges, color=f"C{position}", alpha=0.6, label=label)
    axes.set_xlabel("return of an episode")
    axes.set_ylabel("episodes")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    _save(figure, path)


class StudyCurve(NamedTuple):
    """The runs of one point of a study."""

    label: str
    runs: Sequence[Sequence["Report"]]  # one a seed
    group: str = ""  # whose colour it has, where there are groups


def study_picture(
    path: str | os.PathLike,
    curves: Mapping[str, Sequence[StudyCurve]],
    scores: Mapping[str, Mapping[str, Sequence[tuple[str, float, float]]]],
    importances: Mapping[str, Mapping[str, float]] | None = None,
    score: str = "score",
    logarithmic: bool = False,
) -> None:
    """Draw the curves of all points in each environment and, in its row, the score of each run by each setting.

    Parameters
    ----------
    path
        The picture.
    curves
        By environment.
    scores
        By environment and setting: the group of each run, the setting's value and the score.
    importances
        By environment: the importance of each setting, where it is known.
    score
        What a score is.
    logarithmic
        Whether scores are drawn so.

    Raises
    ------
    ValueError
        matplotlib is not installed, no run has a finished episode, or the picture cannot be written.
    """
    drawn = {environment: points for environment, points in curves.items() if points}
    if not drawn:
        raise ValueError("no run of the study has a finished episode: there is nothing to draw")
    width = 1 + max(len(by) for by in scores.values())  # panels of an environment
    columns = width if width > 1 else min(_COLUMNS, len(drawn))
    figure, panels = _axes(math.ceil(len(drawn) * width / columns), columns)
    for axes in panels[len(drawn) * width :]:
        axes.set_visible(False)
    for place, (environment, points) in enumerate(drawn.items()):
        axes, end = panels[place * width], 0.0
        groups = list(dict.fromkeys(point.group for point in points))
        for position, (label, runs, own) in enumerate(points):
            group = {f"{label}, run {number}": reports for number, reports in enumerate(runs, start=1)}
            short = label if len(label) <= _LETTERS else f"{label[: _LETTERS - 1]}…"
            end = max(end, _draw_mean(axes, group, f"C{groups.index(own) if own else position}", short, "frames"))
        repeats = any(report.frames != report.steps for _, runs, _ in points for reports in runs for report in reports)
        _label(axes, environment, "frames" if repeats else "steps", end)
        if len(points) <= _NAMED:
            axes.legend(framealpha=0.8, edgecolor="none", loc="best", fontsize=7)
        for axes, (name, found) in zip(panels[place * width + 1 :], scores[environment].items(), strict=False):
            x = np.array([value for _, value, _ in found], float)
            for position, own in enumerate(groups):
                pairs = np.array([(value, score) for group, value, score in found if group == own], float)
                axes.plot(*pairs.reshape(-1, 2).T, "o", color=f"C{position}", markersize=4, alpha=0.7, label=own)
                if len(places := np.unique(pairs[:, 0])) <= _VALUES:
                    means = [pairs[pairs[:, 0] == value, 1].mean() for value in places]
                    axes.plot(places, means, color=f"C{position}", linewidth=2)
            if len(groups) > 1:
                axes.legend(framealpha=0.8, edgecolor="none", loc="best", fontsize=7)
            if x.min() > 0 and x.max() / x.min() >= _LOGARITHMIC:
                axes.set_xscale("log")
            if len(np.unique(x)) <= _VALUES:
                axes.set_xticks(np.unique(x), [f"{value:g}" for value in np.unique(x)], minor=False)
                axes.minorticks_off()
            if logarithmic:
                axes.set_yscale("log")
            share = (importances or {}).get(environment, {}).get(name)
            axes.set_xlabel(name if share is None else f"{name}, importance {share:.2f}")
            axes.set_ylabel(score)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _draw_mean(axes: Any, group: Mapping[str, Sequence["Report"]], colour: str, label: str, by: str) -> float:
    """Add the mean of some runs' smoothed curves, its interval, and each of them; where the shortest ends."""
    curves = []
    for name, reports in group.items():
        places = _places(reports, by)
        curves.append((_curve(name, reports, places), places[-1] if len(places) else 0.0))
    last = min(place for _, place in curves)
    x = np.linspace(max(curve["x"][0] for curve, _ in curves), last, _POINTS)
    values = np.array([np.interp(x, curve["x"], curve["smooth"]) for curve, _ in curves])
    if len(group) > 1:
        low, high = interval([values])
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, values.T, color=colour, alpha=0.25, linewidth=0.7)
    point = {"marker": "o"} if np.ptp(x) == 0 else {}  # a run of one report would leave no line
    axes.plot(x, values.mean(axis=0), color=colour, linewidth=2, label=label, **point)
    return last


def _axes(rows: int, columns: int = 1) -> tuple[Any, Sequence[Any]]:
    """A figure and its panels, row by row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('plots need matplotlib: pip install "nbrl[plot]"') from error
    size = (8.0, 4.5) if rows * columns == 1 else (5.0 * columns, 3.4 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).reshape(-1))


def _finish(figure: Any, axes: Any, path: str | os.PathLike, title: str, by: str, end: float) -> None:
    _label(axes, title, by, end)
    axes.legend(frameon=False, loc="best")
    _save(figure, path)


def _label(axes: Any, title: str, by: str, end: float) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel({"frames": "frames of the environment", "steps": "steps"}.get(by, f"{by} of training"))
    axes.set_ylabel("mean return of an episode")
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(_short)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: str | os.PathLike) -> None:
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"the picture {os.fspath(path)} cannot be written: {error}") from error


def _places(reports: Sequence["Report"], by: str) -> np.ndarray:
    """Where reports are on the horizontal axis, one of `AXES`."""
    if by in ("minutes", "seconds"):
        return np.array([report.seconds for report in reports]) / (60 if by == "minutes" else 1)
    return np.array([getattr(report, by) for report in reports], np.float64)


def _curve(label: str, reports: Sequence["Report"], places: np.ndarray) -> dict[str, np.ndarray]:
    """Return at most ``_POINTS`` points of a run: place ``x``, mean, lowest and highest return, and the smoothed mean.

    ``places`` are those of the reports on the horizontal axis, in ascending order.
    """
    rows = [
        (place, report.episodes, report.return_mean, report.return_minimum, report.return_maximum)
        for place, report in zip(places, reports, strict=True)
        if report.episodes and report.return_mean is not None and place > 0
    ]
    if not rows:
        raise ValueError(f"{label} has no finished episode to plot")
    place, count, mean, lowest, highest = np.array(rows, dtype=np.float64).T
    bins = np.minimum(place / place[-1] * _POINTS, _POINTS - 1).astype(np.int64)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    weight = np.add.reduceat(count, starts)
    total = np.add.reduceat(count * mean, starts)
    x = np.add.reduceat(count * place, starts) / weight
    half = _SMOOTHING * place[-1] / 2
    begin, end = np.searchsorted(x, x - half), np.searchsorted(x, x + half, side="right")
    total_before, weight_before = (np.concatenate([[0.0], np.cumsum(values)]) for values in (total, weight))
    return {
        "x": x,
        "mean": total / weight,
        "lowest": np.minimum.reduceat(lowest, starts),
        "highest": np.maximum.reduceat(highest, starts),
        "smooth": (total_before[end] - total_before[begin]) / (weight_before[end] - weight_before[begin]),
    }


def _add_time(axes: Any, reports: Sequence["Report"], by: str) -> None:
    """Add an axis on top with the time of training at which frames or steps were reached."""
    from matplotlib.ticker import MaxNLocator

    reached = np.concatenate([[0.0], _places(reports, by)])
    unit = "minutes" if reports[-1].seconds >= 180 else "seconds"
    times = np.concatenate([[0.0], _places(reports, unit)])
    ticks: dict[float, str] = {}  # label by place; those at the start, while the program compiled, would overlap
    for tick in MaxNLocator(7).tick_values(0, times[-1]):
        place = float(np.interp(tick, times, reached, right=np.inf))
        if reached[-1] >= place >= max(ticks, default=-np.inf) + 0.05 * reached[-1]:
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
