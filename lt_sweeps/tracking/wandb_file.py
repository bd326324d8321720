"""Check W&B's file of an offline run, because W&B does not report a torn file.

On a full disk W&B's service finishes a run without an error and leaves a torn file. The file has
the format of LevelDB's log: blocks of 32 KiB, in which a record consists of one or several parts,
each with a checksum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b":W&B\xe1\xbe\x00"
_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def finished_rows(file: Path) -> int | None:
    """The number of rows of a finished run in this file; None if the file is torn or unfinished."""
    from wandb.proto import wandb_internal_pb2 as protobuf

    count, finished = 0, False
    for part in _records(file.read_bytes()):
        if part is None:
            return None
        record = protobuf.Record()  # pyright: ignore[reportAttributeAccessIssue]
        record.ParseFromString(part)
        count += record.WhichOneof("record_type") == "history"
        finished |= record.WhichOneof("record_type") == "exit"
    return count if finished else None


def _records(content: bytes) -> Iterator[bytes | None]:
    """Yield the bytes of each record; at a part with a wrong checksum yield None and stop."""
    at, whole = len(_MAGIC), b""
    if not content.startswith(_MAGIC):
        yield None
        return
    while at < len(content):
        if (left := _BLOCK - at % _BLOCK) < _HEADER:
            at += left  # the rest of a block is too short for a part
            continue
        checksum, size, kind = struct.unpack("<IHB", content[at : at + _HEADER].ljust(_HEADER))
        part = content[at + _HEADER : at + _HEADER + size]
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            yield None
            return
        at += _HEADER + size
        whole = part if kind in (_FULL, _FIRST) else whole + part
        if kind in (_FULL, _LAST):
            yield whole
