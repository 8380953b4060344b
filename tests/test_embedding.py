"""A run inside a host that goes on, forgets it or ends; and what a host may train on besides an id."""

import asyncio
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from toys import LONG, PATIENCE, Broken, Picture, Walks, corridor, explode, in_time, our_threads, tiny, wait_until

import nbrl
from nbrl import Conv, Dense, Trainer
from nbrl.evaluation import evaluate


def run_host(program, variables, **options):
    program = "import sys, time, threading\nimport nbrl, toys\n" + program
    paths = [str(nbrl.__path__[0] + "/.."), str(__file__.rpartition("/")[0]) + "/support"]
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**variables, "PYTHONPATH": ":".join(paths)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    assert process.stdout.readline() == "at the end\n", process.communicate()
    began = time.monotonic()
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors, time.monotonic() - began


FORGETFUL = """
trainer = nbrl.Trainer(toys.tiny(steps=10**12, threads=2), directory="run")
trainer.start()
while not trainer.steps:
    time.sleep(0.01)
print("at the end", flush=True)
"""
STUCK = """
walks = toys.Walks(pause=1000.0)
trainer = nbrl.Trainer(toys.tiny(walks, steps=10**12, threads=2), walks, directory="run")
trainer.start()
while len(walks.made) < 2 or not all(walk.calls["reset"] for walk in walks.made):
    time.sleep(0.01)
print("at the end", flush=True)
"""


@pytest.mark.parametrize("program", [FORGETFUL, STUCK, FORGETFUL + "raise SystemExit(0)"], ids=["", "stuck", "exit"])
def test_a_host_that_forgets_to_stop_still_exits(program, tmp_path, environment_variables):
    code, output, errors, seconds = run_host(program, environment_variables, cwd=tmp_path)
    assert (code, output, errors) == (0, "", "")
    assert seconds < 15  # about 2 on an idle machine
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert nbrl.Agent.load(saved)


def test_a_dropped_trainer_ends_its_run():
    trainer = Trainer(tiny(steps=LONG, threads=2))
    trainer.start()
    wait_until(lambda: len(our_threads()) == 3)
    del trainer
    gc.collect()
    wait_until(lambda: our_threads() == [])


def test_the_host_is_left_as_it_is(capfd):
    np.random.seed(5)  # noqa: NPY002 - the host's own
    random.seed(5)

    def state():
        signals = [signal.getsignal(number) for number in signal.valid_signals()]
        loggers = [logging.getLogger(), logging.getLogger("nbrl"), logging.getLogger("nbrl.run")]
        return (
            str(np.random.get_state()), random.getstate(), np.geterr(),  # noqa: NPY002
            signals, sys.excepthook, sys.unraisablehook, threading.excepthook, sys.getswitchinterval(),
            dict(os.environ), os.getcwd(), list(warnings.filters),
            [(list(logger.handlers), logger.level, logger.propagate, logger.disabled) for logger in loggers],
            np.full(64, 1e-40, np.float32).sum() > 0,  # which flushing to zero, as the workers do, would make nothing
        )  # fmt: skip

    before = state()
    nbrl.train("Catch-v0", steps=2000, threads=2, actors=2)
    nbrl.train(Walks(), steps=200, threads=1, actors=1)
    with pytest.raises(Broken):
        nbrl.train(Walks({0: {"faults": {("step", 3): explode}}}), steps=LONG, threads=1, actors=1)
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_runs_in_one_process_do_not_notice_one_another():
    configs = [tiny("Catch-v0", steps=30_000), tiny("CartPole-v1", steps=30_000, seed=2)]
    alone = []
    for config in configs:
        trainer = Trainer(config)
        trainer.start(wait=True)
        alone.append(trainer.snapshot().parameters)
    failing = Walks({0: {"faults": {("step", 30): explode}}})
    together = [Trainer(config) for config in configs] + [Trainer(tiny(failing, steps=LONG), failing)]
    for trainer in together:
        trainer.start()
    with pytest.raises(Broken):
        in_time(together[2].join)
    for trainer, expected in zip(together, alone, strict=False):
        assert in_time(trainer.join)
        np.testing.assert_array_equal(trainer.snapshot().parameters, expected)


@pytest.mark.parametrize("environment", ["Catch-v0", "Acrobot-v1"])
def test_no_call_needs_the_main_thread(environment):
    # `in_time` makes each in a thread of its own, which is gone when the next begins.
    reports = []
    trainer = in_time(
        lambda: Trainer(tiny(environment, steps=LONG, threads=2, report_interval=0.01), on_report=reports.append)
    )
    in_time(trainer.start)
    wait_until(lambda: reports and trainer.steps > 0)
    in_time(trainer.pause)
    in_time(trainer.resume)
    assert np.isfinite(in_time(trainer.snapshot).parameters).all()
    in_time(trainer.stop)
    assert in_time(trainer.join)
    assert reports[-1].steps == trainer.steps
    assert in_time(lambda: nbrl.train(environment, steps=500, threads=1, seed=1))


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_an_interrupt_reaches_a_host_that_waits(tmp_path):
    # Threads of the run hold its locks more often than not, for reports and checkpoints.
    often = {"report_interval": 1e-3, "checkpoint_interval": 1e-3}
    trainer = Trainer(tiny(steps=LONG, threads=2, **often), directory=tmp_path / "run")
    trainer.start()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has none
    rng = np.random.default_rng(0)
    try:
        for _ in range(20):
            interrupt = threading.Timer(
                rng.uniform(0, 0.02), signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
            )
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - which may come as soon as the timer runs
                interrupt.start()
                trainer.join()
            interrupt.join()
            assert trainer.running
    finally:
        signal.signal(signal.SIGINT, handler)
        in_time(trainer.stop)
    assert trainer.join()


