"""The store of tickets, by stage key and seed.

A ticket is one safetensors file; `ticket_file` describes its content. A file is whole or absent,
carries checksums and its own path, and is never overwritten: the first writer wins. Next to it are
the snapshots of its training (`<seed>@<moment>`) and, while it trains, its checkpoints. No file is
read with pickle, which could run code. Reading never changes a file: only the process that holds
the claim of a unit sets its damaged files aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import BaseFileLock
from torch import Tensor

from lt_sweeps.storage import checked_read, mask_bits, ticket_file
from lt_sweeps.storage.atomic_write import set_aside, write_whole
from lt_sweeps.storage.checked_read import DamagedFile, say_unused
from lt_sweeps.storage.locks import lock
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_facts import TicketFacts
from lt_sweeps.storage.ticket_file import LEARNED, MASK, OPTIMIZER, CorruptTicket
from lt_sweeps.storage.unit_costs import UnitCost, read_cost, write_costs


@dataclass(frozen=True)
class Store:
    """The tickets under `<root>/tickets`."""

    root: Path

    def path(self, key: str, seed: object, moment: int | str = "end") -> Path:
        return ticket_file.ticket_path(self.root, key, seed, moment)

    def has(self, key: str, seed: object, moment: int | str = "end") -> bool:
        return self.metadata(key, seed, moment) is not None

    def metadata(self, key: str, seed: object, moment: int | str = "end") -> dict[str, Any] | None:
        """Read the metadata of a stored ticket; None if it is absent, or corrupt (logged once).

        Raises: NewerFormat: a later version wrote the ticket.
        """
        try:
            return ticket_file.read_metadata(self.path(key, seed, moment))
        except FileNotFoundError:
            return None
        except CorruptTicket as error:
            say_unused(str(error))
            return None

    def facts(self, key: str, seed: object, moment: int | str = "end") -> TicketFacts | None:
        """Read the facts in the header of a stored ticket; None as in `metadata`."""
        metadata = self.metadata(key, seed, moment)
        return None if metadata is None else TicketFacts.of(metadata)

    def read(self, key: str, seed: object, moment: int | str = "end") -> Ticket:
        """Read one replicate's ticket.

        Raises:
            FileNotFoundError: the store has no such ticket.
            CorruptTicket: the file differs from what was written; it stays where it is.
            NewerFormat: a later version wrote the ticket.
        """
        metadata, content = ticket_file.read_content(self.path(key, seed, moment))
        return ticket_in(content, step=int(metadata["step"]))

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

    def write_costs(self, key: str, seeds: Sequence[object], cost: UnitCost) -> None:
        """Store the cost of units next to the tickets, whose bytes must not depend on the cost."""
        write_costs(self.path(key, "").parent, seeds, cost)

    def cost(self, key: str, seed: object) -> UnitCost:
        """Read the cost of a unit; its fields are None if it is absent or damaged."""
        return read_cost(self.path(key, seed).parent, seed)

    def write_notes(self, key: str, seed: object, notes: Sequence[str]) -> None:
        """Store what readers of a unit's result must know, next to its ticket."""
        write_whole(self._notes(key, seed), json.dumps(notes).encode(), first_wins=True)

    def notes(self, key: str, seed: object) -> list[str]:
        """Read what readers of a result must know; if the file is damaged, a note says so."""
        try:
            return checked_read.read_json(self._notes(key, seed), list[str])
        except FileNotFoundError:
            return []
        except DamagedFile as error:
            return [str(error)]

    def checkpoints(self, key: str, seed: object) -> list[int]:
        """Return the steps at which an unfinished training saved a checkpoint."""
        return ticket_file.checkpoint_steps(self.path(key, seed).parent, [seed])[str(seed)]

    def read_checkpoint(
        self, key: str, seed: object, step: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Raises: FileNotFoundError, CorruptTicket, NewerFormat: as `read`."""
        metadata, content = ticket_file.read_content(self._checkpoint(key, seed, step))
        return metadata, tensors_in(content)

    def set_aside_checkpoint(self, key: str, seed: object, step: int, reason: str) -> None:
        set_aside(self._checkpoint(key, seed, step), reason)

    def write_checkpoint(
        self,
        key: str,
        seed: object,
        step: int,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
    ) -> None:
        identity = {"stage": key, "seed": str(seed), "moment": f"partial-{step}", "step": step}
        blob = _pack(tensors, {**metadata, **identity}, entries=True)
        write_whole(self._checkpoint(key, seed, step), blob)

    def drop_checkpoints(self, key: str, *seeds: object, before: int | None = None) -> None:
        """Remove the checkpoints of these seeds of a stage, or only those `before` a step.

        The folder of the stage is listed once for all seeds.
        """
        for seed, steps in ticket_file.checkpoint_steps(self.path(key, "").parent, seeds).items():
            for step in steps:
                if before is None or step < before:
                    self._checkpoint(key, seed, step).unlink(missing_ok=True)

    def claim(self, key: str, seed: object) -> BaseFileLock | None:
        """Claim a unit, so that no other process computes it; None if another process has it."""
        return lock(self.path(key, seed).with_suffix(".lock"), wait=0)

    def sweep_up(self, key: str, seeds: Sequence[object]) -> None:
        """Remove the temporary files of a killed process, and set aside damaged checkpoints.

        The caller must hold the claims of these units. The folder of the stage is not listed for
        each seed.
        """
        folder = self.path(key, "").parent
        for seed, steps in ticket_file.checkpoint_steps(folder, seeds).items():
            for step in steps:
                try:
                    self.read_checkpoint(key, seed, step)
                except FileNotFoundError:
                    pass
                except DamagedFile as error:
                    self.set_aside_checkpoint(key, seed, step, error.reason)
        hidden = tuple(f".{seed}{mark}" for seed in seeds for mark in ".@")
        for name in os.listdir(folder):
            if name.startswith(hidden):
                (folder / name).unlink(missing_ok=True)

    def _notes(self, key: str, seed: object) -> Path:
        return self.path(key, seed).with_name(f"{seed}.notes.json")

    def _checkpoint(self, key: str, seed: object, step: int) -> Path:
        return self.path(key, seed).with_name(f"{seed}.partial-{step}.safetensors")


def _tensors(ticket: Ticket) -> dict[str, Tensor]:
    return {
        **{name: tensor[0] for name, tensor in ticket.state.items()},
        **{MASK + name: tensor[0] for name, tensor in ticket.mask.items()},
        **{OPTIMIZER + name: tensor[0] for name, tensor in ticket.optimizer.items()},
        **{LEARNED + name: tensor[0] for name, tensor in ticket.learned.items()},
    }


def _pack(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], *, entries: bool = False
) -> bytes:
    """Return the bytes of a safetensors file with checksums; equal content gives equal bytes.

    The library writes the metadata in random order, so the header is rewritten with sorted keys.

    Args:
        entries: add a checksum of the tensors' entries in the header. A ticket has none: its
            tensors are compared with those of its network, and its bytes must not change.
    """
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    masks = {name: t.numpy() for name, t in named.items() if name.startswith(MASK)}
    bits, shapes = mask_bits.packed(masks)
    named |= {name: torch.from_numpy(mask) for name, mask in bits.items()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    texts |= shapes
    blob = safetensors.torch.save(named)
    size = struct.unpack("<Q", blob[:8])[0]
    header, body = json.loads(blob[8 : 8 + size]), memoryview(blob)[8 + size :]
    header.pop("__metadata__", None)
    texts |= {"format": ticket_file.FORMAT, "body_sha256": hashlib.sha256(body).hexdigest()}
    texts |= {"entries_sha256": ticket_file.entries_checksum(header)} if entries else {}
    texts["metadata_sha256"] = ticket_file.metadata_checksum(texts)
    text = json.dumps({"__metadata__": texts, **header}, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def ticket_in(content: bytes, *, step: int) -> Ticket:
    """Return the ticket, one replicate, in the bytes of a file."""
    tensors = {name: tensor[None] for name, tensor in tensors_in(content).items()}
    named = ticket_file.split_by_prefix(tensors)
    return Ticket(named[""], named[MASK], step, named[OPTIMIZER], named[LEARNED])


def tensors_in(content: bytes) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a ticket, or of any safetensors file, with unpacked masks.

    They are in the order of their names; safetensors' own order differs from process to process.

    Raises: SafetensorError, ValueError: the bytes are not a safetensors file.
    """
    tensors = {name: torch.clone(t) for name, t in sorted(safetensors.torch.load(content).items())}
    size = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    if ticket_file.MASK_SHAPES not in metadata:
        return tensors
    masks = {name: t.numpy() for name, t in tensors.items() if name.startswith(MASK)}
    masks = mask_bits.unpacked(masks, metadata)
    return tensors | {name: torch.from_numpy(mask) for name, mask in masks.items()}
