"""`StoredTickets`: a snapshot of a store, to look up the tickets of many units quickly."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from lt_sweeps.config.file_version import is_settled, version
from lt_sweeps.config.seeds import Seed
from lt_sweeps.plan import ticket_checks
from lt_sweeps.plan.stages import Init, Moment, Work
from lt_sweeps.plan.ticket_checks import is_stored, mask_origin, stored_facts
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage import ticket_facts, ticket_file
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.verified_files import VerifiedFiles


class StoredTickets:
    """The tickets of a store at one moment: lists each folder once and examines each file once.

    A ticket that was verified before, and has not changed since, is not read again.

    Args:
        thorough: read and compare each whole ticket, not only its header; note correct tickets.
        recall: read the list of tickets that were verified before. This pays off for all units of a
            root, and not for the few units of a pack.
    """

    def __init__(self, store: Store, *, thorough: bool, recall: bool = True) -> None:
        self.store, self.thorough = store, thorough
        self.verified = VerifiedFiles(store.root, by=_checks(), recall=recall)
        self._folder = os.path.join(store.root, "tickets")
        self._listed: dict[str, frozenset[str]] = {}
        self._training: dict[str, frozenset[str]] = {}
        self._versions: dict[str, str | None] = {}

    def holds(self, stage: Work | Init, seed: Seed, moment: Moment = "end") -> bool:
        """Whether the store holds a correct ticket of a stage; a wrong ticket is reported."""
        name = f"{stage.key}/{_file(seed, moment)}"
        if not self._exists(name):
            return False
        seen = self._seen(stage, seed, name)
        if seen is not None and self.verified.has(name, seen):
            return True
        # Before the ticket is read: the clock may tick meanwhile, after a change within this tick.
        settled = seen is not None and is_settled(seen.partition("|")[0])
        if not is_stored(stage, seed, moment, self.store, thorough=self.thorough):
            return False
        if self.thorough and seen is not None and settled:
            self.verified.note(name, seen)
        return True

    def holds_unit(
        self,
        unit: Unit,
        moments: Mapping[str, frozenset[Moment]],
        dropped: Mapping[str, frozenset[str]] | None = None,
    ) -> bool:
        """Whether a unit needs no computation: its ticket and all required snapshots are stored.

        If a checkpoint is still next to the ticket, the pack was killed while it wrote its tickets.
        The pack then continues from the checkpoint and writes them again, with the same bytes.

        Args:
            moments: the moments of which each stage must save a snapshot, by stage key. `reported`
                is the best evaluation, whose weights have a file only if it is not the end.
            dropped: the files of each stage that may be absent.
        """
        stage, seed = unit.stage, unit.seed
        spared = (dropped or {}).get(stage.key, ())
        # The snapshot at the start can be computed again without training.
        for moment in ("end", *(moments.get(stage.key, frozenset()) - {"start"})):
            if moment == "reported" and self.ends_at_best(stage, seed, spared):
                continue
            moment = "best" if moment == "reported" else moment
            file = _file(seed, moment)
            absent_and_spared = file in spared and not self._exists(f"{stage.key}/{file}")
            if not absent_and_spared and not self.holds(stage, seed, moment):
                return False
        return not self.is_training(stage.key, seed)

    def ends_at_best(self, stage: Work, seed: Seed, spared: Collection[str] = ()) -> bool:
        """Whether the best evaluation of a stored training is its last, so no file has its weights.

        Args:
            spared: the files of the stage that may be absent. If its ticket is, nothing is known,
                and nothing is asked for.
        """
        name = f"{stage.key}/{_file(seed, 'end')}"
        if not self._exists(name):
            return _file(seed, "end") in spared
        if self._exists(f"{stage.key}/{_file(seed, 'best')}"):
            return False
        seen = self._version(name)
        if seen is not None and self.verified.has(f"{name}@best", seen):
            return True
        settled = seen is not None and is_settled(seen)
        facts = stored_facts(stage, seed, "end", self.store)
        is_last = facts is not None and facts.metrics["best_step"] == stage.step
        if is_last and self.thorough and settled and seen is not None:
            self.verified.note(f"{name}@best", seen)
        return is_last

    def is_training(self, key: str, seed: Seed) -> bool:
        """Whether the store holds a checkpoint of an unfinished training."""
        if key not in self._training:
            pairs = map(ticket_file.CHECKPOINT.fullmatch, self._names(key))
            self._training[key] = frozenset(pair[1] for pair in pairs if pair)
        return str(seed) in self._training[key]

    def version(self, key: str, seed: Seed) -> str | None:
        """The version of the ticket at the end of a stage."""
        name = f"{key}/{seed}"
        return self._version(name) if self._exists(name) else None

    def _seen(self, stage: Work | Init, seed: Seed, name: str) -> str | None:
        """The versions of a ticket and of the ticket whose mask must contain its mask."""
        own, parent = self._version(name), mask_origin(stage)[1]
        if own is None or parent is None:
            return own
        return f"{own}|{self._version(f'{parent.key}/{seed}')}"

    def _version(self, name: str) -> str | None:
        if name not in self._versions:
            self._versions[name] = version(f"{self._folder}/{name}.safetensors")
        return self._versions[name]

    def _exists(self, name: str) -> bool:
        key, _, file = name.partition("/")
        return f"{file}.safetensors" in self._names(key)

    def _names(self, key: str) -> frozenset[str]:
        if key not in self._listed:
            try:
                self._listed[key] = frozenset(os.listdir(f"{self._folder}/{key}"))
            except (FileNotFoundError, NotADirectoryError):
                self._listed[key] = frozenset()
        return self._listed[key]


def _file(seed: Seed, moment: Moment) -> str:
    """The file of a ticket in its stage's folder, without its ending."""
    return f"{seed}" if moment == "end" else f"{seed}@{moment}"


@functools.cache
def _checks() -> str:
    """A hash of the code that checks tickets; after an edit of it, tickets are checked again."""
    content = hashlib.sha256()
    for module in (ticket_checks, ticket_file, ticket_facts):
        content.update(Path(module.__file__ or "").read_bytes())
    return content.hexdigest()[:16]
