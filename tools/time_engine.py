"""Time parts of the engine in a fresh process, for comparisons with peers: prints one figure.

    python tools/time_engine.py environments THREADS SECONDS
    python tools/time_engine.py forward|learn SECONDS

environments: frames/s of Pong with random actions. forward: microseconds of the network for Pong on one observation,
one thread. learn: the same for forward, backward and update with five.
"""

import sys
from functools import partial

from nbrl import configure
from nbrl.bench import Parts, seconds_each
from nbrl.kernels.compile import jit
from nbrl.kernels.native import flush_denormals, restore_denormals
from nbrl.learner import Learner
from nbrl.methods.driver import update
from nbrl.nets.table import backward, forward

LEARNING_RATE = 1e-12  # the parameters stay those of a new network
SAMPLES = 5  # of learn


@jit
def repeat_forward(work, repeats):
    """Forward on one observation."""
    mode = flush_denormals()
    for _ in range(repeats):
        forward(work, 0, 1)
    restore_denormals(mode)


@jit
def repeat_learn(method, shared, worker, repeats):
    """Forward, backward, the gradient's norm and the shared optimiser."""
    mode = flush_denormals()
    for _ in range(repeats):
        forward(worker.work, 0, SAMPLES)
        backward(worker.work, SAMPLES, 1)
        update(method, shared, worker, 0)
    restore_denormals(mode)


def main() -> None:
    what, seconds = sys.argv[1], float(sys.argv[-1])
    if what == "environments":
        learner = Learner(configure("ALE/Pong-v5", preset="paper", threads=int(sys.argv[2])))
        threads, frames = learner.config.threads, learner.environment.frames_per_step
        with Parts(learner) as parts:
            print(f"{1e6 * threads * frames / parts.microseconds('environment', threads, seconds):.0f}")
        return
    learner = Learner(configure("ALE/Pong-v5", preset="paper", threads=1, learning_rate=LEARNING_RATE))
    worker = learner.workers[0]
    worker.work.theta[:] = learner.shared.theta
    worker.work.activations[: 84 * 84 * 4 * SAMPLES] = 0.5
    worker.work.dactivations[:] = 1e-3  # the heads' gradients
    calls = {
        "forward": partial(repeat_forward, worker.work),
        "learn": partial(repeat_learn, learner.methods[0], learner.shared, worker),
    }
    print(f"{1e6 * seconds_each([calls[what]], seconds):.1f}")


if __name__ == "__main__":
    main()
