"""Read W&B's own offline files back, without a server: a log of LevelDB records of protobuf."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protobuf

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Every run under `folder` by id; what several files say of one run, in their order."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        new = read(path)
        run = found.setdefault(new["id"], {**new, "rows": [], "files": 0})
        run["rows"] += new["rows"]
        run["files"] += 1
        run |= {name: new[name] for name in ("summary", "exit")}
    return found


def read(path: Path) -> dict[str, Any]:
    """One file: who the run is, and what was logged."""
    run: dict[str, Any] = {"rows": [], "axes": {}, "summary": {}, "artifacts": [], "exit": None}
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            about = record.run
            run |= {"id": about.run_id, "name": about.display_name, "group": about.run_group}
            run |= {"job_type": about.job_type, "tags": list(about.tags)}
            run |= {"config": _values(about.config.update), "project": about.project}
        elif kind == "history":
            run["rows"].append(_values(record.history.item))
        elif kind == "metric":
            name = record.metric.glob_name or record.metric.name
            run["axes"][name] = record.metric.step_metric
        elif kind == "artifact":
            run["artifacts"].append(record.artifact.name)
        elif kind == "summary":
            run["summary"] |= _values(record.summary.update)
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
    return run


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(path: Path) -> Iterator[Any]:
    content = path.read_bytes()
    assert struct.unpack("<4sHB", content[:_HEADER]) == (b":W&B", 0xBEE1, 0)
    at, whole = _HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        checksum, size, kind = struct.unpack("<IHB", content[at : at + _HEADER])
        part = content[at + _HEADER : at + _HEADER + size]
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF == checksum, path
        at += _HEADER + size
        whole = part if kind in (_FULL, _FIRST) else whole + part
        if kind in (_FULL, _LAST):
            record = protobuf.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(whole)
            yield record
