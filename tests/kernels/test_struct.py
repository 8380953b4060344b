"""Structs: what compiled code reads and writes through one pointer is what Python sees, and what is refused."""

import numba
import numpy as np
import pytest
from numba import boolean, float32, float64, int64, uint8

from nbrl.kernels.native import address_at, block, span
from nbrl.kernels.struct import Struct, address_of, reference


class Inner(Struct):
    rows = float32[:, ::1]
    count = int64
    weight = float64
    on = boolean


class Outer(Inner):
    inner = reference(Inner)
    bytes_ = uint8[::1]


def inner(**changes):
    return Inner(
        **{"rows": np.arange(6, dtype=np.float32).reshape(2, 3), "count": 4, "weight": 0.5, "on": False} | changes
    )


def outer():
    return Outer(
        **{name: getattr(inner(), name) for name in Inner.names()}, inner=inner(), bytes_=np.zeros(2, np.uint8)
    )


@numba.njit(nogil=True)
def change(struct):
    struct.count += 2
    struct.weight *= 3
    struct.on = not struct.on
    struct.rows[1, 2] = struct.inner.rows[0, 1] + struct.rows.shape[1]
    struct.inner.count = -1
    struct.bytes_[1] = 7
    return address_of(struct.inner)


def test_compiled_code_changes_what_python_sees():
    struct = outer()
    assert change(struct) == struct.inner.address
    assert (struct.count, struct.weight, struct.on) == (6, 1.5, True)
    assert struct.rows.tolist() == [[0, 1, 2], [3, 4, 4]]
    assert (struct.inner.count, struct.bytes_.tolist()) == (-1, [0, 7])
    struct.count, struct.on = 10, False
    change(struct)
    assert (struct.count, struct.on) == (12, True)


def test_another_one_shares_what_was_not_changed():
    struct = inner()
    other = struct.replace(count=9)
    assert (other.count, struct.count) == (9, 4)
    assert other.rows is struct.rows
    assert list(struct.arrays()) == ["rows"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": np.zeros((2, 3))}, "Inner.rows must be a writable, C-ordered array of float32 and 2 dimensions"),
        ({"rows": np.zeros(6, np.float32)}, "Inner.rows must be"),
        ({"rows": np.zeros((3, 2), np.float32).T}, "Inner.rows must be"),
        ({"rows": np.broadcast_to(np.float32(0), (2, 3))}, "Inner.rows must be"),
        ({"rows": None}, "Inner.rows must be"),
        ({"more": 1}, "Inner has the fields rows, count, weight, on, not rows, count, weight, on, more"),
    ],
)
def test_what_is_no_field_s_is_refused(changes, sentence):
    with pytest.raises(TypeError, match=sentence):
        inner(**changes)


def test_arrays_stay_and_names_are_checked():
    struct = outer()
    with pytest.raises(AttributeError, match=r"rows stays what it was made with"):
        struct.rows = struct.rows.copy()
    with pytest.raises(AttributeError, match="has no field cuont: it has rows, count"):
        struct.cuont = 3
    with pytest.raises(TypeError, match=r"Outer\.inner must be a Inner"):
        struct.replace(inner=None)
    with pytest.raises(TypeError, match=r"Narrow\.x is float32: a number is an int64, a float64 or a boolean"):
        type("Narrow", (Struct,), {"x": float32})


@numba.njit(nogil=True)
def views(array):
    span(array, 2, 3)[:] = 1
    block(array, 6, 2, 2)[1, 0] = 5
    return (address_at(array, 4) - address_at(array, 0)) // 4


def test_views_of_a_flat_array():
    array = np.zeros(12, np.float32)
    assert views(array) == 4
    assert array.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 5, 0, 0, 0]
