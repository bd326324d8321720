"""Read and check the bytes of a ticket's file without torch, for the store and for reports.

A ticket is one safetensors file: weights and buffers under their `state_dict` names, masks as bits
under `mask/<name>` (`mask_bits` says how), a learned mask's logits under `learned/<name>`,
optimizer state under `optimizer/<name>`. Its metadata describe it and hold two checksums, of the
tensors and of the metadata itself, so that a file that was cut short or changed is refused. The
metadata also name the path, so that a file that was moved or copied is refused too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lt_sweeps.config.yaml_types import fits
from lt_sweeps.storage.checked_read import (
    DamagedFile,
    check_format,
    parse_json,
    read_file,
    shortened,
    typed,
)
from lt_sweeps.storage.ticket_facts import TicketFacts
from lt_sweeps.storage.unit_costs import read_cost

FORMAT = "lt_sweeps.ticket/2"
MASK, OPTIMIZER, LEARNED = "mask/", "optimizer/", "learned/"
"""Prefixes of the names of tensors other than weights and buffers."""

MASK_SHAPES = "mask_shapes"
"""The key in the metadata that holds the shapes of masks that are stored as bits."""

OTHER_PATH = "; its path says otherwise"
"""The end of the reason why an intact ticket is not the ticket of its path."""

CHECKPOINT = re.compile(r"(.*)\.partial-(\d{1,18})\.safetensors")
"""The name of a checkpoint: its seed and its step."""

T = TypeVar("T")


class CorruptTicket(DamagedFile):
    """A stored ticket or checkpoint that does not hold what was written."""


def ticket_path(root: Path, key: str, seed: object, moment: int | str = "end") -> Path:
    """Return the path of a stage and seed's ticket, at its end or at a moment of its training."""
    suffix = "" if moment == "end" else f"@{moment}"
    return root / "tickets" / key / f"{seed}{suffix}.safetensors"


def checkpoint_steps(folder: Path, seeds: Sequence[object]) -> dict[str, list[int]]:
    """Return the steps of the checkpoints of these seeds, in the folder of their stage."""
    steps: dict[str, list[int]] = {str(seed): [] for seed in seeds}
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return steps
    for name in names:
        matched = CHECKPOINT.fullmatch(name)
        if matched and matched[1] in steps:
            steps[matched[1]].append(int(matched[2]))
    return {seed: sorted(seed_steps) for seed, seed_steps in steps.items()}


def identity_in_path(path: Path) -> dict[str, str]:
    """Return the stage, seed and moment that the path of a ticket names."""
    seed, _, moment = path.name.removesuffix(".safetensors").partition("@")
    seed, _, step = seed.partition(".partial-")
    moment = f"partial-{step}" if step else moment or "end"
    return {"stage": path.absolute().parent.name, "seed": seed, "moment": moment}


def misplaced(path: Path, metadata: Mapping[str, Any]) -> str:
    """Say how a ticket's metadata contradict its path; empty if they agree."""
    named = identity_in_path(path)
    wrong = [f"{n} {metadata.get(n)!r}" for n in named if named[n] != metadata.get(n)]
    return f"its header says {', '.join(wrong)}{OTHER_PATH}" if wrong else ""


