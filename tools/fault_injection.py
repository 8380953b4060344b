"""Faults at random calls of random workers: no hang, nothing leaked, the first error told, the last checkpoint of use.

    python tools/fault_injection.py --faults 2000

Each fault is a short run, of a method and an environment drawn by the fault's number: gymnasium's, a vector
environment, numba or C. One of its environments raises, fails, or gives what cannot be used, at a call that is drawn.
``--first N --faults 1`` is fault N alone. It prints the number of each outcome; code 1 says that one was wrong.
"""

import argparse
import collections
import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numba
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

PATIENCE = 60.0  # seconds that no run takes, unless it hangs
STEPPED, TERMINATED, TRUNCATED = 1, 2, 4
BOX = spaces.Box(-100, 100, (2,), np.float32)
FAULTS = ("raise", "nan observation", "infinite reward", "wrong shape", "no reward", "four values")
METHODS = (
    "a3c", "a3c lstm", "ppo", "ppo lstm", "one_step_q", "one_step_sarsa", "n_step_q", "pqn", "dpg", "dpg memory",
    "a3c continuous", "ppo continuous",
)  # fmt: skip


class Planned(Exception):
    """The exception of an environment."""


class Plan:
    """Which environment fails, at which of its calls, and how."""

    def __init__(self, rng: np.random.Generator, made_before: int) -> None:
        self.instance, self.made_before = int(rng.integers(4)), made_before
        self.call = ("reset", "step", "step", "step", "close")[rng.integers(5)]
        self.number = int(rng.integers(60 if self.call == "step" else 6))
        self.kind = "raise" if self.call != "step" else FAULTS[rng.integers(len(FAULTS))]
        self.error = Planned("as was planned")
        self.made: list[Any] = []
        self.closed = 0
        self.lock = threading.Lock()

    def place(self, environment: Any) -> int:
        """The number of an environment among those that are trained on."""
        with self.lock:
            self.made.append(environment)
            return len(self.made) - 1 - self.made_before


class Faulty(gymnasium.Env):
    """A short walk that follows a plan."""

    observation_space = BOX

    def __init__(self, plan: Plan, continuous: bool) -> None:
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
        self.plan, self.calls = plan, collections.Counter()
        self.number = plan.place(self)

    def fails(self, call: str) -> bool:
        now = (self.number, call, self.calls[call]) == (self.plan.instance, self.plan.call, self.plan.number)
        self.calls[call] += 1
        if now and self.plan.kind == "raise":
            raise self.plan.error
        return now

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.fails("reset")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        seen, reward, over = np.array([self.t, 1], np.float32), 1.0, self.t == 7
        given = [seen, reward, over and self.t % 2 == 0, over, {}]
        if self.fails("step"):
            match self.plan.kind:
                case "nan observation":
                    given[0] = seen * np.nan
                case "infinite reward":
                    given[1] = float("inf")
                case "wrong shape":
                    given[0] = np.zeros(3, np.float32)
                case "no reward":
                    given[1] = None
                case _:
                    del given[4]
        return tuple(given)

    def close(self):
        with self.plan.lock:
            self.plan.closed += 1
        if self.number == self.plan.instance and self.plan.call == "close":
            raise self.plan.error


# Native ones: the state is the count of resets, of steps, of steps in the episode, then which call fails: 1 a reset, 2
# a step, 3 a step by an observation that is not finite; and its number.
WORDS = 5


@numba.cfunc("int32(CPointer(int64), uint64, CPointer(float32))")
def reset(state, seed, observation):
    state[0] += 1
    state[2] = 0
    observation[0], observation[1] = 0, 1
    return 0 if state[3] == 1 and state[0] == state[4] else STEPPED


@numba.cfunc("int32(CPointer(int64), voidptr, CPointer(float32), CPointer(float32))")
def step(state, action, observation, reward):
    state[1] += 1
    state[2] += 1
    observation[0], observation[1], reward[0] = state[2], 1, 1
    if state[3] == 3 and state[1] == state[4]:
        observation[0] = np.nan
    if state[3] == 2 and state[1] == state[4]:
        return -1
    return STEPPED | (TRUNCATED if state[2] == 7 else 0)


SOURCE = """
#include <math.h>
#include <stdint.h>
int32_t walk_reset(int64_t *state, uint64_t seed, float *observation) {
    state[0]++, state[2] = 0, observation[0] = 0, observation[1] = 1;
    return !(state[3] == 1 && state[0] == state[4]);
}
int32_t walk_step(int64_t *state, const void *action, float *observation, float *reward) {
    state[1]++, observation[0] = ++state[2], observation[1] = 1, *reward = 1;
    if (state[3] == 3 && state[1] == state[4]) observation[0] = NAN;
    if (state[3] == 2 && state[1] == state[4]) return -1;
    return 1 | (state[2] == 7 ? 4 : 0);
}
"""


