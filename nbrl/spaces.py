"""Spaces of observations and actions, and the one way between their values and a network's numbers.

Training, `Agent`, `NumpyPolicy` and `OnlineLearner` all read observations and answer with actions through these two
classes. It needs NumPy alone.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nbrl.space_descriptions import Description, bounds_of, check, describe

LAYOUTS = ("vector", "HW", "HWC", "CHW")  # of an observation: no image, or an image by its axes
LARGEST = 1 << 24  # numbers in an observation; what claims more is damage
MOST_VALUES = 100_000  # of a discrete observation, each an input of its own
SMALLEST_SIDE = 5  # pixels of an image of floats; what is smaller is a vector
SMALLEST_GREY_SIDE = 20  # the same without an axis of channels, since windows of numbers have two axes too

LARGEST_FLOAT = float(np.finfo(np.float32).max)
NOT_FINITE = "the observation has a number that is not finite as a float32"


# What an agent does now, bits: it acts, others hear what it says, it hears others, a limit ended its part, and it is
# another than the one before.
ALIVE, SPEAKS, HEARS, STOPPED, NEW = 1, 2, 4, 8, 16
PRESENT = ALIVE | SPEAKS | HEARS


# Observations


class Observations:
    """What is observed, and how a network reads it: decided once, when training begins.

    Parameters
    ----------
    space : gymnasium.Space or dict
        Or what `describe` makes of it.
    layout : str, optional
        One of `LAYOUTS`, where it is not to be found out: "vector" for no image, else the axes of an image, or of each
        image of a stack. By default ("auto") a Box of two dimensions is a grey image if it is of bytes or flags, or
        bounded with sides of 20 and more; one of three is an image likewise with sides of 5; one of four is a stack of
        such, as gymnasium's `FrameStackObservation` makes it. Of three sizes, two equal ones are height and width;
        else the least is that of the channels.

    Attributes
    ----------
    space : dict
    shape : tuple of int
        Of a row, as environments write it and networks read it: (features,) or another vector's, (height, width),
        (height, width, channels) or (channels, height, width).
    dtype : numpy.dtype
        uint8 for an image of bytes or flags, else float32. Discrete and MultiDiscrete become one-hot, Dict and Tuple
        the vector of their flattened parts, in gymnasium's order.
    layout : str
    high : float
        What numbers are divided by: of an image, and of bytes, the largest number that they can have. 1 for others.

    Raises
    ------
    ValueError
        A space that cannot be used, or a layout that does not fit it, in one sentence.
    """

    def __init__(self, space: Any, layout: str = "auto") -> None:
        try:
            self.space: Description = space if isinstance(space, dict) else describe(space)
        except ValueError as problem:
            raise ValueError(
                f"the observation {problem}: it must be Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple "
                "of these"
            ) from None
        box = self.space["kind"] == "Box"
        shape = tuple(self.space["shape"]) if box else (flat_size(self.space),)
        self.shape = shape or (1,)
        if math.prod(self.shape) == 0:
            raise ValueError(f"an observation of shape {self.shape} is empty")
        self.layout = _layout(self.space, layout)
        self.dtype = np.dtype(np.uint8 if self.image and _of_bytes(self.space) else np.float32)
        self.high = _largest(self.space) if self.image or _of_bytes(self.space) else 1.0
        if len(self.shape) == 4 and self.image:  # a stack becomes the channels of one image
            count, *frame = self.shape
            if self.layout == "HWC":
                self.shape = (*frame[:2], count * frame[2])
            else:
                self.shape = (count * frame[0], *frame[1:])

    @classmethod
    def vector(cls, size: int) -> "Observations":
        """Of a vector of any float32."""
        return cls({"kind": "Box", "shape": [size], "dtype": "float32", "low": None, "high": None})

    @property
    def image(self) -> bool:
        """Whether it is one."""
        return self.layout != "vector"

    @property
    def as_it_lies(self) -> bool:
        """Whether a row is a value of the space as it lies in memory, so that C functions can write it."""
        stacked = len(self.space.get("shape", ())) == 4 and self.layout == "HWC"
        return self.space["kind"] == "Box" and self.space["dtype"] == self.dtype.name and not stacked

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in a row."""
        return self.size * self.dtype.itemsize

    @property
    def height(self) -> int:
        """Of an image, in pixels."""
        return self.shape[1 if self.layout == "CHW" else 0]

    @property
    def width(self) -> int:
        """Of an image, in pixels."""
        return self.shape[2 if self.layout == "CHW" else 1]

    @property
    def channels(self) -> int:
        """Of an image."""
        return 1 if self.layout == "HW" else self.shape[0 if self.layout == "CHW" else 2]

    @property
    def newest(self) -> int:
        """How many of an image's channels, its last ones, are the newest frame: 3 in colour, else 1."""
        shape = self.space["shape"]
        colours = shape[-3:][0 if self.layout == "CHW" else -1] if len(shape) == 4 else self.channels
        return 3 if colours == 3 else 1

    @property
    def strides(self) -> tuple[int, int, int] | None:
        """Numbers of a row from one row, column and channel of an image to the next; None for a vector."""
        if not self.image:
            return None
        if self.layout == "CHW":
            return self.width, 1, self.height * self.width
        return self.width * self.channels, self.channels, 1

    def picture(self, row: np.ndarray) -> np.ndarray | None:
        """An image as people see it, uint8 (height, width, 3), of a stack the newest; None for a vector."""
        if not self.image:
            return None
        image = row[:, :, None] if self.layout == "HW" else row.transpose(1, 2, 0) if self.layout == "CHW" else row
        image = image[:, :, -3:] if self.newest == 3 else image[:, :, -1:].repeat(3, axis=2)
        if self.dtype != np.uint8 or self.high != 255:
            image = np.clip(np.abs(image) * (255 / self.high), 0, 255)
        return np.ascontiguousarray(image, np.uint8)

    @property
    def format(self) -> dict[str, Any]:
        """How a row is read, as JSON can hold it: two observations are the same to a network if this is."""
        return {"shape": list(self.shape), "dtype": self.dtype.name, "layout": self.layout, "high": self.high}

    def __reduce__(self) -> tuple[Any, ...]:
        return Observations, (self.space, self.layout)

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape))
        if not self.image:
            return f"{self.dtype} vectors of {sizes}"
        axes = {"HW": "grey", "HWC": "channels last", "CHW": "channels first"}
        return f"{self.dtype} images of {sizes}, {axes[self.layout]}, up to {self.high:g}"

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs."""
        return {"space": self.space, "format": self.format}

    @classmethod
    def from_json(cls, stored: Any) -> "Observations":
        """What a file holds; ValueError for damage."""
        if not isinstance(stored, dict) or set(stored) != {"space", "format"} or not isinstance(stored["format"], dict):
            raise ValueError("its observations must be a space and a format")
        check(stored["space"])
        if flat_size(stored["space"]) > LARGEST:
            raise ValueError("its observations are too large")
        layout = stored["format"].get("layout")
        if layout not in LAYOUTS:
            raise ValueError(f"its observations have the unknown layout {layout!r}")
        observations = cls(stored["space"], layout)
        if observations.format != stored["format"]:
            raise ValueError(f"its observations of {observations.format} have the format {stored['format']}")
        return observations

    @functools.cached_property
    def write(self) -> Callable[[Any, np.ndarray], None]:
        """``write(value, row)`` puts one observation into an array of this shape and dtype.

        It raises ValueError for what is none of the space's: another shape, another dtype than an image's bytes, text,
        numbers outside a discrete space. Numbers that are not finite are found by who reads the row.
        """
        if self.space["kind"] != "Box":
            return _flat_writer(self.space)
        shape = tuple(self.space["shape"])
        stacked = len(shape) == 4 and self.layout == "HWC"
        whole = (*shape[1:3], shape[0], shape[3]) if stacked else shape
        read = _box_reader(shape, self.dtype, self.high)

        def write(value: Any, row: np.ndarray) -> None:
            array = read(value)
            np.copyto(row.reshape(whole), np.moveaxis(array, 0, 2) if stacked else array, casting="same_kind")

        return write

    def rows(self, value: Any) -> tuple[np.ndarray, bool]:
        """One observation or a batch of them as rows, and whether it is a batch.

        A batch has one more dimension in front, in each part of a Dict or Tuple.

        Returns
        -------
        rows : numpy.ndarray
            (observations, *shape), of `dtype`.
        batch : bool

        Raises
        ------
        ValueError
            As `write`; and for numbers that are not finite.
        """
        size = _batch_size(self.space, value)
        rows = np.empty((1 if size is None else size, *self.shape), self.dtype)
        for i, row in enumerate(rows):
            self.write(value if size is None else _one_of(self.space, value, i), row)
        if self.dtype == np.float32 and not np.isfinite(rows).all():
            raise ValueError(NOT_FINITE)
        return rows, size is not None


def _of_bytes(space: Description) -> bool:
    return space["kind"] == "Box" and space["dtype"] in ("uint8", "bool")


def _layout(space: Description, layout: str) -> str:
    """The layout of a space's values, where it is "auto" the one that they must have."""
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"observation_layout is {layout!r}: it must be one of auto, {', '.join(LAYOUTS)}")
    shape = tuple(space["shape"]) if space["kind"] == "Box" else ()
    if layout == "vector" or len(shape) not in (2, 3, 4):
        if layout not in ("auto", "vector"):
            raise ValueError(f"observation_layout is {layout!r}, but an observation of shape {shape} is no image")
        return "vector"
    if layout != "auto":
        if (len(shape) != len(layout) and len(shape) != 4) or (len(shape) == 4 and layout == "HW"):
            raise ValueError(f"observation_layout is {layout!r}, but observations have the shape {shape}")
        return layout
    sides = sorted(shape[-3:])[-2:] if len(shape) > 2 else shape
    least = SMALLEST_SIDE if len(shape) > 2 else SMALLEST_GREY_SIDE
    bounded = None not in (space["low"], space["high"]) and not isinstance(space["high"], list)
    if not _of_bytes(space) and (not bounded or min(sides) < least):
        return "vector"
    if len(shape) == 4 and min(sides) < SMALLEST_SIDE:
        return "vector"
    if len(shape) == 2:
        return "HW"
    first, middle, last = shape[-3:]
    if (first == middle) != (middle == last):
        return "HWC" if first == middle else "CHW"
    if min(first, last) < middle and first != last:
        return "CHW" if first < last else "HWC"
    raise ValueError(
        f"observations of shape {shape} could have their channels first or last: set observation_layout to HWC "
        "(height, width, channels), to CHW, or to vector if they are no images"
    )


