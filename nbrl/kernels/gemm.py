"""The matrix kernel, with indirect rows: ``C[i, :] (+)= sum over k of X[row[i] + tap[k]] * B[k, :]``.

`row` and `tap` are int32 tables of element offsets into X. With them the same kernel is

- a dense layer: ``row[i] = i * inputs``, ``tap[k] = k``;
- a convolution: ``row[i]`` the corner of output pixel i, ``tap[k]`` the offset of one weight; no patches are copied;
- either's weight gradient: the two tables swapped, so that the sum runs over samples or output pixels.

`gemm_transposed` is for the one product whose sums run along the rows of both factors.

The inner tile is emitted as LLVM vector code, so its sums stay in registers. Its shape is a compile-time literal;
columns beyond the last whole vector are masked, so no layout depends on the vector width of a machine.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbrl.kernels.compile import FAST_MATH, cfunction, computed_once, jit
from nbrl.kernels.native import emit_call

FLOAT, BIT, INT32, INT64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)


def host_width() -> int:
    """Floats in this machine's widest vector: 16 (AVX-512), 8 (AVX2) or 4 (NEON and all others)."""
    features = llvm.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


HOST_WIDTH = host_width()
LONGEST = 512  # taps in one part of a sum


class _Vectors:
    """Loads and stores of one vector width; the last columns under a mask where `mask` is given."""

    def __init__(self, builder: Any, width: int, mask: Any = None) -> None:
        self.builder, self.width, self.mask = builder, width, mask
        self.type = ir.VectorType(FLOAT, width)
        self.zero = self.type([0.0] * width)

    def _intrinsic(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def at(self, base: Any, element: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [element]), self.type.as_pointer())

    def load(self, pointer: Any) -> Any:
        if self.mask is None:
            value = self.builder.load(pointer)
            value.align = 4
            return value
        mask_type = self.mask.type
        load = self._intrinsic(
            f"llvm.masked.load.v{self.width}f32.p0", self.type, [pointer.type, INT32, mask_type, self.type]
        )
        return self.builder.call(load, [pointer, INT32(4), self.mask, self.zero])

    def store(self, value: Any, pointer: Any) -> None:
        if self.mask is None:
            self.builder.store(value, pointer).align = 4
            return
        store = self._intrinsic(
            f"llvm.masked.store.v{self.width}f32.p0",
            ir.VoidType(),
            [self.type, pointer.type, INT32, self.mask.type],
        )
        self.builder.call(store, [value, pointer, INT32(4), self.mask])

    def fma(self) -> Any:
        return self._intrinsic(f"llvm.fma.v{self.width}f32", self.type, [self.type] * 3)

    def fold(self, a: Any, b: Any) -> Any:
        """Sums of neighbouring lanes: those of a, then those of b."""
        even, odd = (ir.VectorType(INT32, self.width)(list(range(first, 2 * self.width, 2))) for first in (0, 1))
        return self.builder.fadd(self.builder.shuffle_vector(a, b, even), self.builder.shuffle_vector(a, b, odd))

    def multiply_add(self, scalar: Any, values: list[Any], sums: list[Any]) -> list[Any]:
        builder, undefined = self.builder, self.type(ir.Undefined)
        lane = builder.insert_element(undefined, scalar, INT32(0))
        spread = builder.shuffle_vector(lane, undefined, ir.VectorType(INT32, self.width)([0] * self.width))
        fma = self.fma()
        return [builder.call(fma, [spread, value, total]) for value, total in zip(values, sums, strict=True)]


def _column_mask(builder: Any, width: int, columns: Any) -> Any:
    """Lane j is on where j < columns."""
    lanes = ir.VectorType(INT32, width)
    first = builder.insert_element(lanes(ir.Undefined), builder.trunc(columns, INT32), INT32(0))
    limit = builder.shuffle_vector(first, lanes(ir.Undefined), lanes([0] * width))
    return builder.icmp_signed("<", lanes(list(range(width))), limit)


