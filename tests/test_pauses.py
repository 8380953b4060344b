"""Pauses, and any order of a trainer's calls; what ends a run besides its steps; what it may begin with."""

import threading
import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from toys import LONG, Walks, in_time, our_threads, policy_for, tiny, wait_until

import nbrl
from nbrl import Agent, Dense, Trainer
from nbrl.checkpoint import newest
from nbrl.metrics import RunDirectory, read_metrics


def parameters(trainer):
    return trainer.snapshot().parameters


def see_it_learn(trainer):
    steps = trainer.steps
    wait_until(lambda: trainer.steps > steps)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_paused_run_stands_still_and_goes_on(threads):
    trainer = Trainer(tiny(steps=LONG, threads=threads, actors=6))
    trainer.start()
    for _ in range(5):
        see_it_learn(trainer)
        in_time(trainer.pause)
        assert trainer.paused
        assert trainer.running
        steps, still = trainer.steps, parameters(trainer)
        time.sleep(0.02)
        assert trainer.steps == steps
        np.testing.assert_array_equal(parameters(trainer), still)
        trainer.pause()
        trainer.resume()
        trainer.resume()
        assert not trainer.paused
    see_it_learn(trainer)
    trainer.stop()
    assert our_threads() == []


def test_pauses_do_not_count_as_training(tmp_path):
    reports = []
    config = tiny(steps=LONG, report_interval=0.01)
    trainer = Trainer(config, directory=tmp_path / "run", on_report=reports.append)
    began = time.monotonic()
    trainer.start()
    wait_until(lambda: reports)
    trainer.pause()
    paused = time.monotonic()
    told = len(reports)
    time.sleep(0.5)
    assert len(reports) <= told + 1  # one may have been under way
    paused = time.monotonic() - paused
    trainer.resume()
    wait_until(lambda: len(reports) > told + 3)
    trainer.pause()
    time.sleep(0.1)
    trainer.stop()
    assert reports[-1].seconds <= time.monotonic() - began - paused - 0.1
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)


def test_a_pause_changes_nothing_that_is_learnt():
    config, agents = tiny(steps=20_000, threads=1, actors=3), []
    for pauses in (0, 10):
        trainer = Trainer(config)
        trainer.start()
        for _ in range(pauses):
            trainer.pause()
            trainer.resume()
        trainer.join()
        agents.append(trainer.snapshot())
    np.testing.assert_array_equal(*(agent.parameters for agent in agents))


def test_a_pause_from_the_run_s_own_threads():
    trainer = Trainer(tiny(steps=LONG, report_interval=0.01), on_report=lambda report: trainer.pause())
    trainer.start()
    wait_until(lambda: trainer.paused)
    steps = trainer.steps
    trainer.resume()
    wait_until(lambda: trainer.steps > steps and trainer.paused)
    in_time(trainer.stop)

    walks = Walks({0: {"faults": {("step", 5): lambda walk: paused.append(walking.pause())}}})
    paused: list[None] = []
    walking = Trainer(tiny(walks, steps=LONG, checkpoint_interval=0.01), walks)
    walking.start()
    wait_until(lambda: paused and walking.paused)
    walking.resume()
    see_it_learn(walking)
    in_time(walking.stop)


def test_what_has_not_begun_cannot_pause():
    trainer = Trainer(tiny(steps=100))
    for call in (trainer.pause, trainer.resume):
        with pytest.raises(RuntimeError, match="this trainer has not been started"):
            call()
    trainer.start(wait=True)
    assert not trainer.running
    trainer.pause()
    trainer.resume()
    assert not trainer.paused


