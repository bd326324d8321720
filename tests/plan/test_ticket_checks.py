"""A ticket that does not fit its stage is named, set aside and computed again, never used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.hostile_files import forged
from torch import Tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.process_state import forget_plans
from lt_sweeps.execution.records import record_cell
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.storage import ticket_file
from lt_sweeps.storage.checked_read import NewerFormat
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store, UnitCost

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
Swept = tuple[Plan, Store, dict[Path, bytes]]


@pytest.fixture
def computed(cell: Make, run: Run) -> Swept:
    """A sweep of two seeds and three levels, and the bytes of all its files."""
    made, store = run(*(cell(seed=seed) for seed in (0, 1)))
    return made, store, _files(store.root)


def _files(root: Path) -> dict[Path, bytes]:
    names = ("tickets/*/*.safetensors", "runs/*/*/records.jsonl", "runs/*/*/DONE")
    return {path: path.read_bytes() for name in names for path in root.glob(name)}


def _ticket(computed: Swept, level: int, seed: int) -> Path:
    made, store, _ = computed
    stage = made.cells[0].trainings[level]
    return store.path(stage.key, seed)


def _mended(computed: Swept, *harmed: Path) -> None:
    """Check that harmed tickets count as missing, and are restored exactly when computed again."""
    made, store, before = computed
    missing = made.missing(store, thorough=True)
    assert {store.path(u.stage.key, u.seed) for u in missing} == set(harmed)
    for unit in missing:
        compute([unit], made.moments, store, Machine())
    assert all(record_cell(planned, StoredTickets(store, thorough=True)) for planned in made.cells)
    assert _files(store.root) == before
    assert all(path.with_name(f"{path.name}.corrupt-0").exists() for path in harmed)


def test_swapped_seeds_are_both_computed_again(
    computed: Swept, caplog: pytest.LogCaptureFixture
) -> None:
    zero, one = (_ticket(computed, 1, seed) for seed in (0, 1))
    content = zero.read_bytes()
    zero.write_bytes(one.read_bytes())
    one.write_bytes(content)
    assert len(computed[0].missing(computed[1])) == 2, "the head alone shows it"
    _mended(computed, zero, one)
    assert (
        f"{zero}: its header says seed '1'; its path says otherwise; it is not used" in caplog.text
    )


def test_a_ticket_of_another_stage_is_computed_again(computed: Swept) -> None:
    level1, level2 = (_ticket(computed, level, 0) for level in (1, 2))
    shutil.copyfile(level1, level2)
    _mended(computed, level2)


def test_a_ticket_of_another_moment_is_not_read(computed: Swept) -> None:
    _, store, _ = computed
    path = _ticket(computed, 1, 0)
    shutil.copyfile(path, path.with_name("0@best.safetensors"))
    assert not store.has(path.parent.name, 0, "best")


def _renamed(metadata: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> None:
    metadata |= {"stage": path.parent.name, "level": "2"}


def _revived(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Make a mask that keeps every weight, with counts that fit."""
    for name in [name for name in tensors if name.startswith("mask/")]:
        tensors[name].fill_(True)
    metadata |= {"layers_remaining": metadata["layers_total"], "sparsity": "0.0"}


def _some_weights_moved(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Keep as many weights as before, but swap 32 kept ones for 32 of the 69 that were pruned.

    31 of those were pruned at this level and 38 before, so at least one of them must come back.
    """
    mask = tensors["mask/hidden.0.weight"].view(-1)
    kept, pruned = mask.nonzero().flatten(), (~mask).nonzero().flatten()
    mask[kept[:32]], mask[pruned[:32]] = False, True


def _fill(name: str, value: float, where: str = "") -> Callable[..., None]:
    def change(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        pruned = ~tensors[f"mask/{where}"] if where else torch.ones_like(tensors[name]).bool()
        tensors[name][pruned] = value

    return change


def _metric(name: str, value: object) -> Callable[..., None]:
    def change(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        metadata["metrics"] = json.dumps(json.loads(metadata["metrics"]) | {name: value})

    return change


def _said(**facts: str) -> Callable[..., None]:
    return lambda metadata, tensors: metadata.update(facts)


def _swapped_names(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    bias = "hidden.1.bias"
    tensors["hidden.1.bios"] = tensors.pop(bias)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_revived, "where its level keeps"),
        (_some_weights_moved, "that were pruned before"),
        (_fill("hidden.0.weight", 0.3, "hidden.0.weight"), "pruned weights of hidden.0.weight"),
        (_fill("output.bias", float("nan")), "weights that are NaN or infinite"),
        (_fill("mask/hidden.0.weight", True), "its header says"),
        (_metric("end_val_accuracy", 0.999), "where the history has"),
        (_metric("end_val_accuracy", "much"), "a metric is not a number"),
        (_said(sparsity="0.5"), "sparsity 0.5 where"),
        (_said(level="1"), "level 1 where its stage has 2"),
        (_said(metrics="{}"), "without its metrics"),
        (_said(metrics="[" * 100_000), "not JSON"),
        (_swapped_names, "not those of its network"),
    ],
)
def test_an_edited_ticket_with_new_checksums_is_computed_again(
    computed: Swept, caplog: pytest.LogCaptureFixture, change: Callable[..., None], reason: str
) -> None:
    path = _ticket(computed, 2, 0)
    forged(path, change)
    _mended(computed, path)
    assert str(path) in caplog.text and reason in caplog.text


def test_a_ticket_under_another_level_with_new_checksums_is_computed_again(
    computed: Swept, caplog: pytest.LogCaptureFixture
) -> None:
    level1, level2 = (_ticket(computed, level, 0) for level in (1, 2))
    forged(level1, lambda metadata, tensors: _renamed(metadata, tensors, level2))
    level2.write_bytes(level1.read_bytes())
    level1.write_bytes(computed[2][level1])
    _mended(computed, level2)
    assert "where its level keeps" in caplog.text


def test_a_flipped_weight_is_found_though_nothing_needs_the_ticket(computed: Swept) -> None:
    path = _ticket(computed, 2, 1)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    assert not computed[0].missing(computed[1]), "a plan looks at heads alone"
    _mended(computed, path)


def test_records_of_a_swapped_ticket_are_written_again(computed: Swept) -> None:
    """An earlier version wrote seed 1's numbers into seed 0's records, and then `DONE`."""
    made, store, before = computed
    zero, one = (RunFolder.of(store.root, made.cells[0].signature, seed) for seed in (0, 1))
    rows = [dict(row.as_written, seed="0") for row in one.read().records]
    zero.write([type(one.read().records[0])(**row) for row in rows], complete=True)
    assert not zero.read().faults
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    assert _files(store.root) == before


def test_a_cell_is_not_done_while_a_ticket_of_it_is_wrong(computed: Swept) -> None:
    made, store, _ = computed
    path = _ticket(computed, 2, 0)
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    RunFolder.of(store.root, made.cells[0].signature, 0).done.unlink()
    assert not record_cell(made.cells[0], StoredTickets(store, thorough=True))


def test_each_ticket_of_a_cell_is_read_once_for_itself_and_for_the_next_level(
    computed: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store, _ = computed
    forget_plans()
    read, paths = ticket_file.read_content, []
    monkeypatch.setattr(ticket_file, "read_content", lambda path: paths.append(path) or read(path))
    RunFolder.of(store.root, made.cells[0].signature, 0).done.unlink()
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    levels = [_ticket(computed, level, 0) for level in range(len(made.cells[0].trainings))]
    assert [path for path in paths if path in levels] == levels


def test_a_mask_of_any_size_is_not_compared_with_a_count(cell: Make, run: Run) -> None:
    single = {"_target_": "lt_sweeps.sparsity.criteria.large_final_same_sign_single"}
    made, store = run(cell(schedule__levels=1, mask_criterion=single))
    assert not made.missing(store, thorough=True)


@pytest.mark.parametrize("method", ["gmp", "rigl", "continuous_sparsification", "l0", "at_init"])
def test_a_right_ticket_of_any_method_is_right(cell: Make, run: Run, method: str) -> None:
    half = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
    random = {"_target_": "lt_sweeps.sparsity.criteria.random"}
    which = {"_target_": f"lt_sweeps.plan.methods.{method}"}
    made, store = run(cell(method=which, schedule=half, mask_criterion=random))
    assert plan([made.cells[0].cell]).missing(store, thorough=True) == ()


def test_a_ticket_that_its_own_training_pruned_keeps_as_many_as_it_was_to_keep(
    cell: Make, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    half = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
    made, store = run(cell(method={"_target_": "lt_sweeps.plan.methods.gmp"}, schedule=half))
    last = made.units[-1]
    forged(store.path(last.stage.key, 0), _revived)
    assert made.missing(store) == (last,)
    assert "320 weights where its training keeps 160" in caplog.text


def test_a_ticket_of_a_newer_format_is_refused_and_stays(computed: Swept) -> None:
    made, store, _ = computed
    path = _ticket(computed, 1, 0)
    path.with_name("costs.jsonl").unlink()
    store.write_costs(path.parent.name, [0], UnitCost(code_version="9.0.0+abc"))
    content = path.read_bytes().replace(b"lt_sweeps.ticket/2", b"lt_sweeps.ticket/3")
    path.write_bytes(content)
    line = r"newer version of lt_sweeps \(9.0.0\+abc\) wrote it, in the format lt_sweeps.ticket/3; "
    line += "this version reads lt_sweeps.ticket/2; update lt_sweeps, or use another root"
    unit = next(u for u in made.units if store.path(u.stage.key, u.seed) == path)
    for refused in (
        lambda: made.missing(store),
        lambda: made.missing(store, thorough=True),
        lambda: compute([unit], made.moments, store, Machine()),
        lambda: record_cell(made.cells[0], StoredTickets(store, thorough=True)),
        lambda: store.read(path.parent.name, 0),
    ):
        with pytest.raises(NewerFormat, match=line):
            refused()
    assert path.read_bytes() == content and not list(path.parent.glob("*.corrupt-*"))
