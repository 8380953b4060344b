"""What a run reports and where it keeps it: reports, ``metrics.jsonl``, the progress line and the run directory."""

import contextlib
import csv
import io
import json
import logging
import math
import numbers
import os
import re
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbrl import machine
from nbrl.checkpoint import CHECKPOINTS, POLICY, replace_file, shortened, sweep, sync_directory
from nbrl.config import Config

try:
    import fcntl
except ImportError:  # where there are no such locks, only this process is kept out
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The state of a run at one moment; returns and lengths are of whole episodes, in the environment's own rewards.

    Attributes
    ----------
    steps : int
        Agent steps of all actors, since the run began.
    frames : int
        Frames of the environment: four times the steps on Atari.
    seconds : float
        Time spent in training, since the run began.
    total_steps : int
        The length of the run.
    steps_per_second, frames_per_second : float
        Since the last report.
    episodes : int
        How many ended since the last report.
    return_mean, return_minimum, return_maximum : float or None
        Of these episodes; None if there are none.
    length_mean : float or None
        Of these episodes, in agent steps.
    recent_return : float or None
        The mean of the last 100 episodes.
    policy_loss, value_loss, entropy : float or None
        Means since the last report; None if nothing was learnt, or the method has none. The policy loss of dpg is
        -Q(s, mu(s)).
    gradient_norm : float or None
        The mean since the last report, before it is clipped.
    learning_rate : float
        That of this moment.
    dropped_episodes : int
        Episodes whose records were lost, since the run began: they came too fast.
    evaluation_return : float or None
        The mean of the evaluation beside training that ended since the last report, if one did.
    updates : int or None
        Of the parameters, by all threads, since the run began.
    metrics : dict of str to float
        More numbers by name: of some methods, of bonuses and of callbacks.
    """

    steps: int
    frames: int
    seconds: float
    total_steps: int
    steps_per_second: float
    frames_per_second: float
    episodes: int
    return_mean: float | None
    return_minimum: float | None
    return_maximum: float | None
    length_mean: float | None
    recent_return: float | None
    policy_loss: float | None
    value_loss: float | None
    entropy: float | None
    gradient_norm: float | None
    learning_rate: float
    dropped_episodes: int
    evaluation_return: float | None = None
    updates: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return progress_line(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report under the names of its charts, for JSON: a number that is not finite becomes None."""
        values = {name: getattr(self, field) for field, name in CHARTS.items()} | self.metrics
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Report":
        """Return the report from ``to_dict``'s form.

        Raises
        ------
        KeyError
            A name but the last two is absent.
        ValueError
            A number is none, or none that can be.
        """
        newer = {"eval/mean_return": None, "updates": None}  # older runs have none
        found = {field: (newer | values)[name] for field, name in CHARTS.items()}
        metrics = {name: number for name, number in values.items() if name not in NAMES and number is not None}
        for name, number in (found | metrics).items():
            kind, optional = KINDS.get(name, (float, False))
            if number is None and optional:
                continue
            right = isinstance(number, int | float) if kind is float else isinstance(number, int)
            if isinstance(number, bool) or not right or not abs(number) <= (MAX_FLOAT if kind is float else 2**63):
                raise ValueError(f"{name} is {number!r:.60}")
        return cls(metrics=metrics, **found)


# The names that users' plots know, by field of Report.
CHARTS = {
    "steps": "steps",
    "frames": "frames",
    "seconds": "seconds",
    "total_steps": "total_steps",
    "steps_per_second": "charts/SPS",
    "frames_per_second": "charts/FPS",
    "episodes": "charts/episodic_return_count",
    "return_mean": "charts/episodic_return",
    "return_minimum": "charts/episodic_return_min",
    "return_maximum": "charts/episodic_return_max",
    "length_mean": "charts/episodic_length",
    "recent_return": "charts/episodic_return_last_100",
    "policy_loss": "losses/policy",
    "value_loss": "losses/value",
    "entropy": "losses/entropy",
    "gradient_norm": "losses/gradient_norm",
    "learning_rate": "charts/learning_rate",
    "dropped_episodes": "dropped_episodes",
    "evaluation_return": "eval/mean_return",
    "updates": "updates",
}
NAMES = frozenset(CHARTS.values())
KINDS = {
    name: (int if "int" in str(kind) else float, "None" in str(kind))
    for name, kind in Report.__annotations__.items()
    if name != "metrics"
}
MAX_FLOAT = sys.float_info.max


