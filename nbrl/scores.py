"""What the scores of several seeds show: the mean of the middle half, and intervals by the bootstrap."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 5000


def interquartile_mean(scores: np.ndarray) -> float:
    """The mean of the middle half, (n,): a quarter at each end, rounded down, is left out (Agarwal et al., 2021)."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())


def mean(scores: np.ndarray) -> Any:
    """The mean over seeds, (n,) or (n, ...)."""
    return scores.mean(axis=0)


def interval(groups: Sequence[np.ndarray], statistic: Callable[[np.ndarray], Any] = mean) -> tuple[Any, Any]:
    """The 95% interval of a statistic of all scores, by the percentile bootstrap, each group resampled in itself.

    Parameters
    ----------
    groups : sequence of numpy.ndarray
        The scores of each task, one a seed, (n,) or (n, ...).
    statistic : callable, optional
        Of all scores together, over their first axis.

    Returns
    -------
    low, high
        Of the kind that the statistic is.
    """
    rng = np.random.default_rng(0)
    found = [
        statistic(np.concatenate([group[rng.integers(len(group), size=len(group))] for group in groups]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    return low, high
