"""The cost of a command or a pack grows with the new work, not with the size of the whole root."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures.tiny_cell import settings, settle

from lt_sweeps.config import file_version
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.file_version import is_settled, version
from lt_sweeps.execution.frozen_pack import work_on
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.records import record_cell
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.train_pack import _start, compute
from lt_sweeps.plan import stored_tickets, ticket_checks
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.storage import ticket_file
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.verified_files import VerifiedFiles

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]


@contextmanager
def counted(*names: str) -> Iterator[Counter[str]]:
    """Count the calls of functions of `os`."""
    count: Counter[str] = Counter()

    def counting(name: str, function: Callable) -> Callable:
        def call(*arguments, **keys):
            count[name] += 1
            return function(*arguments, **keys)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, counting(name, getattr(os, name)))
        yield count


def test_a_finished_root_takes_one_listing_per_stage_and_one_look_per_unit(
    cell: Make, run: Run, tmp_path: Path
) -> None:
    for seeds in (1, 3):
        made, store = run(
            *(cell(seed=s, recipe__length="1ep") for s in range(seeds)), root=tmp_path / str(seeds)
        )
        settle(store.root)
        assert not made.missing(store, thorough=True), "it reads what it has not verified"
        with counted("open", "listdir", "scandir", "stat", "fsync") as count:
            assert not made.missing(store, thorough=True)
        assert count["open"] == 1, "the file of what was verified"
        assert count["listdir"] + count["scandir"] == 3, "one for each stage"
        assert count["stat"] <= 4 * seeds, "a ticket each, and the drawn network"
        assert not count["fsync"]


def test_a_finished_root_is_recorded_without_reading_it(
    cell: Make, run: Run, tmp_path: Path
) -> None:
    opened = {}
    for seeds in (1, 3):
        made, store = run(
            *(cell(seed=s, recipe__length="1ep") for s in range(seeds)), root=tmp_path / str(seeds)
        )
        submission = Submission(made, settings(store.root))
        settle(store.root)
        assert submission.write_records() == seeds
        with counted("open", "fsync") as count:
            assert submission.write_records() == seeds
        opened[seeds] = count["open"], count["fsync"]
    assert opened[1] == opened[3] == (1, 0)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"#"),
        lambda path: (path.rename(path.with_name("x")), path.write_bytes(b"")),
        lambda path: os.utime(_harmed(path), ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns)),
    ],
    ids=["written", "replaced", "with its time set back"],
)
def test_a_verified_ticket_that_changed_is_read_again(
    cell: Make, run: Run, harm: Callable[[Path], object]
) -> None:
    made, store = run(cell(recipe__length="1ep"))
    settle(store.root)
    assert not made.missing(store, thorough=True)
    last = made.cells[0].last
    harm(store.path(last.key, 0))
    assert [unit.stage for unit in made.missing(store, thorough=True)] == [last]


def _harmed(path: Path) -> Path:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"#")
    return path


def test_a_ticket_that_was_written_just_before_it_was_read_is_read_again(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have changed within the same tick, although the clock has ticked since."""
    made, store = run(cell(recipe__length="1ep"))
    last, seed = made.cells[0].last, made.cells[0].seed
    now, real, reads = [store.path(last.key, 0).stat().st_ctime_ns], stored_tickets.is_stored, []

    def slow(*arguments: Any, **keys: Any) -> bool:
        now[0] += 10**10
        reads.append(arguments)
        return real(*arguments, **keys)

    monkeypatch.setattr(file_version, "time", SimpleNamespace(time_ns=lambda: now[0]))
    monkeypatch.setattr(stored_tickets, "is_stored", slow)
    tickets = StoredTickets(store, thorough=True, recall=False)
    assert [tickets.holds(last, seed) and len(reads) for _ in range(3)] == [1, 2, 2]


