"""One run's life: starting, stopping, waiting, failing. Hosts are in test_embedding.py, files in test_run_files.py."""

import gc
import logging
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toys import LONG, PATIENCE, Broken, Walk, Walks, explode, in_time, our_threads, tiny, wait_until

import nbrl
from nbrl import Trainer
from nbrl.envs.interface import STEPPED, ResetFunction, StepFunction


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Each test's runs are over, and their threads gone, when it ends."""
    before = our_threads()
    yield
    gc.collect()
    assert set(our_threads()) <= set(before)


# Start, stop and join


def test_a_run_ends_by_itself():
    trainer = Trainer(tiny(steps=100))
    assert (trainer.running, trainer.steps, trainer.join(0.01), trainer.join()) == (False, 0, False, False)
    trainer.start()
    assert in_time(trainer.join) is True
    assert (trainer.running, trainer.steps) == (False, 100)
    assert trainer.join() is True
    trainer.stop()
    assert trainer.join(0.0) is True


def test_a_second_start_is_refused():
    trainer = Trainer(tiny(steps=LONG))
    trainer.start()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a run that goes on needs a new one"):
            trainer.start()
        trainer.stop()


def test_a_stop_before_the_start():
    trainer = Trainer(tiny(steps=LONG))
    trainer.stop()
    trainer.stop()
    assert trainer.join() is True
    with pytest.raises(RuntimeError, match="started or stopped before"):
        trainer.start()
    assert trainer.steps == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stop_ends_a_run(threads):
    trainer = Trainer(tiny(steps=LONG, threads=threads))
    trainer.start()
    assert trainer.running
    wait_until(lambda: trainer.steps > 0)
    assert trainer.join(0.01) is False
    in_time(trainer.stop)
    assert (trainer.running, trainer.join()) == (False, True)
    steps = trainer.steps
    time.sleep(0.02)
    assert trainer.steps == steps


def test_stops_and_joins_from_many_threads_at_once():
    trainer = Trainer(tiny(steps=LONG, threads=2))
    trainer.start()
    joined, stops = [], [threading.Thread(target=trainer.stop) for _ in range(4)]
    joins = [threading.Thread(target=lambda: joined.append(trainer.join())) for _ in range(4)]
    for thread in joins + stops:
        thread.start()
    for thread in joins + stops:
        thread.join(PATIENCE)
    assert joined == [True] * 4


def test_stops_at_any_moment(tmp_path):
    rng = np.random.default_rng(0)
    often = {"report_interval": 1e-3, "checkpoint_interval": 1e-3}
    for number in range(12):
        directory = tmp_path / str(number) if number % 2 else None
        trainer = Trainer(tiny(steps=LONG, threads=1 + number % 3, **often), directory=directory)
        trainer.start()
        time.sleep(rng.uniform(0, 0.03))
        in_time(trainer.stop)
        assert trainer.join() is True


def start_and_stop(number, folder):
    """One life of a run: by its number on a native environment or a Python one, with files or without, long or not."""
    environment = Walks() if number % 3 == 1 else "Catch-v0"
    directory = folder / str(number) if number % 3 == 2 else None
    trainer = Trainer(tiny(environment, steps=LONG, threads=2), environment, directory=directory)
    trainer.start()
    if number % 2:
        wait_until(lambda: trainer.steps)
    trainer.stop()
    assert trainer.join()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not say what a process holds")
def test_a_thousand_starts_and_stops_leave_nothing_behind(tmp_path):
    held = []
    for number in range(1, 1001):
        start_and_stop(number, tmp_path)
        if number in (100, 500, 1000):  # by the first, all that is made once has been
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])  # in memory
            held.append((threading.active_count(), len(os.listdir("/proc/self/fd")), pages))
    assert held[0][:2] == held[1][:2] == held[2][:2]
    assert (held[2][2] - held[1][2]) * os.sysconf("SC_PAGE_SIZE") < 5e6


def test_a_stop_from_the_report_s_callback():
    reports = []

    def on_report(report):
        reports.append(report)
        trainer.stop()

    trainer = Trainer(tiny(steps=LONG, report_interval=0.01), on_report=on_report)
    trainer.start()
    assert in_time(trainer.join) is True
    assert len(reports) == 2, "the one that stopped it, and the last"


def test_a_stop_from_an_environment():
    walks = Walks({0: {"faults": {("step", 7): lambda walk: trainer.stop()}}})
    trainer = Trainer(tiny(walks, steps=LONG), walks)
    trainer.start()
    assert in_time(trainer.join) is True
    assert trainer.steps == 10, "the rollout is ended"


def test_a_stop_while_environments_are_made():
    # `stop` waits in its own thread until `start` has come to its end.
    making, go_on = threading.Event(), threading.Event()

    class Slow(Walks):
        def __call__(self):
            if not self.probes:
                making.set()
                assert go_on.wait(PATIENCE)
            return super().__call__()

    walks = Slow()
    trainer = Trainer(tiny(walks, steps=LONG), walks)
    start, stop = threading.Thread(target=trainer.start), threading.Thread(target=trainer.stop)
    start.start()
    assert making.wait(PATIENCE)
    assert trainer.running
    stop.start()
    assert trainer.join(0.05) is False
    assert stop.is_alive()
    go_on.set()
    start.join(PATIENCE)
    stop.join(PATIENCE)
    assert (stop.is_alive(), trainer.running, trainer.join(), trainer.steps) == (False, False, True, 0)
    assert walks.closed == walks.made