def library(folder: Path) -> ctypes.CDLL | None:
    """The walk in C; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    (folder / "walk.c").write_text(SOURCE)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "walk.c", "-o", "walk.so", "-lm"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "walk.so"))


def native(plan: Plan, continuous: bool, functions: tuple[Any, Any]) -> Any:
    """The walk in numba or C, one of whose instances follows the plan."""
    from nbrl import NativeEnvironment

    class Walk(NativeEnvironment):
        def make(self):
            instance = super().make()
            if plan.place(instance) == plan.instance:
                words = (ctypes.c_int64 * WORDS).from_address(instance.state_address)
                words[3] = {"reset": 1, "close": 0}.get(plan.call, 3 if plan.kind == "nan observation" else 2)
                words[4] = plan.number + 1
            return instance

    actions = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
    return Walk(*functions, state_size=8 * WORDS, observation_space=BOX, action_space=actions, name="walk")


def left_behind() -> tuple[int, int]:
    """Threads and descriptors of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def inject(number: int, c_library: ctypes.CDLL | None, folder: Path) -> str:
    """What comes of one fault: an outcome, which begins with WRONG where it should not have been."""
    from nbrl import Agent, Trainer, checkpoint, configure

    rng = np.random.default_rng(number)
    method = METHODS[rng.integers(len(METHODS))]
    kind = ("gymnasium", "gymnasium", "vector", "numba", "C" if c_library else "numba")[rng.integers(5)]
    continuous = method.startswith("dpg") or "continuous" in method
    plan = Plan(rng, made_before=2 if kind == "gymnasium" else 4 if kind == "vector" else 0)
    mode = list(AutoresetMode)[rng.integers(3)]
    environment: Any
    if kind == "gymnasium":

        def environment():
            return Faulty(plan, continuous)
    elif kind == "vector":

        def environment():
            return SyncVectorEnv([lambda: Faulty(plan, continuous)] * 2, autoreset_mode=mode)

    else:
        if plan.kind != "nan observation":
            plan.kind = "raise"  # a status that says failure is all that native code can do else
        functions = (reset, step) if kind == "numba" else (c_library.walk_reset, c_library.walk_step)
        environment = native(plan, continuous, functions)
    settings: dict[str, Any] = {
        "method": method.split()[0], "actors": 4, "threads": int(rng.integers(1, 3)), "seed": number,
        "envs_per_batch": 2 if kind == "vector" else int(rng.integers(1, 3)), "rollout_length": int(rng.integers(1, 6)),
        "network": [["lstm", 4]] if "lstm" in method else [["dense", 8]], "steps": 2000, "report_interval": 0.02,
        "checkpoint_interval": 0.02,
    }  # fmt: skip
    if method.startswith("dpg"):
        settings |= {"buffer_size": 100 if "memory" in method else 0, "batch_size": 8, "learning_starts": 8}
    before = left_behind()
    run = folder / str(number)
    config = configure(environment, **settings)
    trainer = Trainer(config, environment, directory=run)
    error: BaseException | None = None
    began = time.monotonic()
    try:
        trainer.start()
        if not trainer.join(PATIENCE):
            return "WRONG: it hangs"
    except BaseException as problem:
        error = problem
    took = time.monotonic() - began
    del trainer
    gc.collect()
    if left_behind() > before:
        time.sleep(0.2)
    after = left_behind()
    newest = checkpoint.newest(run / "checkpoints")
    if newest is None or not np.isfinite(Agent.load(newest).parameters).all():
        return "WRONG: no checkpoint is of use"
    shutil.rmtree(run)
    if after[0] > before[0] or after[1] > before[1]:
        return f"WRONG: threads and descriptors were {before}, and are {after}"
    if took > PATIENCE / 2:
        return f"WRONG: it took {took:.0f} s"
    if plan.call == "close" or error is None:
        reached = plan.call != "close" and kind in ("gymnasium", "vector") and _reached(plan)
        if error is not None or reached:
            return f"WRONG: {plan.call} {plan.kind} of {kind} ended with {error!r}"
        return f"{kind}: the run ends by itself"
    told = "".join(getattr(error, "__notes__", ())) + str(error)
    if "actor" not in told or (kind in ("numba", "C") and "walk" not in told and plan.kind != "nan observation"):
        return f"WRONG: the error of {kind} does not say where: {told}"
    if plan.kind == "raise" and kind in ("gymnasium", "vector") and error is not plan.error:
        return f"WRONG: another error than the planned one: {error!r}"
    return f"{kind}: {plan.kind} in {plan.call} is {type(error).__name__}"


def _reached(plan: Plan) -> bool:
    """Whether the call that was to fail was made."""
    place = plan.instance + plan.made_before
    return place < len(plan.made) and plan.made[place].calls[plan.call] > plan.number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parsed = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        c_library = library(Path(folder))
        for number in range(parsed.first, parsed.first + parsed.faults):
            result = inject(number, c_library, Path(folder))
            counts[result if not result.startswith("WRONG") else f"{result} (fault {number})"] += 1
    for words, count in sorted(counts.items()):
        print(f"{count:>6,}  {words}")
    wrong = sum(count for words, count in counts.items() if words.startswith("WRONG"))
    print(f"{parsed.faults:,} faults from {parsed.first:,} on, {wrong} of them wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
