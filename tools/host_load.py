"""What a host's own Python costs training, and what checkpoints cost: prints two tables.

    python tools/host_load.py [--seconds 10] [--rounds 5] [--environment ALE/Pong-v5]

Speed: steps/s of one training thread alone, and with a thread of the same process that runs plain Python flat out;
medians of rounds in turn. The two threads share the cores: on one core half of the speed is the most there is, on two
or more all of it. Parking: from asking all threads of a run to park for a checkpoint until they go on, as a share of
the default interval. Run nothing else meanwhile.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from nbrl import Trainer, configure
from nbrl.bench import training_speed
from nbrl.config import Config, available_cores

ENVIRONMENTS = ("CartPole-v1", "Catch-v0")
BETWEEN = 0.2  # seconds of training between checkpoints


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that runs plain Python and holds the GIL whenever it can."""
    over = threading.Event()

    def count() -> None:
        number = 0
        while not over.is_set():
            for _ in range(10_000):
                number += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def speeds(config: Config, seconds: float, rounds: int) -> tuple[float, float]:
    """Median steps/s alone and beside a busy thread."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(training_speed(config, None, seconds))
        with busy_thread():
            beside.append(training_speed(config, None, seconds))
    return statistics.median(alone), statistics.median(beside)


def parked_seconds(config: Config, checkpoints: int) -> list[float]:
    """For each of some checkpoints, seconds from asking for it until all threads have gone on."""
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, directory=Path(folder) / "run")
        run = trainer._run
        # What follows a checkpoint's state being taken: all that is timed is over when nobody is parked any more.
        run._write_checkpoint = lambda arrays, metadata: _wait_for_all(run)  # type: ignore[method-assign]
        trainer.start()
        while not trainer.steps:
            trainer.join(0.05)
        for _ in range(checkpoints):
            trainer.join(BETWEEN)
            began = time.perf_counter()
            run._save_checkpoint()
            found.append(time.perf_counter() - began)
        trainer.stop()
    return found


def _wait_for_all(run) -> None:
    while run.parked:
        time.sleep(1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each figure of speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--environment", default="ALE/Pong-v5", help="whose checkpoints are timed")
    parser.add_argument("--checkpoints", type=int, default=50, help="that are timed")
    options = parser.parse_args()

    cores = available_cores()
    print(f"{cores} cores: the share that they allow is {min(1.0, cores / 2):.0%}")
    print(f"{'environment':14} {'alone, steps/s':>15} {'beside Python':>15} {'share':>7}")
    for environment in ENVIRONMENTS:
        alone, beside = speeds(configure(environment, method="a3c", threads=1, seed=1), options.seconds, options.rounds)
        print(f"{environment:14} {alone:15,.0f} {beside:15,.0f} {beside / alone:7.0%}")

    config = configure(options.environment, method="a3c", threads=2, seed=1, checkpoint_interval=1e9)
    interval = Config(environment=options.environment).checkpoint_interval
    found = parked_seconds(config, options.checkpoints)
    print(f"\nparked for a checkpoint, {options.environment} on 2 threads, every {interval:.0f} s")
    print(f"{'':14} {'milliseconds':>15} {'share':>7}")
    for label, seconds in (("median", statistics.median(found)), ("longest", max(found))):
        print(f"{label:14} {1e3 * seconds:15.2f} {seconds / interval:7.3%}")


if __name__ == "__main__":
    main()
