"""`SavedTicket`: a stored subnetwork for other Python code, as an ordinary `nn.Module`."""

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
    """One ticket of a cell and seed: its record, its mask and its network.

    `at="reported"` is the network whose accuracy the record reports, which may be the network at
    the evaluation with the lowest validation loss. `at="end"` is the network of the last step.
    """

    root: Path
    run: Planned = field(hash=False)
    stage: str

    @cached_property
    def record(self) -> Record:
        """The ticket's row of records.jsonl."""
        rows = RunFolder.of(self.root, self.run.signature, self.run.seed).read().records
        return next(row for row in rows if row.stage == self.stage)

    @property
    def seed(self) -> str:
        return str(self.run.seed)

    @property
    def level(self) -> int:
        """How many times the network has been pruned."""
        return self.record.level

    @property
    def sparsity(self) -> float:
        """The fraction of prunable weights that are pruned, in [0, 1)."""
        return self.record.sparsity

    @property
    def path(self) -> Path:
        """The file with the ticket's weights at the end of its training."""
        return Store(self.root).path(self.stage, self.seed)

    @property
    def mask(self) -> Mapping[str, Tensor]:
        """Which prunable weights are kept: bool `[*shape]` by parameter name, in the net's order.

        For a learned soft mask, this is its hard mask. The tensors are copies, so that
        `mask[name] &= other` does not change the ticket.
        """
        return {name: kept.clone() for name, kept in self._mask.items()}

    @cached_property
    def _mask(self) -> Mapping[str, Tensor]:
        sparsifier = self._work.sparsifier
        names = [layer.name for layer in self._work.network.layers]
        if isinstance(sparsifier, LearnedSparsifier):  # the mask may change between evaluations
            ticket = self._network("reported").ticket
            pairs = {n: (ticket.state[n], ticket.learned[n]) for n in names}
            return {name: sparsifier.keeps(*pair)[0].bool() for name, pair in pairs.items()}
        kept = self._network("end").ticket.mask
        return {name: kept[name][0] for name in names}

    @property
    def parent(self) -> SavedTicket | None:
        """The trained ticket that this one was pruned from; None if no training came before."""
        stage: Stage = self._work.inputs[0]
        while not isinstance(stage, Work | Init):
            stage = stage.found if isinstance(stage, Transfer) else stage.inputs[0]
        return None if isinstance(stage, Init) else SavedTicket(self.root, self.run, stage.key)

    def module(self, at: At = "reported", *, sample: int = 0) -> nn.Module:
        """Return the network as an ordinary module on the CPU, in evaluation mode, masked.

        A pruned weight has the value at which it is frozen: 0, or its initial value. If the
        accuracy is a mean over networks drawn from a learned mask, `sample` selects one of them.
        If you train the module, the optimizer also changes pruned weights: multiply them by `mask`
        after each step.

        Raises: ValueError: the weights are not stored, or the module is not trusted.
        """
        return self._network(at).module(sample)

    def compact(self, at: At = "reported", *, sample: int = 0) -> Compacted:
        """Return a smaller network with the same outputs, as `compact().module`.

        `compact().summary` says which layers are smaller, and why others are unchanged.

        Raises: ValueError: the weights are not stored, or the module is not trusted.
        """
        return compacted(self.module(at, sample=sample), self._work.network.example())

    def evaluate(self, split: Literal["val", "test"] = "test", at: At = "reported") -> Score:
        """Evaluate the network again on a split; `evaluate().accuracy` is that of the record.

        Raises: ValueError: the weights or the data are not on this machine.
        """
        return self._network(at).measure(split)

    def examples(self, split: Literal["train", "val", "test"] = "test") -> tuple[Tensor, Tensor]:
        """The examples of a split as inputs of the network, and their labels `[N]`.

        Training examples are not augmented, and in the order of the data set.
        """
        return self._network("end").examples(split)

    def __repr__(self) -> str:
        row = self.record
        metric = row.metric_of("test_metric")
        value = row.measured(metric.name)
        shown = "not measured" if value is None else f"{value:.4f}"
        where = f"cell {row.cell}, seed {row.seed}, level {row.level}"
        return f"SavedTicket({where}: sparsity {row.sparsity:.4f}, {metric.words} {shown})"

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