def _largest(box: Description) -> float:
    """The largest size of a number in a Box; 1 where it is unbounded, or nothing but 0."""
    bounds = [
        abs(number) if number is not None else math.inf
        for bound in (box["low"], box["high"])
        for number in (bound if isinstance(bound, list) else [bound])
    ]
    largest = float(max(bounds, default=1))
    return largest if 0 < largest < math.inf else 1.0


def flat_size(space: Description) -> int:
    """How many numbers a space's flattened value has."""
    if space["kind"] in ("Dict", "Tuple"):
        return sum(flat_size(part) for _, part in space["spaces"])
    if space["kind"] in ("Discrete", "MultiDiscrete"):
        size = sum(_counts(space))
        if size > MOST_VALUES:
            raise ValueError(
                f"a discrete observation of {size:,} values cannot be used: each is an input of its own, at most "
                f"{MOST_VALUES:,} in all; give a Box of the numbers that matter"
            )
        return size
    return math.prod(space["shape"])


def _counts(space: Description) -> list[int]:
    return [space["n"]] if space["kind"] == "Discrete" else space["counts"]


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError("the observation is no array of numbers: its rows have different lengths") from None


def _box_reader(shape: tuple[int, ...], dtype: np.dtype, high: float) -> Callable[[Any], np.ndarray]:
    """How a value becomes an array that may be copied into one of a dtype."""
    kinds = "ub" if dtype == np.uint8 else "fiub"

    def read(value: Any) -> np.ndarray:
        array = value if isinstance(value, np.ndarray) else _array(value)
        if array.shape != shape:
            raise ValueError(f"the observation has shape {array.shape}, but its space says {shape}")
        if array.dtype.kind not in kinds or (dtype == np.uint8 and array.dtype.itemsize > 1):
            wanted = f"uint8, 0 to {high:g}" if dtype == np.uint8 else "numbers"
            raise ValueError(f"the observation is of {array.dtype}, but its space says {wanted}")
        if array.dtype.itemsize > 4 and array.size and LARGEST_FLOAT < np.abs(array).max() < np.inf:
            raise ValueError(NOT_FINITE)
        return array

    return read


