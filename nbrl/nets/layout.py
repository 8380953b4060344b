"""Where each named array lies in one flat float32 array: parameters, gradients and statistics alike."""

import math
from collections.abc import Iterable

import numpy as np

ALIGNMENT = 16  # floats: one cache line, and the widest vector; the same on every machine


def aligned_zeros(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """An array of zeros that begins at a cache line, so that no vector load straddles two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    line = ALIGNMENT * 4
    memory = np.zeros(size + line, np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size].view(dtype).reshape(shape)


class Layout:
    """An ordered table of (name, shape, offset).

    Parameters
    ----------
    entries : iterable of (str, tuple of int)
        Names and shapes, in order. Each array starts at a multiple of 16 floats; what lies between stays zero.

    Attributes
    ----------
    size : int
        Floats in the flat array.
    names : tuple of str

    Examples
    --------
    >>> layout = Layout([("weights", (3, 2)), ("bias", (2,))])
    >>> layout.size, layout.offset("bias")
    (32, 16)
    """

    def __init__(self, entries: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._offsets: dict[str, int] = {}
        self.size = 0
        for name, shape in entries:
            if name in self._shapes:
                raise ValueError(f"the name {name!r} stands twice in the layout")
            self._shapes[name], self._offsets[name] = tuple(shape), self.size
            self.size += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
        self.names = tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one array."""
        return self._shapes[name]

    def offset(self, name: str) -> int:
        """The index of one array's first element in the flat array."""
        return self._offsets[name]

    def view(self, array: np.ndarray, name: str) -> np.ndarray:
        """One named array as a view into `array`, of shape ``(..., size)``."""
        start, shape = self._offsets[name], self._shapes[name]
        return array[..., start : start + math.prod(shape)].reshape(array.shape[:-1] + shape)

    def views(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """All named arrays as views into `array`, of shape ``(..., size)``."""
        return {name: self.view(array, name) for name in self.names}
