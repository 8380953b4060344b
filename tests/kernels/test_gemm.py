"""The matrix kernel at each vector width against the float64 oracle, with guard bands around all it may touch."""

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import oracles
import pytest
import strategies
from hypothesis import example, given, settings

from nbrl.kernels.gemm import HOST_WIDTH, LONGEST, gemm, gemm_transposed

WIDTHS = (4, 8, 16)
EPSILON = float(np.finfo(np.float32).eps)


@numba.njit(nogil=True)
def multiply(width, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate):
    if width == 4:
        gemm(4, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate)
    elif width == 8:
        gemm(8, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate)
    else:
        gemm(16, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate)


@numba.njit(nogil=True)
def multiply_transposed(width, m, k, n, a, b, c, c_stride, accumulate):
    if width == 4:
        gemm_transposed(4, m, k, n, a, b, c, c_stride, accumulate)
    elif width == 8:
        gemm_transposed(8, m, k, n, a, b, c, c_stride, accumulate)
    else:
        gemm_transposed(16, m, k, n, a, b, c, c_stride, accumulate)


def run(width, product):
    """Call the kernel on the addresses of a product's arrays; c is changed in place."""
    x, row, tap, b, c, accumulate = product
    m, k, n = row.size, tap.size, b.shape[1]
    b_stride, c_stride = b.strides[0] // 4, c.strides[0] // 4
    at = [array.ctypes.data for array in (x, row, tap, b, c)]
    multiply(width, m, k, n, *at[:4], b_stride, at[4], c_stride, int(accumulate))


def bound(product, before):
    """The classic bound on any order of a float32 sum: (terms + 1) roundings of the sum of magnitudes."""
    magnitudes = oracles.gemm(np.abs(product.x), product.row, product.tap, np.abs(product.b), np.abs(before))
    return (product.tap.size + 2) * EPSILON * magnitudes + 1e-37


def check(width, product):
    whole = product.c.base if product.c.base.base is None else product.c.base.base
    before, outside = product.c.copy(), whole.copy()
    inputs = [array.tobytes() for array in (product.x, product.row, product.tap, product.b)]
    expected = oracles.gemm(product.x, product.row, product.tap, product.b, before if product.accumulate else None)
    run(width, product)
    assert np.isfinite(product.c).all()  # a NaN came from outside X or B
    assert (np.abs(product.c - expected) <= bound(product, before)).all()
    product.c[...] = before
    assert whole.tobytes() == outside.tobytes()  # nothing but C was written
    assert inputs == [array.tobytes() for array in (product.x, product.row, product.tap, product.b)]


@pytest.mark.parametrize("width", WIDTHS)
@given(product=strategies.products())
@settings(max_examples=60)
def test_the_kernel_equals_the_oracle(width, product):
    check(width, product)


