"""bsuite's DeepSea score: the share of 21 sizes of the sea whose treasure is learnt, with one setting for all.

    python tools/deep_sea.py --out DIR [--stochastic] [--seeds 1] [--sizes 10 12 ... 50] [--set bonus=count ...]

A size is solved once fewer than nine of ten episodes so far were bad ones, in which the diver left the only way to the
treasure; it has 10,000 episodes, of all actors in the order in which they end, and counts where that took fewer than
2^N + 100 of them (Osband et al., 2020). Each run is on one thread. Writes deep_sea.json, and goes on where it stopped.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, types

from nbrl import Callback, Trainer, configure
from nbrl.arguments import settings_of
from nbrl.envs.deep_sea import BAD, CELLS, SIZE, deep_sea, deep_sea_reset, deep_sea_step
from nbrl.envs.interface import TERMINATED, NativeEnvironment
from nbrl.kernels.compile import cfunction, jit
from nbrl.kernels.native import pointer_to
from nbrl.metrics import Report
from nbrl.space_descriptions import gymnasium_space

SIZES = tuple(range(10, 51, 2))
EPISODES = 10_000
SHARE = 0.9  # of bad episodes so far: with fewer a size is solved
# Without --set. Where observations are normalised, a cell that is seldom seen weighs more than biases that all share.
SETTINGS: dict[str, Any] = {
    "method": "a3c", "bonus": "count", "count_weight": 0.4, "entropy_weight": 0.001, "learning_rate": 5e-4,
    "discount": 0.97, "actors": 4, "envs_per_batch": 4, "rollout_length": 100, "gae_lambda": 0.95,
    "network": [["dense", 64, "tanh"]], "normalise_observations": True,
}  # fmt: skip

_step = jit(deep_sea_step.__wrapped__)
_log = pointer_to(types.int64)


@cfunction("int32(CPointer(int64), CPointer(int32), CPointer(float32), CPointer(float32))")
def logged_step(state_pointer, action, observation, reward):
    """A step; at an end note, where the state's last number points to, whether the episode was a bad one."""
    status = _step(state_pointer, action, observation, reward)
    if status & TERMINATED:
        cells = carray(state_pointer, 1)[SIZE] ** 2
        state = carray(state_pointer, CELLS + cells + 1)
        log = carray(_log(state[CELLS + cells]), 1 + EPISODES)
        if log[0] < EPISODES:
            log[0] += 1
            log[log[0]] = state[BAD]
    return status


def logged(size: int, stochastic: bool, log: np.ndarray) -> NativeEnvironment:
    """A sea that notes which of its episodes were bad."""
    sea = deep_sea(size, stochastic)
    header = np.append(sea.header, log.ctypes.data)
    return NativeEnvironment(
        deep_sea_reset, logged_step, state_size=header.nbytes, begins_with=header, name=sea.name,
        observation_space=gymnasium_space(sea.observations.space), action_space=gymnasium_space(sea.actions.space),
        observation_layout="vector",
    )  # fmt: skip


class Solved(Callback):
    """Ends a run that has solved its size, or has had its episodes."""

    def __init__(self, log: np.ndarray) -> None:
        self.log = log

    @property
    def after(self) -> int | None:
        """The episodes that it took; None if the size is not solved."""
        ended = self.log[0]
        shares = np.cumsum(self.log[1 : 1 + ended]) / np.arange(1, 1 + ended)
        return int(np.argmax(shares < SHARE)) + 1 if (shares < SHARE).any() else None

    def on_report(self, trainer: Trainer, report: Report) -> bool:
        return self.after is None and self.log[0] < EPISODES


def run(size: int, seed: int, stochastic: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Train in a sea: after how many episodes it was solved, None for never, and in how many seconds."""
    log, began = np.zeros(1 + EPISODES, np.int64), time.perf_counter()
    sea, solved = logged(size, stochastic, log), Solved(log)
    more = {"threads": 1, "seed": seed, "steps": size * EPISODES, "report_interval": 0.1}
    Trainer(configure(sea, **more | settings), sea, callbacks=[solved]).start(wait=True)
    return {"size": size, "seed": seed, "solved": solved.after, "seconds": time.perf_counter() - began}


def score(rows: list[dict[str, Any]]) -> float:
    """The share of runs that solved their size soon enough."""
    return sum(row["solved"] is not None and row["solved"] < 2 ** row["size"] + 100 for row in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stochastic", action="store_true", help="going right fails now and then, rewards have noise")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--set", metavar="field=value", nargs="+", default=[], help="in place of SETTINGS")
    options = parser.parse_args()
    try:
        settings = settings_of(options) or SETTINGS
        configure(deep_sea(), **settings)
    except ValueError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    path, of = options.out / "deep_sea.json", {"settings": settings, "stochastic": options.stochastic}
    known = json.loads(path.read_text()) if path.exists() else of | {"rows": []}
    if {key: known[key] for key in of} != of:
        parser.error(f"{path} is of other settings: give another --out")
    rows: list[dict[str, Any]] = known["rows"]
    for seed in range(1, options.seeds + 1):
        for size in options.sizes:
            if not any((row["size"], row["seed"]) == (size, seed) for row in rows):
                rows.append(run(size, seed, options.stochastic, settings))
                found = f"after {rows[-1]['solved']:,} episodes" if rows[-1]["solved"] else "not"
                print(f"size {size}, seed {seed}: solved {found}, {rows[-1]['seconds']:.1f} s", flush=True)
                path.write_text(json.dumps(of | {"score": score(rows), "rows": rows}, indent=1) + "\n")
    print(f"score {score(rows):.2f}: {sum(row['solved'] is not None for row in rows)} of {len(rows)} runs solved")


if __name__ == "__main__":
    main()
