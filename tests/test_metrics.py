import csv
import dataclasses
import json
import logging
import math
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrl.config import Config
from nbrl.metrics import (
    CHARTS,
    MetricsFile,
    Report,
    RunDirectory,
    default_directories,
    duration,
    progress_line,
    read_metrics,
    write_csv,
)

CONFIG = Config(environment="CartPole-v1", seed=3)

counts = st.integers(0, 10**12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
KINDS = {int: counts, float: numbers, float | None: st.none() | numbers, int | None: st.none() | counts}
KINDS[dict[str, float]] = st.dictionaries(st.text().map("own/".__add__), numbers, max_size=3)
reports = st.builds(Report, **{field.name: KINDS[field.type] for field in dataclasses.fields(Report)})


@given(reports)
def test_report_survives_json(report):
    assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_charts_have_the_names_that_plots_know(make_report):
    assert {*CHARTS, "metrics"} == {field.name for field in dataclasses.fields(Report)}
    line = make_report().to_dict()
    assert len(line) == len(CHARTS)
    assert line["charts/episodic_return"] == 1.5
    assert line["charts/episodic_return_count"] == 2
    assert line["charts/episodic_return_min"] == 1.0
    assert line["charts/episodic_return_max"] == 2.0
    assert line["charts/SPS"] == 100.0
    assert (line["losses/policy"], line["losses/value"], line["losses/entropy"]) == (0.1, 0.2, 0.6)
    assert (line["charts/learning_rate"], line["losses/gradient_norm"]) == (1e-3, 3.0)
    assert (line["steps"], line["frames"], line["seconds"]) == (3_000, 12_000, 4.5)


def test_reports_of_older_runs_are_read(make_report):
    older = {
        name: value for name, value in make_report().to_dict().items() if name not in ("updates", "eval/mean_return")
    }
    report = Report.from_dict(older)
    assert (report.updates, report.evaluation_return) == (None, None)
    with pytest.raises(KeyError):
        Report.from_dict({name: value for name, value in older.items() if name != "steps"})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_becomes_null(tmp_path, make_report, value):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(make_report(policy_loss=value))
    file.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["losses/policy"] is None


def test_each_report_is_on_disk_at_once(tmp_path, make_report):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    written = [make_report(steps=steps) for steps in (1, 2, 3)]
    for number, report in enumerate(written, start=1):
        file.append(report)
        assert read_metrics(path) == written[:number]
        assert len(path.read_text().splitlines()) == number
    file.close()
    file.close()


def test_half_a_line_of_a_crash_is_passed_over(tmp_path, make_report, caplog):
    path = tmp_path / "metrics.jsonl"
    written(path, [make_report(steps=steps) for steps in (1, 2)])
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING, logger="nbrl"):
        assert [report.steps for report in read_metrics(path)] == [1]
    assert "line 2 is not a report" in caplog.text


def written(path, reports, steps=None):
    file = MetricsFile(path, steps)
    for report in reports:
        file.append(report)
    file.close()