def make(m, k, n, *, accumulate=False, seed=0):
    """A dense product (m, k) @ (k, n)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(m * k).astype(np.float32)
    b = strategies.guarded(rng.standard_normal((k, n)), n, np.nan)
    c = strategies.guarded(rng.standard_normal((m, n)), n, strategies.MARK)
    return strategies.Product(x, np.arange(0, m * k, k, np.int32), np.arange(k, dtype=np.int32), b, c, accumulate)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7, 8, 9, 17])
def test_every_edge_of_the_tiles(width, m, accumulate):
    for n in sorted(
        {1, 2, width - 1, width, width + 1, 2 * width - 1, 2 * width, 3 * width + 1, 8 * width, 11 * width - 1}
    ):
        for k in (1, 2, 9):
            check(width, make(m, k, n, accumulate=accumulate, seed=n))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("k", [LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST + 7])
def test_a_long_sum_goes_in_parts(width, k, accumulate):
    check(width, make(11, k, 2 * width + 3, accumulate=accumulate))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("accumulate", [0, 1])
def test_both_factors_along_their_rows(width, accumulate):
    rng = np.random.default_rng(2)
    for m in (1, 2, 3, width - 1, width, width + 1, 5 * width + 3):
        for n in (1, 2, 3, 4, 5, 7, 13):
            for k in (1, width - 1, width, 2 * width + 5):
                a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k)))
                c = strategies.guarded(rng.standard_normal((n, m)), m, strategies.MARK)
                whole, before = c.base, c.copy()
                outside = whole.copy()
                expected = b.astype(np.float64) @ a.T + accumulate * before
                at = [array.ctypes.data for array in (a, b, c)]
                multiply_transposed(width, m, k, n, *at, c.strides[0] // 4, accumulate)
                size = np.abs(b).astype(np.float64) @ np.abs(a).T + np.abs(before)
                assert (np.abs(c - expected) <= (k + 2) * EPSILON * size).all()
                c[...] = before
                assert whole.tobytes() == outside.tobytes()  # nothing but C was written


@pytest.mark.parametrize("width", WIDTHS)
def test_swapped_tables_give_the_transposed_product(width):
    # The weight gradient of a convolution: taps as rows, pixels as taps, dY as B.
    rng = np.random.default_rng(1)
    height, kernel, stride, filters = 11, 4, 2, 5
    image = rng.standard_normal(height * height).astype(np.float32)
    corners = range(0, height - kernel + 1, stride)
    row = np.array([y * height + x for y in corners for x in corners], np.int32)
    tap = np.array([y * height + x for y in range(kernel) for x in range(kernel)], np.int32)
    patches = image.astype(np.float64)[row[:, None] + tap[None, :]]
    dy = rng.standard_normal((row.size, filters)).astype(np.float32)
    dweights = np.zeros((tap.size, filters), np.float32)
    run(width, strategies.Product(image, tap, row, dy, dweights, False))
    np.testing.assert_allclose(
        dweights, patches.T @ dy, rtol=0, atol=row.size * EPSILON * np.abs(patches).sum(0).max() * 4
    )


@pytest.mark.parametrize("width", WIDTHS)
@example(product=make(1, 300, 8 * 16 + 3))
@given(product=strategies.products())
@settings(max_examples=10)
def test_accumulating_twice_adds_the_product_twice(width, product):
    product = product._replace(accumulate=True)
    before = product.c.copy()
    twice = oracles.gemm(product.x, product.row, product.tap, product.b, None) * 2 + before
    run(width, product)
    run(width, product)
    assert (np.abs(product.c - twice) <= 2 * bound(product, before)).all()
    product.c[...] = before


@pytest.mark.parametrize("width", WIDTHS)
def test_nan_and_infinity_in_the_inputs_reach_the_output(width):
    # The gradient's check for NaN relies on it: no arithmetic here may assume finite numbers.
    product = make(9, 4, width + 1)
    product.x[2 * 4 + 1] = np.nan  # row 2
    product.b[3, 0] = np.inf  # column 0
    run(width, product)
    assert np.isnan(product.c[2]).all()
    others = np.delete(product.c, 2, axis=0)
    assert np.isinf(others[:, 0]).all()
    assert np.isfinite(others[:, 1:]).all()


def test_the_host_width_is_one_of_those_tested():
    assert HOST_WIDTH in WIDTHS


AT_THE_EDGE_OF_MEMORY = """
import ctypes, mmap, sys
import numpy as np
sys.path[:0] = {path!r}
from test_gemm import multiply, multiply_transposed

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int

def place(array):
    "A copy whose last byte is the last before a page that nobody may touch."
    size = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + PAGE)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    if protect(start + size, PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return copy

rng = np.random.default_rng(0)
for width in (4, 8, 16):
    for n in (1, 3, 5, 17, 31, 33, 64, 129):
        for m in (1, 3, 8, 13):
            k = 3
            x, b = (place(rng.standard_normal(s).astype(np.float32)) for s in ((m, k), (k, n)))
            row, tap = place(np.arange(0, m * k, k, dtype=np.int32)), place(np.arange(k, dtype=np.int32))
            for accumulate in (0, 1):
                c = place(np.zeros((m, n), np.float32))
                at = [array.ctypes.data for array in (x, row, tap, b, c)]
                multiply(width, m, k, n, *at[:4], n, at[4], n, accumulate)
                assert np.allclose(c, x @ b, atol=1e-5)
            turned = place(np.ascontiguousarray(b.T))
            c = place(np.zeros((m, n), np.float32))
            at = [array.ctypes.data for array in (turned, x, c)]
            multiply_transposed(width, n, k, m, *at, n, 0)
            assert np.allclose(c, x @ b, atol=1e-5)
print("all inside")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages through the C library of Linux")
def test_nothing_is_read_or_written_past_the_end_of_an_array():
    # In a process of its own, since a failure is a crash.
    program = AT_THE_EDGE_OF_MEMORY.format(path=[str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "all inside"