def test_a_stop_by_the_thread_that_starts():
    # As by the handler of a signal: it cannot wait for what it has interrupted.
    class Stopping(Walks):
        def __call__(self):
            if not self.probes:
                trainer.stop()
            return super().__call__()

    walks = Stopping()
    trainer = Trainer(tiny(walks, steps=LONG), walks)
    in_time(trainer.start)
    assert in_time(trainer.join) is True
    assert trainer.steps == 0


def test_a_start_that_fails():
    class Failing(Walks):
        def __call__(self):
            if len(self.made) == 2:
                raise Broken("the third cannot be made")
            return super().__call__()

    walks = Failing()
    trainer = Trainer(tiny(walks, steps=LONG, actors=4, threads=2), walks)
    with pytest.raises(Broken, match="the third"):
        trainer.start()
    assert not trainer.running
    assert isinstance(trainer.error, Broken)
    with pytest.raises(Broken, match="the third") as caught:
        trainer.join()
    assert "where only one may exist, set actors=1" in caught.value.__notes__[0]
    trainer.stop()
    assert sorted(walks.closed, key=id) == sorted(walks.made, key=id)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_threads_that_cannot_be_started(number, monkeypatch):
    # The first is the watcher, which starts the others.
    start, started = threading.Thread.start, []

    def limited(thread):
        if thread.name.startswith("nbrl"):
            if len(started) == number:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    trainer = Trainer(tiny(steps=LONG, threads=4))
    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):  # noqa: PT012 - either may raise it
        trainer.start()
        in_time(trainer.join)
    assert not trainer.running
    trainer.stop()


# Failures


@pytest.mark.parametrize(("call", "number"), [("reset", 0), ("reset", 1), ("step", 0), ("step", 23)])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_environment_that_raises(call, number, threads, tmp_path):
    walks = Walks({3: {"faults": {(call, number): explode}}})
    config = tiny(walks, steps=LONG, threads=threads, actors=4)
    trainer = Trainer(config, walks, directory=tmp_path / "run")
    trainer.start()
    with pytest.raises(Broken, match="out of the walk") as caught:
        in_time(trainer.join)
    assert f"raised in actor 3 of worker thread {3 % threads} of the run" in caught.value.__notes__
    assert caught.traceback[-1].name == "explode"
    assert not trainer.running
    assert np.isfinite(trainer.snapshot().parameters).all()
    assert sorted(walks.closed, key=id) == sorted(walks.made, key=id)
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    np.testing.assert_array_equal(nbrl.Agent.load(saved).parameters, trainer.snapshot().parameters)
    with pytest.raises(Broken):
        trainer.join()
    trainer.stop()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError, StopIteration])
def test_any_exception_of_an_environment_reaches_the_host(kind):
    def fault(walk):
        raise kind("so")

    walks = Walks({0: {"faults": {("step", 3): fault}}})
    trainer = Trainer(tiny(walks, steps=LONG), walks)
    trainer.start()
    with pytest.raises(kind, match="so"):
        in_time(trainer.join)


