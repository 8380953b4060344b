"""The most that one core can compute: fused multiply-adds with nothing to wait for, to compare other kernels with."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbrl.kernels.compile import jit
from nbrl.kernels.gemm import HOST_WIDTH

CHAINS = 12 if HOST_WIDTH == 8 else 16  # AVX2 has 16 registers, the others 32


@intrinsic
def _multiply_add(context, factor, term, repeats):
    """`repeats` times x = factor x + term in CHAINS vectors at once; the sum of all lanes.

    As many independent chains as cover the latency of a fused multiply-add (4 or 5 cycles on 2 to 4 units) and still
    fit the registers, so nothing but the units is waited for.
    """

    def codegen(context, builder, signature, args):
        factor, term, repeats = args
        float_, index = ir.FloatType(), ir.IntType(32)
        vector = ir.VectorType(float_, HOST_WIDTH)

        def spread(value: Any) -> Any:
            lane = builder.insert_element(vector(ir.Undefined), value, index(0))
            return builder.shuffle_vector(lane, lane, ir.VectorType(index, HOST_WIDTH)([0] * HOST_WIDTH))

        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{HOST_WIDTH}f32"
        )
        factors, terms = spread(factor), spread(term)
        # Different beginnings, or the compiler would find that all chains are one.
        starts = [builder.fmul(terms, vector([1.0 + i] * HOST_WIDTH)) for i in range(CHAINS)]
        before, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        left = builder.phi(repeats.type)
        left.add_incoming(repeats, before)
        chains = [builder.phi(vector) for _ in starts]
        results = [builder.call(fma, [factors, chain, terms]) for chain in chains]
        following = builder.sub(left, repeats.type(1))
        left.add_incoming(following, loop)
        for chain, start, result in zip(chains, starts, results, strict=True):
            chain.add_incoming(start, before)
            chain.add_incoming(result, loop)
        builder.cbranch(builder.icmp_signed(">", following, repeats.type(0)), loop, done)
        builder.position_at_end(done)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        lanes = [builder.extract_element(total, index(lane)) for lane in range(HOST_WIDTH)]
        answer = lanes[0]
        for lane in lanes[1:]:
            answer = builder.fadd(answer, lane)
        return answer

    return types.float32(types.float32, types.float32, types.int64), codegen


@jit
def multiply_add(factor, term, repeats):
    """`repeats` >= 1 times x = factor x + term in CHAINS * HOST_WIDTH float32 at once; their sum."""
    return _multiply_add(np.float32(factor), np.float32(term), repeats)
