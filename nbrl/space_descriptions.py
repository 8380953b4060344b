"""Spaces as JSON can hold them, so that a policy's file keeps them and a host needs no gymnasium. NumPy alone."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Description = Mapping[str, Any]


def describe(space: Any) -> dict[str, Any]:
    """A gymnasium space as JSON can hold it; bounds that are infinite are None. ValueError for an unsupported kind."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        shape, bounds = list(map(int, space.shape)), (_numbers(space.low), _numbers(space.high))
        return {"kind": "Box", "shape": shape, "dtype": space.dtype.name, "low": bounds[0], "high": bounds[1]}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        counts, start = space.nvec.ravel().tolist(), np.broadcast_to(space.start, space.nvec.shape).ravel().tolist()
        shape = list(map(int, space.shape))
        return {"kind": "MultiDiscrete", "shape": shape, "dtype": space.dtype.name, "counts": counts, "start": start}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(map(int, space.shape)), "dtype": space.dtype.name}
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": [[key, describe(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [[i, describe(part)] for i, part in enumerate(space.spaces)]}
    raise ValueError(f"space {type(space).__name__} cannot be used")


def gymnasium_space(description: Description) -> Any:
    """The gymnasium space that a description is of."""
    from gymnasium import spaces

    kind = description["kind"]
    if kind == "Box":
        low, high = bounds_of(description)
        return spaces.Box(low, high, dtype=np.dtype(description["dtype"]).type)
    if kind == "Discrete":
        return spaces.Discrete(description["n"], start=description["start"])
    if kind == "MultiDiscrete":
        shape, dtype = description["shape"], np.dtype(description["dtype"]).type
        counts, start = (np.reshape(description[name], shape) for name in ("counts", "start"))
        return spaces.MultiDiscrete(counts, dtype=dtype, start=start)
    if kind == "MultiBinary":
        shape = tuple(description["shape"])
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    parts = {key: gymnasium_space(part) for key, part in description["spaces"]}
    return spaces.Dict(parts) if kind == "Dict" else spaces.Tuple(parts.values())


def bounds_of(box: Description) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of a Box, of its shape and dtype."""
    shape, dtype = tuple(box["shape"]), np.dtype(box["dtype"])
    return (
        _bound(box["low"], -math.inf, shape).astype(dtype),
        _bound(box["high"], math.inf, shape).astype(dtype),
    )


def _numbers(bound: np.ndarray) -> Any:
    """A bound as one number if all are equal, else as a list."""
    numbers = [None if math.isinf(number) else number for number in bound.ravel().tolist()]
    return numbers[0] if numbers and numbers.count(numbers[0]) == len(numbers) else numbers


def _bound(numbers: Any, infinite: float, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(numbers, list):
        return np.array([infinite if number is None else number for number in numbers]).reshape(shape)
    return np.full(shape, infinite if numbers is None else numbers)


def check(description: Any) -> None:
    """Raise ``ValueError`` for what is no description: a file's may be anything."""
    if not isinstance(description, dict):
        raise ValueError(f"{description!r} describes no space")
    kind = description.get("kind")
    fields = {
        "Box": {"shape", "dtype", "low", "high"},
        "Discrete": {"n", "start"},
        "MultiDiscrete": {"shape", "dtype", "counts", "start"},
        "MultiBinary": {"shape", "dtype"},
        "Dict": {"spaces"},
        "Tuple": {"spaces"},
    }
    if not isinstance(kind, str) or kind not in fields or set(description) != fields[kind] | {"kind"}:
        raise ValueError(f"a space of the kind {kind!r} with the fields {sorted(map(str, description))} cannot be")
    if "shape" in description and not _is_shape(description["shape"]):
        raise ValueError(f"a space cannot have the shape {description['shape']!r}")
    if "dtype" in description and description["dtype"] not in _DTYPES:
        raise ValueError(f"a space cannot have the dtype {description['dtype']!r}")
    if kind == "Box":
        size = math.prod(description["shape"])
        for name in ("low", "high"):
            bound = description[name]
            numbers = bound if isinstance(bound, list) else [bound]
            known = all(number is None or type(number) in (int, float, bool) for number in numbers)
            if not known or not all(number is None or math.isfinite(number) for number in numbers):
                raise ValueError(f"a Box cannot have the bound {bound!r}")
            if isinstance(bound, list) and len(bound) != size:
                raise ValueError(f"a Box of {size} numbers cannot have {len(bound)} bounds")
        _check_bounds(description)
    elif kind == "Discrete":
        _check_counts([description["n"]], [description["start"]], 1)
    elif kind == "MultiDiscrete":
        size = math.prod(description["shape"])
        _check_counts(description["counts"], description["start"], size, description["dtype"])
    elif kind in ("Dict", "Tuple"):
        parts = description["spaces"]
        if not isinstance(parts, list) or not all(isinstance(part, list) and len(part) == 2 for part in parts):
            raise ValueError(f"the spaces of a {kind} must be pairs of a key and a space")
        if not all(isinstance(key, str | int) for key, _ in parts):
            raise ValueError(f"the keys of a {kind} must be text or whole numbers")
        for _, part in parts:
            check(part)


def _check_bounds(description: dict[str, Any]) -> None:
    """Raise ``ValueError`` for bounds of a Box that are not in order, or that its dtype cannot hold."""
    low, high = (
        _bound(bound, infinite, (len(bound),) if isinstance(bound, list) else ()).astype(np.float64)
        for bound, infinite in ((description["low"], -np.inf), (description["high"], np.inf))
    )
    dtype = np.dtype(description["dtype"])
    least, most = (0, 1) if dtype.kind == "b" else (-np.inf, np.inf)
    if dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    held = (low >= least).all() and (high <= most).all() and not (low > high).any()
    if dtype.kind == "f":
        finite = np.concatenate([low[np.isfinite(low)], high[np.isfinite(high)]])
        held = held and bool((np.abs(finite) <= np.finfo(dtype).max).all())
    if not held:
        raise ValueError(
            f"a Box of {dtype} cannot have the bounds {description['low']!r:.40}, {description['high']!r:.40}"
        )


_DTYPES = frozenset(
    (
        "bool",
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        "float16",
        "float32",
        "float64",
    )
)


def _is_shape(shape: Any) -> bool:
    """Whether a file's value is a shape of something that is not empty."""
    return isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)


def _check_counts(counts: Any, start: Any, parts: int, dtype: str = "int64") -> None:
    whole = all(isinstance(numbers, list) and all(type(n) is int for n in numbers) for numbers in (counts, start))
    if not whole or len(counts) != parts or len(start) != parts or min(counts, default=0) < 1:
        raise ValueError(
            f"a discrete space of {parts} parts cannot have the counts {counts!r:.60} from {start!r:.60} on"
        )
    held = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.iinfo("int64")
    if any(first < held.min or first + n - 1 > held.max for first, n in zip(start, counts, strict=True)):
        raise ValueError(f"numbers from {start!r:.60} on are beyond {dtype}")
