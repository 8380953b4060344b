"""Studies: what their files say, the statistics, runs side by side that are cut short, and what they show."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbrl import Dense, evaluate, study, train
from nbrl.metrics import MetricsFile
from nbrl.scores import interquartile_mean, interval
from nbrl.studies import dry_run
from nbrl.studies.plan import Plan, Range, Trial
from nbrl.studies.results import Results
from nbrl.studies.search import Search

ROOT = Path(__file__).parent.parent
STUDIES, PAGE = ROOT / "tools" / "studies", ROOT / "nbrl" / "README.md"
SHORT = {"steps": 2000, "actors": 2, "report_interval": 0.05}


def plan(**values):
    return {"environment": "CartPole-v1", "seeds": 2, "episodes": 3} | values


def test_a_grid_has_every_combination():
    found = Plan(plan(settings={"learning_rate": [1e-3, 1e-4], "method": ["a3c", "ppo"], "steps": 100}))
    assert found.points == [
        {"learning_rate": rate, "method": method, "steps": 100} for rate in (1e-3, 1e-4) for method in ("a3c", "ppo")
    ]
    assert found.axes == ["learning_rate", "method"]
    assert len(found.trials()) == 8
    assert [trial.seed for trial in found.trials()] == [1] * 4 + [2] * 4  # each point has a run before any has two
    assert len({trial.name for trial in found.trials()}) == 8


def test_tables_of_layers_are_values_of_an_axis():
    tables = [(Dense(8),), [["dense", 4, "tanh"]], "mlp"]
    found = Plan(plan(settings={"network": tables}))
    assert [point["network"] for point in found.points] == [[["dense", 8, "relu"]], [["dense", 4, "tanh"]], "mlp"]
    assert Plan(plan(settings={"network": '[["dense", 8]]'})).points == [{"network": [["dense", 8, "relu"]]}]
    with pytest.raises(ValueError, match="layer 1 of the network"):
        Plan(plan(settings={"network": [["dense", 8]]}))


def test_environments_have_settings_of_their_own():
    own = {"Cue-v0": {"steps": 20, "network": '[["lstm", 4]]'}, "Catch-v0": {}}
    found = Plan(plan(environment=own, settings={"method": ["a3c", "n_step_q"], "steps": 10}))
    assert found.environments == ["Cue-v0", "Catch-v0"]
    assert [(one.environment, dict(one.settings)) for one in found.trials()[:3]] == [
        ("Cue-v0", {"method": "a3c", "steps": 20, "network": [["lstm", 4]]}),
        ("Cue-v0", {"method": "n_step_q", "steps": 20, "network": [["lstm", 4]]}),
        ("Catch-v0", {"method": "a3c", "steps": 10}),
    ]
    # The run of an environment without any is the same as in a list.
    assert found.trials()[2].name == Plan(plan(environment="Catch-v0", settings=found.points[0])).trials()[0].name


def test_points_are_drawn_alike_each_time_and_within_their_ranges():
    settings = {
        "learning_rate": "loguniform(1e-5, 1e-2)", "entropy_weight": "uniform(0, 0.1)",
        "rollout_length": "integer(4, 6)", "method": ["a3c", "ppo"],
    }  # fmt: skip
    found = Plan(plan(settings=settings, trials=200))
    assert found.points == Plan(plan(settings=settings, trials=200)).points
    assert found.points[:50] == Plan(plan(settings=settings, trials=50)).points  # so that more go on from fewer
    rates = np.array([point["learning_rate"] for point in found.points])
    assert ((rates >= 1e-5) & (rates <= 1e-2)).all()
    # A third of them in each decade: 67 of 200, with a deviation of 6.7.
    assert np.histogram(np.log10(rates), [-5, -4, -3, -2])[0] == pytest.approx(67, abs=27)
    assert {point["rollout_length"] for point in found.points} == {4, 5, 6}
    assert {point["method"] for point in found.points} == {"a3c", "ppo"}
    assert all(0 <= point["entropy_weight"] <= 0.1 for point in found.points)


def test_what_stands_twice_is_one():
    found = Plan(plan(environment=["CartPole-v1"] * 2, seeds=[1, 1, 2], settings={"steps": [10, 10]}))
    assert len(found.trials()) == 2


def test_settings_that_go_together_are_no_grid():
    together = [{"actors": 1, "threads": 1}, {"actors": 4, "threads": 2}]
    found = Plan(plan(points=together, settings={"method": ["a3c", "ppo"], "steps": 10}))
    assert found.points == [{"method": method, "steps": 10} | one for method in ("a3c", "ppo") for one in together]
    assert (found.axes, found.threads) == (["method", "actors", "threads"], 2)


def test_names_of_runs_depend_on_what_they_are_alone():
    one = Trial("ALE/Pong-v5", {"steps": 10, "method": "ppo"}, 3)
    assert one.name == Trial("ALE/Pong-v5", {"method": "ppo", "steps": 10}, 3).name
    assert one.name.startswith("Pong-v5-")
    assert one.name.endswith("-seed3")
    assert one.name[:-1] == Trial("ALE/Pong-v5", {"steps": 10, "method": "ppo"}, 4).name[:-1]
    assert one.name != Trial("ALE/Pong-v5", {"steps": 11, "method": "ppo"}, 3).name


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"environment": 3}, "environment is 3: a study needs an id"),
        ({"environment": []}, "a study needs an id"),
        ({"environment": ["Catch-v0", ""]}, "a study needs an id"),
        ({"environment": {}}, "a study needs an id"),
        ({"environment": {"Catch-v0": 3}}, "environment Catch-v0 is 3: it must be a table of the settings"),
        ({"environment": {"Catch-v0": {"seed": 3}}}, "environment Catch-v0 has a seed of its own"),
        ({"environment": {"Catch-v0": {"step": 3}}}, "unknown setting 'step'"),
        (
            {"environment": {"Catch-v0": {"steps": 3}}, "settings": {"steps": [1, 2]}},
            "environment Catch-v0 has a steps of its own: the study varies it",
        ),
        ({"seeds": 0}, "seeds is 0: it must be how many seeds, at least 1"),
        ({"seeds": [1, -1]}, "a seed is -1: it must be a whole number of at least 0"),
        ({"episodes": 0}, "episodes is 0"),
        ({"greedy": 1}, "greedy is 1: it must be true or false"),
        ({"sedes": 2}, "unknown key of a study 'sedes': did you mean 'seeds'"),
        ({"settings": {"learning_rat": 1}}, "unknown setting 'learning_rat': did you mean 'learning_rate'"),
        ({"settings": {"learning_rate": [1e-3, -1]}}, "learning_rate is -1"),
        ({"settings": {"learning_rate": []}}, "learning_rate is an empty list"),
        ({"settings": {"learning_rate": "uniform(0, 1)"}}, "learning_rate is a range: say with trials"),
        ({"settings": {"learning_rate": "uniform(1, 0)"}, "trials": 2}, "a range needs two numbers, the lower one"),
        ({"settings": {"learning_rate": "loguniform(0, 1)"}, "trials": 2}, "a range needs two numbers"),
        ({"settings": {"learning_rate": "uniform(a, b)"}, "trials": 2}, "a range needs two numbers"),
        ({"settings": {"seed": 3}}, "a study has seeds"),
        ({"settings": 3}, "settings is 3: it must be a table"),
        ({"settings": {"network": "[["}}, "network is '.*': it must be one of"),
        ({"trials": 0}, "trials is 0"),
        ({"sampler": "tpf"}, "unknown sampler 'tpf': did you mean 'tpe'"),
        ({"pruner": "median"}, 'a pruner goes with the sampler "tpe"'),
        ({"sampler": "tpe", "settings": {"steps": [1, 2]}}, "the sampler tpe needs trials, a setting with several"),
        ({"sampler": "tpe", "trials": 3, "settings": {"steps": 1}}, "the sampler tpe needs trials, a setting with"),
        (
            {"sampler": "tpe", "trials": 3, "settings": {"steps": [1, 2]}, "environment": ["Catch-v0", "Cue-v0"]},
            "and one environment alone",
        ),
        ({"sampler": "tpe", "trials": 3, "settings": {"learning_rate": "uniform(-1, 1)"}}, "learning_rate is -1.0"),
        ({"measure": "score"}, "unknown measure 'score'"),
        ({"measure": "steps"}, "measure is steps: it is counted until a target_return, which a run lacks"),
        (
            {
                "measure": "steps",
                "settings": {"target_return": 3},
                "environment": {"Catch-v0": {"target_return": None}},
            },
            "which a run lacks",
        ),
        (
            {"sampler": "tpe", "trials": 3, "settings": {"steps": [1, 2], "target_return": 3}}
            | {"measure": "steps", "pruner": "median"},
            "and with returns as the measure",
        ),
        ({"settings": {"points": [{"steps": 3}]}}, "settings has points, which is of the study itself: give it above"),
        ({"points": 3}, "points is 3: it must be a list of tables of settings"),
        ({"points": [{"steps": 3}, {}]}, "it must be a list of tables of settings"),
        ({"points": [{"steps": 3}, {"actors": 3}]}, "all must have the same settings"),
        ({"points": [{"steps": 3}], "settings": {"steps": 3}}, "steps is in settings and in points"),
        ({"points": [{"step": 3}]}, "unknown setting 'step'"),
        ({"points": [{"steps": 3}], "trials": 3}, "points and trials are both given"),
    ],
    ids=str,
)
def test_plans_that_cannot_be_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Plan(plan(**values))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        Plan(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("environment = = 1")
    with pytest.raises(ValueError, match=r"bad.toml is no TOML: .*line 1"):
        Plan(tmp_path / "bad.toml")


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_studies_that_come_along_can_be(file):
    for extra in ("mujoco", "Box2D"):
        pytest.importorskip(extra)
    assert Plan(file).trials()


def test_the_page_s_studies_can_be(tmp_path):
    texts = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.toml").write_text(text)
    grid, together, search = (Plan(tmp_path / f"{number}.toml") for number in range(3))
    assert len(grid.trials()) == 20
    assert (len(together.points), together.measure) == (2, "steps")
    assert (search.searches, search.wanted, search.pruner) == (True, 12, "median")


def test_a_range_by_its_text():
    assert Range.read("x", "loguniform(1e-4, 1)") == Range("loguniform", 1e-4, 1.0)
    assert Range.read("x", " integer( 2,5 )") == Range("integer", 2.0, 5.0)
    assert Range.read("x", "ppo") is None


def test_interquartile_means_by_hand():
    # Of 8 the lowest and the highest 2 are left out, of 10 as many, of 3 none.
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == 3.5
    assert interquartile_mean(np.arange(10.0) ** 2) == np.mean([4, 9, 16, 25, 36, 49])
    assert interquartile_mean(np.array([1.0, 2, 9])) == 4


def test_intervals_by_hand():
    def mean(scores):
        return float(scores.mean())

    # Of two seeds, 0 and 1, a resample is both 0 or both 1 with a chance of a quarter each.
    assert interval([np.array([0.0, 1.0])], mean) == (0, 1)
    # Groups are resampled in themselves: that of one score never changes, nor do those that are alike.
    assert interval([np.array([7.0]), np.full(3, 3.0)], mean) == (4, 4)
    # The interval of a mean of many is that of the normal distribution: 1.96 deviations of the mean to each side.
    scores = np.random.default_rng(0).standard_normal(400)
    half = 1.96 * scores.std() / 20
    assert interval([scores], mean) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.01)


def test_a_study_from_a_file_goes_on_and_is_drawn(tmp_path, nbrl_command):
    file, text = tmp_path / "few.toml", (
        'environment = "CartPole-v1"\nseeds = {seeds}\nepisodes = 3\n[settings]\nsteps = 2000\n'
        "actors = 2\nnetwork = '[[\"dense\", 8]]'\nlearning_rate = [1e-3, 1e-4]\n"
    )  # fmt: skip
    file.write_text(text.replace("{seeds}", "1"))
    ended = nbrl_command("study", file, "--out", tmp_path / "out", "--jobs", 2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("CartPole-v1") == 2
    results = {path: path.read_text() for path in (tmp_path / "out").glob("*/result.json")}
    assert len(results) == 2
    file.write_text(text.replace("{seeds}", "2"))
    made = {path: path.stat().st_mtime_ns for path in results}
    ended = nbrl_command("study", file, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 4
    assert made == {path: path.stat().st_mtime_ns for path in results}  # what was there is not made again
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [len(row["scores"]) for row in rows] == [2] * 2
    for row in rows:
        assert row["mean"] == pytest.approx(np.mean(row["scores"]))
        assert row["low"] <= row["mean"] <= row["high"]
    with Image.open(tmp_path / "out" / "study.png") as picture:
        assert min(picture.size) > 400


def test_a_study_from_python_is_the_runs_of_train(tmp_path):
    results = study(plan(seeds=[4], settings=SHORT), tmp_path)
    agent = train("CartPole-v1", threads=1, seed=4, **SHORT)
    assert results.rows[0]["scores"] == [evaluate(agent, episodes=3).mean_return]
    assert results.failed == []
    assert "CartPole-v1" in results.table()


@pytest.mark.parametrize(("measure", "best"), [("steps", [700, 1000]), ("minutes", [0.2, 0.3]), ("return", [9, 8])])
def test_a_score_is_what_the_study_measures(measure, best, tmp_path):
    settings = {"learning_rate": [1e-3, 1e-4], "steps": 1000, "target_return": 100}
    found = Plan(plan(measure=measure, settings=settings, seeds=2))
    shown = {1e-3: [(1, 900, 0.4), (2, 950, 0.5)], 1e-4: [(9, 700, 0.2), (8, 1000, 0.3)]}
    for point in found.points:
        for seed, (score, steps, minutes) in enumerate(shown[point["learning_rate"]], start=1):
            trained = 101 if seed == 1 else 99  # what ended last was worse; and one came to its end without
            one = found.trial("CartPole-v1", point, seed)
            note(tmp_path, one, score, steps=steps, minutes=minutes, training_return=trained)
    results = Results(found, tmp_path)
    assert results.rows[1]["scores"] == best
    assert [row.get("reached") for row in results.rows] == ([None, None] if measure == "return" else [2, 1])
    head, first, last = results.table().splitlines()
    assert ("mean" if measure == "return" else f"mean {measure}") in head
    assert "learning_rate=0.0001" in first
    assert "learning_rate=0.001" in last
    assert first.endswith("1 reached it") == (measure != "return")
    assert "reached" not in last


def test_the_steps_to_a_return_are_a_run_s_own(tmp_path):
    settings = SHORT | {"steps": 100_000, "target_return": 30, "report_interval": 0.02}
    results = study(plan(seeds=[4], measure="steps", settings=settings), tmp_path)
    (row,) = results.rows
    kept = json.loads(next(tmp_path.glob("*/result.json")).read_text())
    assert row["scores"] == [kept["steps"]]
    assert row["reached"] == 1
    assert kept["steps"] < 100_000
    assert kept["training_return"] >= 30
    results.draw()


def test_a_run_that_fails_is_told_of_and_made_again(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "falling.py").write_text(
        "import os, gymnasium\n"
        "class Falling(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Discrete(2)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        f"        if os.path.exists({str(tmp_path / 'broken')!r}) and seed is not None and os.environ.get('STUDY'):\n"
        "            raise OSError('no ground')\n"
        "        return 0, {}\n"
        "    def step(self, action):\n"
        "        return 1, 1.0, True, False, {}\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "broken").touch()
    monkeypatch.setenv("STUDY", "1")
    values = plan(environment="falling:Falling", seeds=1, settings=SHORT | {"steps": 50})
    results = study(values, tmp_path / "out")
    assert len(results.failed) == 1
    assert "no ground" in (results.failed[0] / "log").read_text()
    assert "1 runs failed" in results.table()
    (tmp_path / "broken").unlink()
    results = study(values, tmp_path / "out")
    assert results.failed == []
    assert results.rows[0]["scores"] == [1.0]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_stopped_leaves_no_process_and_goes_on(number, tmp_path, environment_variables):
    file = tmp_path / "long.toml"
    settings = {"steps": 2_000_000, "actors": 2, "report_interval": 0.1}
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    file.write_text(f"environment = 'CartPole-v1'\nseeds = 2\nepisodes = 3\n[settings]\n{lines}\n")
    command = [sys.executable, "-m", "nbrl", "study", str(file), "--out", str(tmp_path / "out"), "--jobs", "2"]
    process = subprocess.Popen(command, env=environment_variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline, metrics = time.monotonic() + 240, []
    while len(metrics) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        metrics = [path for path in (tmp_path / "out").glob("*/run/metrics.jsonl") if path.stat().st_size]
    assert len(metrics) == 2
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -9)
    while any((path.parent / "lock").exists() for path in metrics):  # at the latest when they see that it has gone
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)  # an evaluation would take less
    assert not list((tmp_path / "out").glob("*/result.json"))
    if number == signal.SIGTERM:
        results = study(file, tmp_path / "out")
        agents = [train("CartPole-v1", threads=1, seed=seed, **settings) for seed in (1, 2)]
        assert results.rows[0]["scores"] == [evaluate(agent, episodes=3).mean_return for agent in agents]


SEARCH = {
    "trials": 50,
    "sampler": "tpe",
    "seeds": 1,
    "settings": {
        "steps": 1000,
        "learning_rate": "loguniform(1e-6, 1)",
        "epochs": "integer(1, 9)",
        "network": ["mlp", "mlp-norm"],
    },
}


def note(folder, one, score, **more):
    """Write a result as a run would."""
    own = folder / one.name
    own.mkdir(parents=True, exist_ok=True)
    result = {"mean_return": score, "episodes": 3, "greedy": False, "minutes": 0.1, "steps": 1000} | more
    (own / "result.json").write_text(json.dumps(result))


def worth(point):
    """A score whose best is at a learning rate of 1e-3 and 5 epochs with the network mlp."""
    return -abs(math.log10(point["learning_rate"]) + 3) - abs(point["epochs"] - 5) / 4 + 2 * (point["network"] == "mlp")


def searched(folder, begins_anew):
    """The points that a search proposes, each scored; it may be a new search each time, as after a kill."""
    pytest.importorskip("optuna", reason="it proposes the points: the extra study")
    found, points = None, []
    for _ in range(SEARCH["trials"]):
        if found is None or begins_anew:
            found = Plan(plan(**SEARCH))
            search = Search(found, folder)
        points.append(search.ask())
        note(folder, found.trial("CartPole-v1", points[-1], 1), worth(points[-1]))
    assert found.points == points
    return points


def test_a_search_comes_nearer_to_the_best(tmp_path):
    points = searched(tmp_path, begins_anew=False)
    assert all(1e-6 <= point["learning_rate"] <= 1 and 1 <= point["epochs"] <= 9 for point in points)
    assert all(type(point["epochs"]) is int and point["network"] in ("mlp", "mlp-norm") for point in points)
    drawn = Plan(plan(**SEARCH | {"sampler": "random", "trials": 1000}))
    chance = [worth(point) for point in drawn.points]
    # The mean of twenty drawn at random would be so high once in 30,000 times.
    assert np.mean([worth(point) for point in points[-20:]]) > np.mean(chance) + 4 * np.std(chance) / math.sqrt(20)


def test_a_search_that_was_cut_short_goes_on_as_if_it_had_not_been(tmp_path):
    assert searched(tmp_path / "killed", begins_anew=True) == searched(tmp_path / "whole", begins_anew=False)


def drawn_and_scored(folder, score):
    """Results of two hundred points that were drawn, each scored by a function of it."""
    settings = SEARCH["settings"]
    drawn = Plan(plan(settings=settings, seeds=1, trials=200, episodes=3))
    for trial in drawn.trials():
        note(folder, trial, score(trial.settings))
    return Results(drawn, folder)


def test_the_setting_that_scores_depend_on_is_the_important_one(tmp_path):
    pytest.importorskip("optuna", reason="it tells the importance: the extra study")
    by_rate = drawn_and_scored(tmp_path / "rate", lambda point: -abs(math.log10(point["learning_rate"]) + 3))
    by_network = drawn_and_scored(
        tmp_path / "network", lambda point: (point["network"] == "mlp") + 0.1 * math.sin(1e9 * point["learning_rate"])
    )
    for results, name in ((by_rate, "learning_rate"), (by_network, "network")):
        shares = results.importances["CartPole-v1"]
        assert sum(shares.values()) == pytest.approx(1.0)
        assert next(iter(shares)) == name
        assert shares.keys() == {"learning_rate", "epochs", "network"}
        assert f"what tells the best tenth in CartPole-v1 from all: {name} " in results.table()


def test_where_no_importance_can_be_told_there_is_none(tmp_path, monkeypatch):
    assert drawn_and_scored(tmp_path / "alike", lambda point: 1.0).importances == {"CartPole-v1": {}}
    assert Results(Plan(plan()), tmp_path).importances == {}  # a grid
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert drawn_and_scored(tmp_path / "no", worth).importances == {"CartPole-v1": {}}


def test_points_of_another_plan_are_left_alone(tmp_path):
    pytest.importorskip("optuna", reason="it proposes the points: the extra study")
    Search(Plan(plan(**SEARCH)), tmp_path).ask()
    before = (tmp_path / "points.json").read_bytes()
    other = SEARCH | {"settings": {"epochs": [1, 2]}}
    with pytest.raises(ValueError, match="has points of other settings: give this study another folder"):
        Search(Plan(plan(**other)), tmp_path)
    assert (tmp_path / "points.json").read_bytes() == before


def test_a_run_that_does_worse_than_the_median_is_given_up(tmp_path, make_report):
    pytest.importorskip("optuna", reason="it proposes the points: the extra study")
    found = Plan(plan(**SEARCH, pruner="median"))
    search = Search(found, tmp_path)

    def runs(level, until):
        one = found.trial("CartPole-v1", search.ask(), 1)
        (tmp_path / one.name / "run").mkdir(parents=True)
        file = MetricsFile(tmp_path / one.name / "run" / "metrics.jsonl")
        for steps in range(50, until + 1, 50):
            file.append(make_report(steps=steps, total_steps=1000, recent_return=level * steps))
        file.close()
        return one

    for level in range(5):
        assert not search.gives_up(runs(0.0, 900))  # so few others tell nothing
        note(tmp_path, runs(level, 1000), 1000.0 * level)
    assert search.gives_up(runs(1.0, 400))
    assert not search.gives_up(runs(3.0, 400))
    assert not search.gives_up(runs(1.0, 150))  # too early to say


def test_what_was_given_up_is_told_of(tmp_path):
    pytest.importorskip("optuna", reason="it proposes the points: the extra study")
    found = Plan(plan(**SEARCH, pruner="median"))
    search = Search(found, tmp_path)
    for score, more in ((3.0, {}), (1.0, {"pruned": True})):
        note(tmp_path, found.trial("CartPole-v1", search.ask(), 1), score, **more)
    results = Results(found, tmp_path)
    assert [row.get("pruned") for row in results.rows] == [None, 1]
    assert [line.endswith("  given up") for line in results.table().splitlines()[1:]] == [False, True]


def test_without_optuna_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r'^the sampler tpe needs Optuna: pip install "nbrl\[study\]"$'):
        study(plan(**SEARCH), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_search_that_is_killed_makes_the_same_table(tmp_path, environment_variables):
    pytest.importorskip("optuna", reason="it proposes the points: the extra study")
    file = tmp_path / "search.toml"
    file.write_text(
        "environment = 'CartPole-v1'\nseeds = 1\nepisodes = 3\ntrials = 5\nsampler = 'tpe'\n"
        "[settings]\nsteps = 20_000\n"
        "learning_rate = 'loguniform(1e-4, 1e-2)'\nepochs = 'integer(1, 4)'\n"
    )
    whole = study(file, tmp_path / "whole", jobs=1)
    assert len(whole.rows) == 5
    command = [sys.executable, "-m", "nbrl", "study", str(file), "--out", str(tmp_path / "killed"), "--jobs", "1"]
    times = {}  # when each result was written
    for ended in (1, 2, 4):
        process = subprocess.Popen(command, env=environment_variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 240
        while len(list((tmp_path / "killed").glob("*/result.json"))) < ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate(timeout=60)
        times |= {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/result.json")}
    again = study(file, tmp_path / "killed", jobs=1)
    assert [(row["settings"], row["scores"]) for row in again.rows] == [
        (row["settings"], row["scores"]) for row in whole.rows
    ]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in times.items())  # none was made twice


def test_a_dry_run_says_what_is_left(tmp_path, nbrl_command):
    settings = {"steps": 200_000, "actors": 2, "method": ["a3c", "ppo"]}
    values = plan(settings=settings)
    told = dry_run(values, tmp_path / "out", jobs=2)
    assert (told.runs, told.finished) == (4, 0)
    assert not (tmp_path / "out").exists()
    found = Plan(values)
    for one in found.trials()[:3]:
        note(tmp_path / "out", one, 1.0)
    less = dry_run(values, tmp_path / "out", jobs=2)
    assert (less.runs, less.finished) == (4, 3)
    assert 0 < less.seconds < told.seconds
    (tmp_path / "study.toml").write_text(
        "environment = 'CartPole-v1'\nseeds = 2\n[settings]\nsteps = 100_000\nactors = 2\n"
    )
    ended = nbrl_command("study", "study.toml", "--dry-run", "--jobs", "1")
    assert re.fullmatch(r"2 runs, 0 of them made; about \d+ s of training are left\n", ended.stdout), ended.stderr
