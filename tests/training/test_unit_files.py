"""A thread writes checkpoints and snapshots, with the same result as if the training had waited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Barrier, Event, current_thread, main_thread
from typing import Any, ClassVar

import pytest
import torch
from fixtures.method_cases import METHODS, MOMENTUM, method_cells
from fixtures.training_loops import loop_of
from torch import Tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket_file import read_content

Make = Callable[..., Cell]


class SlowStore(Store):
    """A store whose checkpoints wait until a test lets them go, and fail on request."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        object.__setattr__(self, "go", Event())
        object.__setattr__(self, "begun", Event())
        object.__setattr__(self, "failure", None)

    def write_checkpoint(
        self, key: str, seed: object, step: int, tensors: Mapping[str, Tensor], metadata: Any
    ) -> None:
        assert current_thread() is not main_thread()
        self.begun.set()  # type: ignore[attr-defined]
        self.go.wait(60)  # type: ignore[attr-defined]
        if self.failure is not None:  # type: ignore[attr-defined]
            raise self.failure  # type: ignore[attr-defined]
        super().write_checkpoint(key, seed, step, tensors, metadata)


@pytest.fixture
def unit(cell: Make):
    return plan([cell(schedule__levels=1)]).units[0]


def test_a_checkpoint_holds_the_step_it_was_asked_at(unit, tmp_path: Path) -> None:
    """The training continues while the thread waits, and changes everything that is being saved."""
    at_once, _ = loop_of(unit, Store(tmp_path / "at once"))
    slow = SlowStore(tmp_path / "slow")
    loop, _ = loop_of(unit, slow)
    paths = []
    for each in (at_once, loop):
        update = each.update()
        update(0)
        each.files.write_checkpoint(1, seconds=0.0)
        if each is at_once:
            each.files.wait()
        else:
            assert slow.begun.wait()  # type: ignore[attr-defined]
        for step in range(1, 4):
            update(step)
        each.scorer.validate(4)  # it adds to the history, and keeps other weights as the best
        slow.go.set()  # type: ignore[attr-defined]
        each.files.wait()
        (path,) = each.files.store.root.glob("tickets/*/*.partial-1.safetensors")
        paths.append(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_failed_write_ends_the_training_at_its_next_step_with_its_own_error(
    unit, tmp_path: Path
) -> None:
    store = SlowStore(tmp_path)
    object.__setattr__(store, "failure", OSError(28, "No space left on device"))
    store.go.set()  # type: ignore[attr-defined]
    loop, _ = loop_of(unit, store)
    loop.files.write_checkpoint(0, seconds=0.0)
    loop.files._writing.join()
    with pytest.raises(OSError, match="No space left on device"):
        loop.run()
    assert loop.step == 0


def test_one_write_is_in_flight_and_the_next_waits_for_it(unit, tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    loop, _ = loop_of(unit, store)
    loop.files.write_checkpoint(0, seconds=0.0)
    store.go.set()  # type: ignore[attr-defined]
    loop.files.write_checkpoint(1, seconds=0.0)
    loop.files.write_checkpoint(2, seconds=0.0)
    loop.files.wait()
    assert store.checkpoints(unit.stage.key, unit.seed) == [2], "each drops those before it"


class PairedStore(Store):
    """A store that writes a file only while a second one is being written too."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        object.__setattr__(self, "both", Barrier(2, timeout=60))

    def write_checkpoint(self, *about: Any) -> None:
        self.both.wait()  # type: ignore[attr-defined]
        super().write_checkpoint(*about)

    def write(self, *about: Any) -> None:
        if about[-1] == "end" and current_thread() is not main_thread():
            self.both.wait()  # type: ignore[attr-defined]
        super().write(*about)


def test_the_files_of_replicates_are_written_side_by_side(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk takes the same time for several files as for one; a stack has two per replicate."""
    monkeypatch.setattr("lt_sweeps.training.unit_files._threads", lambda device: 4)  # as on a GPU
    units = [u for u in plan([cell(seed=s) for s in (0, 1)]).units if u.stage.level == 0]
    compute(units, {}, PairedStore(tmp_path / "pairs"), Machine())
    compute(units[:1], {}, Store(tmp_path / "alone"), Machine())
    files = sorted((tmp_path / "alone").glob("tickets/*/0.safetensors"))
    assert len(files) == 2, "the initialisation and the end of the training"
    for alone in files:
        pair = tmp_path / "pairs" / alone.relative_to(tmp_path / "alone")
        assert pair.read_bytes() == alone.read_bytes()


class FullOnce(Store):
    """A store whose disk is full when the ticket of seed 0 is written for the first time."""

    def write(self, key: str, seed: Any, *about: Any) -> None:
        full = self.root / "full"
        if str(seed) == "0" and about[-1] == "end" and not full.exists():
            full.touch()
            raise OSError(28, "No space left on device")
        super().write(key, seed, *about)


def test_after_one_of_the_writes_side_by_side_has_failed_a_resume_ends_with_the_same_bytes(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lt_sweeps.training.unit_files._threads", lambda device: 4)  # as on a GPU
    units = [u for u in plan([cell(seed=s) for s in range(12)]).units if u.stage.level == 0]
    compute(units, {}, Store(tmp_path / "whole"), Machine())
    store = FullOnce(tmp_path / "full")
    with pytest.raises(OSError, match="No space left on device"):
        compute(units, {}, store, Machine())
    assert [store.has(u.stage.key, u.seed) for u in units] == [
        u.seed != units[0].seed for u in units
    ]
    compute(units, {}, store, Machine())
    whole, resumed = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("tickets/*/*.safetensors")}
        for root in (tmp_path / "whole", tmp_path / "full")
    )
    assert whole == resumed and len(whole) == 24, "initialisations and ends"


KILLED = """
import os, signal, sys
from pathlib import Path
from threading import Thread
import torch
from lt_sweeps.storage.store import Store
from lt_sweeps.training import unit_files
from lt_sweeps.training.background_write import BackgroundWrite

store, writing = Store(Path(sys.argv[1])), BackgroundWrite()
tensors = {"weights": torch.arange(4_000_000.0)}
writing.begin(lambda: store.write_checkpoint("key", 0, 1, tensors, {}))
writing.begin(lambda: store.write_checkpoint("key", 0, 2, tensors, {}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_whole_files_only(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    paths = sorted(tmp_path.glob("tickets/key/[!.]*"))
    assert paths, "the first was written before the second began"
    for path in paths:
        assert read_content(path)[0]["moment"].startswith("partial-")
    assert torch.equal(
        Store(tmp_path).read_checkpoint("key", 0, 1)[1]["weights"], torch.arange(4_000_000.0)
    )


def test_a_checkpoint_has_masks_as_bits_no_zeros_and_moments_only_where_they_are_read(
    cell: Make, tmp_path: Path
) -> None:
    unit, store = plan([cell(schedule__levels=1)]).units[-1], Store(tmp_path)
    end, name = unit.stage.step, (unit.stage.key, unit.seed)
    names = {"weights", "best/weights", "mask/held", "train_loss"}
    moments = {"optimizer/exp_avg", "optimizer/exp_avg_sq", "optimizer/step"}
    compute(plan([cell(schedule__levels=1)]).units[:1], {}, store, Machine())
    for step, asked, expected in (
        (1, (), names | moments),
        (end, (), names),
        (end, (end,), names | moments),
    ):
        loop, _ = loop_of(unit, store)
        loop.scorer.validate(0)
        loop.update()(0)
        loop.files.moments = [frozenset(asked)]
        loop.files.write_checkpoint(step, seconds=0.0)
        loop.files.wait()
        assert store.read_checkpoint(*name, step)[1].keys() == expected
        restored, _ = loop_of(unit, store)
        restored.files.moments = loop.files.moments
        now = restored.files._tensors()
        for tensor in now.values():
            tensor.fill_(2)
        restored.restore(step)
        for key, tensor in loop.files._tensors().items():
            assert now[key].equal(tensor) is (key in {*expected, "pinned"}), key


class TornStore(Store):
    """A store that fails once before each ticket of seed 1, after that of seed 0 was written."""

    failed: ClassVar[set[tuple[str, object]]] = set()

    def write(
        self, key: str, seed: object, ticket: Any, metadata: Any, moment: Any = "end"
    ) -> None:
        name = key, moment
        if str(seed) == "1" and moment == "end" and name not in self.failed:
            self.failed.add(name)
            raise OSError(28, "No space left on device")
        super().write(key, seed, ticket, metadata, moment)


@pytest.mark.parametrize("name", METHODS)
def test_a_stack_that_is_stopped_between_its_tickets_ends_with_the_same_bytes(
    cell: Make, tmp_path: Path, name: str
) -> None:
    """For every method, the last checkpoint before them holds all that they are made from."""
    made = plan(method_cells(cell, name, MOMENTUM))
    sizes, ends = {unit.stage.key: 2 for unit in made.units}, []
    for kind in (Store, TornStore):
        store, again = kind(tmp_path / kind.__name__), 0
        TornStore.failed.clear()
        for pack in packs(made.units, stack_size=sizes, workers=1):
            while True:
                try:
                    compute(pack.units, made.moments, store, Machine(), reported=set(sizes))
                    break
                except OSError:
                    again += 1
        assert again == len(TornStore.failed)
        paths = sorted(store.root.glob("**/*.safetensors"))
        ends.append({path.relative_to(store.root): path.read_bytes() for path in paths})
    assert again > 1, "the initial weights and a training, at least"
    assert ends[0] == ends[1]
