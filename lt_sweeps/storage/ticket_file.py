"""The file of a ticket as bytes, checked without torch: one reader for the store and for reports.

A ticket is one safetensors file: weights and buffers under their `state_dict` names, masks under
`mask/<name>`, a learned mask's logits under `learned/<name>`, optimizer state under
`optimizer/<name>`. Its metadata say what it is and hold two checksums, of the tensors and of the
metadata itself, so that a file which was cut short or changed is never believed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

FORMAT = "lt_sweeps.ticket/1"
MASK, OPTIMIZER, LEARNED = "mask/", "optimizer/", "learned/"
"""How the names of the tensors begin that are no weights or buffers."""

T = TypeVar("T")


class CorruptTicket(Exception):
    """A stored file that does not hold what was written."""


def ticket_path(root: Path, key: str, seed: object, moment: int | str = "end") -> Path:
    """Where the ticket of a stage and a seed lies, at its end or at a moment of its training."""
    suffix = "" if moment == "end" else f"@{moment}"
    return root / "tickets" / key / f"{seed}{suffix}.safetensors"


def identity_in_path(path: Path) -> dict[str, str]:
    """The stage, seed and moment by which a ticket's file is found."""
    seed, _, moment = path.stem.partition("@")
    return {"stage": path.parent.name, "seed": seed, "moment": moment or "end"}


def misplaced(path: Path, metadata: Mapping[str, Any]) -> str:
    """What a ticket says of itself that its path does not; nothing where they agree."""
    named = identity_in_path(path)
    wrong = [
        f"{name} {metadata.get(name)!r}" for name in named if named[name] != metadata.get(name)
    ]
    return f"its header says {', '.join(wrong)}; its path says otherwise" if wrong else ""


def split_by_prefix(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The tensors of a file by prefix (`""` for weights and buffers), under their plain names."""
    groups: dict[str, dict[str, T]] = {"": {}, MASK: {}, OPTIMIZER: {}, LEARNED: {}}
    for name, tensor in tensors.items():
        prefix = next((p for p in groups if p and name.startswith(p)), "")
        groups[prefix][name.removeprefix(prefix)] = tensor
    return groups


def metadata_checksum(metadata: Mapping[str, str]) -> str:
    content = {name: value for name, value in metadata.items() if name != "metadata_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_metadata(path: Path) -> dict[str, Any]:
    """The checked metadata of a ticket, from the head of its file alone.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptTicket: cut short, or changed.
    """
    with path.open("rb") as file:
        head = file.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        actual = path.stat().st_size
        if not 0 < size <= actual - 8:
            raise CorruptTicket("cut short")
        try:
            header = json.loads(file.read(size))
            metadata = header.pop("__metadata__")
            expected = 8 + size + max([t["data_offsets"][1] for t in header.values()], default=0)
            known = metadata["format"] == FORMAT
            intact = metadata["metadata_sha256"] == metadata_checksum(metadata)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptTicket("its header is unreadable") from None
    if not known:
        raise CorruptTicket(f"its format is {metadata['format']}; this version reads {FORMAT}")
    if actual != expected:
        raise CorruptTicket(f"{actual} bytes where {expected} were written")
    if not intact:
        raise CorruptTicket("its metadata does not match its checksum")
    return metadata


def read_content(path: Path) -> tuple[dict[str, Any], bytes]:
    """The checked metadata of a ticket, and its whole file with checked tensors.

    Raises: FileNotFoundError, CorruptTicket: as `read_metadata`.
    """
    metadata = read_metadata(path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    if hashlib.sha256(memoryview(content)[8 + size :]).hexdigest() != metadata["body_sha256"]:
        raise CorruptTicket("its tensors do not match their checksum")
    return metadata, content