@given(st.lists(st.integers(0, 20), max_size=20), st.integers(0, 20), st.integers(0, 300))
def test_a_run_that_goes_on_leaves_out_what_its_checkpoint_does_not_know(steps, at, lost):
    template = Report.from_dict(dict.fromkeys(CHARTS.values(), 1))
    first = [dataclasses.replace(template, steps=step, seconds=number) for number, step in enumerate(sorted(steps))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        written(path, first)
        whole = path.read_bytes()
        cut = max(0, len(whole) - lost)  # a crash cuts anywhere; a line that lacks its end alone still counts
        path.write_bytes(whole[:cut])
        left = sum(place <= cut for place, byte in enumerate(whole) if byte == ord("\n"))
        again = [dataclasses.replace(template, steps=at, seconds=100.0)]
        written(path, again, steps=at)
        assert read_metrics(path) == [report for report in first[:left] if report.steps <= at] + again
        assert path.read_bytes().endswith(b"\n")


def test_absent_metrics_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl does not exist: the run has reported nothing yet"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_progress_line(make_report):
    report = make_report(steps=7_500_000, total_steps=12_500_000, seconds=3_000.0, frames_per_second=10_000.4)
    report = dataclasses.replace(report, recent_return=-12.3456)
    assert progress_line(report) == ("7,500,000 of 12,500,000 steps  10,000 frames/s  return -12.35  33 min 20 s left")
    assert progress_line(report, 20) == "7,500,000 of 12,500,"
    assert progress_line(report, most_left=61.0).endswith("return -12.35  1 min 01 s left")
    start = dataclasses.replace(report, steps=0, recent_return=None)
    assert "return - (no episode yet)  time left unknown" in progress_line(start)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (1e7, "2,777 h 46 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_run_directory_keeps_the_settings(tmp_path):
    run = RunDirectory.create(tmp_path / "runs" / "mine", CONFIG)
    assert RunDirectory.open(run.path).config() == CONFIG
    assert run.checkpoints.is_dir()
    assert {entry.name for entry in run.path.iterdir()} == {"config.json", "machine.json", "checkpoints"}
    assert json.loads(run.machine_file.read_text())["numpy"] == np.__version__


def test_an_empty_directory_may_become_a_run(tmp_path):
    assert RunDirectory.create(tmp_path, CONFIG).config() == CONFIG


def test_a_used_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: a new run needs a directory of its own"):
        RunDirectory.create(tmp_path, CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]
    RunDirectory.create(tmp_path / "run", CONFIG)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="is not empty"):
        RunDirectory.create(tmp_path / "run", Config(environment="Catch-v0"))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_what_cannot_be_a_run_directory_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below", "/proc/nbrl"):
        with pytest.raises(ValueError, match="cannot be used as a run directory"):
            RunDirectory.create(path, CONFIG)


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for name, sentence in [("absent", "it does not exist"), ("file", "it is a file"), (".", "it has no config.json")]:
        with pytest.raises(ValueError, match=f"is not a run directory: {sentence}"):
            RunDirectory.open(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "cannot be read"), ("[]", "cannot be used"), ('{"environment": "x", "actors": 0}', "actors is 0")],
)
def test_damaged_settings_are_refused(tmp_path, text, sentence):
    run = RunDirectory.create(tmp_path, CONFIG)
    run.config_file.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        run.config()


@pytest.mark.parametrize(
    ("environment", "start"), [("ALE/Pong-v5", "Pong-v5-a3c-"), ("../../x y", "x-y-a3c-"), ("…", "run-a3c-")]
)
def test_default_names_stay_in_their_folder_and_differ(environment, start):
    paths = list(islice(default_directories(Config(environment=environment)), 5))
    assert len(set(paths)) == 5
    assert all(path.parent == Path("runs") and path.name.startswith(start) for path in paths)


def test_a_run_as_a_table(tmp_path, make_report):
    reports = [make_report(steps=100), make_report(steps=200, entropy=None, metrics={"own/a, b": 0.5})]
    write_csv(tmp_path / "table.csv", reports)
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["steps"] for row in rows] == ["100", "200"]
    assert [row["losses/entropy"] for row in rows] == [str(reports[0].entropy), ""]
    assert [row["own/a, b"] for row in rows] == ["", "0.5"]
    with pytest.raises(ValueError, match="cannot be written"):
        write_csv(tmp_path / "no" / "table.csv", reports)


def test_the_command_writes_a_table(tmp_path, nbrl_command):
    assert nbrl_command("train", "Catch-v0", "steps=500", "--out", "run").returncode == 0
    ended = nbrl_command("export", "run")
    assert ended.stdout.strip() == "run/metrics.csv"
    assert (tmp_path / "run" / "metrics.csv").read_text().startswith("steps,frames,seconds,")
    assert nbrl_command("export", "run", "--out", "other.csv").stdout.strip() == "other.csv"
    assert nbrl_command("export", "nowhere").returncode == 2
