"""How long a study will take, from a few seconds of each kind of run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nbrl.config import Config
from nbrl.metrics import Report
from nbrl.studies.plan import Plan, configured
from nbrl.studies.runs import read_result
from nbrl.trainer import Trainer

SECONDS = 3.0  # of training that a speed is measured over, its first half left out


class Forecast(NamedTuple):
    """What a study has before it."""

    runs: int
    finished: int
    seconds: float  # of training alone, with nothing else on the machine


def forecast(plan: Plan, folder: Path, jobs: int, on_progress: Callable[[str], None]) -> Forecast:
    """Measure how fast each environment is with each method and network, and add up what is left to do.

    Of a search, each proposal is taken for a mean of its settings' first values and bounds.
    """
    speeds: dict[tuple[str, str, object], float] = {}
    trials = plan.corners() if plan.searches else plan.trials()
    left = [trial for trial in trials if read_result(folder / trial.name, plan) is None]
    seconds = 0.0
    for trial in left:
        config = configured(trial)
        kind = trial.environment, config.method, config.network
        if kind not in speeds:
            on_progress(f"measuring {trial.environment} by {config.method}")
            speeds[kind] = _steps_per_second(config, trial.environment)
        seconds += min(config.steps / speeds[kind], 60 * (config.minutes or float("inf")))
    runs = plan.wanted * len(plan.environments) * len(plan.seeds)
    if plan.searches:
        finished = len([trial for trial in plan.trials() if read_result(folder / trial.name, plan) is not None])
        seconds *= (runs - finished) / max(len(left), 1)
    else:
        finished = len(trials) - len(left)
    return Forecast(runs, finished, seconds / jobs)


def _steps_per_second(config: Config, environment: str) -> float:
    reports: list[Report] = []
    short = config.replace(steps=10**12, minutes=SECONDS / 60, target_return=None, report_interval=SECONDS / 10)
    trainer = Trainer(short, environment, on_report=reports.append)
    trainer.start(wait=True)
    first, last = next(each for each in reports if each.seconds >= reports[-1].seconds / 2), reports[-1]
    return (last.steps - first.steps) / (last.seconds - first.seconds)
