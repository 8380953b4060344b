import re
import subprocess
import sys

import numpy as np
import pytest

from nbrl.plots import _curve, learning_curves, mean_curves
from nbrl.scores import interval

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(make_report):
    def make(count, episodes=2):
        return [
            make_report(frames=400 * n, steps=100 * n, seconds=1.0 * n, episodes=episodes, return_mean=float(n))
            for n in range(1, count + 1)
        ]

    return make


@pytest.mark.parametrize("count", [1, 2, 50, 3000])
def test_one_run(tmp_path, run, count):
    learning_curves(tmp_path / "curve.png", "a title", {"run": run(count)})
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_several_runs_in_another_format(tmp_path, run):
    learning_curves(tmp_path / "curve.svg", "a title", {"first": run(30), "second": run(40)})
    picture = (tmp_path / "curve.svg").read_text()
    assert "<svg" in picture


def places_of(reports):
    return np.array([report.frames for report in reports])


def drawn(path):
    """The words of a picture in SVG, which keeps them as comments."""
    return re.findall(r"<!-- (.*) -->", path.read_text())


@pytest.mark.parametrize(("by", "last"), [("minutes", "50"), ("seconds", "3 k")])
def test_against_time(tmp_path, make_report, by, last):
    fast, slow = (
        [make_report(frames=400 * n, seconds=pace * n, return_mean=float(n)) for n in range(1, 3001)]
        for pace in (0.25, 1)
    )
    learning_curves(tmp_path / "curve.svg", "a title", {"fast": fast, "slow": slow}, by=by)
    words = drawn(tmp_path / "curve.svg")
    assert {f"{by} of training", last, "fast", "slow"} <= set(words)
    assert "frames of the environment" not in words


@pytest.mark.parametrize(("pace", "unit"), [(1.0, "minutes"), (0.01, "seconds")])  # 3000 and 30 seconds
def test_an_axis_of_time_besides(tmp_path, make_report, pace, unit):
    reports = [
        make_report(frames=400 * n, steps=100 * n, seconds=pace * n, return_mean=float(n)) for n in range(1, 3001)
    ]
    for by, label, last in (("frames", "frames of the environment", "1 M"), ("steps", "steps", "300 k")):
        learning_curves(tmp_path / "curve.svg", "a title", {"run": reports}, by=by)
        assert {f"{unit} of training", label, last} <= set(drawn(tmp_path / "curve.svg"))
    learning_curves(tmp_path / "curve.svg", "a title", {"run": reports}, by=unit)
    assert drawn(tmp_path / "curve.svg").count(f"{unit} of training") == 1


def test_curve_is_the_mean_over_episodes(make_report):
    reports = [
        make_report(frames=1_000_000, episodes=1, return_mean=10.0, return_minimum=10.0, return_maximum=10.0),
        make_report(frames=1_000_001, episodes=3, return_mean=2.0, return_minimum=-1.0, return_maximum=5.0),
        make_report(
            frames=1_000_002, episodes=0, return_mean=None, return_minimum=None, return_maximum=None, length_mean=None
        ),
    ]
    curve = _curve("run", reports, places_of(reports))
    np.testing.assert_allclose(curve["mean"], [4.0])
    np.testing.assert_allclose(curve["smooth"], [4.0])
    assert (curve["lowest"], curve["highest"]) == ([-1.0], [10.0])


def test_smoothing_keeps_a_constant_and_the_range(make_report):
    rng = np.random.default_rng(0)
    flat = [make_report(frames=1000 * n, return_mean=7.0) for n in range(1, 2000)]
    np.testing.assert_allclose(_curve("run", flat, places_of(flat))["smooth"], 7.0)
    noisy = [make_report(frames=1000 * n, return_mean=rng.normal()) for n in range(1, 2000)]
    curve = _curve("run", noisy, places_of(noisy))
    assert len(curve["x"]) <= 400
    assert np.all(np.diff(curve["x"]) > 0)
    assert curve["smooth"].std() < 0.5 * curve["mean"].std()


def test_nothing_to_plot_is_refused(tmp_path, make_report):
    report = make_report(episodes=0, return_mean=None)
    for reports in ([], [report]):
        with pytest.raises(ValueError, match="runs/mine has no finished episode to plot"):
            learning_curves(tmp_path / "curve.png", "a title", {"runs/mine": reports})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["absent/curve.png", "curve.nonsense"])
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, run, name):
    with pytest.raises(ValueError, match="cannot be written"):
        learning_curves(tmp_path / name, "a title", {"run": run(3)})


def test_pyplot_is_left_alone_and_without_matplotlib_a_sentence_says_what_to_install(environment_variables, tmp_path):
    program = (
        "import sys, nbrl.plots\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "sys.modules['matplotlib'] = None\n"
        "try:\n"
        "    nbrl.plots.learning_curves('curve.png', 'title', {})\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "del sys.modules['matplotlib']\n"
        "import nbrl.metrics\n"
        "values = dict.fromkeys(nbrl.metrics.CHARTS, 1)\n"
        "nbrl.plots.learning_curves('curve.png', 'title', {'run': [nbrl.metrics.Report(**values)]})\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment_variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ('plots need matplotlib: pip install "nbrl[plot]"\nFalse\n', "")


def test_several_seeds_have_a_mean_and_its_interval(tmp_path, run):
    groups = [{"a1": run(30), "a2": run(40), "a3": run(35)}, {"b": run(20)}]
    mean_curves(tmp_path / "mean.svg", "a title", groups)
    words = drawn(tmp_path / "mean.svg")
    assert "mean of 3 runs, 95% interval (a1, ...)" in words
    assert "b" in words


def test_the_interval_of_a_mean():
    """Of n normal numbers it is about 1.96 deviations over the root of n; of one, or of equal ones, nothing."""
    values = np.random.default_rng(1).standard_normal((400, 3))
    low, high = interval([values])
    half = 1.96 * values.std(axis=0) / 20
    np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.01)
    np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.01)
    for equal in (np.ones((1, 4)), np.full((5, 4), 2.5)):
        low, high = interval([equal])
        np.testing.assert_allclose([low, high], [equal[0], equal[0]])


def test_runs_that_differ_in_their_seeds_are_one_curve(tmp_path, nbrl_command):
    for name, *more in (("a", "--seed", 1), ("b", "--seed", 2), ("c", "--seed", 3, "entropy_weight=0.1")):
        assert nbrl_command("train", "Catch-v0", "steps=3000", *more, "--out", name).returncode == 0
    ended = nbrl_command("plot", "a", "b", "c", "--mean", "--out", "mean.svg")
    assert ended.returncode == 0, ended.stderr
    words = drawn(tmp_path / "mean.svg")
    assert "mean of 2 runs, 95% interval (a, ...)" in words
    assert "c" in words
