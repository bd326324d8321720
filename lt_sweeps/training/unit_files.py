"""`UnitFiles`: the files of a stacked training in the store: tickets, snapshots and checkpoints.

Each unit has files of its own. Checkpoints and snapshots of the whole stack are copied to the host
first; threads then hash and write them while the training continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed
from lt_sweeps.plan.stages import Moment
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.record import misses_target
from lt_sweeps.storage.store import Store, UnitCost
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_file import MASK
from lt_sweeps.training.background_write import BackgroundWrite
from lt_sweeps.training.history import TrainingHistory
from lt_sweeps.training.mask_action import MaskAction

# With four threads 45 checkpoints of LeNet took 0.5 s, one after another 0.6 to 0.8 s (two CPU
# cores). Each thread holds two copies of a file in memory.
_AT_ONCE = 4


class UnitFiles:
    """Tickets, snapshots and checkpoints of the units of one stack.

    Args:
        moments: the snapshots to save, for each unit. `best` saves the weights of the best
            evaluation; `reported` does so only if the best evaluation is not the one at the end.
    """

    def __init__(
        self,
        store: Store,
        machine: Machine,
        moments: Sequence[frozenset[Moment]],
        masking: MaskAction,
        history: TrainingHistory,
    ) -> None:
        self.store, self.machine, self.moments = store, machine, moments
        self.units, self.masking, self.history = masking.units, masking, history
        self._writing = BackgroundWrite()

    def check(self) -> None:
        """Raises: OSError: a write since the last call failed."""
        self._writing.check()

    def wait(self) -> None:
        """Wait until all files are written. Raises: OSError: a write failed."""
        self._writing.wait()

    @contextmanager
    def written(self) -> Iterator[None]:
        """Wait for all writes when the context ends, even if it ends with an error."""
        try:
            yield
        except BaseException:
            self._writing.join()
            raise
        self.wait()

    def snapshot(self, moment: Moment, step: int) -> None:
        """Save the current state of the units for which a later stage needs this moment."""
        rows = [r for r, moments in enumerate(self.moments) if moment in moments]
        if rows:
            self.masking.check(step)
            ticket = self.masking.ticket(self.masking.trained, step)
            if moment != "start":
                ticket = replace(ticket, optimizer=self.masking.moments())
            ticket, about = ticket.on_host(), self._ticket_metadata()
            self._writing.begin(
                lambda: self._write_rows(
                    lambda r: self._write(r, moment, ticket[r], about[r]), rows
                )
            )

    def write_checkpoint(self, step: int, seconds: float) -> None:
        """Save everything that the rest of the training depends on."""
        self.masking.check(step)
        tensors = _on_host(self._checkpoint_tensors(step))
        about = [{**self.history.metadata(r), "seconds": seconds} for r in range(len(self.units))]
        self._writing.begin(partial(self._write_checkpoint, step, tensors, about))

    def _write_checkpoint(
        self, step: int, tensors: Mapping[str, Tensor], about: Sequence[Mapping[str, Any]]
    ) -> None:
        def write(r: int) -> None:
            row = {name: tensor[r] for name, tensor in tensors.items()}
            zeros = [name for name, tensor in row.items() if _is_zero(tensor)]
            row = {name: tensor for name, tensor in row.items() if name not in zeros}
            unit, header = self.units[r], {**about[r], "zeros": zeros}
            self.store.write_checkpoint(unit.stage.key, unit.seed, step, row, header)

        self._write_rows(write, range(len(self.units)))
        for key, seeds in self._seeds().items():
            self.store.drop_checkpoints(key, *seeds, before=step)

    def read_checkpoint(self, step: int) -> float:
        """Restore the training from the checkpoints of all units at `step`.

        Returns the seconds that the training had taken by then. The units may come from different
        stacks; the largest of their times is returned.

        Raises: FileNotFoundError: another version of the code wrote one of the checkpoints, which
            is then set aside.
        """
        tensors, needed, seconds = self._tensors(), self._checkpoint_tensors(step), 0.0
        forms = _forms({name: _in_file(name, tensor)[0] for name, tensor in tensors.items()})
        for r, unit in enumerate(self.units):
            metadata, row = self.store.read_checkpoint(unit.stage.key, unit.seed, step)
            zeros = json.loads(metadata.get("zeros", "[]"))
            about = {*self.history.metadata(r), "seconds"} - metadata.keys()
            if about or not _forms(row).items() <= forms.items() or needed.keys() - {*row, *zeros}:
                reason = "a checkpoint of another version of the code"
                self.store.set_aside_checkpoint(unit.stage.key, unit.seed, step, reason)
                raise FileNotFoundError(reason)
            for name in needed:
                tensors[name][r] = row[name].to(tensors[name]) if name in row else 0
            self.history.restore(r, metadata)
            seconds = max(seconds, float(metadata["seconds"]))
        return seconds

    def drop_checkpoints(self) -> None:
        """Remove all checkpoints, after the training has ended."""
        self.wait()
        for key, seeds in self._seeds().items():
            self.store.drop_checkpoints(key, *seeds)

    def finish(self, step: int, seconds: float, results: Sequence[dict[str, Any]]) -> None:
        """Write the tickets of all units, after a last checkpoint.

        If the process is killed between two tickets, the end is repeated from this checkpoint, and
        the bytes are the same.

        Raises:
            ValueError: the sparsity of a ticket differs from the one that its method promised.
        """
        about = self._ticket_metadata()
        self._check_targets(about)
        self.write_checkpoint(step, seconds)
        self.wait()
        stack = self.masking.stack
        on_gpu = stack.device.type == "cuda"
        cost = UnitCost(
            seconds=round(seconds / len(self.units), 3),
            device=torch.cuda.get_device_name(stack.device) if on_gpu else str(stack.device),
            stack_size=len(self.units),
            backend=f"{stack.backend}+triton" if self.masking.runs_triton else stack.backend,
            deterministic=self.machine.deterministic,
            code_version=self.machine.code_version,
        )
        for key, seeds in self._seeds().items():
            self.store.write_costs(key, seeds, cost)
        stored = self.units[0].stage.stores_ticket
        at_end = self.masking.ticket(self.masking.trained, step).on_host() if stored else None
        asked = [self._saves_best(r, step) for r in range(len(self.units))]
        best = self.masking.ticket(self.history.best, step).on_host() if any(asked) else None
        at_best = about
        if self.units[0].stage.sparsifier.learns:
            with self.history.at_best():
                at_best = self._ticket_metadata()

        def write(r: int) -> None:
            if asked[r] and best is not None:
                self._write(r, "best", best[r], at_best[r])
            # If the stage does not store its ticket, only scores are stored with an empty ticket;
            # the network can be computed again from the ticket that the stage started from.
            ticket = Ticket({}, {}, step) if at_end is None else at_end[r]
            scores = {"metrics": results[r], "history": self.history.rows[r]}
            if at_best is not about and self.history.best_step[r] != step:
                scores["best_layers_remaining"] = at_best[r]["layers_remaining"]
            self._write(r, "end", ticket, {**about[r], **scores})

        self._write_rows(write, range(len(self.units)))

    def _saves_best(self, r: int, step: int) -> bool:
        asked = self.moments[r]
        return "best" in asked or ("reported" in asked and self.history.best_step[r] != step)

    def _seeds(self) -> dict[str, list[Seed]]:
        """The seeds by stage key, so that a stage's folder is listed once for all its seeds."""
        seeds: dict[str, list[Seed]] = {}
        for unit in self.units:
            seeds.setdefault(unit.stage.key, []).append(unit.seed)
        return seeds

    def _check_targets(self, about: Sequence[Mapping[str, Any]]) -> None:
        """Raises: ValueError: the measured sparsity of a unit misses its target."""
        for unit, facts in zip(self.units, about, strict=True):
            target, sparsity = unit.stage.target_sparsity, facts["sparsity"]
            kept, total = (sum(facts[f"layers_{of}"].values()) for of in ("remaining", "total"))
            size = {"layers": len(facts["layers_total"]), "weights": total}
            if misses_target(sparsity, target, groups=unit.stage.resolution or 0, **size):
                raise ValueError(
                    f"schedule: level {unit.stage.level} of seed {unit.seed} has sparsity "
                    f"{sparsity:.6g}, and {target:.6g} was asked for: {kept} of {total} "
                    "weights are left"
                )

    def _tensors(self) -> dict[str, Tensor]:
        """The whole state of the training, `[R, ...]`, by the names used in a checkpoint."""
        masking = self.masking
        return {**masking.trained, **masking.tensors, **self.history.tensors()}

    def _checkpoint_tensors(self, step: int) -> dict[str, Tensor]:
        """The tensors that a checkpoint at `step` must hold, as they are stored in its file.

        After the last step the optimizer's state is left out, unless a snapshot is taken there.
        """
        ends = step == self.units[0].stage.step
        is_last = ends and not any(step in moments for moments in self.moments)
        unread = self.masking.optimizer_tensors if is_last else {}
        tensors = self._tensors().items()
        return {name: _in_file(name, t) for name, t in tensors if name not in unread}

    def _ticket_metadata(self) -> list[dict[str, Any]]:
        """The metadata of each unit's ticket at this moment."""
        remaining = {
            name: [int(count) for count in counts.tolist()]
            for name, counts in self.masking.remaining().items()
        }
        total = {layer.name: layer.size for layer in self.masking.layers}
        return [
            {
                "level": unit.stage.level,
                "sparsity": 1 - sum(n[r] for n in remaining.values()) / sum(total.values()),
                "layers_remaining": {name: n[r] for name, n in remaining.items()},
                "layers_total": total,
                "precision": unit.stage.training.precision,
            }
            for r, unit in enumerate(self.units)
        ]

    def _write(self, r: int, moment: Moment, ticket: Ticket, about: Mapping[str, Any]) -> None:
        unit = self.units[r]
        self.store.write(unit.stage.key, unit.seed, ticket, about, moment)

    def _write_rows(self, write: Callable[[int], None], rows: Iterable[int]) -> None:
        """Write the files of these rows; raises the error of the first row that failed.

        On a GPU the files of the other rows are written too.
        """
        if (at_once := _threads(self.machine.device)) == 1:
            for row in rows:
                write(row)
            return
        with ThreadPoolExecutor(at_once) as threads:  # `map` would leave out rows after an error
            written = [threads.submit(write, row) for row in rows]
        for row in written:
            row.result()


def _in_file(name: str, tensor: Tensor) -> Tensor:
    """A tensor as it is stored in a checkpoint: a mask as bools, which become bits in the file."""
    return tensor != 0 if name.startswith(MASK) else tensor


def _is_zero(tensor: Tensor) -> bool:
    """Whether all bits of a tensor are 0; -0.0 does not count as 0."""
    return not tensor.reshape(-1).view(torch.uint8).any()


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy each stacked tensor to the host in one transfer; R single transfers take R times."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _threads(device: str) -> int:
    """The number of files that are written at once.

    On a CPU it is 1, because the training shares the host's memory: if several threads run out of
    memory together, they can deadlock in the library that writes the files.
    """
    return _AT_ONCE if device.startswith("cuda") else 1
