"""Named arrays in one crash-safe file, in the safetensors layout: no pickle, and nothing is trusted when read.

The layout: 8 bytes, the header's length as a little-endian integer; the header, a JSON object that gives each array its
dtype, shape and place; the arrays' bytes, little-endian, without gaps. The header's ``__metadata__`` maps text to text.
Our files keep a SHA-256 checksum of the rest of the header and of the data there.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

logger = logging.getLogger(__name__)

_DTYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_CHECKSUM = "sha256"
_METADATA = "__metadata__"
_LONGEST_HEADER = 1 << 22  # bytes: several hundred arrays, and spaces with a bound for every number


CHECKPOINTS, POLICY = "checkpoints", "policy.safetensors"  # in a run's directory


MAX_MESSAGE = 300  # characters: what a file holds may be long


def shortened(message: str) -> str:
    """A message that quotes a file, no longer than a person reads."""
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 4] + " ..."


class CheckpointError(ValueError):
    """A file of arrays cannot be read; the message is one sentence that says why."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


def write_tensors(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file, which appears whole or not at all.

    Parameters
    ----------
    path
        The file to make or to replace, in a directory that exists.
    arrays
        Arrays of any shape, of booleans, integers or floats of 16 to 64 bits.
    metadata
        Text by name; the name ``sha256`` is taken.

    Raises
    ------
    ValueError
        An array's name or dtype, or a piece of metadata, does not fit the layout.
    OSError
        The file cannot be written, or not made durable: the earlier file of this name or the new one stands, whole.
    """
    header, chunks = _encode(arrays, metadata)
    replace_file(path, [len(header).to_bytes(8, "little"), header, *chunks])


def read_tensors(source: str | os.PathLike | bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of a file, or of its bytes.

    The file's size is compared with what its header announces before any memory is taken for the data, and the
    checksum, where there is one (files of other programs have none), is compared with the data.

    Raises
    ------
    CheckpointError
        The file is absent, cut short, damaged, or not in this layout.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), len(source), "the policy given as bytes")
    name = os.fspath(source)
    try:
        with open(name, "rb") as file:
            return _decode(file, os.fstat(file.fileno()).st_size, name)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}") from error


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Return the metadata of a file alone, whose data are not read, nor its checksum compared; raises as above."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            header = _read_header(file, os.fstat(file.fileno()).st_size, name)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}") from error
    return header.get(_METADATA, {})


def checkpoint_path(directory: str | os.PathLike, steps: int) -> Path:
    """Return the file for the checkpoint after a number of steps.

    >>> checkpoint_path("checkpoints", 12345).name
    'step-000000012345.safetensors'
    """
    return Path(directory) / f"step-{steps:012d}.safetensors"


def newest(directory: str | os.PathLike) -> Path | None:
    """Return the newest readable checkpoint of a directory, or None; damaged ones are passed over with a warning."""
    for path in sorted(Path(directory).glob("step-*.safetensors"), reverse=True):
        try:
            read_tensors(path)
        except CheckpointError as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
        else:
            return path
    return None


def policy_file(source: str | os.PathLike | bytes) -> Path | bytes:
    """Where a policy is: a file as it is given, or a run's newest readable checkpoint, or its final policy.

    Raises
    ------
    CheckpointError
        The directory has neither.
    """
    if isinstance(source, bytes) or not os.path.isdir(source):
        return source if isinstance(source, bytes) else Path(source)
    run = Path(source)
    found = newest(run / CHECKPOINTS) or run / POLICY
    if not found.exists():
        raise CheckpointError(f"{run} has no readable checkpoint and no {POLICY}: it must be a run's directory")
    return found


def sweep(directory: str | os.PathLike) -> None:
    """Remove what writes that were cut short have left in a directory."""
    for path in Path(directory).glob(".*.tmp"):
        path.unlink(missing_ok=True)


def replace_file(path: str | os.PathLike, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file through a temporary one beside it: after a crash the old or the new one stands, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: str | os.PathLike) -> None:
    """Make the names in a directory durable: a new file may lose its name in a power cut, whatever it holds."""
    if os.name == "posix":  # elsewhere a directory cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[bytes, list[memoryview]]:
    """Return the header, padded to a multiple of 8 bytes, and the data of each array in its place."""
    if _CHECKSUM in metadata:
        raise ValueError(f"metadata holds the name {_CHECKSUM!r}, which is taken by the checksum")
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ValueError(f"metadata {key!r} is {text!r}: names and values must be text")
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    little = {}
    for name, array in arrays.items():
        dtype = np.asarray(array).dtype.newbyteorder("<")
        if not isinstance(name, str) or name == _METADATA:
            raise ValueError(f"an array cannot have the name {name!r}")
        if dtype not in _NAMES:
            raise ValueError(f"array {name!r} has the dtype {dtype}: it must be one of {', '.join(map(str, _NAMES))}")
        little[name] = np.asarray(array, dtype=dtype, order="C")
        header[name] = {"dtype": _NAMES[dtype], "shape": list(little[name].shape)}
    chunks = []
    end = 0
    for name in sorted(little, key=lambda name: -little[name].itemsize):  # aligned to their items
        begin, end = end, end + little[name].nbytes
        header[name]["data_offsets"] = [begin, end]
        chunks.append(little[name].reshape(-1).view(np.uint8).data)
    header[_METADATA][_CHECKSUM] = _checksum(header, chunks)
    encoded = json.dumps(header, ensure_ascii=False).encode()
    return encoded + b" " * (-len(encoded) % 8), chunks


def _checksum(header: Mapping[str, Any], chunks: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of a header (in one fixed spelling, without the checksum) and its data."""
    metadata = {key: text for key, text in header[_METADATA].items() if key != _CHECKSUM}
    digest = hashlib.sha256(json.dumps({**header, _METADATA: metadata}, sort_keys=True).encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _decode(file: BinaryIO, size: int, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    header = _read_header(file, size, name)
    length = file.tell() - 8
    metadata = header.get(_METADATA, {})
    entries = {key: entry for key, entry in header.items() if key != _METADATA}
    end = _check_places(entries, name)
    if end != size - 8 - length:
        raise CheckpointError(
            f"{name} is damaged: it has {size - 8 - length} bytes of data, its header announces {end}"
        )
    data = np.empty(end, np.uint8)  # which the arrays share
    if file.readinto(data) != end:  # type: ignore[attr-defined]
        raise CheckpointError(f"{name} is cut short: it became shorter while it was read")
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(header, [data.data]):
        raise CheckpointError(f"{name} is damaged: its checksum does not match its contents")
    arrays = {}
    for key, entry in entries.items():
        begin, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        part = data[begin:end]
        part = part if part.ctypes.data % dtype.alignment == 0 else part.copy()
        try:
            stored = part.view(dtype).reshape(entry["shape"])
            arrays[key] = stored.astype(dtype.newbyteorder("="), copy=False)
        except ValueError as error:
            raise CheckpointError(f"{name} is damaged: array {key!r} has an impossible shape") from error
    return arrays, {key: text for key, text in metadata.items() if key != _CHECKSUM}


def _read_header(file: BinaryIO, size: int, name: str) -> dict[str, Any]:
    """Return the header of a file of some size, and stand behind it."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise CheckpointError(
            f"{name} is cut short or is not a safetensors file: its {size} bytes cannot hold its header"
        )
    if length > _LONGEST_HEADER:
        raise CheckpointError(f"{name} has a header of {length:,} bytes: it must be at most {_LONGEST_HEADER:,}")
    return _header(file.read(length), name)


def _header(encoded: bytes, name: str) -> dict[str, Any]:
    """Return the header whose form (not yet whose sums) is right."""
    try:
        header = json.loads(encoded.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{name} is damaged or is not a safetensors file: its header is not valid JSON"
        ) from error
    if not isinstance(header, dict) or not isinstance(header.get(_METADATA, {}), dict):
        raise CheckpointError(f"{name} is damaged: its header is not a JSON object with an object of metadata")
    if not all(isinstance(text, str) for text in header.get(_METADATA, {}).values()):
        raise CheckpointError(f"{name} is damaged: its metadata holds something that is not text")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_places(entries: Mapping[str, Any], name: str) -> int:
    """Check that the arrays follow one another without gap or overlap; return where the last one ends."""
    places = []
    for key, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"{name} is damaged: array {key!r} needs a dtype, a shape and data offsets")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{name} holds array {key!r} of the unknown dtype {entry['dtype']!r}")
        if not _are_counts(entry["shape"]) or not _are_counts(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
            raise CheckpointError(f"{name} is damaged: array {key!r} has a shape or data offsets that are not counts")
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(entry["shape"]) * np.dtype(_DTYPES[entry["dtype"]]).itemsize:
            raise CheckpointError(f"{name} is damaged: array {key!r} does not fill its place")
        places.append((begin, end, key))
    expected = 0
    for begin, end, key in sorted(places):
        if begin != expected:
            raise CheckpointError(f"{name} is damaged: array {key!r} leaves a gap or overlaps another")
        expected = end
    return expected


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