def test_a_host_of_asyncio():
    async def host():
        loop, reports = asyncio.get_running_loop(), asyncio.Queue()
        trainer = Trainer(
            tiny(steps=LONG, threads=2, report_interval=0.01),
            on_report=lambda report: loop.call_soon_threadsafe(reports.put_nowait, report),
        )
        await asyncio.to_thread(trainer.start)
        joined = asyncio.create_task(asyncio.to_thread(trainer.join))
        told = [await asyncio.wait_for(reports.get(), PATIENCE) for _ in range(3)]
        for _ in range(1000):  # the loop goes round while the run goes on
            await asyncio.sleep(0)
        assert trainer.running
        assert not joined.done()
        await asyncio.wait_for(asyncio.to_thread(trainer.stop), PATIENCE)
        assert await asyncio.wait_for(joined, PATIENCE)
        told += [reports.get_nowait() for _ in range(reports.qsize())]
        assert told[-1].steps == trainer.steps

        walks = Walks({0: {"faults": {("step", 30): explode}}})
        failing = Trainer(tiny(walks, steps=LONG), walks)
        await asyncio.to_thread(failing.start)
        with pytest.raises(Broken):
            await asyncio.wait_for(asyncio.to_thread(failing.join), PATIENCE)

    asyncio.run(host())


FORKS = """
import os, pathlib, signal, warnings
from nbrl.checkpoint import newest
warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # from Python 3.12 on: it has threads

def in_child(call):
    child = os.fork()
    if not child:
        signal.alarm(20)  # which a child does not inherit: one that hangs is ended
        call()
        sys.exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 7, code

def goes_on():
    assert (trainer.running, trainer.paused) == (False, False)
    for call in (trainer.pause, trainer.resume, trainer.stop):
        call()
    assert trainer.join()
    trainer.snapshot().act(toys.np.zeros(50), greedy=True)
    assert threading.active_count() == 1
    own = nbrl.Trainer(toys.tiny(steps=500, threads=2), directory=f"own-{os.getpid()}")
    own.start(wait=True)
    assert own.steps >= 500
    fresh.start()
    toys.wait_until(lambda: fresh.steps)
    if forgets:
        return
    fresh.stop()
    assert fresh.join()

often = {"report_interval": 1e-3, "checkpoint_interval": 1e-3}
trainer = nbrl.Trainer(toys.tiny(steps=10**12, threads=2, **often), directory="run")
fresh = nbrl.Trainer(toys.tiny(steps=10**12))
trainer.start()
toys.wait_until(lambda: trainer.steps)
for _ in range(5):
    in_child(trainer.stop)  # its locks may have been held at the fork
for forgets in (False, True):
    in_child(goes_on)
steps = trainer.steps
toys.wait_until(lambda: trainer.steps > steps)
trainer.stop()
assert trainer.join()
assert newest("run/checkpoints").name == f"step-{trainer.steps:012d}.safetensors"
in_child(goes_on)
fresh.start()
fresh.stop()
print("at the end", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_host_that_forks(tmp_path, environment_variables):
    assert run_host(FORKS, environment_variables, cwd=tmp_path)[:3] == (0, "", "")


def test_pictures_from_gymnasium_are_learnt_through_convolutions():
    settings = {"network": (Conv(8, 3, 2, "relu"), Dense(16, "relu")), "learning_rate": 3e-3, "rmsprop_epsilon": 0.01}
    config = tiny(Picture, steps=8000, actors=4, discount=0.5, **settings)
    trainer = Trainer(config, Picture)
    trainer.start()
    in_time(trainer.join)
    assert evaluate(trainer.snapshot(), Picture, episodes=20, greedy=True).mean_return > 9.5


def test_an_environment_in_c_is_learnt(tmp_path):
    environment = corridor(tmp_path)
    trainer = Trainer(tiny(environment, steps=40_000, actors=4, learning_rate=1e-2, rmsprop_epsilon=0.01), environment)
    trainer.start()
    in_time(trainer.join)
    # It begins in cells 0 to 6: seven steps at most.
    evaluation = evaluate(trainer.snapshot(), environment, episodes=30, greedy=True)
    assert max(evaluation.lengths) <= 7
    assert evaluation.mean_return > 0.5


def test_groups_in_lockstep_on_several_threads():
    settings = {"method": "a3c", "actors": 8, "envs_per_batch": 2, "threads": 2, "rollout_length": 5}
    means = []
    for _ in range(3):
        trainer = Trainer(nbrl.configure("Catch-v0", steps=300_000, **settings))
        trainer.start()
        in_time(trainer.join)
        assert trainer.steps == 2 * 5 * int(trainer._run.learner.shared.updates[0])
        means.append(evaluate(trainer.snapshot(), "Catch-v0", episodes=200).mean_return)
    # No run is like another with two threads: 118 of 120 ended above 0.96, two at 0.14 and 0.28. So the middle one of
    # three ends low in fewer than one of a thousand.
    assert sorted(means)[1] > 0.8