class Calls(RuleBasedStateMachine):
    """Any order of calls, some from other threads, leaves the trainer in the state that they say."""

    def __init__(self):
        super().__init__()
        self.trainer = Trainer(tiny(steps=LONG, threads=2, report_interval=0.005))
        self.began = self.ended = self.waits = False
        self.helpers = []

    @precondition(lambda self: not self.began and not self.ended)
    @rule()
    def start(self):
        in_time(self.trainer.start)
        self.began = True

    @precondition(lambda self: self.began or self.ended)
    @rule()
    def start_again(self):
        with pytest.raises(RuntimeError, match="started or stopped before"):
            self.trainer.start()

    @precondition(lambda self: self.began)
    @rule()
    def pause(self):
        in_time(self.trainer.pause)
        self.waits = not self.ended

    @precondition(lambda self: self.began)
    @rule()
    def resume(self):
        in_time(self.trainer.resume)
        self.waits = False

    @precondition(lambda self: self.began)
    @rule(calls=st.lists(st.sampled_from(["pause", "resume", "snapshot"]), max_size=4))
    def together(self, calls):
        threads = [threading.Thread(target=getattr(self.trainer, call)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            in_time(thread.join)
        in_time(self.trainer.resume)
        self.waits = False

    @rule()
    def stop(self):
        in_time(self.trainer.stop)
        self.ended, self.waits = True, False

    @rule()
    def join(self):
        assert self.trainer.join(0.001) == self.ended

    @rule()
    def snapshot(self):
        assert np.isfinite(self.trainer.snapshot().parameters).all()

    @precondition(lambda self: self.began and not self.ended and not self.waits)
    @rule()
    def learn(self):
        see_it_learn(self.trainer)

    @invariant()
    def states_are_what_they_should_be(self):
        assert self.trainer.running == (self.began and not self.ended)
        assert self.trainer.paused == self.waits
        if self.waits:
            steps = self.trainer.steps
            time.sleep(0.001)
            assert self.trainer.steps == steps

    def teardown(self):
        in_time(self.trainer.stop)
        assert our_threads() == []


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


# Other ends


def test_a_run_ends_after_its_minutes(tmp_path):
    config = tiny(steps=LONG, minutes=0.3 / 60, report_interval=1e3)
    trainer = Trainer(config, directory=tmp_path / "run")
    began = time.monotonic()
    trainer.start()
    assert in_time(trainer.join)
    assert time.monotonic() - began >= 0.3
    run = RunDirectory.open(tmp_path / "run")
    first = read_metrics(run.metrics_file)[-1]
    assert 0.3 <= first.seconds < 0.3 + time.monotonic() - began
    again = Trainer(config, directory=run.path, restore=newest(run.checkpoints))
    again.start(wait=True)
    second = read_metrics(run.metrics_file)[-1]
    assert second.seconds >= first.seconds + 0.3
    assert second.steps > first.steps


def test_a_run_ends_at_its_return():
    reports = []
    nbrl.train(
        "CartPole-v1", steps=10**8, threads=1, seed=1, target_return=60, report_interval=0.05, on_report=reports.append
    )
    assert reports[-1].steps < 10**7
    good = [report for report in reports if report.recent_return is not None and report.recent_return >= 60]
    assert good
    assert sum(report.episodes for report in reports) >= 100


# Other beginnings


def test_a_run_begins_with_a_policy(tmp_path):
    network = (Dense(8, "tanh"),)
    agent = policy_for("Catch-v0", seed=4)
    agent.save(tmp_path / "policy.safetensors")
    for init in (agent, tmp_path / "policy.safetensors", str(tmp_path / "policy.safetensors")):
        trainer = Trainer(tiny(steps=100, network=network), init=init)
        np.testing.assert_array_equal(parameters(trainer), agent.parameters)
        trainer.start(wait=True)
        assert (parameters(trainer) != agent.parameters).any()
    tuned = nbrl.train("Catch-v0", steps=100, threads=1, seed=1, network=network, init=agent)
    assert isinstance(tuned, Agent)


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [
        (lambda: policy_for("Catch-v0"), "the policy to begin with has the layers"),
        (lambda: policy_for("CartPole-v1"), "the policy to begin with"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(agent, sentence):
    with pytest.raises(ValueError, match=sentence):
        Trainer(tiny(steps=100, network=(Dense(9, "tanh"),)), init=agent())


def test_a_policy_for_other_observations_is_refused():
    policy = policy_for("Acrobot-v1")  # which has three actions too
    with pytest.raises(ValueError, match=r"takes float32 vectors of 6, Catch-v0 gives"):
        Trainer(tiny(steps=100, network=(Dense(8, "tanh"),)), init=policy)


def test_one_beginning_is_enough(tmp_path):
    trainer = Trainer(tiny(steps=100), directory=tmp_path / "run")
    trainer.start(wait=True)
    saved = newest(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="init and restore are both given"):
        Trainer(tiny(steps=200), restore=saved, init=saved)
