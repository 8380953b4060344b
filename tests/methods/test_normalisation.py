"""Running statistics against NumPy's, for any numbers in any parts, and what learning sees through them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import float64, int64
from policies import observed

from nbrl.kernels.struct import Struct, reference
from nbrl.methods.running_statistics import (
    COUNT,
    M2,
    MEAN,
    ROWS,
    RunningStatistics,
    fill_normal,
    measure,
    measure_observation,
    merge,
    publish,
    scale_of,
)
from nbrl.nets.network import Network

numbers = st.lists(st.floats(-1e6, 1e6), max_size=12)


def measured(values, features=1):
    """Statistics of rows of numbers, (n, features)."""
    moments = np.zeros((ROWS, features))
    for row in np.reshape(values, (-1, features)):
        for feature, value in enumerate(row):
            measure(moments, feature, value)
    return moments


def assert_those_of(moments, values):
    """Whether statistics of one feature are NumPy's, to a few last places of the largest number."""
    values = np.array(values)
    assert moments[COUNT, 0] == values.size
    if values.size:
        size, smallest = np.abs(values).max(), 1e-300  # below which numbers have fewer digits
        assert moments[MEAN, 0] == pytest.approx(values.mean(), abs=1e-13 * size + smallest)
        assert moments[M2, 0] == pytest.approx(values.size * values.var(), rel=1e-9, abs=1e-13 * size**2 + smallest)
        assert moments[M2, 0] >= 0


def test_statistics_by_hand():
    # Mean 5, squared differences 9 + 1 + 1 + 9.
    moments = measured([2.0, 4.0, 6.0, 8.0])
    assert moments[:, 0].tolist() == [4, 5, 20]
    assert scale_of(moments, 0) == pytest.approx(1 / math.sqrt(5 + 1e-8))
    # With 11 twice: mean (20 + 22) / 6 = 7, squares 25 + 9 + 1 + 1 + 16 + 16.
    merge(moments, measured([11.0, 11.0]))
    assert moments[:, 0] == pytest.approx([6, 7, 68])


@given(parts=st.lists(numbers, max_size=5))
@settings(max_examples=100)
def test_any_numbers_in_any_parts_have_numpy_s_mean_and_variance(parts):
    total = np.zeros((ROWS, 1))
    for part in parts:
        own = measured(part)
        assert_those_of(own, part)
        merge(total, own)
    assert_those_of(total, [value for part in parts for value in part])


@given(values=numbers)
def test_statistics_of_one_worker_are_its_own(values):
    own, total = measured(values), np.zeros((ROWS, 1))
    merge(total, np.zeros((ROWS, 1)))
    merge(total, own)
    merge(total, np.zeros((ROWS, 1)))
    assert total.tobytes() == own.tobytes()


def test_a_scale_is_1_until_two_numbers_are_there():
    assert scale_of(measured([]), 0) == 1
    assert scale_of(measured([7.0]), 0) == 1
    assert scale_of(measured([7.0, 9.0]), 0) == pytest.approx(1)
    assert scale_of(measured([7.0, 11.0]), 0) == pytest.approx(0.5)
    assert scale_of(measured([7.0, 7.0]), 0) == pytest.approx(1e4)  # of a number that never changes


def work_for(shape, dtype="float32"):
    return Network((), observed(shape, dtype), {"value": 1}).workspace(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_observations_with_a_number_that_is_not_finite_do_not_count(bad):
    moments = np.zeros((ROWS, 3))  # two of an observation, one of the return
    for observation in ([1.0, 10.0], [bad, 20.0], [3.0, 30.0], [5.0, bad]):
        measure_observation(moments, work_for((2,)), np.array(observation, np.float32).view(np.uint8))
    assert moments[COUNT].tolist() == [2, 2, 0]
    assert moments[MEAN].tolist() == [2, 20, 0]
    assert moments[M2].tolist() == [2, 200, 0]


def test_where_observations_are_not_normalised_none_is_measured():
    moments = np.zeros((ROWS, 1))
    measure_observation(moments, work_for((4,)), np.ones(4, np.float32).view(np.uint8))
    measure_observation(moments, work_for((2, 2), "uint8"), np.ones(4, np.uint8))
    assert not moments.any()


@given(data=st.data(), images=st.integers(0, 4), pixels=st.integers(1, 30))
def test_all_pixels_of_images_count_alike(data, images, pixels):
    byte = st.integers(0, 255)
    seen = data.draw(st.lists(st.lists(byte, min_size=pixels, max_size=pixels), min_size=images, max_size=images))
    moments = np.zeros((ROWS, 2))
    for image in seen:
        measure_observation(moments, work_for((1, pixels), "uint8"), np.array(image, np.uint8))
    values = np.array(seen).reshape(-1) / 255
    assert moments[COUNT].tolist() == [values.size, 0]
    if values.size:  # one 255th is in single precision
        assert moments[MEAN, 0] == pytest.approx(values.mean(), rel=1e-6)
        assert moments[M2, 0] == pytest.approx(values.size * values.var(), rel=1e-6, abs=1e-9)


def test_means_and_scales_of_an_observation():
    moments, normal = measured([[1.0, -2.0, 9.0], [5.0, -2.5, 7.0]], 3), np.zeros((2, 2), np.float32)
    fill_normal(moments, normal)
    assert normal[0].tolist() == [3, -2.25]
    assert normal[1] == pytest.approx([0.5, 4])


class Everyone(Struct):
    """What `publish` reads of `Shared`."""

    statistics = float64[:, :, :, ::1]
    published = int64[:, ::1]


class One(Struct):
    """What `publish` reads of `Worker`."""

    thread = int64
    statistics = reference(RunningStatistics)


def test_workers_see_each_other_s_published_numbers():
    shared = Everyone(statistics=np.zeros((2, 2, ROWS, 1)), published=np.zeros((2, 8), np.int64))
    first, second = (
        One(thread=thread, statistics=RunningStatistics(own=np.zeros((ROWS, 1)), total=np.full((ROWS, 1), 7.0)))
        for thread in (0, 1)
    )

    def measure_and_publish(worker, values):
        for value in values:
            measure(worker.statistics.own, 0, value)
        publish(shared, worker)

    measure_and_publish(first, [1.0, 2.0])
    assert_those_of(first.statistics.total, [1, 2])
    measure(second.statistics.own, 0, 99.0)  # not yet published
    measure_and_publish(first, [6.0])
    assert_those_of(first.statistics.total, [1, 2, 6])
    measure_and_publish(second, [3.0])
    assert_those_of(second.statistics.total, [1, 2, 6, 99, 3])
    assert_those_of(first.statistics.total, [1, 2, 6])  # until its next rollout
    measure_and_publish(first, [])
    assert_those_of(first.statistics.total, [1, 2, 6, 99, 3])
    assert_those_of(first.statistics.own, [1, 2, 6])
