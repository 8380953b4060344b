"""Reports as event files, which TensorBoard draws.

A file is a list of records: the length (uint64), its checksum, the data, its checksum (little-endian). The data are
protocol buffers, tensorboard/compat/proto/event.proto; their few fields are written here by hand.
"""

import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbrl.metrics import Report

VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types
WALL_TIME, STEP, FILE_VERSION, SUMMARY, SESSION_LOG = 1, 2, 3, 5, 7  # fields of an event
VALUE, TAG, SIMPLE_VALUE = 1, 1, 2  # of a summary, and of its values
MAX_FLOAT32 = 3.4e38
STATUS, START = 1, 1  # of a session log: what other files hold from this step on counts no more


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC = _crc_table()


def checksum(data: bytes) -> int:
    """The masked CRC-32C of TensorFlow's records."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _field(number: int, wire: int, value: bytes) -> bytes:
    return _varint(number << 3 | wire) + (_varint(len(value)) if wire == BYTES else b"") + value


class EventFile:
    """An event file of a run.

    Parameters
    ----------
    directory : path
        Where it is made, under a name that TensorBoard looks for.
    steps : int
        Agent steps that the run has behind it. TensorBoard forgets what older files say of later ones.
    """

    def __init__(self, directory: str | os.PathLike, steps: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(Path(directory, name), "xb")  # noqa: SIM115 - it stays open for the run
        self._write(_field(FILE_VERSION, BYTES, b"brain.Event:2"))
        self._write(
            _field(STEP, VARINT, _varint(steps + 1 if steps else 0))
            + _field(SESSION_LOG, BYTES, _field(STATUS, VARINT, _varint(START)))
        )

    def _write(self, event: bytes) -> None:
        event = _field(WALL_TIME, DOUBLE, struct.pack("<d", time.time())) + event
        length = struct.pack("<Q", len(event))
        parts = (length, struct.pack("<I", checksum(length)), event, struct.pack("<I", checksum(event)))
        self._file.write(b"".join(parts))
        self._file.flush()

    def append(self, report: "Report") -> None:
        """Add a report's numbers, each under its name."""
        values = [
            _field(TAG, BYTES, name.encode())
            + _field(SIMPLE_VALUE, FLOAT, struct.pack("<f", min(max(number, -MAX_FLOAT32), MAX_FLOAT32)))
            for name, number in report.to_dict().items()
            if number is not None
        ]
        summary = b"".join(_field(VALUE, BYTES, value) for value in values)
        self._write(_field(STEP, VARINT, _varint(report.steps)) + _field(SUMMARY, BYTES, summary))

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        self._file.close()