def test_a_ticket_is_verified_again_where_its_parent_changed(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe__length="1ep"))
    settle(store.root)
    assert not made.missing(store, thorough=True)
    dense, first, second = made.cells[0].trainings
    path = store.path(dense.key, 0)
    path.write_bytes(path.read_bytes())
    tickets, read = StoredTickets(store, thorough=True), {}
    for stage in (first, second):
        with counted("open") as count:
            assert tickets.holds(stage, made.cells[0].seed)
        read[stage] = count["open"] > 0
    assert read == {first: True, second: False}


def test_a_list_of_verified_files_may_be_lost_damaged_or_from_other_checks(tmp_path: Path) -> None:
    files = VerifiedFiles(tmp_path, by="these")
    files.note("a/0", "1")
    files.save()
    path = tmp_path / "tickets" / "verified.jsonl"
    assert VerifiedFiles(tmp_path, by="these").has("a/0", "1")
    assert not VerifiedFiles(tmp_path, by="those").has("a/0", "1")
    path.write_bytes(path.read_bytes()[:-3])  # a kill has cut its last line short
    files = VerifiedFiles(tmp_path, by="these")
    assert not files.has("a/0", "1")
    files.note("b/0", "2")
    files.save()
    assert VerifiedFiles(tmp_path, by="these").has("b/0", "2")
    for content in (b"\xff", b"[1]\n", b"{}\n", b'["these", ["a"], 3]\n', b"[" * 9999):
        path.write_bytes(content)
        assert not VerifiedFiles(tmp_path, by="these").has("b/0", "2")
    for number in range(9):
        files = VerifiedFiles(tmp_path, by="these")
        files.note("a/0", str(number))
        files.save()
    assert len(path.read_bytes().splitlines()) < 5, "versions that have passed are dropped"


def test_a_file_is_settled_only_when_its_clock_has_ticked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    seen = version(path)
    assert seen is not None
    second, ms = 10**9, 10**6
    written = path.stat().st_ctime_ns // second * second

    def settled(changed: int, *, after: int, version: str = "1-1-1-{}") -> bool:
        monkeypatch.setattr(time, "time_ns", lambda: changed + after)
        return is_settled(version.format(changed))

    fine = written + 1
    assert not settled(fine, after=50 * ms) and settled(fine, after=51 * ms)
    assert not settled(written, after=2 * second), "a clock that ticks every second or two"
    assert settled(written, after=2 * second + 1)
    assert not settled(path.stat().st_ctime_ns, after=0, version=seen)


def test_a_start_reads_each_stored_ticket_once(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruning, criterion and reset all need the previous training, or the first weights."""
    made, store = run(cell(schedule__levels=2))
    last, reads, read = made.units[-1], Counter[Path](), ticket_file.read_content

    def counting(path: Path) -> object:
        reads[path] += path.exists()
        return read(path)

    monkeypatch.setattr(ticket_file, "read_content", counting)
    start = _start(last, store)
    assert reads.total() == len(+reads) == 2
    again = ticket(last.stage.start, last.seed, store)
    assert reads.total() > 4, "each part of a start asks for what it needs"
    assert all(start.state[name].equal(tensor) for name, tensor in again.state.items())


def test_a_cell_that_becomes_complete_looks_at_each_ticket_three_times(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its row, for its facts, and in full: the header of a long training takes 2 ms."""
    made, store = run(cell(schedule__levels=2))
    for path in store.root.glob("runs/*/*/DONE"):
        path.unlink()
    looks, head = Counter[Path](), ticket_file._head
    monkeypatch.setattr(ticket_file, "_head", lambda path: looks.update([path]) or head(path))
    ticket_checks._fault.cache_clear()
    ticket_checks._read.cache_clear()
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True, recall=False))
    ends = [store.path(unit.stage.key, unit.seed) for unit in made.units]
    assert [looks[path] for path in ends] == [3, 3, 3]


