"""What Python and NumPy do not offer to jitted code: C functions called by address, atomics, flush-to-zero.

All pointers and function addresses are int64. Called with an address that is not what it says, everything here crashes.
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from nbrl.kernels.compile import jit
from nbrl.kernels.struct import array_over

INT32, INT64 = ir.IntType(32), ir.IntType(64)
X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")
FLUSH_TO_ZERO = 0x8040 if X86 else 1 << 24  # MXCSR: flush-to-zero and denormals-are-zero; FPCR: FZ


def emit_call(builder: Any, args: Any, result: Any) -> Any:
    """For intrinsics: call the function whose address is the first of `args` with the others."""
    address, *rest = args
    prototype = ir.FunctionType(result, [value.type for value in rest])
    return builder.call(builder.inttoptr(address, prototype.as_pointer()), rest)


@intrinsic
def call_routine(context, address, struct, a, b, c, d, e):
    """Call a `routine` of a struct and five numbers by its address."""

    def codegen(context, builder, signature, args):
        emit_call(builder, args, ir.VoidType())
        return context.get_dummy_value()

    return types.void(types.int64, struct, *[types.int64] * 5), codegen


@intrinsic
def span(context, array, start, size):
    """``array[start : start + size]`` of a flat array, without a check."""
    kind = types.Array(array.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        return array_over(context, builder, kind, _element(context, builder, array, *args[:2]), [args[2]])

    return kind(array, types.int64, types.int64), codegen


@intrinsic
def block(context, array, start, rows, columns):
    """The same as a matrix, (rows, columns)."""
    kind = types.Array(array.dtype, 2, "C")

    def codegen(context, builder, signature, args):
        return array_over(context, builder, kind, _element(context, builder, array, *args[:2]), list(args[2:]))

    return kind(array, *[types.int64] * 3), codegen


@intrinsic
def address_at(context, array, index):
    """The address of an element of a C-ordered array, counted flat."""

    def codegen(context, builder, signature, args):
        return _element(context, builder, array, *args)

    return types.int64(array, types.int64), codegen


def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = make_array(kind)(context, builder, array).data
    return builder.ptrtoint(builder.gep(data, [index]), INT64)


def pointer_to(element: Any) -> Any:
    """A cast for jitted code: ``cast(address)`` is a pointer for `numba.carray`.

    It points to a numba type, or with None to anything: then `carray` is told the dtype.
    """

    @intrinsic
    def cast(context, address):
        pointer = types.voidptr if element is None else types.CPointer(element)

        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(pointer))

        return pointer(types.int64), codegen

    return cast


@jit
def copy(target, source):
    """Copy a flat array; ``target[:] = source`` goes through a temporary one, since the two might overlap."""
    for i in range(source.size):
        target[i] = source[i]


@intrinsic
def call_reset(context, address, state, seed, observation, mask, alive):
    """`reset` of the environment interface (nbrl/envs/interface.py): a status."""

    def codegen(context, builder, signature, args):
        return emit_call(builder, args, INT32)

    return types.int32(types.int64, types.int64, types.uint64, *[types.int64] * 3), codegen


@intrinsic
def call_step(context, address, state, action, observation, reward, mask, alive):
    """`step` of the environment interface, which takes them in this order after its address: a status."""

    def codegen(context, builder, signature, args):
        return emit_call(builder, args, INT32)

    return types.int32(*[types.int64] * 7), codegen


@intrinsic
def call_save(context, address, state, buffer):
    """``int32_t save(void *state, void *buffer)``, or `load` alike: a status."""

    def codegen(context, builder, signature, args):
        return emit_call(builder, args, INT32)

    return types.int32(*[types.int64] * 3), codegen


call_load = call_save


@intrinsic
def call_close(context, address, state):
    """``void close(void *state)``."""

    def codegen(context, builder, signature, args):
        emit_call(builder, args, ir.VoidType())
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_load(context, address):
    """The int64 at an address, as last written by any thread (acquire)."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], INT64.as_pointer()), "acquire", 8, typ=INT64)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(context, address, value):
    """Write the int64 at an address so that other threads see all that was written before it (release)."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], INT64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_add(context, address, value):
    """Add to the int64 at an address; what was there before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], INT64.as_pointer()), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


def _read_mode(builder: Any) -> Any:
    """The thread's floating-point control word as int64; 0 on processors not known here."""
    if X86:
        slot = builder.alloca(INT32)
        _mxcsr(builder, "stmxcsr", slot)
        return builder.zext(builder.load(slot, typ=INT32), INT64)
    if ARM:
        return builder.asm(ir.FunctionType(INT64, []), "mrs $0, fpcr", "=r", [], True)
    return INT64(0)


def _write_mode(builder: Any, mode: Any) -> None:
    if X86:
        slot = builder.alloca(INT32)
        builder.store(builder.trunc(mode, INT32), slot)
        _mxcsr(builder, "ldmxcsr", slot)
    elif ARM:
        builder.asm(ir.FunctionType(ir.VoidType(), [INT64]), "msr fpcr, $0", "r", [mode], True)


def _mxcsr(builder: Any, instruction: str, slot: Any) -> None:
    pointer = builder.bitcast(slot, ir.IntType(8).as_pointer())
    name = f"llvm.x86.sse.{instruction}"
    function_type = ir.FunctionType(ir.VoidType(), [pointer.type])
    function = builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)
    builder.call(function, [pointer])


@intrinsic
def flush_denormals(context):
    """Make this thread take denormal numbers as zero; the mode before, for `restore_denormals`."""

    def codegen(context, builder, signature, args):
        before = _read_mode(builder)
        _write_mode(builder, builder.or_(before, INT64(FLUSH_TO_ZERO)))
        return before

    return types.int64(), codegen


@intrinsic
def restore_denormals(context, mode):
    """Put back the mode that `flush_denormals` found."""

    def codegen(context, builder, signature, args):
        _write_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