def _flat_writer(space: Description) -> Callable[[Any, np.ndarray], None]:
    """``write(value, vector)`` of the flattened value of any space."""
    kind = space["kind"]
    if kind in ("Box", "MultiBinary"):
        high = np.float32(_largest(space) if _of_bytes(space) else 1.0)
        read = _box_reader(tuple(space["shape"]), np.dtype(np.float32), 1.0)

        def write_box(value: Any, vector: np.ndarray) -> None:
            vector[...] = read(value).reshape(-1)
            vector /= high

        return write_box
    if kind in ("Discrete", "MultiDiscrete"):
        return _one_hot_writer(space)
    parts, at = [], 0
    for key, part in space["spaces"]:
        size = flat_size(part)
        parts.append((key, slice(at, at + size), _flat_writer(part)))
        at += size

    def write(value: Any, vector: np.ndarray) -> None:
        for key, where, write_part in parts:
            write_part(_part(value, key), vector[where])

    return write


def _one_hot_writer(space: Description) -> Callable[[Any, np.ndarray], None]:
    counts, starts = np.array(_counts(space)), np.ravel(space["start"])
    shape = tuple(space.get("shape", ()))
    offsets = np.cumsum(counts) - counts - starts

    def write(value: Any, vector: np.ndarray) -> None:
        array = _array(value)
        if array.shape != shape:
            raise ValueError(f"the observation has shape {array.shape}, but its space says {shape}")
        indices = array.ravel()
        if array.dtype.kind not in "iu" or (indices < starts).any() or (indices >= starts + counts).any():
            raise ValueError(f"the observation {value!r} is outside its space {_words(space)}")
        vector[...] = 0.0
        vector[indices + offsets] = 1.0

    return write


