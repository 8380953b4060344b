"""An oracle for the size of screens: the mean over areas, in float64."""

import numpy as np


def area_weights(size, target):
    """Row i holds the share of each of `size` pixels in pixel i of `target`."""
    edges = np.arange(target + 1) * size / target
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * target / size


def area_resampled(screen, rows, columns):
    """(rows, columns) float64: each pixel is the mean of what it covers of `screen`."""
    return area_weights(screen.shape[0], rows) @ screen.astype(np.float64) @ area_weights(screen.shape[1], columns).T