def split_by_prefix(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Group a file's tensors by prefix (`""` for weights and buffers), under their plain names."""
    groups: dict[str, dict[str, T]] = {"": {}, MASK: {}, OPTIMIZER: {}, LEARNED: {}}
    for name, tensor in tensors.items():
        prefix = next((p for p in groups if p and name.startswith(p)), "")
        groups[prefix][name.removeprefix(prefix)] = tensor
    return groups


def mask_shapes(metadata: Mapping[str, str]) -> Mapping[str, Sequence[int]]:
    """Return the shape of each mask that is stored as bits.

    Raises: ValueError: the metadata hold no valid shapes.
    """
    shapes = typed(Mapping[str, Sequence[int]], parse_json(metadata.get(MASK_SHAPES, "{}")))
    if any(size < 0 for shape in shapes.values() for size in shape):
        raise ValueError(f"{MASK_SHAPES}: a size below 0")
    return shapes


def metadata_checksum(metadata: Mapping[str, str]) -> str:
    content = {name: value for name, value in metadata.items() if name != "metadata_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def entries_checksum(tensors: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()


def read_metadata(path: Path) -> dict[str, Any]:
    """Read and check the metadata of a ticket, from the head of its file only.

    Raises:
        FileNotFoundError: the file does not exist.
        CorruptTicket: the file was cut short or changed, or it is the ticket of another path.
        NewerFormat: a later version wrote the file.
    """
    return _head(path)[0]


def read_content(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a ticket's file: return its metadata and all its bytes, both checked.

    Raises: FileNotFoundError, CorruptTicket, NewerFormat: as `read_metadata`.
    """
    metadata, tensors, start = _head(path)
    content = _or_corrupt(path, lambda: read_file(path))
    body = memoryview(content)[start:]
    if hashlib.sha256(body).hexdigest() != metadata["body_sha256"]:
        raise CorruptTicket(path, "its tensors do not match their checksum")
    if fault := _miscounted(metadata, tensors, body):
        raise CorruptTicket(path, fault)
    return metadata, content


def _head(path: Path) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]], int]:
    """Return the metadata, the header's entry of each tensor, and the offset of the tensors."""
    head = _or_corrupt(path, lambda: read_file(path, 8))
    size, actual = struct.unpack("<Q", head)[0] if len(head) == 8 else 0, os.stat(path).st_size
    if not 0 < size <= actual - 8:
        raise CorruptTicket(path, "cut short")
    try:
        header = parse_json(read_file(path, 8 + size)[8:])
        metadata = typed(Mapping[str, str], header.pop("__metadata__"))
        tensors = typed(Mapping[str, Mapping[str, Any]], header)
        ends = [typed(tuple[int, int], entry["data_offsets"])[1] for entry in tensors.values()]
        stated = metadata["format"]
    except (ValueError, KeyError, AttributeError):
        raise CorruptTicket(path, "its header is unreadable") from None
    by = _written_by(path) if stated != FORMAT else ""
    _or_corrupt(path, lambda: check_format(path, stated, FORMAT, by=by))
    expected = 8 + size + max(ends, default=0)
    fault = f"{actual} bytes where {expected} were written" if actual != expected else ""
    if fault := fault or _head_fault(path, metadata, tensors):
        raise CorruptTicket(path, fault)
    return metadata, tensors, 8 + size


def _head_fault(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Mapping[str, Any]]
) -> str:
    """Say what is wrong with a ticket's metadata or with its tensors' entries; empty if nothing."""
    if metadata.get("metadata_sha256") != metadata_checksum(metadata):
        return "its metadata does not match its checksum"
    if metadata.get("entries_sha256") not in (None, entries_checksum(tensors)):
        return "the entries of its tensors do not match their checksum"
    if fault := misplaced(path, metadata) or _disordered(tensors):
        return fault
    try:
        TicketFacts.of(metadata)
        shapes = mask_shapes(metadata)
    except ValueError as error:
        return str(error)
    if unlike := shapes.keys() ^ split_by_prefix(tensors)[MASK].keys():
        return f"its mask of {min(unlike)} has no shape or no bits"
    for name, shape in shapes.items():
        entry = tensors[MASK + name]
        if (entry.get("dtype"), entry.get("shape")) != ("U8", [-(-math.prod(shape) // 8)]):
            return f"its mask of {name} is of another size than its header says"
    return ""


def _or_corrupt(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except DamagedFile as error:
        raise CorruptTicket(path, error.reason) from None


def _written_by(path: Path) -> str:
    """Return the version of the code that computed a ticket, from the costs stored next to it."""
    try:
        return read_cost(path.parent, identity_in_path(path)["seed"]).code_version or ""
    except OSError:
        return ""


# Bytes per number, for each type in a safetensors file.
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}


def _disordered(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """Say if tensors are not in the order they are written: by name within a type, without gaps.

    No checksum covers their entries in a ticket's header, so two layers of one shape could be
    swapped.
    """
    end, before = 0, {}
    for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        (first, last), kind, shape = entry["data_offsets"], entry.get("dtype"), entry.get("shape")
        size = _BYTES.get(kind, 0) if isinstance(kind, str) else 0
        counts = fits(shape, list[int]) and all(count >= 0 for count in shape or ())
        if not size or not counts or last - first != size * math.prod(shape or ()):
            return f"its header has an impossible type, shape or place of {shortened(name)}"
        if first != end or name < before.get(kind, ""):
            return "its tensors are not in the order in which they were written"
        end, before[kind] = last, name
    return ""


def _miscounted(
    metadata: Mapping[str, str], tensors: Mapping[str, Mapping[str, Any]], body: memoryview
) -> str:
    """Say how the masks of a ticket differ from the counts in its header; empty if they agree."""
    left = json.loads(metadata.get("layers_remaining", "{}"))  # checked with the other facts
    groups = split_by_prefix(tensors)
    if groups[LEARNED] or not groups[MASK]:  # a mask in training keeps all; a score has no mask
        return ""
    shapes = mask_shapes(metadata)
    for name, entry in groups[MASK].items():
        first, last = entry["data_offsets"]
        bits, beyond = int.from_bytes(body[first:last], "big"), 8 * (last - first)
        beyond -= math.prod(shapes[name])
        kept = bits.bit_count()
        if bits & ((1 << beyond) - 1):
            return f"its mask of {name} has bits beyond its last weight"
        if left and kept != left.get(name):
            return f"its mask of {name} keeps {kept} weights; its header says {left.get(name)}"
    return ""
