"""The store: tickets by (stage key, seed), whole or absent, first writer wins, checksummed.

A ticket is one safetensors file: weights and buffers under their `state_dict` names, masks under
`mask/<name>`, a learned mask's logits under `learned/<name>`, what it is in the metadata. Beside it
lie the snapshots of its training (`<seed>@<moment>`) and, while it trains, its checkpoints. There
is no pickle on any read path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout
from torch import Tensor

from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.ticket import Ticket

FORMAT = "lt_sweeps.storage.ticket/1"
_MASK, _OPTIMIZER, _LEARNED = "mask/", "optimizer/", "learned/"
_LEASE = 60.0  # seconds
_log = logging.getLogger("lt_sweeps")


class CorruptTicket(Exception):
    """A stored file that does not hold what was written; it has been set aside."""


@dataclass(frozen=True)
class Store:
    """The tickets under `<root>/tickets`."""

    root: Path

    def path(self, key: str, seed: object, moment: int | str = "end") -> Path:
        suffix = "" if moment == "end" else f"@{moment}"
        return self.root / "tickets" / key / f"{seed}{suffix}.safetensors"

    def has(self, key: str, seed: object, moment: int | str = "end") -> bool:
        return self.metadata(key, seed, moment) is not None

    def metadata(self, key: str, seed: object, moment: int | str = "end") -> dict[str, Any] | None:
        """What a stored ticket says of itself, or None: absent, or set aside as corrupt."""
        path = self.path(key, seed, moment)
        try:
            return _metadata(path)
        except FileNotFoundError:
            return None
        except CorruptTicket as error:
            set_aside(path, str(error))
            return None

    def read(self, key: str, seed: object, moment: int | str = "end") -> Ticket:
        """The stored ticket, one replicate.

        Raises:
            CorruptTicket: its checksum does not match; it is set aside, to be computed again.
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
        """Store a ticket of one replicate, unless it is there already."""
        about = {"stage": key, "seed": str(seed), "moment": str(moment), "step": ticket.step}
        blob = _pack(_tensors(ticket), {**metadata, **about})
        write_whole(self.path(key, seed, moment), blob, first_wins=True)

    def write_cost(self, key: str, seed: object, cost: Mapping[str, Any]) -> None:
        """What computing a unit took: beside the ticket, whose bytes must not depend on it."""
        write_whole(self._cost(key, seed), json.dumps(cost).encode(), first_wins=True)

    def cost(self, key: str, seed: object) -> dict[str, Any]:
        try:
            return json.loads(self._cost(key, seed).read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            set_aside(self._cost(key, seed), "unreadable")
            return {}

    def checkpoints(self, key: str, seed: object) -> list[int]:
        """The steps at which a partial training was saved."""
        folder = self.path(key, seed).parent
        found = folder.glob(f"{seed}.partial-*.safetensors")
        return sorted(int(path.stem.rpartition("-")[2]) for path in found)

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
        """The right to compute a unit, or None while another process has it.

        The kernel frees it when the process dies, however it dies, and a network file system's
        server when the node does. Where a file system has no locks a lease stands in, which its
        holder renews: a dead holder's is free a minute later.
        """
        path = self.path(key, seed).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _taken(FileLock(path, fallback_to_soft=False))
        except NotImplementedError:
            return _taken(SoftFileLease(path.with_suffix(".lease"), lease_duration=_LEASE))

    def sweep_up(self, key: str, seed: object) -> None:
        """Remove what a killed process left of files that it was writing; the claim is held."""
        folder = self.path(key, seed).parent
        for pattern in (f".{seed}.*", f".{seed}@*"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _cost(self, key: str, seed: object) -> Path:
        return self.root / "tickets" / key / f"{seed}.cost.json"

    def _checkpoint(self, key: str, seed: object, step: int) -> Path:
        return self.path(key, seed).parent / f"{seed}.partial-{step}.safetensors"


def _taken(lock: BaseFileLock) -> BaseFileLock | None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def set_aside(path: Path, reason: str) -> None:
    """Rename a corrupt file so that nothing uses it, and say so."""
    number = len(list(path.parent.glob(f"{path.name}.corrupt-*")))
    aside = path.with_name(f"{path.name}.corrupt-{number}")
    path.replace(aside)
    _log.warning("%s: %s; set aside as %s and computed again", path, reason, aside.name)


def _tensors(ticket: Ticket) -> dict[str, Tensor]:
    return {
        **{name: tensor[0] for name, tensor in ticket.state.items()},
        **{_MASK + name: tensor[0] for name, tensor in ticket.mask.items()},
        **{_OPTIMIZER + name: tensor[0] for name, tensor in ticket.optimizer.items()},
        **{_LEARNED + name: tensor[0] for name, tensor in ticket.learned.items()},
    }


def _ticket(tensors: Mapping[str, Tensor], *, step: int) -> Ticket:
    named: dict[str, dict[str, Tensor]] = {"": {}, _MASK: {}, _OPTIMIZER: {}, _LEARNED: {}}
    for name, tensor in tensors.items():
        prefix = next((p for p in named if p and name.startswith(p)), "")
        named[prefix][name.removeprefix(prefix)] = tensor[None]
    return Ticket(named[""], named[_MASK], step, named[_OPTIMIZER], named[_LEARNED])


def _pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file whose bytes depend on its content alone, with two checksums inside.

    The library orders metadata at random, so the header is written again with its keys sorted.
    """
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    blob = safetensors.torch.save(named)
    size = struct.unpack("<Q", blob[:8])[0]
    header, body = json.loads(blob[8 : 8 + size]), memoryview(blob)[8 + size :]
    about |= {"format": FORMAT, "body_sha256": hashlib.sha256(body).hexdigest()}
    about["metadata_sha256"] = _metadata_sum(about)
    text = json.dumps({"__metadata__": about, **header}, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _metadata_sum(about: Mapping[str, str]) -> str:
    content = {name: value for name, value in about.items() if name != "metadata_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _metadata(path: Path) -> dict[str, Any]:
    """The checked metadata, from the head of the file alone.

    Raises:
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
            about = header.pop("__metadata__")
            expected = 8 + size + max([t["data_offsets"][1] for t in header.values()], default=0)
            known = about["format"] == FORMAT
            intact = about["metadata_sha256"] == _metadata_sum(about)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptTicket("its header is unreadable") from None
    if not known:
        raise CorruptTicket(f"the format is not {FORMAT} but {about['format']}")
    if actual != expected:
        raise CorruptTicket(f"{actual} bytes where {expected} were written")
    if not intact:
        raise CorruptTicket("its metadata does not match its checksum")
    return about


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about = _metadata(path)
    blob = path.read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    if hashlib.sha256(memoryview(blob)[8 + size :]).hexdigest() != about["body_sha256"]:
        raise CorruptTicket("its tensors do not match their checksum")
    return about, {name: torch.clone(t) for name, t in safetensors.torch.load(blob).items()}
