"""Check W&B's own file of an offline run, because W&B does not tell when it is torn.

On a full disk its service finishes a run as if all were well, and leaves a torn file. The format is
LevelDB's log: blocks of 32 KiB, in which a record has one part or several, each with a checksum.
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
    """How many rows a finished run has in this file; None where the file is torn."""
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
    """The bytes of each record; None, and then the end, at a part whose checksum does not match."""
    at, whole = len(_MAGIC), b""
    if not content.startswith(_MAGIC):
        yield None
        return
    while at < len(content):
        if (left := _BLOCK - at % _BLOCK) < _HEADER:
            at += left  # too little of a block for another part
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