@intrinsic(prefer_literal=True)
def _tile(context, rows, vectors, width, masked, depth, x, row, tap, b, b_stride, c, c_stride, accumulate, columns):
    """`rows` x (`vectors` * `width`) sums over `depth` > 0 taps; of the columns only the first `columns` if masked."""
    shape = (rows, vectors, width, masked)
    if not all(isinstance(value, types.IntegerLiteral) for value in shape):
        return None
    row_count, vector_count, lane_count, is_masked = (value.literal_value for value in shape)

    def codegen(context, builder, signature, args):
        depth, x, row, tap, b, b_stride, c, c_stride, accumulate, columns = args[4:]
        vectors = _Vectors(builder, lane_count, _column_mask(builder, lane_count, columns) if is_masked else None)
        x, b, c = (builder.inttoptr(value, FLOAT.as_pointer()) for value in (x, b, c))
        row, tap = (builder.inttoptr(value, INT32.as_pointer()) for value in (row, tap))
        row_range, vector_range = range(row_count), range(vector_count)

        def offset(table: Any, index: Any) -> Any:
            return builder.sext(builder.load(builder.gep(table, [index])), INT64)

        x_rows = [builder.gep(x, [offset(row, INT64(i))]) for i in row_range]
        outputs = [
            [vectors.at(c, builder.add(builder.mul(c_stride, INT64(i)), INT64(v * lane_count))) for v in vector_range]
            for i in row_range
        ]
        with builder.if_else(builder.icmp_signed("!=", accumulate, INT64(0))) as (add, fresh):
            with add:
                loaded = [[vectors.load(pointer) for pointer in line] for line in outputs]
                add_block = builder.block
            with fresh:
                fresh_block = builder.block
        starts = []
        for line in loaded:
            starts.append([builder.phi(vectors.type) for _ in line])
            for start, value in zip(starts[-1], line, strict=True):
                start.add_incoming(value, add_block)
                start.add_incoming(vectors.zero, fresh_block)

        before, loop, done = builder.block, builder.append_basic_block("taps"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(INT64)
        k.add_incoming(INT64(0), before)
        sums = [[builder.phi(vectors.type) for _ in vector_range] for _ in row_range]
        at, b_row = offset(tap, k), builder.gep(b, [builder.mul(k, b_stride)])
        values = [vectors.load(vectors.at(b_row, INT64(v * lane_count))) for v in vector_range]
        results = [vectors.multiply_add(builder.load(builder.gep(x_rows[i], [at])), values, sums[i]) for i in row_range]
        following = builder.add(k, INT64(1))
        k.add_incoming(following, builder.block)
        for i in row_range:
            for v in vector_range:
                sums[i][v].add_incoming(starts[i][v], before)
                sums[i][v].add_incoming(results[i][v], builder.block)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
        builder.position_at_end(done)
        for i in row_range:
            for v in vector_range:
                vectors.store(results[i][v], outputs[i][v])
        return context.get_dummy_value()

    return types.void(*shape, *[types.int64] * 10), codegen


@jit
def _row_block(rows, wide, narrow, width, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate):
    """`rows` rows of C: `wide` vectors of columns at once, then `narrow`, then single ones under a mask."""
    j = 0
    while n - j >= wide * width:
        _tile(rows, wide, width, 0, k, x, row, tap, b + 4 * j, b_stride, c + 4 * j, c_stride, accumulate, n - j)
        j += wide * width
    while n - j >= narrow * width and narrow < wide:
        _tile(rows, narrow, width, 0, k, x, row, tap, b + 4 * j, b_stride, c + 4 * j, c_stride, accumulate, n - j)
        j += narrow * width
    while j < n:
        _tile(rows, 1, width, 1, k, x, row, tap, b + 4 * j, b_stride, c + 4 * j, c_stride, accumulate, n - j)
        j += width


@jit
def gemm(width, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate):
    """``C[i, :n] (+)= sum over taps of X[row[i] + tap[k]] * B[k, :n]`` for i < m; x, row, tap, b and c are addresses.

    Parameters
    ----------
    width : literal int
        Floats in a vector: 16, 8 or 4; `HOST_WIDTH` is the fastest, each gives right answers everywhere.
    m, k, n : int64
        Rows of C, taps, columns of C; all at least 1.
    x, row, tap, b, c : int64
        Addresses of float32 X, int32 row[m], int32 tap[k], float32 B and float32 C.
    b_stride, c_stride : int64
        Elements from one row of B or C to the next.
    accumulate : int64
        1 to add to C, 0 to overwrite it.
    """
    literally(width)
    # Every tile has at least 8 sums on their way, which hides the latency of one. A long sum goes in parts, so that the
    # rows of B that it needs stay in the nearest cache from one block of rows to the next.
    parts = (k + LONGEST - 1) // LONGEST
    for part in range(parts):
        start = k * part // parts
        taps, add = k * (part + 1) // parts - start, 1 if part else accumulate
        tap_at, b_at = tap + 4 * start, b + 4 * b_stride * start
        row_at, c_at, left = row, c, m
        while left >= 8 and width != 8:  # AVX2 has 16 registers, the others 32
            _row_block(8, 2, 2, width, taps, n, x, row_at, tap_at, b_at, b_stride, c_at, c_stride, add)
            row_at, c_at, left = row_at + 8 * 4, c_at + 8 * 4 * c_stride, left - 8
        while left >= 4:
            _row_block(4, 2, 2, width, taps, n, x, row_at, tap_at, b_at, b_stride, c_at, c_stride, add)
            row_at, c_at, left = row_at + 4 * 4, c_at + 4 * 4 * c_stride, left - 4
        while left >= 2:
            _row_block(2, 4, 2, width, taps, n, x, row_at, tap_at, b_at, b_stride, c_at, c_stride, add)
            row_at, c_at, left = row_at + 2 * 4, c_at + 2 * 4 * c_stride, left - 2
        if left:
            _row_block(1, 8, 2, width, taps, n, x, row_at, tap_at, b_at, b_stride, c_at, c_stride, add)


@intrinsic(prefer_literal=True)
def _dot_tile(context, samples, width, units, a, a_stride, left, b, b_stride, c, c_stride, accumulate):
    """``C[s, i] (+)= sum over u of A[i, u] * B[s, u]`` for width / samples rows i, of them only the first `left`."""
    shape = (samples, width)
    if not all(isinstance(value, types.IntegerLiteral) for value in shape):
        return None
    sample_count, lane_count = (value.literal_value for value in shape)
    row_count = lane_count // sample_count

    def codegen(context, builder, signature, args):
        units, a, a_stride, left, b, b_stride, c, c_stride, accumulate = args[2:]
        vectors = _Vectors(builder, lane_count)
        a, b, c = (builder.inttoptr(value, FLOAT.as_pointer()) for value in (a, b, c))
        fma = vectors.fma()

        def line(base: Any, stride: Any, index: Any) -> Any:
            return builder.gep(base, [builder.mul(index, stride)])

        last = builder.sub(left, INT64(1))  # rows that are not there are summed as the last one, and not stored
        within = [builder.icmp_signed("<", INT64(i), last) for i in range(row_count)]
        a_rows = [line(a, a_stride, builder.select(within[i], INT64(i), last)) for i in range(row_count)]
        b_rows = [line(b, b_stride, INT64(s)) for s in range(sample_count)]

        def add_products(u: Any, vectors: _Vectors, sums: list[Any]) -> list[Any]:
            x, y = ([vectors.load(vectors.at(start, u)) for start in starts] for starts in (a_rows, b_rows))
            pairs = [(x[i], y[s]) for s in range(sample_count) for i in range(row_count)]
            return [builder.call(fma, [*pair, total]) for pair, total in zip(pairs, sums, strict=True)]

        before, head, body, tail = builder.block, *(builder.append_basic_block(name) for name in ("u", "sum", "tail"))
        whole = builder.and_(units, INT64(-lane_count))
        builder.branch(head)
        builder.position_at_end(head)
        u = builder.phi(INT64)
        u.add_incoming(INT64(0), before)
        sums = [builder.phi(vectors.type) for _ in range(lane_count)]
        builder.cbranch(builder.icmp_signed("<", u, whole), body, tail)
        builder.position_at_end(body)
        following = builder.add(u, INT64(lane_count))
        u.add_incoming(following, body)
        for total, result in zip(sums, add_products(u, vectors, sums), strict=True):
            total.add_incoming(vectors.zero, before)
            total.add_incoming(result, body)
        builder.branch(head)
        builder.position_at_end(tail)
        masked = _Vectors(builder, lane_count, _column_mask(builder, lane_count, builder.sub(units, whole)))
        totals = add_products(whole, masked, sums)
        # Lane j of the result is the sum of the lanes of vector j: two vectors become one, four times for 16 lanes.
        while len(totals) > 1:
            totals = [vectors.fold(*totals[i : i + 2]) for i in range(0, len(totals), 2)]
        stored = _Vectors(builder, row_count, _column_mask(builder, row_count, left))
        for s in range(sample_count):
            lanes = ir.VectorType(INT32, row_count)(list(range(s * row_count, (s + 1) * row_count)))
            result = builder.shuffle_vector(totals[0], vectors.type(ir.Undefined), lanes)
            pointer = stored.at(line(c, c_stride, INT64(s)), INT64(0))
            old = builder.select(builder.icmp_signed("!=", accumulate, INT64(0)), stored.load(pointer), stored.zero)
            stored.store(builder.fadd(result, old), pointer)
        return context.get_dummy_value()

    return types.void(*shape, *[types.int64] * 9), codegen


@jit
def gemm_transposed(width, m, k, n, a, b, c, c_stride, accumulate):
    """``C[s, i] (+)= sum over k of A[i, k] * B[s, k]`` for i < m and s < n: both factors are read along their rows.

    As `gemm`, but A (m, k) and B (n, k) are float32 matrices in C order. For the product with the transpose of a matrix
    that is too large to be turned around: the gradient with respect to a dense layer's inputs.
    """
    literally(width)
    for first in range(0, m, width):  # rows of A that stay in the nearest cache for all of B
        end, b_at, c_at, left = min(first + width, m), b, c, n
        while left >= 4:
            for i in range(first, end, width // 4):
                _dot_tile(4, width, k, a + 4 * k * i, k, m - i, b_at, k, c_at + 4 * i, c_stride, accumulate)
            b_at, c_at, left = b_at + 4 * 4 * k, c_at + 4 * 4 * c_stride, left - 4
        while left >= 2:
            for i in range(first, end, width // 2):
                _dot_tile(2, width, k, a + 4 * k * i, k, m - i, b_at, k, c_at + 4 * i, c_stride, accumulate)
            b_at, c_at, left = b_at + 2 * 4 * k, c_at + 2 * 4 * c_stride, left - 2
        if left:
            _dot_tile(1, width, k, a + 4 * k * first, k, m - first, b_at, k, c_at + 4 * first, c_stride, accumulate)


# Both products are C functions that are called by their addresses, so that they are compiled once and not in every
# layer.


def _gemm(m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate):
    gemm(HOST_WIDTH, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate)


def _gemm_transposed(m, k, n, a, b, c, c_stride, accumulate):
    gemm_transposed(HOST_WIDTH, m, k, n, a, b, c, c_stride, accumulate)


@computed_once
def gemm_addresses() -> tuple[int, int]:
    """Of the functions for `call_gemm` and `call_gemm_transposed`, compiled or read from disk when new."""
    return tuple(
        cfunction(types.void(*[types.int64] * count), FAST_MATH)(function).address
        for function, count in ((_gemm, 11), (_gemm_transposed, 8))
    )


@intrinsic
def call_gemm(context, address, m, k, n, x, row, tap, b, b_stride, c, c_stride, accumulate):
    """`gemm` at the host's width, by its address."""

    def codegen(context, builder, signature, args):
        emit_call(builder, args, ir.VoidType())
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), codegen


@intrinsic
def call_gemm_transposed(context, address, m, k, n, a, b, c, c_stride, accumulate):
    """`gemm_transposed` at the host's width, by its address."""

    def codegen(context, builder, signature, args):
        emit_call(builder, args, ir.VoidType())
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen
