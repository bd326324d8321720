"""`prune-store` removes tickets that no sweep needs any more, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.hostile_files import listed
from fixtures.tiny_cell import settings, settle

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.frozen_pack import work_on
from lt_sweeps.execution.plan_preview import _dropped
from lt_sweeps.execution.prune_store import drop_unneeded, keep_only
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.locks import lock
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import Heartbeat, PackAtWork, SweepFolder

Make = Callable[..., Cell]


@pytest.fixture
def computed(cell: Make, tmp_path: Path) -> Callable[..., SweepFolder]:
    """Compute a sweep as its launcher does; return its name, its cells, and whether it ends."""

    def computed(name: str, *cells: Cell, ends: bool = True) -> SweepFolder:
        made = plan(cells)
        todo = packs(made.units, stack_size={u.stage.key: 9 for u in made.units}, workers=1)
        sweep = Submission(made, settings(tmp_path / "results", name)).freeze(todo)
        for pack in sweep.manifest.packs if ends else sweep.manifest.packs[:-1]:
            work_on(sweep, pack, device="cpu")
        return sweep

    return computed


def tickets(root: Path) -> set[str]:
    return {
        str(path.relative_to(root / "tickets")) for path in root.glob("tickets/*/*.safetensors")
    }


def short(cell: Make, **changes) -> Cell:
    return cell(recipe__length="1ep", report_at="end", tracker={"_target_": None}, **changes)


def test_prune_store_lists_files_and_removes_them_only_with_yes(
    cell: Make, computed: Callable[..., SweepFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = computed("mine", short(cell))
    before = listed(sweep.root)
    size = sum(p.stat().st_size for p in sweep.root.glob("tickets/*/*.safetensors"))
    assert main(["prune-store", str(sweep.folder), "keep=records"]) == 0
    said = capsys.readouterr().out
    assert listed(sweep.root) == before
    # three levels and the drawn network; the costs of the three were recorded
    assert f"mine: 4 files of 4 trainings can be removed, {size / 2**20:,.1f} MiB" in said
    assert "recorded time of 3 of 4 tickets" in said and "--yes removes them" in said
    assert main(["prune-store", str(sweep.folder), "keep=records", "--yes"]) == 0
    assert "removed 4 files" in capsys.readouterr().out
    assert not tickets(sweep.root)


def test_after_prune_store_every_command_works_and_the_same_command_computes_nothing(
    cell: Make,
    computed: Callable[..., SweepFolder],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = computed("mine", short(cell))
    records = {p: p.read_bytes() for p in sweep.root.glob("runs/*/*/*")}
    drop_unneeded(sweep.folder, keep="records", apply=True)
    said = {}
    for verb in ("report", "status", "audit", "export"):
        more = [f"out={tmp_path / verb}"] if verb in ("report", "export") else []
        options = ["figures=[]"] if verb == "report" else []
        assert main([verb, str(sweep.folder), *more, *options]) == 0
        said[verb] = " ".join(capsys.readouterr().out.split())
    for verb in ("report", "status", "export"):
        assert "prune-store has dropped 3 of 3" in said[verb], verb
    assert "prune-store or keep= has dropped it" in said["audit"]
    again = Submission(plan([short(cell)]), settings(sweep.root, "mine"))
    assert again.missing() == () and again.unfinished(())[0] == []
    assert _dropped(again.plan, sweep.root).startswith("prune-store has dropped 3 of 3")
    assert again.write_records() == 1
    assert {p: p.read_bytes() for p in sweep.root.glob("runs/*/*/*")} == records


def test_tickets_that_another_sweep_needs_stay(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    mine = computed("mine", short(cell, schedule__levels=2))
    computed("other", short(cell, schedule__levels=1))  # it keeps all
    cells = mine.manifest.cells[0]
    drop_unneeded(mine.folder, keep="records", apply=True)
    dense, first, second = cells.stages
    left = {name.partition("/")[0] for name in tickets(mine.root)}
    assert {dense, first} <= left and second not in left
    # With a word of their own, both let go.
    drop_unneeded(mine.root, keep="records", apply=True)
    assert not tickets(mine.root)


def test_an_unfinished_sweep_needs_all_and_computes_on(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    mine = computed("mine", short(cell, schedule__levels=1))
    other = computed("other", short(cell, schedule__levels=2), ends=False)
    before = tickets(mine.root)
    drop_unneeded(mine.folder, keep="records", apply=True)
    drop_unneeded(other.folder, keep="records", apply=True)
    assert tickets(mine.root) == before
    work_on(other, other.manifest.packs[-1], device="cpu")
    assert len(list(mine.root.glob("runs/*/*/DONE"))) == 2


def test_a_sweep_at_work_and_a_unit_that_a_process_has_stay(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    sweep = computed("mine", short(cell))
    unit = sweep.manifest.cells[0].units[1]
    before = tickets(sweep.root)
    sweep.beat("me", Heartbeat("here", {"p": PackAtWork([unit], 3)}, []))
    assert drop_unneeded(sweep.folder, keep="records", apply=True)[0].startswith("mine: 0 files")
    assert tickets(sweep.root) == before
    sweep.rest("me")
    held = lock(sweep.root / "tickets" / unit[0] / f"{unit[1]}.lock")
    assert held is not None
    assert drop_unneeded(sweep.folder, keep="records", apply=True)[-1] == "removed 3 files"
    assert tickets(sweep.root) == {f"{unit[0]}/{unit[1]}.safetensors"}
    held.release()


def test_reported_keeps_what_a_report_reads_and_drops_snapshots_and_checkpoints(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    sweep = computed("mine", short(cell, reset__to="2it"))
    key = sweep.manifest.cells[0].stages[0]
    partial = sweep.root / "tickets" / key / "0.partial-1.safetensors"
    partial.write_bytes(b"left by a killed process")
    before = tickets(sweep.root)
    drop_unneeded(sweep.folder, apply=True)
    assert before - tickets(sweep.root) == {
        f"{key}/0@2.safetensors",
        f"{key}/0.partial-1.safetensors",
    }
    assert Submission(plan([short(cell, reset__to="2it")]), settings(sweep.root)).missing() == ()


def test_a_sweep_that_goes_further_computes_again_what_was_dropped_and_ends_the_same(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    sweep = computed("mine", short(cell, schedule__levels=1))
    before = {p: p.read_bytes() for p in sweep.root.glob("tickets/*/*.safetensors")}
    drop_unneeded(sweep.folder, keep="records", apply=True)
    computed("further", short(cell, schedule__levels=2))
    assert len(list(sweep.root.glob("runs/*/*/DONE"))) == 2
    assert (
        before.items()
        <= {p: p.read_bytes() for p in sweep.root.glob("tickets/*/*.safetensors")}.items()
    )


def test_a_damaged_ticket_is_computed_again_with_all_that_it_starts_from(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    sweep = computed("mine", short(cell))
    made, store = plan([short(cell)]), Store(sweep.root)
    dense, first, second = (store.path(key, 0) for key in sweep.manifest.cells[0].stages)
    right = second.read_bytes()
    kept = {path: path.read_bytes() for path in (first, second)}
    drop_unneeded(sweep.folder, keep="records", apply=True)
    first.write_bytes(kept[first])
    second.write_bytes(right[:-1] + b"#")
    settle(sweep.root)
    missing = made.missing(store, thorough=True)
    assert [store.path(unit.stage.key, 0) for unit in missing] == [dense, second]
    for unit in missing:
        compute([unit], made.moments, store, Machine())
    assert second.read_bytes() == right


def test_lost_records_are_computed_again(cell: Make, computed: Callable[..., SweepFolder]) -> None:
    sweep = computed("mine", short(cell))
    drop_unneeded(sweep.folder, keep="records", apply=True)
    next(sweep.root.glob("runs/*/*/DONE")).unlink()
    assert len(plan([short(cell)]).missing(Store(sweep.root), thorough=True)) == 3


def test_nothing_goes_while_a_manifest_cannot_be_read(
    cell: Make, computed: Callable[..., SweepFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = computed("mine", short(cell))
    other = sweep.root / "sweeps" / "other" / "manifest.json"
    other.parent.mkdir()
    other.write_bytes(b"{")
    before = tickets(sweep.root)
    assert main(["prune-store", str(sweep.folder), "keep=records", "--yes"]) == 1
    assert str(other) in capsys.readouterr().err
    assert tickets(sweep.root) == before


def test_an_imported_sweep_keeps_its_tickets(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    sweep = computed("mine", short(cell))
    replace(sweep.manifest, experiment="imported").write(sweep.path)
    before = tickets(sweep.root)
    drop_unneeded(sweep.folder, keep="records", apply=True)
    assert tickets(sweep.root) == before


def test_keep_is_done_when_the_sweep_is_done(
    cell: Make, computed: Callable[..., SweepFolder]
) -> None:
    sweep = computed("mine", short(cell))
    before = tickets(sweep.root)
    assert keep_only(sweep, "all") == [] and tickets(sweep.root) == before
    sweep.beat("me", Heartbeat("here", {}, []))  # killed a moment ago, or at work elsewhere
    (said,) = keep_only(sweep, "records")
    assert said.startswith("keep=records: nothing is removed, because me may still run")
    assert tickets(sweep.root) == before
    sweep.rest("me")
    assert keep_only(sweep, "records") == ["keep=records: removed 4 files"]
    assert keep_only(sweep, "records") == [] and not tickets(sweep.root)


def test_a_figure_of_tickets_that_were_dropped_is_not_checked_and_said_so(
    cell: Make, computed: Callable[..., SweepFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = computed("mine", short(cell, seed=0), short(cell, seed=1))
    figures = "figures=[curves,overlap]"
    assert main(["report", str(sweep.folder), figures, "masks_at=[0.3]"]) == 0
    assert (sweep.folder / "report" / "overlap.png").exists()
    assert main(["report", str(sweep.folder), "--check"]) == 0
    assert "dropped" not in capsys.readouterr().out
    drop_unneeded(sweep.folder, keep="records", apply=True)
    assert main(["report", str(sweep.folder), "--check"]) == 0
    said = capsys.readouterr().out
    assert "overlap: not checked, because its tickets were dropped" in said
    assert "every other figure and table matches the data" in said
    (sweep.folder / "report" / "overlap.csv").write_text("1")
    assert main(["report", str(sweep.folder), "--check"]) == 1
    assert main(["report", str(sweep.folder), figures, "masks_at=[0.3]"]) == 0
    assert (sweep.folder / "report" / "overlap.png").exists(), "it cannot be drawn again"


def test_keep_counts_in_no_name(cell: Make) -> None:
    one, other = (plan([short(cell, keep=keep)]).cells[0] for keep in ("all", "records"))
    assert one.signature == other.signature and one.last.key == other.last.key
