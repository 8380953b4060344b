"""Where the arrays of a layout lie."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrl.nets.layout import ALIGNMENT, Layout

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
entries = st.lists(
    st.tuples(st.text("abc/", min_size=1, max_size=5), shapes), min_size=1, unique_by=lambda entry: entry[0]
)


def test_offsets_by_hand():
    layout = Layout([("a", (3, 2)), ("b", (16,)), ("c", (17,)), ("d", (1,))])
    assert layout.names == ("a", "b", "c", "d")
    assert [layout.offset(name) for name in layout.names] == [0, 16, 32, 64]
    assert layout.size == 80
    assert layout.shape("a") == (3, 2)


@given(entries=entries)
def test_arrays_lie_in_order_apart_and_at_whole_lines(entries):
    layout = Layout(entries)
    assert layout.names == tuple(name for name, _ in entries)
    owner, end = np.full(layout.size, -1), 0
    for i, (name, shape) in enumerate(entries):
        assert layout.shape(name) == shape
        start = layout.offset(name)
        assert start % ALIGNMENT == 0
        assert 0 <= start - end < ALIGNMENT
        end = start + math.prod(shape)
        assert (owner[start:end] == -1).all()
        owner[start:end] = i
    assert 0 <= layout.size - end < ALIGNMENT
    assert layout.size % ALIGNMENT == 0


@given(entries=entries, leading=st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_views_share_the_memory_of_the_flat_array(entries, leading):
    layout = Layout(entries)
    array = np.zeros((*leading, layout.size), np.float32)
    views = layout.views(array)
    assert tuple(views) == layout.names
    for i, (name, shape) in enumerate(entries, start=1):
        assert views[name].shape == leading + shape
        assert np.shares_memory(views[name], array)
        views[name][...] = i
        start = layout.offset(name)
        assert (array[..., start : start + math.prod(shape)] == i).all()
        assert (layout.view(array, name) == i).all()
    filled = math.prod(leading) * sum(math.prod(shape) for _, shape in entries)
    assert np.count_nonzero(array) == filled  # the padding was not touched


def test_rows_of_a_view_are_in_c_order():
    layout = Layout([("pad", (1,)), ("weights", (2, 3))])
    view = layout.view(np.arange(layout.size), "weights")
    assert view.tolist() == [[16, 17, 18], [19, 20, 21]]


def test_a_name_may_stand_once():
    with pytest.raises(ValueError, match=r"'policy/bias'.*twice"):
        Layout([("policy/bias", (2,)), ("value/bias", (1,)), ("policy/bias", (2,))])
