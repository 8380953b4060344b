"""How observations enter a network: scaled, normalised, and refused where they are not finite."""

import numpy as np
import pytest
from policies import observed

from nbrl.nets.layers import Conv, Dense
from nbrl.nets.network import Network
from nbrl.nets.table import load_observation, observations


def test_bytes_enter_as_fractions_and_numbers_as_they_are():
    image = Network((Dense(2),), observed((2, 3), "uint8"), {"value": 1}).workspace(2)
    assert load_observation(image, 1, np.array([0, 1, 51, 102, 254, 255], np.uint8))
    expected = np.array([0, 1 / 255, 0.2, 0.4, 254 / 255, 1], np.float32)
    assert observations(image, 1, 1)[0] == pytest.approx(expected, rel=2e-7)
    assert (observations(image, 0, 1) == 0).all()

    vector = Network((Dense(2),), observed((3,)), {"value": 1}).workspace(2)
    numbers = np.array([-0.1, 1e30, 255], np.float32)
    assert load_observation(vector, 0, numbers.view(np.uint8))
    assert np.array_equal(observations(vector, 0, 1)[0], numbers)
    for bad in (np.nan, np.inf, -np.inf):
        for place in range(3):
            numbers = np.ones(3, np.float32)
            numbers[place] = bad
            assert not load_observation(vector, 1, numbers.view(np.uint8))


def normalised():
    """A workspace whose three numbers have the means 1, -2, 0 and the deviations 2, 1/2, 1/10."""
    work = Network((Dense(2),), observed((3,)), {"value": 1}).workspace(2, scales=3)
    assert work.normal.tolist() == [[0, 0, 0], [1, 1, 1]]
    work.normal[...] = [[1, -2, 0], [0.5, 2, 10]]
    return work


def test_pixels_of_an_image_are_normalised_alike():
    work = Network((Conv(1, 2, 1),), observed((2, 2), "uint8"), {"value": 1}).workspace(1, scales=1)
    work.normal[...] = [[0.5], [4]]
    assert load_observation(work, 0, np.array([0, 51, 102, 255], np.uint8))
    # (0 - 0.5) * 4, (0.2 - 0.5) * 4, (0.4 - 0.5) * 4, (1 - 0.5) * 4
    assert observations(work, 0, 1)[0] == pytest.approx([-2, -1.2, -0.4, 2], abs=1e-6)
    work.normal[...] = [[0.5], [30]]
    assert load_observation(work, 0, np.array([0, 51, 102, 255], np.uint8))
    assert observations(work, 0, 1)[0] == pytest.approx([-10, -9, -3, 10], abs=1e-5)  # no farther than 10 from 0


def test_vectors_are_normalised_as_they_enter():
    # (3 - 1) / 2, (-2.5 + 2) * 2, 0.4 * 10; and no farther than 10 from 0 on either side.
    work = normalised()
    for numbers, expected in (
        ([3, -2.5, 0.4], [1, -1, 4]),
        ([1, -2, 0], [0, 0, 0]),
        ([21, -7, 1], [10, -10, 10]),
        ([21.5, -7.5, 1e30], [10, -10, 10]),
        ([-3e38, 3e38, -1.5], [-10, 10, -10]),
    ):
        assert load_observation(work, 1, np.array(numbers, np.float32).view(np.uint8))
        assert observations(work, 1, 1)[0] == pytest.approx(expected, rel=1e-6)
        assert not observations(work, 0, 1).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(3))
def test_normalising_hides_no_number_that_is_not_finite(bad, place):
    numbers = np.ones(3, np.float32)
    numbers[place] = bad
    assert not load_observation(normalised(), 0, numbers.view(np.uint8))
