"""Training processes that are ended at random moments, many times.

    python endings.py kill|stop DIRECTORY TIMES

This process loads and compiles once and starts no thread; each training process is a fork of it, as good as a new one
but ready at once. It ends with an error where a run is not what it should be, and else prints what it saw as JSON.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from toys import LONG, tiny, wait_until

from nbrl import Trainer, checkpoint, cli
from nbrl.learner import Learner
from nbrl.metrics import RunDirectory, read_metrics
from nbrl.run import CHECKPOINTS_KEPT

CONFIG = tiny(steps=LONG, threads=2, actors=4, report_interval=1e-3, checkpoint_interval=1e-3)
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def compile_all():
    learner = Learner(CONFIG)
    learner.loop(0, 0)
    assert learner.learning_rate == CONFIG.learning_rate
    tasks = Path("/proc/self/task")
    assert not tasks.exists() or len(list(tasks.iterdir())) == 1


def fork(call):
    """Let a child make a call: return its id and the file of what it writes to its standard output and error."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job does not have
        sys.exit(call())
    os.close(writing)
    return child, open(reading)


def checkpoints(run):
    return len(list(run.checkpoints.glob("step-*.safetensors")))


def steps_saved(run):
    found = checkpoint.newest(run.checkpoints)
    return 0 if found is None else int(found.stem.removeprefix("step-"))


def train(run, enough=None):
    """Begin or go on, and say so; say when a checkpoint has been saved."""
    found = checkpoint.newest(run.checkpoints)
    write = checkpoint.write_tensors

    def write_and_say(path, arrays, metadata):
        write(path, arrays, metadata)
        os.write(1, f"saved {metadata['steps']}\n".encode())  # one that is killed leaves no half line

    checkpoint.write_tensors = write_and_say
    trainer = Trainer(CONFIG, directory=run.path, restore=found)
    os.write(1, f"began {trainer.steps}\n".encode())
    trainer.start()
    trainer.join(enough)
    trainer.stop()


def check(run, lines, before):
    """The run has all that was said to be saved, and goes on from there."""
    said = [line.split() for line in lines]
    assert [int(steps) for word, steps in said if word == "began"] in ([], [before]), lines
    saved = max((int(steps) for word, steps in said if word == "saved"), default=0)
    assert steps_saved(run) >= max(before, saved), (lines, sorted(run.checkpoints.iterdir()))
    told = [report.steps for report in read_metrics(run.metrics_file)]
    assert told == sorted(told)


def kill(run, times):
    """End the process by SIGKILL, at any moment of its beginning, its training and its saving."""
    child, lines = fork(lambda: train(run, enough=0.1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, lines.read()
    check(run, lines, 0)
    seen, rng = Counter(), np.random.default_rng(1)
    for _ in range(times):
        before, kept = steps_saved(run), checkpoints(run)
        child, lines = fork(lambda: train(run))
        read = [lines.readline() for _ in range(rng.integers(4))]
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, [*read, *lines]
        read += lines
        check(run, read, before)
        temporaries = list(run.path.rglob("*.tmp"))
        assert len(temporaries) <= 1, temporaries
        # One killed before it deletes older ones leaves one more, even if the one before it did.
        assert checkpoints(run) <= max(kept, CHECKPOINTS_KEPT) + 1
        saved = sum(line.startswith("saved") for line in read)
        seen += {"kills": 1, "checkpoints": saved, "while saving": len(temporaries)}
        lines.close()
    child, lines = fork(lambda: train(run, enough=0.1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, lines.read()
    assert checkpoints(run) == CHECKPOINTS_KEPT
    return seen


def stop(run, times):
    """End ``nbrl resume`` by SIGINT and SIGTERM, at any moment from its first word on."""
    child, lines = fork(lambda: train(run, enough=0.1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, lines.read()
    seen, rng = Counter(), np.random.default_rng(1)
    for turn in range(times):
        before, number = steps_saved(run), list(EXIT_CODES)[turn % 2]
        child, lines = fork(lambda: cli.main(["resume", str(run.path)]))
        read = [lines.readline()]
        assert "go on with their episodes" in read[0], [*read, *lines]
        if turn % 4 < 2:  # the others may not have come to train
            wait_until(lambda before=before: steps_saved(run) > before)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, number)
        read += lines
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_CODES[number], read
        assert "Traceback" not in "".join(read), read
        check(run, [], before)
        assert not list(run.path.rglob("*.tmp"))
        seen += {"stops": 1, "while training": int(steps_saved(run) > before)}
        lines.close()
    return seen


def main():
    how, directory, times = sys.argv[1:]
    compile_all()
    print(json.dumps({"kill": kill, "stop": stop}[how](RunDirectory(directory), int(times))))


if __name__ == "__main__":
    main()