def more_metrics(given: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name that may be added to a report; ValueError with one sentence for others."""
    for name, number in given.items():
        if not isinstance(name, str) or name in NAMES:
            raise ValueError(
                f"a callback gave a metric the name {name!r}: it must be a text that no report has already"
            )
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise ValueError(f"a callback gave {number!r} for the metric {name!r}: it must be a number")
    return {name: float(number) for name, number in given.items()}


class MetricsFile:
    """A file of reports, one JSON object a line, each on disk for other programs to read once ``append`` returns.

    Parameters
    ----------
    path
        Made if it is not there.
    steps
        What a run that goes on has behind it. Lines from beyond, written after the checkpoint that it goes on from, and
        lines that are no reports, such as a half one, are left out.
    """

    def __init__(self, path: str | os.PathLike, steps: int | None = None) -> None:
        if steps is not None and os.path.exists(path):
            kept = [report for report in read_metrics(path) if report.steps <= steps]
            replace_file(path, [_line(report) for report in kept])
        self._file = open(path, "ab")  # noqa: SIM115 - it stays open for the run

    def append(self, report: Report) -> None:
        """Add a report as a line."""
        self._file.write(_line(report))
        self._file.flush()

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        self._file.close()


def _line(report: Report) -> bytes:
    return json.dumps(report.to_dict(), allow_nan=False).encode() + b"\n"


def read_metrics(path: str | os.PathLike) -> list[Report]:
    """Return the reports of a ``metrics.jsonl``.

    A line that a crash cut short is passed over with a warning.

    Raises
    ------
    ValueError
        The file cannot be read.
    """
    reports: list[Report] = []
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: the run has reported nothing yet") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            report = Report.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError):
            if line:
                logger.warning("%s: line %d is not a report and is passed over", path, number)
            continue
        reports.append(report)
    return reports


def write_csv(path: str | os.PathLike, reports: Sequence[Report]) -> None:
    """Write reports as a table, a line each, under the names that they have in ``metrics.jsonl``.

    Raises
    ------
    ValueError
        It cannot be written.
    """
    rows = [report.to_dict() for report in reports]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    try:
        replace_file(path, [text.getvalue().encode()])
    except OSError as error:
        raise ValueError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from error


def progress_line(report: Report, width: int | None = None, most_left: float = math.inf) -> str:
    """Return a line of steps, speed, mean return of the last 100 episodes, time left, cut to ``width`` characters.

    The run ends in `most_left` seconds, if it does not before.
    """
    recent = "- (no episode yet)" if report.recent_return is None else f"{report.recent_return:,.4g}"
    left = (report.total_steps - report.steps) * report.seconds / report.steps if report.steps else math.inf
    left = min(left, most_left)
    speed = report.steps_per_second, "steps/s"
    if report.frames != report.steps:
        speed = report.frames_per_second, "frames/s"
    parts = [
        f"{report.steps:,} of {report.total_steps:,} steps",
        f"{speed[0]:,.0f} {speed[1]}",
        f"return {recent}",
        "time left unknown" if left == math.inf else f"{duration(left)} left",
    ]
    line = "  ".join(parts)
    return line if width is None else line[:width]


def duration(seconds: float) -> str:
    """Return a time in the two units that say enough.

    >>> duration(42), duration(754), duration(45_000)
    ('42 s', '12 min 34 s', '12 h 30 min')
    """
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


# Run directories that this process trains in, by the path of their lock.
_held: "weakref.WeakValueDictionary[str, RunDirectory]" = weakref.WeakValueDictionary()


def _let_go(place: str, file: int, process: int) -> None:
    _held.pop(place, None)
    with contextlib.suppress(OSError):
        if os.getpid() == process:  # a fork has the file, but not the lock
            os.unlink(place)
    with contextlib.suppress(OSError):
        os.close(file)


class RunDirectory:
    """Where a run keeps what it writes. ``create`` makes a new one, ``open`` takes one that is there."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.machine_file = self.path / "machine.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / CHECKPOINTS
        self.policy_file = self.path / POLICY
        self.best_file = self.path / "best.safetensors"
        self.evaluation_file = self.path / "eval.json"
        self.curve_file = self.path / "curve.png"
        self.table_file = self.path / "metrics.csv"
        self.play_file = self.path / "play.gif"
        self.lock_file = self.path / "lock"
        self.release: Callable[[], object] = lambda: None  # lets others train here, after `hold`

    @classmethod
    def create(cls, path: str | os.PathLike, config: Config) -> "RunDirectory":
        """Make a run's directory and write its settings there, durably: without them no checkpoint is of use.

        Raises
        ------
        ValueError
            The directory holds something already, or cannot be written.
        """
        run = cls(path)
        try:
            made = [path for path in (run.path, *run.path.parents) if not path.exists()]
            run.path.mkdir(parents=True, exist_ok=True)
            if any(run.path.iterdir()):
                raise ValueError(f"{run.path} is not empty: a new run needs a directory of its own")
            run.checkpoints.mkdir()
            run.write_config(config)
            replace_file(run.machine_file, [json.dumps(machine.describe(), indent=2).encode() + b"\n"])
            for path in made:
                sync_directory(path.parent)
        except OSError as error:
            raise ValueError(f"{run.path} cannot be used as a run directory: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike) -> "RunDirectory":
        """Return the directory of an earlier run.

        Raises
        ------
        ValueError
            There is no run in this directory.
        """
        run = cls(path)
        if not run.path.is_dir():
            what = "it is a file" if run.path.exists() else "it does not exist"
            raise ValueError(f"{run.path} is not a run directory: {what}")
        if not run.config_file.is_file():
            within = [path.parent for path in run.path.glob(f"*/{run.config_file.name}")]
            newest = max(within, key=lambda path: path.stat().st_mtime, default=None)
            hint = "" if newest is None else f"; the newest run in it is {newest}"
            raise ValueError(f"{run.path} is not a run directory: it has no {run.config_file.name}{hint}")
        return run

    def hold(self) -> None:
        """Keep everybody else from training here, until `release` or this process's end.

        Raises
        ------
        ValueError
            Somebody trains here already.
        """
        place = os.path.realpath(self.lock_file)
        if place in _held:
            raise ValueError(f"{self.path} is in use: this process trains in it")
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(file, 20).decode(errors="replace") or "unknown"
                os.close(file)
                raise ValueError(f"{self.path} is in use: process {holder} trains in it") from None
        if not os.path.exists(place) or not os.path.samestat(os.fstat(file), os.stat(place)):
            os.close(file)  # its holder let go of it, and removed it, in between
            return self.hold()
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        _held[place] = self
        self.release = weakref.finalize(self, _let_go, place, file, os.getpid())

    def clear(self) -> None:
        """Remove what an earlier process left half written, before the run goes on."""
        for directory in (self.path, self.checkpoints):
            sweep(directory)

    def check_files(self) -> None:
        """Raise ``ValueError`` where something else has the name of a file that the run writes."""
        for path in (self.metrics_file, self.policy_file, self.best_file):
            if os.path.lexists(path) and not os.path.isfile(path):
                raise ValueError(f"{path} is no file, but a run writes one there: move it away")

    def write_config(self, config: Config) -> None:
        """Write the run's settings, in place of those that are there."""
        text = json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n"
        replace_file(self.config_file, [text.encode()])

    def config(self) -> Config:
        """Return the run's settings; raises ``ValueError`` if they cannot be read."""
        try:
            values = json.loads(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(shortened(f"{self.config_file} cannot be read: {error}")) from error
        try:
            return Config.from_dict(values)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(shortened(f"{self.config_file} cannot be used: {error}")) from error


def folder_word(environment: str) -> str:
    """An environment's name as a part of a folder's.

    >>> folder_word("ALE/Pong-v5"), folder_word("module:Corridor")
    ('Pong-v5', 'module-Corridor')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", environment.removeprefix("ALE/")).strip("-.") or "run"


def default_directories(config: Config, parent: str | os.PathLike = "runs") -> Iterator[Path]:
    """Yield names for a new run that say what it is and when it began, until one is free."""
    name = f"{folder_word(config.environment)}-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
    yield Path(parent) / name
    number = 2
    while True:
        yield Path(parent) / f"{name}-{number}"
        number += 1
