"""Atari scores by one protocol: trains a list of games, one after the other, and sets them beside published scores.

    python tools/scoreboard.py --out runs/scoreboard [--games BattleZone Qbert ...] [--frames 40e6] [--seed 1]
        [--set method=ppo ...] [--kept runs/reference/scoreboard]

Ctrl-C stops it, and the same command goes on, in the middle of a game as well. Each policy then plays 30 episodes from
no-op starts with sampled actions, without sticky actions and with them (0.25). Checkpoints and policies stay in the
folder of ``--out``; settings, a thinned curve and the evaluations of each game, some 50 kB, go to that of ``--kept``,
with a picture. It prints scores, human-normalised ones in percent, and where its five games are there, the estimate of
the median of 57 games by Atari-5 (Aitchison et al., 2023).
"""

import argparse
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keep_run import thinned
from matplotlib.figure import Figure

from nbrl import Agent, Trainer, configure, envs, evaluate
from nbrl.arguments import settings_of
from nbrl.envs.atari import human_normalised
from nbrl.metrics import MetricsFile, RunDirectory, progress_line, read_metrics

# Weights of log10(1 + human-normalised score in percent), without an intercept.
ATARI_5 = {
    "BattleZone": 0.3819751, "DoubleDunk": 0.0679099, "NameThisGame": 0.3108041, "Phoenix": 0.1241262,
    "Qbert": 0.0804852,
}  # fmt: skip
# Scores that others published: A3C of 320 million frames from no-op starts (Fortunato et al., 2018), PPO of 40 million
# (CleanRL with EnvPool), both without sticky actions, and Dopamine's DQN of 40 million with them.
PUBLISHED = {
    "A3C, 320M": {"BattleZone": 16_411, "DoubleDunk": 3, "NameThisGame": 7_168, "Phoenix": 9_476, "Qbert": 18_586,
                  "Seaquest": 1_744, "SpaceInvaders": 1_034, "BeamRider": 9_214, "Breakout": 496, "Pong": 7},
    "PPO, 40M": {"BattleZone": 24_284, "DoubleDunk": -6.8, "NameThisGame": 5_750, "Phoenix": 14_474, "Qbert": 17_246,
                 "Seaquest": 1_240, "SpaceInvaders": 1_189, "BeamRider": 2_478, "Breakout": 430, "Pong": 20.4},
    "DQN, 40M": {"BattleZone": 11_978, "DoubleDunk": -18, "NameThisGame": 5_237, "Phoenix": 4_820, "Qbert": 6_923},
}  # fmt: skip
STICKY = 0.25
LINES = 200  # of a kept curve


def environment_id(game: str) -> str:
    """gymnasium's name of a game."""
    return f"ALE/{game}-v5"


def atari_5(scores: Mapping[str, float]) -> float | None:
    """The estimated median of 57 human-normalised scores, in percent, from scores by game; None without all five."""
    if not ATARI_5.keys() <= scores.keys():
        return None
    total = 0.0
    for game, weight in ATARI_5.items():
        normalised = human_normalised(environment_id(game), scores[game])
        assert normalised is not None
        total += weight * math.log10(1 + max(0.0, normalised))
    return 10**total - 1


def train(game: str, directory: Path, settings: Mapping[str, Any]) -> None:
    """Train a game, or go on with it, to its end; it can be interrupted."""
    if directory.exists():
        metrics = RunDirectory.open(directory).metrics_file
        reports = read_metrics(metrics) if metrics.exists() else []
        if reports and reports[-1].steps >= reports[-1].total_steps:
            return
        trainer = Trainer.from_run(directory, on_report=Progress(game))
    else:
        config = configure(environment_id(game), **settings)
        trainer = Trainer(config, directory=directory, on_report=Progress(game))
    try:
        trainer.start(wait=True)
    finally:
        trainer.stop()
        trainer.join()


class Progress:
    """Prints a line a minute."""

    def __init__(self, game: str) -> None:
        self.game, self.next = game, 0.0

    def __call__(self, report: Any) -> None:
        if report.seconds >= self.next:
            self.next = report.seconds + 60
            print(f"{self.game}: {progress_line(report)}", flush=True)


def keep(game: str, directory: Path, kept: Path, episodes: int) -> None:
    """Evaluate a finished run and keep what is small of it, unless that was done."""
    target, run = kept / game, RunDirectory.open(directory)
    if (target / "eval.json").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run.config_file, target / "config.json")
    (target / "metrics.jsonl").unlink(missing_ok=True)
    metrics = MetricsFile(target / "metrics.jsonl")
    for report in thinned(read_metrics(run.metrics_file), LINES):
        metrics.append(report)
    metrics.close()
    agent, name = Agent.load(run.policy_file), environment_id(game)
    found = {
        words: evaluate(
            agent, envs.make(name, sticky_actions=sticky, seed_every_reset=True), episodes=episodes
        ).to_dict()
        for words, sticky in (("no sticky actions", 0.0), (f"sticky actions {STICKY}", STICKY))
    }
    (target / "eval.json").write_text(json.dumps(found, allow_nan=False) + "\n")


def read_scores(kept: Path) -> dict[str, dict[str, float]]:
    """{protocol: {game: score}} of all that is kept."""
    scores: dict[str, dict[str, float]] = {}
    for file in sorted(kept.glob("*/eval.json")):
        for protocol, evaluation in json.loads(file.read_text()).items():
            scores.setdefault(protocol, {})[file.parent.name] = evaluation["mean_return"]
    return scores


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each game, scores and human-normalised ones in percent, and the estimates."""
    columns = dict(scores) | PUBLISHED
    games = sorted({game for column in scores.values() for game in column})
    lines = [f"{'':16}" + "".join(f"{name:>26}" for name in columns)]
    for game in games:
        cells = []
        for column in columns.values():
            score = column.get(game)
            shown = "" if score is None else f"{score:,.1f}"
            normalised = None if score is None else human_normalised(environment_id(game), score)
            cells.append(f"{shown:>16}" + (f" ({normalised:,.0f}%)" if normalised is not None else "").rjust(10))
        lines.append(f"{game:16}" + "".join(cells))
    estimates = [atari_5(column) for column in columns.values()]
    lines.append(f"{'Atari-5':16}" + "".join(f"{'' if e is None else f'{e:,.0f}%':>26}" for e in estimates))
    return "\n".join(lines)


def draw(scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """Human-normalised scores by game as bars beside each other, and the estimates."""
    columns = {f"nbrl, {name}": column for name, column in scores.items()} | PUBLISHED
    games = sorted({game for column in scores.values() for game in column})
    figure = Figure(figsize=(2.5 + 1.6 * (len(games) + 1), 4.5), dpi=110, layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(columns)
    for place, (name, column) in enumerate(columns.items()):
        heights = [
            human_normalised(environment_id(game), column[game]) if game in column else math.nan for game in games
        ]
        estimate = atari_5(column)
        heights.append(math.nan if estimate is None else estimate)
        x = np.arange(len(heights)) + (place - (len(columns) - 1) / 2) * width
        axes.bar(x, heights, width, label=name)
    axes.set_xticks(range(len(games) + 1), [*games, "Atari-5"])
    axes.set_yscale("symlog", linthresh=100)
    axes.axhline(100, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylabel("percent: 0 random, 100 a human tester")
    axes.set_title("Atari from no-op starts", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--games", nargs="+", default=list(ATARI_5), help="as ALE/NAME-v5; default: those of Atari-5")
    parser.add_argument("--frames", type=float, default=40e6, help="of each game; default: 40 million")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--episodes", type=int, default=30, help="of each evaluation; default: 30")
    parser.add_argument("--kept", type=Path, help="default: the folder kept in that of --out")
    parser.add_argument("--set", metavar="field=value", nargs="+", default=[], help="as for nbrl train")
    options = parser.parse_args()
    try:
        settings = settings_of(options) | {"frames": int(options.frames)}
        for game in options.games:
            configure(environment_id(game), **settings)
    except ValueError as error:
        parser.error(str(error))
    kept = options.kept or options.out / "kept"
    for game in options.games:
        train(game, options.out / game, settings)
        keep(game, options.out / game, kept, options.episodes)
    scores = read_scores(kept)
    print(table(scores))
    draw(scores).savefig(kept / "scoreboard.png")


if __name__ == "__main__":
    main()
