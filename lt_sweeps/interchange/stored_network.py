"""`StoredNetwork`: the network of a stored ticket, as it was when evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lt_sweeps.config.spelling import listed
from lt_sweeps.execution.materialize import Missing, ticket
from lt_sweeps.plan.stages import Evaluate, Search
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training.evaluation import Score, mean_scores
from lt_sweeps.training.training_loop import TrainingLoop

_SCORED = ("val", "test")  # splits whose scores records hold


@dataclass(frozen=True)
class StoredNetwork:
    """The network of a stored unit at its final or its best evaluation, at `step`."""

    unit: Unit
    ticket: Ticket
    step: int
    loop: TrainingLoop

    @classmethod
    def of(cls, unit: Unit, store: Store, step: int, device: torch.device) -> StoredNetwork:
        """Return the network that a unit evaluated at `step`.

        Raises:
            Missing: its weights, or those that they are computed from, are not stored.
        """
        stage, ended = unit.stage, step == unit.stage.step
        if ended:
            found = ticket(stage.start if _only_scored(unit) else stage, unit.seed, store)
        elif store.has(stage.key, unit.seed, "best"):
            found = store.read(stage.key, unit.seed, "best")
        else:
            raise Missing(f"its weights at the best evaluation (step {step}); at='end' is stored")
        loop = TrainingLoop([unit], store, Machine(str(device)), moments=[frozenset()])
        if _only_scored(unit):
            loop.start(found)  # estimates the statistics of batch norms
        else:
            loop.stack.load({name: t.to(device) for name, t in found.state.items()})
            loop.masking.begin(found)
        return cls(unit, found, step, loop)

    def results(self) -> dict[str, Any]:
        """Return what its training would report with these weights, as in a ticket's header."""
        return self.loop.scorer.results(self.unit.stage.step)[0]

    def measure(self, split: str) -> Score:
        """Return its score on a split; on test, the mean over all masks that its sparsifier draws.

        Raises: ValueError: the split is unknown, or its batch norms' statistics are not stored.
        """
        _check_split(split, *_SCORED)
        self._check()
        samples = self.loop.masking.samples if split == "test" else 1
        scores = []
        for sample in range(samples):
            self._deploy(split, sample)
            scores.append(self.loop.scorer.measure(split))
        return mean_scores(scores)[0]

    def module(self, sample: int = 0) -> nn.Module:
        """Return its module on the CPU, in evaluation mode.

        Raises: ValueError: as `measure`.
        """
        self._check()
        self._deploy("test", sample)
        state = {name: tensor[0].cpu() for name, tensor in self.loop.stack.state().items()}
        return self.unit.stage.network.holding(state).eval()

    def examples(self, split: str) -> tuple[Tensor, Tensor]:
        """Return a whole split: normalised inputs `[N, C, H, W]` and labels `[N]`.

        Training images are not augmented, and in the order of the data set.

        Raises: ValueError: the split is unknown.
        """
        _check_split(split, "train", *_SCORED)
        images, labels = zip(*self.loop.batches.evaluation(split), strict=True)
        return torch.cat(images).cpu(), torch.cat(labels).cpu()

    def _deploy(self, split: str, sample: int) -> None:
        """Set the weights that an evaluation of a split uses, with the mask that it draws."""
        if split == "test":
            keys = self.loop.scorer.keys("test", self.unit.stage.step, sample)
        else:
            keys = self.loop.scorer.keys("validate", self.step)
        self.loop.masking.deploy([self.step], keys)

    def _check(self) -> None:
        if isinstance(self.unit.stage, Search) and self.unit.stage.network.normalised:
            raise ValueError(
                "ticket: a search evaluates with batch-norm statistics that are not stored; only "
                "its mask can be read (`ticket.mask`)"
            )


def _only_scored(unit: Unit) -> bool:
    """Whether the unit stores no ticket, because it only evaluated the ticket it started from."""
    return isinstance(unit.stage, Evaluate) and not unit.stage.stores_ticket


def _check_split(split: str, *allowed: str) -> None:
    if split not in allowed:
        given = repr(split) if isinstance(split, str) else f"a {type(split).__name__}"
        raise ValueError(f"ticket: split: got {given}; give {listed(allowed)}")
