"""How much less steps, or minutes, several actors need to a return than one: Table 2 of Mnih et al. (2016).

    nbrl study tools/studies/actors.toml --out DIR    # or threads.toml, or actors-continuous.toml
    python tools/speedups.py DIR/results.json

For each environment, method and number of actors the mean of one actor over that of so many, and its 95% interval by
the bootstrap; last, for each method, the mean over environments.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from nbrl.scores import interval

Pair = tuple[np.ndarray, np.ndarray]  # scores of one actor, and of several


def cell(pairs: list[Pair]) -> str:
    """The mean ratio of some pairs' means, and its interval."""
    groups = [scores for pair in pairs for scores in pair]
    ends = np.cumsum([len(scores) for scores in groups])[:-1]

    def ratio(scores: np.ndarray) -> float:
        means = [part.mean() for part in np.split(scores, ends)]
        return float(np.mean(np.divide(means[::2], means[1::2])))

    low, high = interval(groups, ratio)
    return f"{ratio(np.concatenate(groups)):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    pairs: dict[str, dict[str, dict[int, Pair]]] = defaultdict(lambda: defaultdict(dict))
    for row in json.loads(parser.parse_args().results.read_text())["rows"]:
        actors, method, scores = row["settings"]["actors"], row["settings"]["method"], np.array(row["scores"], float)
        if actors == 1:
            one = scores  # the rows of a method begin with it
        else:
            pairs[row["environment"]][method][actors] = one, scores
    for environment, methods in pairs.items():
        for method, found in methods.items():
            print("| " + " | ".join([environment, f"`{method}`", *(cell([pair]) for pair in found.values())]) + " |")
    for method, found in next(iter(pairs.values())).items():
        cells = [cell([methods[method][actors] for methods in pairs.values()]) for actors in found]
        print("| " + " | ".join(["all", f"`{method}`", *cells]) + " |")


if __name__ == "__main__":
    main()