def test_train_raises_it_too():
    with pytest.raises(Broken):
        nbrl.train(Walks({0: {"faults": {("step", 3): explode}}}), steps=LONG, threads=1, actors=1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "number", "given", "sentence"),
    [
        ("reset", 0, {"observation": [NAN, 0, 0]}, "an observation has a number that is not finite"),
        ("step", 1, {"observation": [0, INF, 0]}, "an observation has a number that is not finite"),
        ("step", 4, {"observation": [0, 0, -INF]}, "an observation has a number that is not finite"),
        ("step", 2, {"observation": [0, NAN, 0], "truncated": True}, "an observation has a number that is not finite"),
        ("step", 0, {"reward": NAN}, "a reward is not finite"),
        ("step", 3, {"reward": -INF}, "a reward is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_numbers_that_are_not_finite(call, number, given, sentence):
    walks = Walks({1: {"faults": {(call, number): lambda walk: given}}}, pause=0.0)
    # Actor 0 waits in its first step until the run is over, so that nothing at all is learnt.
    trainer = Trainer(tiny(walks, steps=LONG, actors=2, threads=2), walks)
    before = trainer.snapshot().parameters
    walks.arguments[0] = {"faults": {("step", 0): lambda walk: wait_until(lambda: trainer._run.error is not None)}}
    trainer.start()
    with pytest.raises(FloatingPointError, match=rf"{sentence} \(in actor 1 of worker thread 1\)"):
        in_time(trainer.join)
    wait_until(lambda: not trainer.running)
    # Actor 0 may have ended the rollout that it was in.
    assert trainer.steps in (0, 5)
    assert np.isfinite(trainer.snapshot().parameters).all()
    if trainer.steps == 0:
        np.testing.assert_array_equal(trainer.snapshot().parameters, before)


def test_a_number_that_is_not_finite_leaves_the_parameters_alone():
    walks = Walks({0: {"faults": {("step", 4): lambda walk: {"reward": INF}}}})
    trainer = Trainer(tiny(walks, steps=LONG), walks)
    before = trainer.snapshot().parameters
    trainer.start()
    with pytest.raises(FloatingPointError):
        in_time(trainer.join)
    np.testing.assert_array_equal(trainer.snapshot().parameters, before)


def test_the_actor_is_named_in_lockstep():
    walks = Walks({2: {"faults": {("step", 4): lambda walk: {"observation": [NAN] * 3}}}})
    trainer = Trainer(tiny(walks, steps=LONG, actors=6, envs_per_batch=3, threads=2), walks)
    trainer.start()
    with pytest.raises(FloatingPointError, match="in actor 2 of worker thread 0"):
        in_time(trainer.join)


def test_a_gradient_that_overflows():
    walks = Walks({0: {"faults": {("step", 12): lambda walk: {"reward": 3e38}}}})
    trainer = Trainer(tiny(walks, steps=LONG, gradient_clip=1e9), walks)
    trainer.start()
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite: .*\(in worker thread 0\)"):
        in_time(trainer.join)
    assert trainer.steps == 10
    assert np.isfinite(trainer.snapshot().parameters).all()


def test_a_native_environment_that_fails():
    failing = nbrl.NativeEnvironment(
        ResetFunction(lambda *_: STEPPED),
        StepFunction(lambda *_: 0),
        state_size=0,
        observation_space=Walk.observation_space,
        action_space=Walk.action_space,
        name="failing",
    )
    trainer = Trainer(tiny(failing, steps=LONG), failing)
    trainer.start()
    with pytest.raises(RuntimeError, match="the environment failing reported a failure in actor 0 of worker thread 0"):
        in_time(trainer.join)


def test_a_callback_that_raises(tmp_path):
    reports = []

    def on_report(report):
        reports.append(report)
        raise Broken("the host's own")

    config = tiny(steps=LONG, report_interval=0.01, threads=2)
    trainer = Trainer(config, directory=tmp_path / "run", on_report=on_report)
    trainer.start()
    with pytest.raises(Broken, match="the host's own"):
        in_time(trainer.join)
    assert len(reports) == 1, "it is not called again"
    assert not trainer.running
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert nbrl.Agent.load(saved).parameters.any()


def test_an_environment_that_cannot_be_closed_costs_nothing(tmp_path, caplog):
    walks = Walks({0: {"on_close": explode}})
    trainer = Trainer(tiny(walks, steps=20, actors=3), walks, directory=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        trainer.start(wait=True)
    assert "an environment could not be closed: Broken: out of the walk" in caplog.text
    assert walks.closed == walks.made[1:]
    assert (tmp_path / "run" / "policy.safetensors").exists()


def test_a_callback_that_waits_for_itself():
    trainer = Trainer(tiny(steps=LONG, report_interval=0.01), on_report=lambda report: trainer.join())
    trainer.start()
    with pytest.raises(RuntimeError, match="cannot wait for the run's end"):
        in_time(trainer.join)


# Long rollouts: a stop abandons them

SLOW = {"actors": 2, "threads": 2, "rollout_length": 5000, "steps": LONG, "report_interval": 0.05}


@pytest.mark.parametrize("who", ["host", "callback", "error"])
def test_a_long_rollout_is_abandoned(who):
    # At 0.05 s a step a rollout would take minutes.
    faults = {("step", 3): explode} if who == "error" else {}
    walks = Walks({0: {"faults": faults}}, pause=0.05)
    trainer = Trainer(
        tiny(walks, **SLOW), walks, on_report=lambda report: trainer.stop() if who == "callback" else None
    )
    before = trainer.snapshot().parameters
    trainer.start()
    if who == "host":
        wait_until(lambda: all(walk.calls["step"] for walk in walks.made))
        in_time(trainer.stop)
    if who == "error":
        with pytest.raises(Broken):
            in_time(trainer.join)
    assert in_time(lambda: trainer._run.state) == "ended" or in_time(trainer.join)
    assert trainer.steps == 0, "its steps are not counted"
    np.testing.assert_array_equal(trainer.snapshot().parameters, before)


def test_a_worker_that_stands_still_is_told_of(monkeypatch, caplog):
    monkeypatch.setattr("nbrl.symptoms.STALL", 0.2)
    go_on = threading.Event()
    walks = Walks({1: {"faults": {("step", 30): lambda walk: dict.fromkeys((), go_on.wait(PATIENCE))}}})
    trainer = Trainer(tiny(walks, steps=LONG, actors=2, threads=2, report_interval=0.05), walks)
    with caplog.at_level(logging.WARNING):
        trainer.start()
        wait_until(lambda: "has stood still for" in caplog.text)
    assert re.search(r"worker thread 1 has stood still for \d+ s, in a step of its environment of actor 1", caplog.text)
    assert not trainer.stop(0.5)
    go_on.set()
    assert in_time(trainer.join)
