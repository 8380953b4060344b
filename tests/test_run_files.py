"""What a run writes: settings, metrics, checkpoints, the policy; how it goes on from them; and the pauses it makes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from toys import LONG, Broken, Walks, explode, in_time, tiny, wait_until

import nbrl
from nbrl import Agent, CheckpointError, Trainer, checkpoint
from nbrl.checkpoint import newest, read_tensors
from nbrl.config import Config
from nbrl.metrics import RunDirectory, read_metrics

ADAM = {"optimiser": "shared_adam"}


def ran(config, directory, **more):
    """A trainer whose run is over."""
    made = Trainer(config, directory=directory, **more)
    made.start()
    assert in_time(made.join)
    return made


def test_the_contents_of_a_directory(tmp_path):
    reports = []
    config = tiny(steps=60_000, threads=2, report_interval=5e-3)
    ended = ran(config, tmp_path / "run", on_report=reports.append)
    run = RunDirectory.open(tmp_path / "run")
    files = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    name = checkpoint.checkpoint_path(run.checkpoints, ended.steps).name
    assert files == {"config.json", "machine.json", "metrics.jsonl", "policy.safetensors", f"checkpoints/{name}"}
    assert Config.from_dict(json.loads(run.config_file.read_text())) == run.config() == config == ended.config

    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert len(lines) == len(reports) >= 2
    wanted = {
        "charts/episodic_return", "charts/episodic_return_count", "charts/episodic_return_min",
        "charts/episodic_return_max", "charts/SPS", "losses/policy", "losses/value", "losses/entropy",
        "losses/gradient_norm", "charts/learning_rate", "steps", "frames", "seconds",
    }  # fmt: skip
    assert all(wanted <= set(line) for line in lines)
    assert [line["steps"] for line in lines] == [report.steps for report in reports]
    assert lines[-1]["steps"] == ended.steps
    # Every episode of Catch has nine steps and a return of 1 or -1.
    episodes = sum(report.episodes for report in reports)
    assert ended.steps // 9 - 2 <= episodes <= ended.steps // 9
    told = [report for report in reports if report.episodes]
    assert all(-1 <= report.return_minimum <= report.return_mean <= report.return_maximum <= 1 for report in told)
    assert {report.length_mean for report in told} == {9.0}
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)
    assert reports[-1].learning_rate == 0
    assert 0 < reports[0].learning_rate <= config.learning_rate
    assert 0 < reports[0].entropy <= np.log(3) + 1e-6
    assert reports[0].dropped_episodes == 0

    for path in (run.policy_file, run.checkpoints / name):
        agent = Agent.load(path)
        np.testing.assert_array_equal(agent.parameters, ended.snapshot().parameters)
        assert agent.metadata() == ended.snapshot().metadata()
    for path in run.checkpoints.iterdir():
        _arrays, metadata = read_tensors(path)
        assert int(metadata["steps"]) == ended.steps == 5 * int(metadata["updates"])


def test_the_safetensors_package_reads_a_checkpoint(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    ended = ran(tiny(steps=500, **ADAM), tmp_path / "run")
    arrays = safetensors.load_file(newest(tmp_path / "run" / "checkpoints"))
    parameters = ended.snapshot().network.layout.views(ended.snapshot().parameters)
    names = set(parameters)
    per_actor = ended._run.learner.workers[0].actors.kept()
    kept = {"turn", "states", "moments", "actors/state_size", *(f"actors/{name}" for name in per_actor)}
    assert set(arrays) == names | {f"{part}/{name}" for part in "mv" for name in names} | kept
    for name in names:
        np.testing.assert_array_equal(arrays[name], parameters[name])
    assert all((arrays[f"v/{name}"] >= 0).all() for name in names)
    assert set(safetensors.load_file(tmp_path / "run" / "policy.safetensors")) == names


def test_a_used_directory_is_left_alone(tmp_path):
    ran(tiny(steps=100), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="is not empty: a new run needs a directory of its own"):
        Trainer(tiny(steps=100), directory=tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_directory_that_vanishes(tmp_path):
    lost = Trainer(tiny(steps=LONG), directory=tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):  # noqa: PT012 - either may raise it
        lost.start()
        in_time(lost.join)
    assert not lost.running


def test_a_directory_that_vanishes_later(tmp_path):
    lost = Trainer(tiny(steps=LONG, report_interval=0.01, checkpoint_interval=0.05), directory=tmp_path / "run")
    lost.start()
    wait_until(lambda: lost.steps > 0)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        in_time(lost.join)
    assert not lost.running


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nbrl.train("Catch-v0", steps=200, threads=1)
    assert list(tmp_path.iterdir()) == []


# Going on


def stopped(config, directory):
    """A trainer that was stopped after some steps."""
    made = Trainer(config, directory=directory)
    made.start()
    wait_until(lambda: made.steps > 300)
    made.stop()
    return made


def states(made):
    """Everything that must survive: a dict of arrays."""
    learner = made._run.learner
    rows = np.zeros((learner.config.actors, 4), np.uint64)
    for worker, actors in zip(learner.workers, learner.actors, strict=True):
        rows[actors] = worker.actors.random
    return {
        "theta": learner.shared.theta.copy(), "statistics": learner.shared.optimiser.copy(), "random": rows,
        "steps": learner.steps, "updates": int(learner.shared.updates[0]),
    }  # fmt: skip


@pytest.mark.parametrize(
    "settings", [{}, ADAM, {"threads": 3, "actors": 6}, {"envs_per_batch": 2, "actors": 4}], ids=str
)
def test_a_run_goes_on_where_it_was(settings, tmp_path):
    config = tiny(**{"steps": LONG, "report_interval": 0.01, **settings})
    first = stopped(config, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    told = read_metrics(run.metrics_file)
    second = Trainer(config, directory=run.path, restore=newest(run.checkpoints))
    for name, values in states(second).items():
        np.testing.assert_array_equal(values, states(first)[name], err_msg=name)
    second.start()
    wait_until(lambda: second.steps > 2 * first.steps)
    second.stop()
    assert second.join()
    later = read_metrics(run.metrics_file)
    assert later[: len(told)] == told
    assert later[-1].steps == second.steps > told[-1].steps
    assert later[len(told)].seconds > told[-1].seconds
    assert states(second)["updates"] > states(first)["updates"]
    assert (states(second)["random"] != states(first)["random"]).any()
    assert int(newest(run.checkpoints).stem.removeprefix("step-")) == second.steps


def test_a_run_that_goes_on_ends_at_its_steps(tmp_path):
    config = tiny(steps=2000)
    ended = ran(config, tmp_path / "run")
    again = ran(config, tmp_path / "run", restore=newest(tmp_path / "run" / "checkpoints"))
    assert again.steps == ended.steps == 2000
    np.testing.assert_array_equal(again.snapshot().parameters, ended.snapshot().parameters)


def test_what_cannot_be_gone_on_from(tmp_path):
    ran(tiny(steps=100, actors=2), tmp_path / "run")
    saved = newest(tmp_path / "run" / "checkpoints")
    for settings, sentence in (
        ({"network": (nbrl.Dense(9, "tanh"),)}, "holds another network than the run's settings"),
        (ADAM, "cannot resume from: 'm/dense1/weights'"),
        ({"actors": 3}, "cannot resume from"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            Trainer(tiny(**({"steps": 200, "actors": 2} | settings)), directory=tmp_path / "run", restore=saved)
    policy = tmp_path / "run" / "policy.safetensors"
    with pytest.raises(CheckpointError, match="cannot resume from"):
        Trainer(tiny(steps=200, actors=2), directory=tmp_path / "run", restore=policy)
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        Trainer(tiny(steps=200, actors=2), directory=tmp_path / "run", restore=saved)


def test_going_on_clears_what_a_crash_left(tmp_path):
    config = tiny(steps=LONG, report_interval=0.01)
    stopped(config, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    told = read_metrics(run.metrics_file)
    beyond = dataclasses.replace(told[-1], steps=told[-1].steps + 1)
    with open(run.metrics_file, "a") as file:
        file.write(json.dumps(beyond.to_dict()) + "\n" + '{"steps": 1')
    stale = [run.path / ".eval.json.0a1b2c3d.tmp", run.checkpoints / ".step-000000000001.safetensors.0a1b2c3d.tmp"]
    for path in stale:
        path.write_bytes(b"half")
    again = Trainer(config, directory=run.path, restore=newest(run.checkpoints))
    assert not any(path.exists() for path in stale)
    again.start()
    again.stop()
    again.join()
    later = read_metrics(run.metrics_file)
    assert later[: len(told)] == told
    assert beyond not in later


@pytest.mark.parametrize("damaged", [True, False])
def test_what_lies_beyond_does_not_count_once_the_run_is_saved_again(damaged, tmp_path):
    config = tiny(steps=LONG)
    first = stopped(config, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    saved = newest(run.checkpoints)
    arrays, metadata = read_tensors(saved)
    beyond = [checkpoint.checkpoint_path(run.checkpoints, 1000 * n * first.steps) for n in (1, 2, 3)]
    for path in beyond:
        checkpoint.write_tensors(path, arrays, metadata)
        if damaged:
            path.write_bytes(path.read_bytes()[:-1])
    again = Trainer(config, directory=run.path, restore=saved)
    assert all(path.exists() for path in beyond), "until something stands in their place"
    again.start()
    again.stop()
    assert newest(run.checkpoints) == checkpoint.checkpoint_path(run.checkpoints, again.steps)
    assert not any(path.exists() for path in beyond)


# Pauses


@pytest.fixture
def all_kept(monkeypatch):
    monkeypatch.setattr("nbrl.run.CHECKPOINTS_KEPT", 10**6)


@pytest.mark.parametrize("ending", ["steps", "stop", "error"])
def test_many_checkpoints_of_many_threads(ending, all_kept, tmp_path):
    # Every checkpoint is one moment's: no update is in it whose steps are not counted.
    often = {"report_interval": 1e-3, "checkpoint_interval": 1e-3, "threads": 6, "actors": 12}
    walks = Walks({11: {"faults": {("step", 400): explode}}})
    environment = walks if ending == "error" else "Catch-v0"
    config = tiny(environment, steps=500_000 if ending == "steps" else LONG, **often)
    run = Trainer(config, environment, directory=tmp_path / "run")
    run.start()
    if ending == "stop":
        wait_until(lambda: len(list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))) > 10)
        in_time(run.stop)
    if ending == "error":
        with pytest.raises(Broken):
            in_time(run.join)
    else:
        assert in_time(run.join)
    paths = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(paths) > 3
    for path in paths:
        arrays, metadata = read_tensors(path)
        assert int(metadata["steps"]) == 5 * int(metadata["updates"])
        assert all(np.isfinite(array).all() for array in arrays.values())
    assert int(paths[-1].stem.removeprefix("step-")) == run.steps


def test_the_newest_three_are_kept(tmp_path):
    ended = ran(tiny(steps=300_000, report_interval=0.01, checkpoint_interval=0.01), tmp_path / "run")
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(kept) == 3
    assert int(kept[-1].stem.removeprefix("step-")) == ended.steps


def test_checkpoints_do_not_wait_for_reports(all_kept, tmp_path):
    config = tiny(steps=LONG, report_interval=1e300, checkpoint_interval=0.01)
    reports = []
    run = Trainer(config, directory=tmp_path / "run", on_report=reports.append)
    run.start()
    wait_until(lambda: len(list((tmp_path / "run" / "checkpoints").iterdir())) > 2)
    assert reports == []
    run.stop()
    assert len(reports) == 1


@pytest.mark.parametrize("settings", [{}, ADAM, {"envs_per_batch": 2}], ids=str)
def test_one_thread_and_a_seed_give_the_same_files_however_often_it_is_looked_at(settings, tmp_path):
    found = []
    for name, interval in (("seldom", 1e3), ("often", 1e-3)):
        reports = []
        config = tiny(
            "CartPole-v1", steps=40_000, actors=4, report_interval=interval, checkpoint_interval=interval, **settings
        )
        ended = ran(config, tmp_path / name, on_report=reports.append)
        _arrays, metadata = read_tensors(newest(tmp_path / name / "checkpoints"))
        policy = (tmp_path / name / "policy.safetensors").read_bytes()
        told = [report for report in reports if report.episodes]
        total = sum(report.episodes * report.return_mean for report in told)
        ends = min(report.return_minimum for report in told), max(report.return_maximum for report in told)
        del metadata["seconds"]
        found.append((policy, metadata, sum(report.episodes for report in told), round(total), ends, states(ended)))
        assert (len(reports) == 1) == (name == "seldom")
    for one, other in zip(*found, strict=True):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)
        else:
            assert one == other
