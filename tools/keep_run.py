"""Keep a finished run under runs/reference/: its settings, a thinned curve, an evaluation, a picture and the policy.

python tools/keep_run.py runs/NAME runs/reference/NAME [--episodes 30] [--lines 400]
"""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np

from nbrl import Agent, Report, evaluate
from nbrl.metrics import MetricsFile, RunDirectory, read_metrics
from nbrl.plots import learning_curves

MEANS = ("steps_per_second", "frames_per_second", "policy_loss", "value_loss", "entropy", "gradient_norm")


def thinned(reports: list[Report], lines: int) -> list[Report]:
    """The reports as about `lines` longer intervals, each with the means of those that it stands for."""
    kept = []
    for group in np.array_split(np.arange(len(reports)), min(lines, len(reports))):
        part = [reports[i] for i in group]
        ended = [report for report in part if report.return_mean is not None]
        weights = [report.episodes for report in ended]
        values = {
            name: float(np.mean([getattr(report, name) for report in part if getattr(report, name) is not None]))
            for name in MEANS
            if any(getattr(report, name) is not None for report in part)
        }
        if ended:
            values |= {
                "return_mean": float(np.average([report.return_mean for report in ended], weights=weights)),
                "length_mean": float(np.average([report.length_mean for report in ended], weights=weights)),
                "return_minimum": min(report.return_minimum for report in ended),
                "return_maximum": max(report.return_maximum for report in ended),
            }
        kept.append(dataclasses.replace(part[-1], episodes=sum(weights), **values))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--lines", type=int, default=400)
    options = parser.parse_args()

    run, kept = RunDirectory.open(options.run), RunDirectory(options.kept)
    kept.path.mkdir(parents=True)
    for source, target in ((run.config_file, kept.config_file), (run.policy_file, kept.policy_file)):
        shutil.copy(source, target)
    metrics = MetricsFile(kept.metrics_file)
    for report in thinned(read_metrics(run.metrics_file), options.lines):
        metrics.append(report)
    metrics.close()
    evaluation = evaluate(Agent.load(kept.policy_file), episodes=options.episodes)
    kept.evaluation_file.write_text(json.dumps(evaluation.to_dict(), allow_nan=False) + "\n")
    config = kept.config()
    reports = {str(kept.path): read_metrics(kept.metrics_file)}
    learning_curves(kept.curve_file, f"{config.environment}, {config.method}", reports)
    last = reports[str(kept.path)][-1]
    print(f"{last.frames:,} frames in {last.seconds / 60:.1f} minutes")
    print(f"mean return {evaluation.mean_return:.2f}, standard error {evaluation.standard_error or 0:.2f}")


if __name__ == "__main__":
    main()
