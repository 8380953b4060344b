"""Classes of arrays and numbers that compiled code takes as one pointer.

A tuple of thirty arrays is handed from function to function as two hundred words, with a reference count for each
array; a `Struct` is one address. Its fields are declared as numba types, or as a `reference` to another struct:

    class Actors(Struct):
        observation = uint8[:, ::1]  # (n, bytes): what each actor sees now
        turn = int64  # whose it is

In Python and in compiled code alike ``actors.observation`` is the array and ``actors.turn = 1`` sets the number. Arrays
and structs stay the ones it was made with. Whoever holds its address must keep the object alive.
"""

from typing import Any, ClassVar

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed, lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, intrinsic, models, register_model, unbox
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import as_dtype

WORD = ir.IntType(64)
NUMBERS = (types.int64, types.float64, types.boolean)
BYTES = ir.IntType(8).as_pointer()


class StructType(types.Type):
    """The numba type of all structs of one class."""

    def __init__(self, of: Any) -> None:
        self.of = of
        super().__init__(name=f"{of.__module__}.{of.__qualname__}")


@register_model(StructType)
class _Pointer(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, BYTES)


class _Field:
    """One field: where its words begin, and its numba type."""

    def __init__(self, name: str, kind: Any, at: int) -> None:
        self.name, self.kind, self.at = name, kind, at
        self.words = 1 + kind.ndim if isinstance(kind, types.Array) else 1

    def __get__(self, owner: Any, _: Any = None) -> Any:
        if owner is None:
            return self
        if self.name in owner._kept:
            return owner._kept[self.name]
        number = owner._words[self.at : self.at + 1].view(np.float64 if self.is_float else np.int64)[0].item()
        return bool(number) if isinstance(self.kind, types.Boolean) else number

    def __set__(self, owner: Any, value: Any) -> None:
        if self.name in owner._kept:
            raise AttributeError(f"{type(owner).__name__}.{self.name} stays what it was made with")
        owner._words[self.at : self.at + 1].view(np.float64 if self.is_float else np.int64)[0] = value

    @property
    def is_float(self) -> bool:
        return isinstance(self.kind, types.Float)

    def words_of(self, owner: type, value: Any) -> list[int]:
        """What compiled code reads of an array or a struct; TypeError where the value is of another kind."""
        if isinstance(self.kind, StructType):
            if not isinstance(value, self.kind.of):
                raise TypeError(f"{owner.__name__}.{self.name} must be a {self.kind.of.__name__}, not {value!r}")
            return [value.address]
        dtype, ndim = as_dtype(self.kind.dtype), self.kind.ndim
        whole = isinstance(value, np.ndarray) and value.flags.carray
        if not whole or (value.dtype, value.ndim) != (dtype, ndim):
            wanted = f"a writable, C-ordered array of {dtype} and {ndim} dimensions"
            raise TypeError(f"{owner.__name__}.{self.name} must be {wanted}")
        return [value.ctypes.data, *value.shape]


class Struct:
    """Base of the classes described at the top of this file.

    Parameters
    ----------
    **values
        One for each field: an array, a struct or a number.

    Attributes
    ----------
    address : int
        Where its words lie.
    """

    _fields: ClassVar[dict[str, _Field]] = {}
    type: StructType
    _numba_type_: StructType  # where numba looks first for what a value's type is
    address: int

    def __init_subclass__(cls) -> None:
        cls.type = cls._numba_type_ = StructType(cls)
        cls._fields = dict(cls._fields)
        at = sum(field.words for field in cls._fields.values())
        for name, kind in list(vars(cls).items()):
            if isinstance(getattr(kind, "field", None), str):  # a setting, which names its type
                kind = getattr(types, kind.field)
            if isinstance(kind, types.Type) and name not in ("type", "_numba_type_"):
                if not isinstance(kind, types.Array | StructType) and kind not in NUMBERS:
                    raise TypeError(f"{cls.__name__}.{name} is {kind}: a number is an int64, a float64 or a boolean")
                cls._fields[name] = field = _Field(name, kind, at)
                setattr(cls, name, field)
                at += field.words

    def __init__(self, **values: Any) -> None:
        if values.keys() != self._fields.keys():
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(self._fields)}, not {', '.join(values)}")
        self._kept: dict[str, Any] = {}
        self._words = np.zeros(max(1, sum(field.words for field in self._fields.values())), np.int64)
        for name, field in self._fields.items():
            if isinstance(field.kind, types.Array | StructType):
                self._words[field.at : field.at + field.words] = field.words_of(type(self), values[name])
                self._kept[name] = values[name]
            else:
                setattr(self, name, values[name])
        super().__setattr__("address", self._words.ctypes.data)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._fields and not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no field {name}: it has {', '.join(self._fields)}")
        super().__setattr__(name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of its fields, in order."""
        return tuple(cls._fields)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name, in the order of the fields."""
        return {name: value for name, value in self._kept.items() if isinstance(value, np.ndarray)}

    def replace(self, **changes: Any) -> Any:
        """Another one, with some fields changed."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)


def reference(struct: type[Struct]) -> Any:
    """The type of a field that is another struct."""
    return struct.type


@unbox(StructType)
def _unbox(kind: Any, value: Any, c: Any) -> NativeValue:
    address = c.pyapi.object_getattr_string(value, "address")
    word = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    return NativeValue(c.builder.inttoptr(word, BYTES), is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


@infer_getattr
class _Fields(AttributeTemplate):
    key = StructType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        field = kind.of._fields.get(name)
        return field and field.kind


def _word(builder: Any, value: Any, index: int) -> Any:
    words = builder.bitcast(value, WORD.as_pointer())
    return builder.gep(words, [ir.Constant(WORD, index)])


@lower_getattr_generic(StructType)
def _get(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    field = kind.of._fields[name]

    def constant(index: int) -> Any:
        loaded = builder.load(_word(builder, value, field.at + index))
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    if isinstance(field.kind, types.Array):
        shape = [constant(1 + i) for i in range(field.kind.ndim)]
        return impl_ret_borrowed(
            context, builder, field.kind, array_over(context, builder, field.kind, constant(0), shape)
        )
    if isinstance(field.kind, StructType):
        return builder.inttoptr(constant(0), BYTES)
    raw = builder.load(_word(builder, value, field.at))
    if field.is_float:
        return builder.bitcast(raw, context.get_value_type(field.kind))
    if isinstance(field.kind, types.Boolean):
        return builder.icmp_unsigned("!=", raw, WORD(0))
    return raw


@lower_setattr_generic(StructType)
def _set(context: Any, builder: Any, signature: Any, args: Any, name: str) -> None:
    field = signature.args[0].of._fields[name]
    if isinstance(field.kind, types.Array | StructType):
        raise TypeError(f"{name} stays what it was made with")
    value = context.cast(builder, args[1], signature.args[1], field.kind)
    if field.is_float:
        value = builder.bitcast(value, WORD)
    elif isinstance(field.kind, types.Boolean):
        value = builder.zext(value, WORD)
    builder.store(value, _word(builder, args[0], field.at))


def array_over(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """For intrinsics: a C-ordered array over memory that nobody counts references of."""
    array = make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    step, strides = WORD(size), list[Any]()
    for length in reversed(shape):
        strides.insert(0, step)
        step = builder.mul(step, length)
    populate_array(
        array,
        data=builder.inttoptr(address, array.data.type),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=WORD(size),
        meminfo=None,
    )
    return array._getvalue()


@intrinsic
def address_of(context, struct):
    """The address of a struct, int64."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(args[0], WORD)

    return types.int64(struct), codegen
