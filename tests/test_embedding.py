"""A run inside a host that goes on, forgets it or ends; and what a host may train on besides an id."""

import gc
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from toys import LONG, PATIENCE, Broken, Picture, Walks, corridor, explode, in_time, our_threads, tiny, wait_until

import nbrl
from nbrl import Conv, Dense, Trainer
from nbrl.evaluation import evaluate


def run_host(program, variables, **options):
    program = "import sys, time, threading\nimport nbrl, toys\n" + program
    paths = [str(nbrl.__path__[0] + "/.."), str(__file__.rpartition("/")[0])]
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
        return str(np.random.get_state()), random.getstate(), signals, sys.excepthook, threading.excepthook, np.geterr()  # noqa: NPY002

    before = state()
    nbrl.train("Catch-v0", steps=2000, threads=2, actors=2)
    nbrl.train(Walks(), steps=200, threads=1, actors=1)
    with pytest.raises(Broken):
        nbrl.train(Walks({0: {"faults": {("step", 3): explode}}}), steps=LONG, threads=1, actors=1)
    assert state() == before
    assert capfd.readouterr() == ("", "")


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
    settings = {"actors": 8, "lockstep": 2, "threads": 2, "rollout_length": 5}
    trainer = Trainer(nbrl.configure("Catch-v0", steps=150_000, **settings))
    trainer.start()
    in_time(trainer.join)
    assert trainer.steps == 2 * 5 * int(trainer._run.learner.shared.updates[0])
    assert evaluate(trainer.snapshot(), "Catch-v0", episodes=200).mean_return > 0.8
