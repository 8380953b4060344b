"""What the runs of a study show: means and their intervals, a table and a picture."""

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbrl.checkpoint import replace_file
from nbrl.config import Config
from nbrl.metrics import Report, RunDirectory, read_metrics
from nbrl.plots import StudyCurve, study_picture
from nbrl.scores import interquartile_mean, interval
from nbrl.studies.importance import importances
from nbrl.studies.plan import Plan, configured
from nbrl.studies.runs import read_result


class Results:
    """What the runs of a study showed.

    Attributes
    ----------
    plan : Plan
    folder : pathlib.Path
    rows : list of dict
        One for each environment and point: environment, settings (those in which points differ), scores (one a seed),
        mean, interquartile_mean, low and high (the 95% interval of the mean), minutes (mean of a run), pruned, how
        many of its runs were given up, if any was, and reached, how many came to their `target_return` where steps or
        minutes to it are measured. A run that did not has all its steps or minutes as its score.
    points : list of dict
        Those of the plan, each once.
    importances : dict of str to dict of str to float
        By environment, how much each setting has to do with which points are the best, where points were drawn: see
        `nbrl.studies.importance`.
    failed : list of pathlib.Path
        The folders of runs that ended with an error, which is in their file ``log``.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.rows: list[dict[str, Any]] = []
        self.failed: list[Path] = []
        self.points = [point for place, point in enumerate(plan.points) if point not in plan.points[:place]]
        for environment, point in itertools.product(plan.environments, self.points):
            found = []
            for seed in plan.seeds:
                own = folder / plan.trial(environment, point, seed).name
                result = read_result(own, plan)
                if result is None:
                    self.failed.append(own)
                else:
                    found.append(result)
            if found:
                self.rows.append(self._row(environment, point, found))
        self.importances: dict[str, dict[str, float]] = {}
        for environment in plan.environments if plan.drawn else ():
            scores = [(row["settings"], row["mean"]) for row in self.rows if row["environment"] == environment]
            self.importances[environment] = importances(plan, scores)

    def _row(self, environment: str, point: Mapping[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
        scores = np.array([self.plan.score(one) for one in found])
        low, high = map(float, interval([scores])) if len(scores) > 1 else (math.nan, math.nan)
        row = {
            "environment": environment, "settings": {name: point[name] for name in self.plan.axes},
            "scores": scores.tolist(), "mean": float(scores.mean()), "interquartile_mean": interquartile_mean(scores),
            "low": low, "high": high, "minutes": float(np.mean([one["minutes"] for one in found])),
        }  # fmt: skip
        normalised = [one["human_normalised"] for one in found if "human_normalised" in one]
        pruned = sum("pruned" in one for one in found)
        if self.plan.measure != "return":
            config = configured(self.plan.trial(environment, point, self.plan.seeds[0]))
            row["reached"] = sum(_reached(one, config) for one in found)
        return row | ({"human_normalised": normalised} if normalised else {}) | ({"pruned": pruned} if pruned else {})

    def aggregate(self) -> list[dict[str, Any]]:
        """Over all environments, for each point: the interquartile mean of human-normalised scores and its interval.

        Empty where an environment has no such score, or where there is one environment alone.
        """
        found = []
        for point in self.points:
            settings = {name: point[name] for name in self.plan.axes}
            groups = [np.array(row.get("human_normalised", [])) for row in self.rows if row["settings"] == settings]
            if len(groups) == len(self.plan.environments) > 1 and all(len(group) for group in groups):
                low, high = map(float, interval(groups, interquartile_mean))
                mean = interquartile_mean(np.concatenate(groups))
                found.append({"settings": settings, "interquartile_mean": mean, "low": low, "high": high})
        return found

    def table(self) -> str:
        """The rows as text, the best first within each environment."""
        mean = "mean" if self.plan.measure == "return" else f"mean {self.plan.measure}"
        sign = -1 if self.plan.direction == "maximize" else 1
        names = [describe_point(row["settings"]) for row in self.rows]
        wide = max(map(len, names), default=0) + 2
        lines = [f"{'environment':28}{'':{wide}}{'runs':>5}{mean:>13}{'IQM':>12}{'95% interval':>26}{'minutes':>10}"]
        order = sorted(
            zip(self.rows, names, strict=True),
            key=lambda pair: (self.plan.environments.index(pair[0]["environment"]), sign * pair[0]["mean"]),
        )
        for row, name in order:
            runs = len(row["scores"])
            between = "" if math.isnan(row["low"]) else f"{row['low']:,.4g} to {row['high']:,.4g}"
            lines.append(
                f"{row['environment']:28}{name:{wide}}{runs:5}{row['mean']:13,.4g}"
                f"{row['interquartile_mean']:12,.4g}{between:>26}{row['minutes']:10.2f}"
                + ("  given up" if row.get("pruned") else "")
                + (f"  {reached} reached it" if (reached := row.get("reached", runs)) < runs else "")
            )
        for row in self.aggregate():
            between = f"{row['low']:,.4g} to {row['high']:,.4g}"
            lines.append(
                f"{'all, percent of a human':28}{describe_point(row['settings']):{wide}}{'':18}"
                f"{row['interquartile_mean']:12,.4g}{between:>26}"
            )
        for environment, shares in self.importances.items():
            if shares:
                words = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
                lines.append(f"what tells the best tenth in {environment} from all: {words}")
        if self.failed:
            lines.append(f"{len(self.failed)} runs failed: see {self.failed[0] / 'log'}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write results.json to the study's folder."""
        rows = [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            for row in self.rows
        ]
        text = json.dumps(
            {"rows": rows, "all": self.aggregate(), "importances": self.importances}, indent=1, default=list
        )
        replace_file(self.folder / "results.json", [text.encode() + b"\n"])

    def draw(self, path: str | os.PathLike | None = None) -> Path:
        """Draw the curves of each environment, and the scores by each setting that is a number: study.png, or a path.

        Where there are such, colours are those of the other settings.

        Raises
        ------
        ValueError
            matplotlib is not installed, or no run has a finished episode.
        """
        picture = Path(path or self.folder / "study.png")
        numbers = [name for name in self.plan.axes if self._is_number(name)]
        words = [name for name in self.plan.axes if name not in numbers] if numbers else []
        drawn = [name for i, name in enumerate(numbers) if not any(self._goes_with(one, name) for one in numbers[:i])]

        def group(settings: Mapping[str, Any]) -> str:
            return describe_point({name: settings[name] for name in words})

        curves = {
            environment: [
                StudyCurve(
                    describe_point({name: point[name] for name in self.plan.axes}) or environment,
                    reports,
                    group(point),
                )
                for point in self.points
                if (reports := self._reports(environment, point))
            ]
            for environment in self.plan.environments
        }
        scores = {
            environment: {
                name: [
                    (group(row["settings"]), row["settings"][name], score) for row in rows for score in row["scores"]
                ]
                for name in drawn
            }
            for environment in self.plan.environments
            if (rows := [row for row in self.rows if row["environment"] == environment])
        }
        word = "score" if self.plan.measure == "return" else f"{self.plan.measure} to the target"
        study_picture(picture, curves, scores, self.importances, word, self.plan.measure != "return")
        return picture

    def _is_number(self, name: str) -> bool:
        """Whether all values of a setting are numbers."""
        values = [point[name] for point in self.points]
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

    def _goes_with(self, one: str, other: str) -> bool:
        """Whether each value of a setting comes with one of another, in a grid."""
        pairs = {(point[one], str(point[other])) for point in self.points}
        return not self.plan.drawn and len(pairs) == len({value for value, _ in pairs})

    def _reports(self, environment: str, point: Mapping[str, Any]) -> list[list[Report]]:
        folders = [self.folder / self.plan.trial(environment, point, seed).name for seed in self.plan.seeds]
        found = [read_metrics(RunDirectory(own / "run").metrics_file) for own in folders if read_result(own, self.plan)]
        return [reports for reports in found if any(report.episodes for report in reports)]


def _reached(result: Mapping[str, Any], config: Config) -> bool:
    """Whether a run ended by its `target_return`; what ends in its last rollouts may lower the mean once more."""
    final = result["training_return"]
    at_last = final is not None and final >= config.target_return
    return at_last or (result["steps"] < config.steps and result["minutes"] < (config.minutes or math.inf))


def describe_point(settings: Mapping[str, Any]) -> str:
    """The settings in which points differ, as few words."""
    return " ".join(
        f"{name}={f'{value:.3g}' if isinstance(value, float) else value}" for name, value in settings.items()
    )
