"""`SavedTicket`: a stored subnetwork as other Python code wants it, an ordinary `nn.Module`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lt_sweeps.execution.forking import gpu_fault
from lt_sweeps.execution.materialize import Missing
from lt_sweeps.interchange.compaction import Compacted, compacted
from lt_sweeps.interchange.stored_network import StoredNetwork
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.stages import Init, Stage, Transfer, Work
from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.sparsifiers import LearnedSparsifier
from lt_sweeps.storage.absent_tickets import why_file_absent
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.training.evaluation import Score

At = Literal["reported", "end"]


@dataclass(frozen=True)
class SavedTicket:
    """One ticket of a cell and seed: what its record says, its mask and its network.

    `at="reported"` is the network whose accuracy the record reports, which may be that of the
    evaluation with the lowest validation loss; `at="end"` that of the last step.
    """

    root: Path
    run: Planned = field(hash=False)
    stage: str

    @cached_property
    def record(self) -> Record:
        """The row of records.jsonl."""
        rows = RunFolder.of(self.root, self.run.signature, self.run.seed).read().records
        return next(row for row in rows if row.stage == self.stage)

    @property
    def seed(self) -> str:
        return str(self.run.seed)

    @property
    def level(self) -> int:
        """How often the network had been pruned."""
        return self.record.level

    @property
    def sparsity(self) -> float:
        """Fraction of prunable weights that are pruned, in [0, 1)."""
        return self.record.sparsity

    @property
    def path(self) -> Path:
        """The file of its weights at the end of its training."""
        return Store(self.root).path(self.stage, self.seed)

    @property
    def mask(self) -> Mapping[str, Tensor]:
        """Which prunable weights are kept: bool `[*shape]` by parameter name, in the net's order.

        Of a learned mask that is soft, the weights that its hard mask keeps. A copy, so that
        `mask[name] &= other` changes no ticket.
        """
        return {name: kept.clone() for name, kept in self._mask.items()}

    @cached_property
    def _mask(self) -> Mapping[str, Tensor]:
        sparsifier = self._work.sparsifier
        names = [layer.name for layer in self._work.network.layers]
        if isinstance(sparsifier, LearnedSparsifier):  # another mask at each evaluation
            ticket = self._network("reported").ticket
            pairs = {n: (ticket.state[n], ticket.learned[n]) for n in names}
            return {name: sparsifier.keeps(*pair)[0].bool() for name, pair in pairs.items()}
        kept = self._network("end").ticket.mask
        return {name: kept[name][0] for name in names}

    @property
    def parent(self) -> SavedTicket | None:
        """The ticket that it was pruned from; None for a network that was not pruned."""
        stage: Stage = self._work.inputs[0]
        while not isinstance(stage, Work | Init):
            stage = stage.found if isinstance(stage, Transfer) else stage.inputs[0]
        return None if isinstance(stage, Init) else SavedTicket(self.root, self.run, stage.key)

    def module(self, at: At = "reported", *, sample: int = 0) -> nn.Module:
        """The network as an ordinary module on the CPU, in evaluation mode, its mask applied.

        A pruned weight has the value that it is frozen at: 0, or its initial one. Where an
        accuracy is the mean over networks that a learned mask draws, `sample` says which one.
        An optimizer moves pruned weights too: multiply them by `mask` after each step.

        Raises: ValueError: its weights are not stored, or its module is not trusted.
        """
        return self._network(at).module(sample)

    def compact(self, at: At = "reported", *, sample: int = 0) -> Compacted:
        """The network without what computes nothing: `compact().module` gives the same outputs.

        `compact().summary` says which layers are smaller, and why others stay whole.

        Raises: ValueError: as `module`.
        """
        return compacted(self.module(at, sample=sample), self._work.network.example())

    def evaluate(self, split: Literal["val", "test"] = "test", at: At = "reported") -> Score:
        """Measure it again on a split of its data: `evaluate().accuracy` is the record's.

        Raises: ValueError: its weights or its data are not here.
        """
        return self._network(at).measure(split)

    def examples(self, split: Literal["val", "test"] = "test") -> tuple[Tensor, Tensor]:
        """The examples of a split as its network sees them, and their labels `[N]`."""
        return self._network("end").examples(split)

    def __repr__(self) -> str:
        row = self.record
        metric = row.metric_of("test_metric")
        value = row.measured(metric.name)
        said = "not measured" if value is None else f"{value:.4f}"
        where = f"cell {row.cell}, seed {row.seed}, level {row.level}"
        return f"SavedTicket({where}: sparsity {row.sparsity:.4f}, {metric.words} {said})"

    @cached_property
    def _work(self) -> Work:
        return next(work for work in self.run.trainings if work.key == self.stage)

    def _network(self, at: At) -> StoredNetwork:
        if at not in ("reported", "end"):
            raise ValueError(f"ticket: at={at!r}; it is 'reported' or 'end'")
        end, reported = self._work.step, self.record.reported_step
        step = end if at == "end" or reported is None else reported
        device = torch.device("cpu" if gpu_fault() else "cuda")
        try:
            return StoredNetwork.of(Unit(self._work, self.run.seed), Store(self.root), step, device)
        except Missing as error:
            absent = "" if self.path.exists() else why_file_absent(self.path)
            reason = absent or f"not stored: {error}"
            raise ValueError(f"ticket: {self.path}: {reason}") from None