def test_the_records_of_a_level_cost_the_same_at_every_level(cell: Make, tmp_path: Path) -> None:
    """They are appended: records of earlier levels are not read, hashed or written again."""
    costs = {}
    for levels in (3, 5):
        made, store = (
            plan([cell(schedule__levels=levels, recipe__length="1ep")]),
            Store(tmp_path / str(levels)),
        )
        total: Counter[str] = Counter()
        for unit in made.units:
            compute([unit], made.moments, store, Machine())
            with counted("open", "fsync") as count:
                tickets = StoredTickets(store, thorough=True)
                record_cell(made.cells[0], tickets, computed={unit.stage.key})
            total += count
            if 0 < unit.stage.level < levels:
                costs.setdefault("level", Counter(count))
                assert count == costs["level"], "as much as the level before"
        costs[levels] = total
        assert len(list(store.root.glob("runs/*/0/DONE"))) == 1
    assert costs["level"]["fsync"] == 1
    for name in ("open", "fsync"):  # the last level makes all rows from their tickets, once
        assert costs[5][name] <= 5 / 3 * costs[3][name]


def test_a_pack_reads_nothing_of_what_was_verified_of_other_cells(
    cell: Make, tmp_path: Path
) -> None:
    """Otherwise each pack in a large root would read one line for each ticket of the root."""
    made = plan([cell(recipe__length="1ep", schedule__levels=1)])
    todo = packs(made.units, stack_size={u.stage.key: 9 for u in made.units}, workers=1)
    sweep = Submission(made, settings(tmp_path)).freeze(todo)
    read, opened = os.open, []

    def noted(path, flags, *arguments, **keys):
        if str(path).endswith("verified.jsonl") and not flags & os.O_APPEND:
            opened.append(path)
        return read(path, flags, *arguments, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", noted)
        for pack in sweep.manifest.packs:
            work_on(sweep, pack, device="cpu")
        assert (tmp_path / "tickets" / "verified.jsonl").exists() and not opened
        assert not made.missing(Store(tmp_path), thorough=True) and opened


def _written_at_once(made: Plan, store: Store) -> tuple[bytes, bytes]:
    """The records of a cell, as they were written and as they are when written in one go."""
    folder = RunFolder.of(store.root, made.cells[0].signature, 0)
    appended = folder.records.read_bytes()
    for path in (folder.records, folder.done):
        path.unlink()
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    return appended, folder.records.read_bytes()


CUT = {
    "in a row": lambda content: content[:-40],
    "before the end of a line": lambda content: content[:-1],
    "between two rows": lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
    "nowhere": lambda content: content,
}


@pytest.mark.parametrize("cut", CUT)
def test_appended_records_survive_a_kill_in_the_middle(
    cell: Make, tmp_path: Path, cut: str
) -> None:
    made, store = plan([cell(recipe__length="1ep")]), Store(tmp_path)
    folder = RunFolder.of(store.root, made.cells[0].signature, 0)
    for unit in made.units:
        compute([unit], made.moments, store, Machine())
        if unit.stage.level == 2:
            folder.records.write_bytes(CUT[cut](folder.records.read_bytes()))
            half = folder.read().half_written
            assert ("half-written line" in half) == (cut == "in a row"), "named by who reads"
        tickets = StoredTickets(store, thorough=True)
        record_cell(made.cells[0], tickets, computed={unit.stage.key})
    appended, at_once = _written_at_once(made, store)
    assert appended == at_once and appended.count(b"\n") == 3


def test_several_writers_of_one_cell_neither_double_nor_mix_its_rows(
    cell: Make, tmp_path: Path
) -> None:
    made, store = plan([cell(schedule__levels=2, recipe__length="1ep")]), Store(tmp_path)
    for unit in made.units:
        compute([unit], made.moments, store, Machine())
        start = threading.Barrier(4)

        def write(key: str = unit.stage.key, start: threading.Barrier = start) -> None:
            start.wait()
            record_cell(made.cells[0], StoredTickets(store, thorough=True), computed={key})

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    appended, at_once = _written_at_once(made, store)
    assert appended == at_once and appended.count(b"\n") == 3