def _words(space: Description) -> str:
    if space["kind"] == "Discrete":
        start = f", start={space['start']}" if space["start"] else ""
        return f"Discrete({space['n']}{start})"
    return f"{space['kind']}({space['counts']})"


def _part(value: Any, key: Any) -> Any:
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"the observation has no part {key!r}, which its space has") from None


def _batch_size(space: Description, value: Any) -> int | None:
    """How many observations a value is; None for one that is no batch."""
    if space["kind"] not in ("Dict", "Tuple"):
        array = value if isinstance(value, np.ndarray) else _array(value)
        return array.shape[0] if array.ndim == len(space.get("shape", ())) + 1 else None
    sizes = {_batch_size(part, _part(value, key)) for key, part in space["spaces"]}
    if len(sizes) > 1:
        raise ValueError("the parts of the observation are batches of different sizes")
    return sizes.pop() if sizes else None


def _one_of(space: Description, value: Any, i: int) -> Any:
    """Observation number i of a batch."""
    if space["kind"] not in ("Dict", "Tuple"):
        return value[i]
    return {key: _one_of(part, value[key], i) for key, part in space["spaces"]}


# Actions


class Actions:
    """What an environment is told.

    Parameters
    ----------
    space : gymnasium.Space or dict
        Discrete, MultiDiscrete, MultiBinary or a Box of floats, or what `describe` makes of it.

    Attributes
    ----------
    space : dict
    shape : tuple of int
        Of an action.
    counts : tuple of int
        How many numbers, from 0 on, each part of a discrete action has; none where actions are continuous.
    bounds : numpy.ndarray
        float32 (4, parts), see `action_bounds`; no parts where actions are discrete.

    Raises
    ------
    ValueError
        A space that cannot be used.
    """

    def __init__(self, space: Any) -> None:
        kinds = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
        wanted = "it must be Discrete, MultiDiscrete, MultiBinary or a Box of floats"
        try:
            self.space: Description = space if isinstance(space, dict) else describe(space)
        except ValueError:
            raise ValueError(f"the action space {space} cannot be used: {wanted}") from None
        kind = self.space["kind"]
        if kind not in kinds or (kind == "Box" and not self.space["dtype"].startswith("float")):
            raise ValueError(f"the action space {space} cannot be used: {wanted}")
        self.shape = tuple(self.space.get("shape", ()))
        if math.prod(self.shape) == 0:
            raise ValueError(f"an action of shape {self.shape} is empty")
        self.counts: tuple[int, ...] = ()
        self.bounds = np.zeros((4, 0), np.float32)
        if kind == "Box":
            self.bounds = action_bounds(*bounds_of(self.space))
        elif kind == "MultiBinary":
            self.counts = (2,) * math.prod(self.shape)
        else:
            self.counts = tuple(_counts(self.space))

    @classmethod
    def from_json(cls, stored: Any) -> "Actions":
        """What a file holds, a description; ValueError for damage."""
        check(stored)
        if stored["kind"] in ("Discrete", "MultiDiscrete"):
            counts = _counts(stored)
        else:
            counts = [math.prod(stored.get("shape", ()))]
        if sum(counts) > LARGEST:
            raise ValueError("its actions are too many")
        return cls(stored)

    @property
    def discrete(self) -> bool:
        """Whether they are numbers."""
        return bool(self.counts)

    @property
    def parts(self) -> int:
        """How many numbers an action has."""
        return len(self.counts) or self.bounds.shape[1]

    @property
    def outputs(self) -> int:
        """How many outputs a head has for them."""
        return sum(self.counts) or self.bounds.shape[1]

    @property
    def words(self) -> str:
        """What they are, for sentences."""
        return "continuous" if not self.counts else "discrete" if len(self.counts) == 1 else "several discrete"

    def __reduce__(self) -> tuple[Any, ...]:
        return Actions, (self.space,)

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.counts))} actions" if self.counts else f"actions of shape {self.shape}"

    @functools.cached_property
    def decode(self) -> Callable[[np.ndarray], Any]:
        """How an action's parts, int32 or float32 (parts,), become a value of the space: an int, or an array."""
        kind = self.space["kind"]
        if kind == "Discrete":
            start = self.space["start"]
            return lambda parts: int(parts[0]) + start
        shape, dtype = self.shape, np.dtype(self.space["dtype"])
        if kind != "Box":
            starts = np.reshape(self.space.get("start", np.zeros(shape, int)), shape)
            return lambda parts: (parts.reshape(shape) + starts).astype(dtype)
        low, high = bounds_of(self.space)
        # Of float64 the nearest float32 can be beyond a bound, and so can that of float16.
        return lambda parts: np.asarray(np.clip(parts.reshape(shape).astype(dtype), low, high))

    def encode(self, action: Any) -> np.ndarray:
        """The parts of a value of the space, int32 or float32 (parts,): what `decode` takes.

        Raises
        ------
        ValueError
            It has another number of parts, or one that is no number; or, of discrete ones, one that is none of its own.
            Continuous ones may be beyond their bounds, as in gymnasium.
        """
        parts, right = np.zeros(0), False
        with contextlib.suppress(TypeError, ValueError):
            parts = np.ravel(action)
            if parts.size == self.parts and self.discrete:
                parts = parts - np.ravel(self.space.get("start", 0))
                right = all(part in range(n) for part, n in zip(parts, self.counts, strict=True))
            elif parts.size == self.parts:
                right = bool((np.abs(parts.astype(np.float64)) <= LARGEST_FLOAT).all())
        if not right:
            raise ValueError(f"the action {action!r:.60} is none of these {self}: it must be one of the action space")
        return parts.astype(np.int32 if self.discrete else np.float32)

    def as_sample_mask(self, row: np.ndarray) -> Any:
        """A row of a mask in the form that gymnasium's `sample` of the space takes: what `mask` takes."""
        parts = tuple(part.astype(np.int8) for part in np.split(row, np.cumsum(self.counts)[:-1]))
        if self.space["kind"] == "MultiBinary":
            return np.array([2 if part.all() else part.argmax() for part in parts], np.int8).reshape(self.shape)
        return parts[0] if self.space["kind"] == "Discrete" else parts

    def mask(self, mask: Any, *, ended: bool = False) -> np.ndarray:
        """A mask for gymnasium's `sample` of the space as a row, uint8, one for each number that a part may be.

        Raises
        ------
        ValueError
            What is no such mask, or lets a part of the action have no number although no episode `ended`.
        """
        if not self.counts:
            raise ValueError("action_mask is given, but the actions are continuous: leave it out")
        try:
            if self.space["kind"] == "MultiBinary":  # 0 and 1 are what a part must be, 2 leaves it free
                rows = [np.array([part != 1, part != 0]) for part in np.asarray(mask).ravel()]
            elif self.space["kind"] == "Discrete":
                rows = [np.asarray(mask)]
            else:
                rows = [np.asarray(part) for part in mask]
            right = [row.shape for row in rows] == [(n,) for n in self.counts]
            right = right and all(np.isin(row, (0, 1)).all() for row in rows)
        except (TypeError, ValueError):
            right = False
        if not right:
            raise ValueError(
                f"the action mask {mask!r} is none for these {self}: it must be as for the action space's sample, "
                "with 1 for each number that is legal and 0 for the others"
            )
        if not ended and not all(row.any() for row in rows):
            raise ValueError(f"the action mask {mask!r} allows no action: at least one must be legal")
        return np.concatenate(rows).astype(np.uint8)

    def first(self, mask: np.ndarray | None = None) -> np.ndarray:
        """The parts of an action, int32 or float32 (parts,): of discrete ones the first legal, else the middle."""
        if not self.counts:
            return np.array(self.bounds[0])
        rows = np.split(np.ones(self.outputs) if mask is None else mask, np.cumsum(self.counts)[:-1])
        return np.array([np.argmax(row) for row in rows], np.int32)

    def masks(self, given: Any, observations: int, batch: bool) -> np.ndarray:
        """The masks of some observations, uint8 (observations, outputs); where none is given all actions are legal."""
        if given is None:
            return np.ones((observations, sum(self.counts)), np.uint8)
        if not batch:
            return self.mask(given)[None]
        masks = list(given) if isinstance(given, Iterable) else []
        if len(masks) != observations:
            raise ValueError(
                f"{len(masks)} action masks are given with {observations} observations: each must have one"
            )
        rows = [self.mask(mask) for mask in masks]
        return np.array(rows, np.uint8).reshape(observations, sum(self.counts))


def action_bounds(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What continuous actions are rescaled by, float32 (4, parts): centre and half of the range, low and high.

    -1 and 1 become a part's bounds if it has two; others stay.
    """
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (low, high))
    bounded = (np.abs(low) <= LARGEST_FLOAT) & (np.abs(high) <= LARGEST_FLOAT)
    from_, to = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    # What is beyond float32 is as good as unbounded.
    low, high = (np.where(np.abs(bound) > LARGEST_FLOAT, np.copysign(np.inf, bound), bound) for bound in (low, high))
    return np.stack([(from_ + to) / 2, (to - from_) / 2, low, high]).astype(np.float32)
