"""Runs and studies over machines of Ray, processes here. Collected where Ray is installed: see conftest.py."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from gymnasium import Env, spaces

import nbrl
from nbrl.metrics import read_metrics

pytestmark = [
    pytest.mark.slow,
    # Ray's own: files and sockets that it leaves to the garbage collector, and what it will change one day.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SMALL = {"method": "a3c", "threads": 1, "actors": 2, "seed": 1, "exchange_updates": 20, "report_interval": 0.1}


@pytest.fixture
def machines(tool):
    return tool("machines")


@pytest.fixture
def nodes(machines):
    """A cluster of three machines of one core each."""
    with machines.local_cluster(3) as cluster:
        yield cluster


class Broken(Env):
    """Breaks in every process but the one that made it first."""

    observation_space, action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(2)

    def __init__(self, home):
        self.home = home

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if os.getpid() != self.home:
            raise OSError("no such device here")
        return np.zeros(3, np.float32), {}

    def step(self, action):
        time.sleep(0.001)
        return np.zeros(3, np.float32), 1.0, False, False, {}


def test_machines_learn_one_run_together(nodes, machines):
    reports = []
    agent = nbrl.train(
        "Catch-v0",
        **SMALL,
        steps=1_000_000,
        callbacks=[nbrl.Cluster(nodes.address, machines=3)],
        on_report=reports.append,
    )
    assert nbrl.evaluate(agent, episodes=100, greedy=True).mean_return > 0.9
    assert reports[-1].steps >= 1_000_000
    assert {report.metrics["cluster/machines"] for report in reports} == {3.0}
    assert max(report.metrics["cluster/bytes_per_second"] for report in reports) > 0
    assert not machines.learning_processes()


def test_a_machine_that_is_killed_costs_no_more_than_itself_and_another_joins(nodes, machines, caplog):
    class Kill(nbrl.Callback):
        killed = 0

        def on_report(self, trainer, report):
            if not self.killed and report.steps > 200_000:
                self.killed = machines.learning_processes()[0]
                os.kill(self.killed, signal.SIGKILL)

    kill, reports = Kill(), []
    with caplog.at_level(logging.INFO, "nbrl.cluster"):
        agent = nbrl.train(
            "Catch-v0",
            **SMALL | {"exchange_updates": None, "exchange_interval": 0.1},
            steps=10_000_000,
            callbacks=[nbrl.Cluster(nodes.address, machines=3), kill],
            on_report=reports.append,
        )
    assert kill.killed
    assert reports[-1].steps >= 10_000_000
    assert nbrl.evaluate(agent, episodes=100, greedy=True).mean_return > 0.9
    assert sum("is lost" in record.message for record in caplog.records) == 1
    assert sum("joins in" in record.message for record in caplog.records) == 3
    assert {report.metrics["cluster/machines"] for report in reports} == {2.0, 3.0}
    assert reports[-1].metrics["cluster/machines"] == 3.0


def test_a_machine_may_join_later(machines):

    class Joined(nbrl.Callback):
        steps = 0

        def on_report(self, trainer, report):
            self.steps = int(trainer._run.learner.shared.elsewhere[0])
            return self.steps == 0

    joined = Joined()
    with machines.local_cluster(1) as cluster:
        config = nbrl.configure("Catch-v0", **SMALL, steps=10**12)
        trainer = nbrl.Trainer(config, callbacks=[nbrl.Cluster(cluster.address), joined])
        trainer.start()
        assert not trainer.join(1)
        cluster.add_node(num_cpus=1)
        assert trainer.join(120)
        assert joined.steps > 0


def test_what_an_environment_raises_elsewhere_ends_the_run(nodes):
    home = os.getpid()
    with pytest.raises(OSError, match="no such device here"):
        nbrl.train(lambda: Broken(home), **SMALL, steps=10**9, callbacks=[nbrl.Cluster(nodes.address)])


def test_a_study_over_machines_shows_what_one_here_does(nodes, tmp_path):
    plan = {
        "environment": "Catch-v0", "seeds": 2, "episodes": 20,
        "settings": {"method": ["a3c", "ppo"], "steps": 20_000, "actors": 4},
    }  # fmt: skip
    there = nbrl.study(plan, tmp_path / "there", ray=nodes.address)
    here = nbrl.study(plan, tmp_path / "here")
    keep = ("scores", "mean", "low", "high", "interquartile_mean")
    assert [{name: row[name] for name in keep} for row in there.rows] == [
        {name: row[name] for name in keep} for row in here.rows
    ]
    curves = sorted(path.relative_to(tmp_path / "there") for path in (tmp_path / "there").glob("*/run/metrics.jsonl"))
    assert len(curves) == 4
    assert all(read_metrics(tmp_path / "there" / curve)[-1].steps >= 20_000 for curve in curves)


def test_a_study_tells_what_failed_elsewhere(nodes, tmp_path):
    plan = {"environment": "tests.no_such:Thing", "seeds": 1, "settings": {"method": "a3c", "steps": 1000}}
    with pytest.raises(ValueError, match="no_such"):
        nbrl.study(plan, tmp_path, ray=nodes.address)


def test_a_run_is_stopped_and_gone_on_with_by_commands(nodes, tmp_path, environment_variables):
    def command(*words):
        return subprocess.Popen(
            [sys.executable, "-m", "nbrl", *words],
            cwd=tmp_path, env=environment_variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    words = [f"{name}={value}" for name, value in SMALL.items()]
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = command("train", "Catch-v0", "--out", "run", "--ray", nodes.address, "steps=1e12", *words)
    end = time.monotonic() + 120
    while not metrics.exists() or read_metrics(metrics)[-1:] == [] or read_metrics(metrics)[-1].steps < 100_000:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 143, told
    before = read_metrics(metrics)[-1].steps
    steps = str(before + 1_000_000)
    process = command("resume", "run", "--steps", steps, "--ray", nodes.address)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert read_metrics(metrics)[-1].steps >= int(steps)


def test_no_cluster_is_told_in_a_sentence():
    with pytest.raises(ValueError, match=r"no Ray cluster is at 127.0.0.1:1: begin one with `ray start --head`"):
        nbrl.Cluster("127.0.0.1:1")
