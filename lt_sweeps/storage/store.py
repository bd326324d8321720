"""The store of tickets, by stage key and seed.

A ticket is one safetensors file; `ticket_file` describes its content. A file is whole or absent,
carries checksums, and is never overwritten: the first writer wins. Beside it lie the snapshots of
its training (`<seed>@<moment>`) and, while it trains, its checkpoints. No file is read with pickle,
which could run code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout
from torch import Tensor

from lt_sweeps.storage import ticket_file
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_file import LEARNED, MASK, OPTIMIZER, CorruptTicket

_LEASE = 60.0  # seconds after which the claim of a dead process expires, without file locks
_log = logging.getLogger("lt_sweeps")


@dataclass(frozen=True)
class Store:
    """The tickets under `<root>/tickets`."""

    root: Path

    def path(self, key: str, seed: object, moment: int | str = "end") -> Path:
        return ticket_file.ticket_path(self.root, key, seed, moment)

    def has(self, key: str, seed: object, moment: int | str = "end") -> bool:
        return self.metadata(key, seed, moment) is not None

    def metadata(self, key: str, seed: object, moment: int | str = "end") -> dict[str, Any] | None:
        """The metadata of a stored ticket; None if it is absent, or corrupt and now set aside."""
        path = self.path(key, seed, moment)
        try:
            return ticket_file.read_metadata(path)
        except FileNotFoundError:
            return None
        except CorruptTicket as error:
            set_aside(path, str(error))
            return None

    def read(self, key: str, seed: object, moment: int | str = "end") -> Ticket:
        """The stored ticket, one replicate.

        Raises:
            CorruptTicket: its checksum does not match. The file is set aside, so the ticket is
                computed again.
        """
        path = self.path(key, seed, moment)
        try:
            metadata, tensors = _read(path)
        except CorruptTicket as error:
            set_aside(path, str(error))
            raise
        return _ticket(tensors, step=int(metadata["step"]))

    def write(
        self,
        key: str,
        seed: object,
        ticket: Ticket,
        metadata: Mapping[str, Any],
        moment: int | str = "end",
    ) -> None:
        """Store a ticket of one replicate, unless it is stored already."""
        identity = {"stage": key, "seed": str(seed), "moment": str(moment), "step": ticket.step}
        blob = _pack(_tensors(ticket), {**metadata, **identity})
        write_whole(self.path(key, seed, moment), blob, first_wins=True)

    def write_cost(self, key: str, seed: object, cost: Mapping[str, Any]) -> None:
        """Store what a unit cost, beside the ticket, whose bytes must not depend on the cost."""
        write_whole(self._cost(key, seed), json.dumps(cost).encode(), first_wins=True)

    def cost(self, key: str, seed: object) -> dict[str, Any]:
        try:
            return json.loads(self._cost(key, seed).read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            set_aside(self._cost(key, seed), "unreadable")
            return {}

    def write_notes(self, key: str, seed: object, notes: Sequence[str]) -> None:
        """Store what a reader of a unit's result must know, beside its ticket."""
        write_whole(self._notes(key, seed), json.dumps(notes).encode(), first_wins=True)

    def notes(self, key: str, seed: object) -> list[str]:
        try:
            return json.loads(self._notes(key, seed).read_text())
        except FileNotFoundError:
            return []
        except ValueError:
            set_aside(self._notes(key, seed), "unreadable")
            return []

    def checkpoints(self, key: str, seed: object) -> list[int]:
        """The steps at which a checkpoint of an unfinished training was saved."""
        folder = self.path(key, seed).parent
        paths = folder.glob(f"{seed}.partial-*.safetensors")
        return sorted(int(path.stem.rpartition("-")[2]) for path in paths)

    def read_checkpoint(
        self, key: str, seed: object, step: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        path = self._checkpoint(key, seed, step)
        try:
            return _read(path)
        except CorruptTicket as error:
            set_aside(path, str(error))
            raise

    def write_checkpoint(
        self,
        key: str,
        seed: object,
        step: int,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
    ) -> None:
        blob = _pack(tensors, {**metadata, "step": step})
        write_whole(self._checkpoint(key, seed, step), blob)

    def drop_checkpoints(self, key: str, seed: object, *, before: int | None = None) -> None:
        for step in self.checkpoints(key, seed):
            if before is None or step < before:
                self._checkpoint(key, seed, step).unlink(missing_ok=True)

    def claim(self, key: str, seed: object) -> BaseFileLock | None:
        """Claim a unit, so that no other process computes it; None if another process has it.

        The claim is a file lock. The kernel frees it when the process dies, however it dies; the
        server of a network file system frees it when the node dies. A file system without locks
        gets a lease instead, which its holder renews: it expires a minute after the holder dies.
        """
        path = self.path(key, seed).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _acquired(FileLock(path, fallback_to_soft=False))
        except NotImplementedError:
            return _acquired(SoftFileLease(path.with_suffix(".lease"), lease_duration=_LEASE))

    def sweep_up(self, key: str, seed: object) -> None:
        """Remove the temporary files of a killed process; the caller holds the claim."""
        folder = self.path(key, seed).parent
        for pattern in (f".{seed}.*", f".{seed}@*"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _cost(self, key: str, seed: object) -> Path:
        return self.root / "tickets" / key / f"{seed}.cost.json"

    def _notes(self, key: str, seed: object) -> Path:
        return self.root / "tickets" / key / f"{seed}.notes.json"

    def _checkpoint(self, key: str, seed: object, step: int) -> Path:
        return self.path(key, seed).parent / f"{seed}.partial-{step}.safetensors"


def _acquired(lock: BaseFileLock) -> BaseFileLock | None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def set_aside(path: Path, reason: str) -> None:
    """Rename a corrupt file, so that it is not used again, and log a warning."""
    number = len(list(path.parent.glob(f"{path.name}.corrupt-*")))
    aside = path.with_name(f"{path.name}.corrupt-{number}")
    path.replace(aside)
    _log.warning("%s: %s; set aside as %s and computed again", path, reason, aside.name)


def _tensors(ticket: Ticket) -> dict[str, Tensor]:
    return {
        **{name: tensor[0] for name, tensor in ticket.state.items()},
        **{MASK + name: tensor[0] for name, tensor in ticket.mask.items()},
        **{OPTIMIZER + name: tensor[0] for name, tensor in ticket.optimizer.items()},
        **{LEARNED + name: tensor[0] for name, tensor in ticket.learned.items()},
    }


def _ticket(tensors: Mapping[str, Tensor], *, step: int) -> Ticket:
    named = ticket_file.split_by_prefix({name: tensor[None] for name, tensor in tensors.items()})
    return Ticket(named[""], named[MASK], step, named[OPTIMIZER], named[LEARNED])


def _pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file with two checksums; equal content gives equal bytes.

    The library writes the metadata in random order, so the header is rewritten with sorted keys.
    """
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    blob = safetensors.torch.save(named)
    size = struct.unpack("<Q", blob[:8])[0]
    header, body = json.loads(blob[8 : 8 + size]), memoryview(blob)[8 + size :]
    texts |= {"format": ticket_file.FORMAT, "body_sha256": hashlib.sha256(body).hexdigest()}
    texts["metadata_sha256"] = ticket_file.metadata_checksum(texts)
    text = json.dumps({"__metadata__": texts, **header}, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metadata, content = ticket_file.read_content(path)
    return metadata, {name: torch.clone(t) for name, t in safetensors.torch.load(content).items()}
