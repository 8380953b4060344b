"""bsuite's DeepSea score: the share of 21 sizes of the sea whose treasure is learnt, with one setting for all.

    python tools/deep_sea.py --out DIR [--seeds 1] [--sizes 10 12 ... 50] [--set bonus=count ...]

A size is solved once fewer than nine of ten episodes so far were bad ones, which leave the only way to the treasure; it
has 10,000 episodes, of all actors in the order in which they end, and counts where that took fewer than 2^N + 100 of
them (Osband et al., 2020). Each run is on one thread. Writes deep_sea.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from nbrl import Callback, Trainer, configure
from nbrl.arguments import settings_of
from nbrl.callbacks import Episode

ENVIRONMENT = "nbrl/DeepSea-v0"
SIZES = tuple(range(10, 51, 2))
EPISODES = 10_000
BAD = 0.9  # of the episodes so far: with fewer a size is solved
TREASURE = 0.5  # a return above it, in the deterministic sea


class Solved(Callback):
    """Ends a run that has solved its size, and notes after how many episodes."""

    def __init__(self) -> None:
        self.episodes = self.bad = 0
        self.solved: int | None = None

    def on_episode(self, trainer: Trainer, episode: Episode) -> bool:
        if self.solved is None and self.episodes < EPISODES:
            self.episodes += 1
            self.bad += episode.total_return < TREASURE
            if self.bad < BAD * self.episodes:
                self.solved = self.episodes
        return self.solved is None and self.episodes < EPISODES


def run(size: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train in a sea: after how many episodes it was solved, None for never, and in how many seconds."""
    config = configure(
        ENVIRONMENT,
        **{"threads": 1, "seed": seed, "steps": size * EPISODES, "report_interval": 0.1} | settings,
        environment_arguments={"size": size},
    )
    solved, began = Solved(), time.perf_counter()
    Trainer(config, callbacks=[solved]).start(wait=True)
    return {"size": size, "seed": seed, "solved": solved.solved, "seconds": time.perf_counter() - began}


def score(rows: list[dict[str, Any]]) -> float:
    """The share of runs that solved their size soon enough."""
    return sum(row["solved"] is not None and row["solved"] < 2 ** row["size"] + 100 for row in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--set", metavar="field=value", nargs="+", default=[], help="as for nbrl train")
    options = parser.parse_args()
    try:
        settings = settings_of(options)
        configure(ENVIRONMENT, **settings)
    except ValueError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(1, options.seeds + 1):
        for size in options.sizes:
            rows.append(run(size, seed, settings))
            found = f"after {rows[-1]['solved']:,} episodes" if rows[-1]["solved"] else "not"
            print(f"size {size}, seed {seed}: solved {found}, {rows[-1]['seconds']:.1f} s", flush=True)
    result = {"settings": settings, "score": score(rows), "rows": rows}
    (options.out / "deep_sea.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"score {score(rows):.2f}: {sum(row['solved'] is not None for row in rows)} of {len(rows)} runs solved")


if __name__ == "__main__":
    main()
