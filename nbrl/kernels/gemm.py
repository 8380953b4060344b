"""The one matrix kernel, with indirect rows: ``C[i, :] (+)= sum over k of X[row[i] + tap[k]] * B[k, :]``.

`row` and `tap` are int32 tables of element offsets into X. With them the same kernel is

- a dense layer: ``row[i] = i * inputs``, ``tap[k] = k``;
- a convolution: ``row[i]`` the corner of output pixel i, ``tap[k]`` the offset of one weight; no patches are copied;
- either's weight gradient: the two tables swapped, so that the sum runs over samples or output pixels;
- a product with a transposed matrix, whose rows are then X.

The inner tile is emitted as LLVM vector code, so its sums stay in registers. Its shape is a compile-time literal;
columns beyond the last whole vector are masked, so no layout depends on the vector width of a machine.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbrl.kernels.compile import jit

FLOAT, BIT, INT32, INT64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)


def host_width() -> int:
    """Floats in this machine's widest vector: 16 (AVX-512), 8 (AVX2) or 4 (NEON and all others)."""
    features = llvm.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


HOST_WIDTH = host_width()


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

    def multiply_add(self, scalar: Any, values: list[Any], sums: list[Any]) -> list[Any]:
        builder, undefined = self.builder, self.type(ir.Undefined)
        lane = builder.insert_element(undefined, scalar, INT32(0))
        spread = builder.shuffle_vector(lane, undefined, ir.VectorType(INT32, self.width)([0] * self.width))
        fma = self._intrinsic(f"llvm.fma.v{self.width}f32", self.type, [self.type] * 3)
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
    j = 0
    while j < n:
        left = n - j
        b_at, i = b + 4 * j, 0
        if left >= 2 * width and m > 1:
            step = 2 * width
            if width == 8:  # AVX2 has 16 registers, the others 32
                while i + 4 <= m:
                    at = c + 4 * (i * c_stride + j)
                    _tile(4, 2, width, 0, k, x, row + 4 * i, tap, b_at, b_stride, at, c_stride, accumulate, left)
                    i += 4
            else:
                while i + 8 <= m:
                    at = c + 4 * (i * c_stride + j)
                    _tile(8, 2, width, 0, k, x, row + 4 * i, tap, b_at, b_stride, at, c_stride, accumulate, left)
                    i += 8
            while i < m:
                at = c + 4 * (i * c_stride + j)
                _tile(1, 2, width, 0, k, x, row + 4 * i, tap, b_at, b_stride, at, c_stride, accumulate, left)
                i += 1
        elif left >= 8 * width:  # a single row: as many independent sums as hide the latency of one
            step = 8 * width
            _tile(1, 8, width, 0, k, x, row, tap, b_at, b_stride, c + 4 * j, c_stride, accumulate, left)
        else:
            step = width
            while i + 8 <= m:
                at = c + 4 * (i * c_stride + j)
                _tile(8, 1, width, 1, k, x, row + 4 * i, tap, b_at, b_stride, at, c_stride, accumulate, left)
                i += 8
            while i < m:
                at = c + 4 * (i * c_stride + j)
                _tile(1, 1, width, 1, k, x, row + 4 * i, tap, b_at, b_stride, at, c_stride, accumulate, left)
                i += 1
        j += step
