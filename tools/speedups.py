"""How much less steps, or minutes, several actors need to a return than one: Table 2 of Mnih et al. (2016).

    nbrl study tools/studies/actors.toml --out DIR    # or threads.toml
    python tools/speedups.py DIR

For each environment, method and number of actors the mean of one actor over that of so many, and its 95% interval by
the bootstrap; last, for each method, the mean over environments.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

RESAMPLES = 5000


def ratios(one: np.ndarray, many: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of some scores over that of others, then the same of resampled scores, (1 + RESAMPLES,)."""
    means = [scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))].mean(axis=1) for scores in (one, many)]
    return np.concatenate([[one.mean() / many.mean()], means[0] / means[1]])


def cell(found: np.ndarray) -> str:
    """A ratio and its interval."""
    low, high = np.quantile(found[1:], (0.025, 0.975))
    return f"{found[0]:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    rows = json.loads((parser.parse_args().folder / "results.json").read_text())["rows"]
    scores: dict[str, dict[str, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        settings = row["settings"]
        scores[row["environment"]][settings["method"]][settings["actors"]] = np.array(row["scores"], float)
    rng = np.random.default_rng(0)
    all_of: dict[str, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for environment, methods in scores.items():
        for method, by_actors in methods.items():
            for actors, own in by_actors.items():
                all_of[method][actors].append(ratios(by_actors[1], own, rng) if actors > 1 else np.ones(1))
            cells = [cell(all_of[method][actors][-1]) for actors in by_actors if actors > 1]
            print("| " + " | ".join([environment, f"`{method}`", *cells]) + " |")
    for method, found in all_of.items():
        cells = [cell(np.mean(parts, axis=0)) for actors, parts in found.items() if actors > 1]
        print("| " + " | ".join(["all", f"`{method}`", *cells]) + " |")


if __name__ == "__main__":
    main()
