"""How soon tasks whose only reward is success are solved, with and without bonuses.

    python tools/rare_rewards.py --out DIR --tasks nbrl/DoorKey-8x8-v0 ... [--bonuses none episodic ...] [--lstm]
        [--seeds 5] [--steps 30000000] [--set field=value ...]

Each time that 97 of 100 of a run's last 500 episodes were successes, its policy plays 1,000 episodes of other seeds, by
chance as it was trained. The task is solved, and the run ends, where 95 of 100 of these succeed, or after the given
steps. Two runs at a time, one thread each; their minutes are told. Writes rare_rewards.json, and goes on where that
stopped.
"""

import argparse
import json
import multiprocessing
import time
from collections import deque
from pathlib import Path
from typing import Any

import nbrl
from nbrl import Callback, Lstm, Trainer, configure
from nbrl.arguments import settings_of
from nbrl.callbacks import Episode

LAST, ENOUGH = 500, 0.97  # training episodes, and the share of successes among them to look at
HELD_OUT, SOLVED = 1000, 0.95
CELLS = 128  # of the LSTM
RUNS_AT_ONCE = 2


class Solved(Callback):
    """Ends a run that plays well enough in episodes of other seeds, and keeps how well.

    It looks where nearly all of the last training episodes were successes. Those do not tell by themselves: short
    episodes, which are the successes, end more often.
    """

    def __init__(self, seed: int) -> None:
        self.last: deque[bool] = deque(maxlen=LAST)
        self.seed, self.returns = seed, [0.0]

    @property
    def success(self) -> float:
        """The share of successes when it last looked."""
        return sum(total > 0 for total in self.returns) / len(self.returns)

    def look(self, trainer: Trainer) -> None:
        """Let the policy of this moment play, each time other episodes."""
        self.seed += 1
        self.returns = nbrl.evaluate(trainer.snapshot(), episodes=HELD_OUT, seed=self.seed).returns

    def on_episode(self, trainer: Trainer, episode: Episode) -> bool:
        self.last.append(episode.total_return > 0)
        if len(self.last) < LAST or sum(self.last) < ENOUGH * LAST:
            return True
        self.last.clear()
        self.look(trainer)
        return self.success < SOLVED


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train until it is solved: the row of the results."""
    settings = {"threads": 1, "steps": job["steps"], "seed": job["seed"], "bonus": job["bonus"], "report_interval": 0.5}
    if job["lstm"]:
        settings["network"] = (*configure(job["task"]).network, Lstm(CELLS))
    solved = Solved(1000 * job["seed"])
    trainer = Trainer(configure(job["task"], **settings | job["settings"]), callbacks=[solved])
    began = time.perf_counter()
    trainer.start(wait=True)
    seconds = time.perf_counter() - began
    if solved.success < SOLVED:
        solved.look(trainer)
    mean = sum(solved.returns) / len(solved.returns)
    return job | {"steps_taken": trainer.steps, "seconds": seconds, "success": solved.success, "return": mean}


def line(row: dict[str, Any]) -> str:
    """One row, for people."""
    remembers = ", LSTM" if row["lstm"] else ""
    return (
        f"{row['task']}, {row['bonus'] or 'no bonus'}{remembers}, seed {row['seed']}: {100 * row['success']:.1f}% "
        f"({'solved' if row['success'] >= SOLVED else 'not solved'}) after {row['steps_taken'] / 1e6:.2f}M steps, "
        f"{row['seconds'] / 60:.1f} min, mean return {row['return']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--bonuses", nargs="+", default=["none"])
    parser.add_argument("--lstm", action="store_true", help=f"{CELLS} cells on top of the default network")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30_000_000)
    parser.add_argument("--set", metavar="field=value", nargs="+", default=[], help="as for nbrl train")
    options = parser.parse_args()
    jobs = []
    try:
        settings = settings_of(options)
        for task in options.tasks:
            for bonus in (None if name == "none" else name for name in options.bonuses):
                configure(task, **settings, bonus=bonus)
                common = {"task": task, "bonus": bonus, "lstm": options.lstm, "steps": options.steps}
                jobs += [common | {"settings": settings, "seed": 1 + seed} for seed in range(options.seeds)]
    except ValueError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "rare_rewards.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    left = [job for job in jobs if not any(job.items() <= row.items() for row in rows)]
    with multiprocessing.get_context("spawn").Pool(RUNS_AT_ONCE) as pool:
        for row in pool.imap_unordered(run, left):
            rows.append(row)
            path.write_text(json.dumps(rows, indent=1) + "\n")
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
