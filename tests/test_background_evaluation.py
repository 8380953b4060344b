"""Evaluations beside training: what they report and keep, and that training does not notice them."""

import dataclasses
import logging

import numpy as np
import pytest
from toys import LONG, Walks, explode, in_time, our_threads, policy_for, tiny, wait_until

from nbrl import Agent, Trainer
from nbrl.checkpoint import newest
from nbrl.evaluation import BackgroundEvaluation, evaluate
from nbrl.metrics import MetricsFile, RunDirectory, read_metrics

OFTEN = {"report_interval": 0.02, "eval_interval": 0.02, "eval_episodes": 5}


def evaluated(reports):
    return [report.evaluation_return for report in reports if report.evaluation_return is not None]


def test_the_best_policy_is_kept(tmp_path):
    config = tiny("CartPole-v1", steps=200_000, threads=1, actors=4, learning_rate=3e-3, **OFTEN)
    trainer = Trainer(config, directory=tmp_path / "run")
    trainer.start(wait=True)
    run = RunDirectory.open(tmp_path / "run")
    found = evaluated(read_metrics(run.metrics_file))
    assert len(found) > 2
    # The evaluation beside training is one with seed 0 and one thread.
    assert evaluate(Agent.load(run.best_file), episodes=5).mean_return == max(found)
    assert our_threads() == []


def test_a_run_that_goes_on_remembers_its_best(tmp_path):
    config = tiny(steps=LONG, **OFTEN)
    first = Trainer(config, directory=tmp_path / "run")
    first.start()
    run = RunDirectory.open(tmp_path / "run")
    wait_until(lambda: run.metrics_file.exists() and evaluated(read_metrics(run.metrics_file)))
    first.stop()
    lines = read_metrics(run.metrics_file)
    best = run.best_file.read_bytes()
    run.metrics_file.unlink()
    file = MetricsFile(run.metrics_file)
    file.append(dataclasses.replace(lines[0], evaluation_return=1e9))  # nothing is better than this
    file.close()
    again = Trainer(config, directory=run.path, restore=newest(run.checkpoints))
    again.start()
    wait_until(lambda: len(evaluated(read_metrics(run.metrics_file))) > 2)
    again.stop()
    assert run.best_file.read_bytes() == best


def test_training_does_not_notice():
    learnt = []
    for more in ({}, OFTEN):
        reports = []
        trainer = Trainer(tiny(steps=100_000, threads=1, actors=3, **more), on_report=reports.append)
        trainer.start(wait=True)
        learnt.append(trainer.snapshot().parameters)
        assert bool(evaluated(reports)) == bool(more)
    np.testing.assert_array_equal(*learnt)


def test_an_evaluation_that_fails_does_not_end_the_run(caplog):
    # The training actor's walk is made first, then the one that the evaluation is compiled with.
    walks = Walks({2: {"faults": {("step", 3): explode}}})
    trainer = Trainer(tiny(walks, steps=LONG, **OFTEN), walks)
    with caplog.at_level(logging.WARNING, logger="nbrl"):
        trainer.start()
        wait_until(lambda: "an evaluation beside training failed" in caplog.text)
        steps = trainer.steps
        wait_until(lambda: trainer.steps > steps)
        trainer.stop()
    assert trainer.join()


def test_a_stop_ends_an_evaluation_that_would_last(tmp_path):
    walks = Walks({2: {"pause": 0.1}})
    trainer = Trainer(tiny(walks, steps=LONG, **(OFTEN | {"eval_episodes": 10**6})), walks)
    trainer.start()
    wait_until(lambda: len(walks.made) > 2 and walks.made[2].calls["step"] > 1)
    in_time(trainer.stop)
    assert our_threads() == []


def test_one_at_a_time():
    evaluation = BackgroundEvaluation("CartPole-v1", 10**6)
    evaluation.begin(policy_for("CartPole-v1"))
    evaluation.begin(policy_for("CartPole-v1", seed=1))
    assert len(our_threads()) == 1
    assert evaluation.take() is None
    in_time(evaluation.close)
    assert evaluation.take() is None
    assert our_threads() == []


@pytest.mark.parametrize("seed", [0, 3])
def test_it_is_the_evaluation_that_anyone_can_repeat(seed):
    agent, evaluation = policy_for("Catch-v0", seed=seed), BackgroundEvaluation("Catch-v0", 20)
    evaluation.begin(agent)
    found = []
    wait_until(lambda: found.append(evaluation.take()) or found[-1])
    assert found[-1] == (evaluate(agent, episodes=20), agent)
    evaluation.close()
