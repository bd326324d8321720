"""`audit`: a good sweep passes every check, and each planted fault fails only its own check."""

from __future__ import annotations

import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from lt_sweeps.analysis.audit_findings import CHECKS, Findings
from lt_sweeps.analysis.record_audit import audit_records, audited_cells, pairs_apart
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.interchange.auditing.accuracy_audit import are_apart
from lt_sweeps.interchange.auditing.audited_store import AuditedStore, differing
from lt_sweeps.interchange.auditing.row_audit import audit_rows
from lt_sweeps.interchange.auditing.split_audit import audit_splits
from lt_sweeps.interchange.stored_plan import planned_run
from lt_sweeps.plan.stages import Task
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.storage.dropped_tickets import note_dropped
from lt_sweeps.storage.manifest import Manifest
from lt_sweeps.storage.record import COLUMNS as RECORD
from lt_sweeps.storage.record import MEASURED, Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_file import identity_in_path, read_metadata, ticket_path
from lt_sweeps.storage.verified_files import VerifiedFiles

Make = Callable[..., Cell]
Swept = Callable[..., Path]
LAYER = "output.weight"


def verdicts(where: Path, out: Path, **options: Any) -> dict[str, str]:
    """The result of every check."""
    passed = audit(where, out=out, console=Console(quiet=True), **options)
    states = {c["check"]: c["state"] for c in json.loads(out.read_text())["checks"]}
    assert passed == ("FAIL" not in states.values())
    return states


def failing(where: Path, **options: Any) -> list[str]:
    out = where.parent / f"{where.name}-audit.json"
    return [check for check, state in verdicts(where, out, **options).items() if state == "FAIL"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Roots that are computed once and copied for each test."""
    return {"folder": tmp_path_factory.mktemp("stock")}


@pytest.fixture
def sweep(cell: Make, swept: Swept, stock: dict[str, Path], tmp_path: Path) -> Path:
    """Two criteria, two seeds, two levels; `movement` keeps the start of each training."""
    movement = {"_target_": "lt_sweeps.sparsity.criteria.movement"}
    if "root" not in stock:
        made = [{}, {"mask_criterion": movement}]
        folder = swept(
            *(cell(seed=seed, reset__to="4it", **how) for how in made for seed in (0, 1))
        )
        stock["root"] = stock["folder"] / "results"
        shutil.copytree(folder.parent.parent, stock["root"])
        return folder
    shutil.copytree(stock["root"], tmp_path / "results")
    return tmp_path / "results" / "sweeps" / "tiny"


def cells(sweep: Path) -> list[RunFolder]:
    root = sweep.parent.parent
    return [RunFolder(path) for path in sorted(root.glob("runs/*/*")) if path.is_dir()]


def last(sweep: Path) -> tuple[RunFolder, Record, Path]:
    """A cell's sparsest result, which no stage starts from: its record and its ticket."""
    folder = next(f for f in cells(sweep) if f.read().records[0].seed == "1")
    record = folder.read().records[-1]
    return folder, record, ticket_path(sweep.parent.parent, record.stage, record.seed)


def rewrite(path: Path, ticket: Ticket | None = None, **about: Any) -> None:
    """Write a ticket with other tensors or metadata, and with matching checksums."""
    store, named = Store(path.parent.parent.parent), identity_in_path(path)
    key, seed, moment = named["stage"], named["seed"], named["moment"]
    ticket = ticket or store.read(key, seed, moment)
    metadata = {
        name: text
        for name, text in read_metadata(path).items()
        if name not in ("body_sha256", "metadata_sha256", "format")
    }
    path.unlink()
    store.write(key, seed, ticket, {**metadata, **about}, moment)


def rerecord(folder: RunFolder, level: int, **changes: Any) -> None:
    rows = folder.read().records
    folder.write([replace(r, **changes) if r.level == level else r for r in rows], complete=True)


def stored(path: Path) -> Ticket:
    named = identity_in_path(path)
    store = Store(path.parent.parent.parent)
    return store.read(named["stage"], named["seed"], named["moment"])


def changed(ticket: Ticket, change: Callable[[torch.Tensor, torch.Tensor], None]) -> Ticket:
    """Change a ticket with a function of one layer's weights and mask, both flattened."""
    state = {name: tensor.clone() for name, tensor in ticket.state.items()}
    mask = {name: tensor.clone() for name, tensor in ticket.mask.items()}
    change(state[LAYER].view(-1), mask[LAYER].view(-1))
    return replace(ticket, state=state, mask=mask)


def test_a_good_sweep_passes_every_check(sweep: Path, tmp_path: Path) -> None:
    found = verdicts(sweep, tmp_path / "a.json", sample="all", repeat="all")
    assert found == dict.fromkeys(CHECKS, "pass")


def test_it_changes_no_file(sweep: Path) -> None:
    root = sweep.parent.parent
    last(sweep)[2].write_bytes(b"cut")

    def content() -> dict[Path, tuple[bytes, int]]:
        files = (path for path in root.rglob("*") if path.is_file())
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = content()
    assert not audit(sweep, console=Console(quiet=True))
    assert not audit(root, console=Console(quiet=True))
    assert content() == before


def edit_manifest(sweep: Path) -> None:
    text = json.loads((sweep / "manifest.json").read_text())
    text["cells"].pop()
    (sweep / "manifest.json").write_text(json.dumps(text))


def edit_records(sweep: Path) -> None:
    path = cells(sweep)[0].records
    path.write_text(path.read_text().replace('"test_accuracy": 0.', '"test_accuracy": 0.9', 1))


def edit_config(sweep: Path) -> None:
    path = cells(sweep)[0].path / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["config"]["recipe"]["lr"] = 0.02
    path.write_text(yaml.safe_dump(content))


def cut(sweep: Path) -> None:
    _, _, path = last(sweep)
    path.write_bytes(path.read_bytes()[:-1])


def swap_seeds(sweep: Path) -> None:
    _, _, path = last(sweep)
    other = path.with_name("0.safetensors")
    other.rename(path.with_name("aside"))
    path.rename(other)
    path.with_name("aside").rename(path)


def copy_seed(sweep: Path) -> None:
    _, _, path = last(sweep)
    rewrite(path, stored(path.with_name("0.safetensors")))


def count_in_record(sweep: Path) -> None:
    folder, record, _ = last(sweep)
    left = {**record.layers_remaining, LAYER: record.layers_remaining[LAYER] + 1}
    kept = record.weights_remaining + 1
    sparsity = 1 - kept / record.weights_total
    rerecord(folder, 2, layers_remaining=left, weights_remaining=kept, sparsity=sparsity)


def revive_to_miss_the_target(sweep: Path) -> None:
    """Keep more weights than the schedule says; header and record give the true number."""
    folder, record, path = last(sweep)
    before = stored(ticket_path(sweep.parent.parent, folder.read().records[1].stage, record.seed))
    ticket = stored(path)
    ticket = replace(ticket, mask={**ticket.mask, LAYER: before.mask[LAYER]})
    left = {**record.layers_remaining, LAYER: int(before.mask[LAYER].sum())}
    kept = sum(left.values())
    sparsity = 1 - kept / record.weights_total
    rewrite(path, ticket, layers_remaining=left, sparsity=sparsity)
    assert record.sparsity_total is not None
    pruned = record.weights_total - record.weights_remaining
    of_all = (record.weights_total - kept) / round(pruned / record.sparsity_total)
    how = {"layers_remaining": left, "sparsity_total": of_all}
    rerecord(folder, 2, weights_remaining=kept, sparsity=sparsity, **how)


def measure_in_record(sweep: Path) -> None:
    folder, record, _ = last(sweep)
    assert record.end_test_loss is not None
    rerecord(folder, 2, end_test_loss=record.end_test_loss / 2)


def flip_a_bit(sweep: Path) -> None:
    _, _, path = last(sweep)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def count_in_header(sweep: Path) -> None:
    """Header and record agree on a number of weights that the mask does not have."""
    count_in_record(sweep)
    folder, _, path = last(sweep)
    record = folder.read().records[-1]
    rewrite(path, layers_remaining=dict(record.layers_remaining), sparsity=record.sparsity)


def revive(sweep: Path) -> None:
    """Replace a kept weight in the mask by one that level 1 has pruned."""
    folder, record, path = last(sweep)
    before = stored(ticket_path(sweep.parent.parent, folder.read().records[1].stage, record.seed))
    gone = (~before.mask[LAYER]).flatten().nonzero()[0, 0]

    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        first = mask.nonzero()[0, 0]
        mask[gone], mask[first], weights[first] = True, False, 0.0

    rewrite(path, changed(stored(path), change))


def keep_another(sweep: Path) -> None:
    """Replace a kept weight in the mask by one that the criterion prunes at level 2."""
    folder, record, path = last(sweep)
    before = stored(ticket_path(sweep.parent.parent, folder.read().records[1].stage, record.seed))

    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        first = mask.nonzero()[0, 0]
        other = (before.mask[LAYER].view(-1) & ~mask).nonzero()[0, 0]
        mask[other], mask[first], weights[first] = True, False, 0.0

    rewrite(path, changed(stored(path), change))


def unpin(sweep: Path) -> None:
    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        weights[(~mask).nonzero()[0, 0]] = 1e-3

    _, _, path = last(sweep)
    rewrite(path, changed(stored(path), change))


def restart_elsewhere(sweep: Path) -> None:
    """The start of a training, which `movement` uses, is not the snapshot of step 4."""

    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        weights[mask.nonzero()[0, 0]] += 1e-6

    path = sorted(sweep.parent.parent.glob("tickets/*/1@start.safetensors"))[0]
    rewrite(path, changed(stored(path), change))


def diverge(sweep: Path) -> None:
    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        weights[mask.nonzero()[0, 0]] = torch.nan

    _, _, path = last(sweep)
    rewrite(path, changed(stored(path), change))


def draw_otherwise(sweep: Path) -> None:
    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        weights[0] += 1e-3

    _, record, _ = last(sweep)
    assert record.init is not None
    path = ticket_path(sweep.parent.parent, record.init, "1")
    rewrite(path, changed(stored(path), change))


def claim_more(sweep: Path) -> None:
    """Header and record agree on an accuracy that the network does not have."""
    folder, record, path = last(sweep)
    metrics = json.loads(read_metadata(path)["metrics"])
    rewrite(path, metrics={**metrics, "end_test_accuracy": 0.999})
    same = {"test_accuracy": 0.999} if record.report_at == "end" else {}
    rerecord(folder, 2, end_test_accuracy=0.999, **same)


def keep_another_in_a_snapshot(sweep: Path) -> None:
    """A snapshot beside a ticket, such as the reported network, has one weight of another mask."""

    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        gone, first = (~mask).nonzero()[0, 0], mask.nonzero()[0, 0]
        mask[gone], mask[first], weights[first] = True, False, 0.0

    starts = sorted(sweep.parent.parent.glob("tickets/*/1@start.safetensors"))
    path = next(path for path in starts if not stored(path).mask[LAYER].all())
    rewrite(path, changed(stored(path), change))


def claim_a_lower_loss(sweep: Path) -> None:
    """Header and record agree on a loss that the network does not have."""
    folder, record, path = last(sweep)
    metrics = json.loads(read_metadata(path)["metrics"])
    rewrite(path, metrics={**metrics, "end_test_loss": 0.01})
    same = {"test_loss": 0.01} if record.reported_step == record.step else {}
    same |= {"best_test_loss": 0.01} if record.best_step == record.step else {}
    if same:
        rewrite(path, metrics={**metrics, "end_test_loss": 0.01, "best_test_loss": 0.01})
    rerecord(folder, 2, end_test_loss=0.01, **same)


def choose_a_worse_evaluation(sweep: Path) -> None:
    """Report the first evaluation of a training as its best, as a choice by test accuracy would."""
    _, record, path = last(sweep)
    about = read_metadata(path)
    history = json.loads(about["history"])
    other = next(row for row in history if row["step"] not in (record.best_step, record.step))
    rewrite(path, history=[row | {"val_loss": 1e-3} if row is other else row for row in history])


def forget_an_evaluation(sweep: Path) -> None:
    _, record, path = last(sweep)
    history = json.loads(read_metadata(path)["history"])
    needed = (record.best_step, record.step)
    rewrite(path, history=[row for row in history if row["step"] in needed])


def call_it_diverged(sweep: Path) -> None:
    """Header and record hide a bad result as one of a training that diverged."""
    folder, _, path = last(sweep)
    metrics = json.loads(read_metadata(path)["metrics"])
    rewrite(path, metrics={**metrics, "finite": False})
    rerecord(folder, 2, finite=False)


def call_it_another_criterion(sweep: Path) -> None:
    """Manifest, config.yaml and records agree on an option whose function was not used."""
    path, config = sweep / "manifest.json", cells(sweep)[0].read_config()
    manifest, signature = Manifest.read(path), config["signature"]
    named = [
        replace(
            c,
            labels={**c.labels, "mask_criterion": "random"}
            if c.signature == signature
            else c.labels,
        )
        for c in manifest.cells
    ]
    replace(manifest, cells=named).write(path)
    for folder in cells(sweep):
        stored = folder.read_config()
        if stored["signature"] == signature:
            folder.write_config({**stored["choices"], "mask_criterion": "random"}, stored["config"])
            rows = [replace(row, criterion="random") for row in folder.read().records]
            folder.write(rows, complete=True)


def plan_otherwise(sweep: Path) -> None:
    """Config and manifest agree on another cell than the one that was computed."""
    path, folder = sweep / "manifest.json", cells(sweep)[0]
    manifest = Manifest.read(path)
    name = f"{folder.path.parent.name}/{folder.path.name}"
    config = next(cell.config for cell in manifest.cells if cell.name == name)
    other = Config({**config, "recipe": {**config["recipe"], "lr": 0.02}})
    changed = [replace(c, config=other) if c.name == name else c for c in manifest.cells]
    replace(manifest, cells=changed).write(path)
    edit_config(sweep)


PLANTS = {
    "manifest": edit_manifest,
    "records": edit_records,
    "configs": edit_config,
    "headers": cut,
    "paths": swap_seeds,
    "counts": count_in_record,
    "targets": revive_to_miss_the_target,
    "metrics": measure_in_record,
    "seeds": copy_seed,
    "signatures": plan_otherwise,
    "checksums": flip_a_bit,
    "masks": count_in_header,
    "nesting": revive,
    "criteria": keep_another,
    "pinned": unpin,
    "rewound": restart_elsewhere,
    "finite": diverge,
    "draws": draw_otherwise,
    "accuracies": claim_more,
}


OTHER: dict[str, Any] = {
    "seconds": 1e6,
    "device": "cuda:0",
    "stack_size": 99,
    "backend": "none",
    "code_version": "0.0.1",
    "criterion": "random",
    "freeze": None,
    "experiment": "another",
    "init": "0" * 16,
    "kind": "score",
    "step": 1,
    "target_sparsity": None,
    "sparsity_total": 0.5,
    "report_at": "never",
    "reported_step": 1,
    "mask_chance": [1.0, 0.0],
    "train_steps": 1,
    "epochs": 1.0,
    "search_epochs": 0.0,
    "after": [],
    "precision": "bf16",
    "notes": ["a word of mine"],
    "granularity": "filter",
    "resolution": 3,
}
"""A wrong value of each column that neither `counts` nor `metrics` compares."""


def test_every_column_of_a_row_is_what_another_file_leads_to(sweep: Path) -> None:
    artifacts, root = audit_records(sweep, Findings()), sweep.parent.parent
    plans = {
        f"{c.signature}/{c.seed}": planned_run(root, c.signature, c.seed, ())
        for c in artifacts.cells
    }
    store = AuditedStore(root, whole=dict(artifacts.tickets))

    def faults(**change: Any) -> tuple[str, ...]:
        first, *others = artifacts.cells
        rows = (*first.records[:-1], replace(first.records[-1], **change))
        findings, cells = Findings(), (replace(first, records=rows), *others)
        audit_rows(replace(artifacts, cells=cells), plans, store, findings)
        return findings.verdicts(["records"])[0].faults

    assert faults() == ()
    bools = ("dense_resources", "finite", "collapsed")
    row = artifacts.cells[0].records[-1]
    wrong = OTHER | {name: not getattr(row, name) for name in bools}
    for name, value in wrong.items():
        assert f"level 2: {name} is {value}; " in " ".join(faults(**{name: value})), name
    # The row of a training that diverged is known where prune-store has dropped its ticket.
    del store.whole[store.path(artifacts.cells[0].records[0].stage, artifacts.cells[0].seed)]
    assert faults() == ()
    compared = {*wrong, *CHEAP_COLUMNS, "format", "cell", "seed", "stage", "level"}
    assert {*RECORD} - {*Record.option_columns({})} <= compared


CHEAP_COLUMNS = {
    *("weights_remaining", "weights_total", "layers_remaining", "layers_total", "sparsity"),
    *("metric", "lower_is_better", "metrics", "lower_metrics", "best_step"),
    *("hard_val_accuracy", "hard_test_accuracy"),
    *(f"{at}{name}" for at in ("", "end_", "best_") for name in MEASURED),
}
"""What `counts` and `metrics` compare."""


def test_an_edited_cost_or_a_row_of_a_training_that_did_not_diverge_is_a_fault_of_records(
    sweep: Path,
) -> None:
    # A row also counts as diverged if its mask was made from a training that diverged.
    folder, _, _ = last(sweep)
    rerecord(folder, 1, finite=False)
    rerecord(folder, 2, seconds=0.001)
    assert failing(sweep, sample="0") == ["records"]


def test_a_cell_that_two_sweeps_name_differently_passes(sweep: Path) -> None:
    manifest = Manifest.read(sweep / "manifest.json")
    named = [replace(c, labels={**c.labels, "recipe": "mine"}) for c in manifest.cells]
    replace(manifest, name="mine", cells=named).write(sweep.with_name("mine") / "manifest.json")
    for folder in cells(sweep):
        stored = folder.read_config()
        folder.write_config({**stored["choices"], "recipe": "mine"}, stored["config"])
    assert failing(sweep.with_name("mine"), sample="0") == []
    shutil.rmtree(sweep)
    assert failing(sweep.with_name("mine"), sample="0") == ["records"]


LIES = [
    ("configs", call_it_another_criterion),
    ("criteria", keep_another_in_a_snapshot),
    ("metrics", choose_a_worse_evaluation),
    ("metrics", forget_an_evaluation),
    ("finite", call_it_diverged),
    ("accuracies", claim_a_lower_loss),
]
"""Faults on which a ticket and its record agree, with correct checksums."""


@pytest.mark.parametrize(("check", "plant"), [*PLANTS.items(), *LIES])
def test_a_planted_fault_fails_its_check_and_no_other(
    sweep: Path, check: str, plant: Callable[[Path], None]
) -> None:
    plant(sweep)
    assert failing(sweep, sample="all") == [check]


def test_the_other_checks_have_plants_of_their_own() -> None:
    assert CHECKS.keys() - PLANTS.keys() == {"arms", "splits", "repeats"}


def test_a_fault_that_only_a_repeated_training_shows_is_found(sweep: Path) -> None:
    _, record, path = last(sweep)
    history = json.loads(read_metadata(path)["history"])
    other = next(row for row in history if row["step"] not in (record.best_step, record.step))
    rewrite(
        path, history=[{**row, "val_accuracy": 1.0} if row is other else row for row in history]
    )
    assert failing(sweep, sample="all") == []
    assert failing(sweep, sample="0", repeat="all") == ["repeats"]
    rewrite(path, history=history)

    def change(weights: torch.Tensor, mask: torch.Tensor) -> None:
        weights[0] += 1e-3

    # Without stored starts, each training that begins at step 4 agrees with its snapshot.
    (snapshot,) = sweep.parent.parent.glob("tickets/*/1@4.safetensors")
    for start in sweep.parent.parent.glob("tickets/*/1@start.safetensors"):
        start.unlink()
    original = snapshot.read_bytes()
    rewrite(snapshot, changed(stored(snapshot), change))
    assert "repeats" in failing(sweep, sample="0", repeat="all")
    snapshot.write_bytes(original)
    assert failing(sweep, sample="0", repeat="all") == []


@pytest.mark.parametrize(
    ("backend", "state"),
    [("loop", "pass"), ("chain", "pass"), ("stacked", "not checked"), ("vmap", "not checked")],
)
def test_a_training_is_done_again_by_its_backend_where_it_repeats_its_bits(
    backend: str, state: str, cell: Make, swept: Swept, tmp_path: Path
) -> None:
    folder = swept(cell(seed=0), cell(seed=1), backend=backend)
    assert verdicts(folder, tmp_path / "audit.json", repeat="all")["repeats"] == state


def test_measured_again_with_another_backend_a_loss_in_bf16_rounds_more(
    cell: Make, swept: Swept
) -> None:
    dataset = {"_target_": "lt_sweeps.data.diabetes", "validation": 66, "test": 300}
    task = {
        "loss": {"_target_": "torch.nn.functional.mse_loss"},
        "metrics": {"mae": {"_target_": "torch.nn.functional.l1_loss"}},
    }
    recipe = {"_target_": "lt_sweeps.config.recipes.recipe", "optimizer": "sgd", "momentum": 0.9}
    recipe |= {"lr": 0.5, "batch_size": 7, "length": "9it", "evaluate_every": "9it"}
    how = {"dataset": dataset, "task": task, "precision": "bf16", "recipe": recipe}
    folder = swept(*(cell(seed=seed, **how) for seed in range(3)), backend="vmap")
    assert failing(folder, sample="all") == []


def test_a_weight_that_is_no_number_is_not_the_weight_that_is_0() -> None:
    lost, zero = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 0.0])
    assert differing({"a": lost, "b": zero}, {"a": lost.clone(), "b": lost}) == ["b"]
    assert differing({"a": zero, "b": zero}, {"a": zero[:1]}) == ["a", "b"]


def test_a_measurement_without_a_number_repeats_only_another_without_one() -> None:
    nan, inf = math.nan, math.inf
    assert are_apart(0.5, nan, 0.1) and are_apart(nan, 0.5, 0.1) and are_apart(inf, 0.5, 0.1)
    assert not (are_apart(nan, nan, 0.1) or are_apart(inf, inf, 0.1) or are_apart(0.5, 0.6, 0.11))


def module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_arms_with_equal_results_are_named(
    cell: Make, swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without trained levels in between, `transplant` and `rewind` restart from the same weights.
    transplant = {"_target_": "lt_sweeps.sparsity.resets.transplant"}
    folder = swept(*(cell(recipe__lr=0.05, **how) for how in ({}, {"reset": transplant})))
    assert failing(folder) == ["arms"]
    assert main(["audit", str(folder)]) == 1
    assert "arms: " in (out := capsys.readouterr().out) and "in all of 2 results" in out


def test_seeds_that_diverged_to_nan_in_all_weights_are_no_copies(cell: Make, swept: Swept) -> None:
    dataset = {"_target_": "lt_sweeps.data.diabetes", "validation": 66, "test": 300}
    task = {
        "loss": {"_target_": "torch.nn.functional.mse_loss"},
        "metrics": {"mae": {"_target_": "torch.nn.functional.l1_loss"}},
    }
    recipe = {"_target_": "lt_sweeps.config.recipes.recipe", "optimizer": "sgd", "lr": 1e12}
    recipe |= {"batch_size": 16, "length": "9it", "evaluate_every": "9it"}
    how = {"dataset": dataset, "task": task, "recipe": recipe}
    folder = swept(*(cell(seed=seed, **how) for seed in (0, 1)))
    key, store = cells(folder)[0].read().records[0].stage, Store(folder.parent.parent)
    for seed in ("0", "1"):
        diverged = store.read(key, seed)
        assert all(tensor.isnan().all() for tensor in diverged.state.values())
        about = dict(store.metadata(key, seed) or {})
        del about["metrics"], about["history"]  # which the best evaluation's file does not have
        store.write(key, seed, diverged, about, "best")
    assert failing(folder) == []


def test_arms_without_a_path_through_the_network_are_no_copies(cell: Make, swept: Swept) -> None:
    """Only the last bias can still train, so all criteria end with the same network."""
    cut = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.98}
    criteria = ({"_target_": f"lt_sweeps.sparsity.criteria.{c}"} for c in ("random", "small_init"))
    method = {"_target_": "lt_sweeps.plan.methods.one_shot"}
    net = {"_target_": "lt_sweeps.models.FC", "hidden": [8] * 5}
    init = {"_target_": "lt_sweeps.models.glorot_normal"}  # its biases are 0
    each = {"model__net": net, "model__init": init, "schedule": cut, "method": method}
    folder = swept(*(cell(mask_criterion=c, **each) for c in criteria))
    rows = [folder.read().records[-1] for folder in cells(folder)]
    assert {row.val_loss for row in rows} == {rows[0].val_loss} and all(r.collapsed for r in rows)
    assert 0 not in rows[0].layers_remaining.values()
    assert failing(folder) == []


def test_arms_with_equal_masks_are_named_where_their_results_differ(
    cell: Make, swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, "audit_twin", "def twin(init):\n    return init.abs()\n", monkeypatch)
    large_init = {"_target_": "lt_sweeps.sparsity.criteria.large_init"}
    arms = [
        cell(mask_criterion=large_init),
        cell(mask_criterion={"_target_": "audit_twin.twin"}, recipe__lr=0.02),
        # The same criterion must have the same masks in another recipe.
        cell(mask_criterion=large_init, recipe__lr=0.03),
    ]
    assert failing(swept(*arms[::2])) == []
    shutil.rmtree(tmp_path / "results")
    assert failing(swept(*arms), trust="audit_twin") == ["arms"]


def test_all_modules_to_trust_are_named_in_one_line(
    cell: Make,
    swept: Swept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each combination of modules used to have a line, with another list to trust."""
    for name in ("audit_one", "audit_two"):
        module(tmp_path, name, "def growth(init):\n    return init.abs()\n", monkeypatch)
    one, two = ({"_target_": f"audit_{name}.growth"} for name in ("one", "two"))
    root = swept(cell(mask_criterion=one), cell(mask_criterion=two), cell()).parent.parent
    main(["audit", str(root)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "names `audit_" in line]
    assert "signatures: 2 not checked" in line
    told = line.partition("hint: trust=")[2].split()[0]
    assert sorted(told.split(",")) == ["audit_one", "audit_two"]


def test_cells_that_share_a_training_are_no_pair_of_arms() -> None:
    dense = {"dense": [str(number) for number in range(10_000)]}  # its pairs would be 50 million
    assert pairs_apart([dense, {"x": ["b"], "y": ["a"], "z": ["b"]}]) == [("a", "b")]


def test_arms_that_are_only_scored_differ_by_their_results(cell: Make, swept: Swept) -> None:
    method = {"_target_": "lt_sweeps.plan.methods.supermask"}
    random_mask = {"_target_": "lt_sweeps.sparsity.criteria.random"}
    folder = swept(cell(method=method), cell(method=method, mask_criterion=random_mask))
    assert failing(folder, sample="all") == []


SHARED = """
from dataclasses import replace
from lt_sweeps.data import synthetic

def shared(*, shape: list[int]):
    data = synthetic(shape=shape, classes=4, train=64, validation=32, test=32)
    def load():
        splits = data.load()
        return {**splits, "test": splits["val"]}
    return replace(data, load=load)
"""


def test_images_in_two_splits_are_counted(
    cell: Make,
    swept: Swept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module(tmp_path, "audit_shared", SHARED, monkeypatch)
    folder = swept(cell(dataset={"_target_": "audit_shared.shared", "shape": [1, 4, 4]}))
    assert failing(folder, trust="audit_shared") == ["splits"]
    assert main(["audit", str(folder), "trust=audit_shared"]) == 1
    assert "32 of 32 test examples are val examples too" in capsys.readouterr().out


def test_windows_that_a_text_repeats_are_no_fault_of_its_splits(tmp_path: Path) -> None:
    """Several parts of a text contain the same licence.

    The plan counts such windows by the same rule.
    """
    draws, letters = random.Random(0), "abcdefghijklmnopqrstuvwxyz"
    parts = ("".join(draws.choices(letters, k=240)) + "The licence. " * 3 for _ in range(60))
    path = tmp_path / "text.txt"
    path.write_text("".join(parts))
    call = Call("lt_sweeps.data.text", Config({"length": 9, "path": str(path)}))
    findings = Findings()
    audit_splits(Task(call), findings)
    (verdict,) = [v for v in findings.verdicts() if v.check == "splits"]
    assert verdict.state == "pass" and sum(verdict.unchecked.values()) > 0


@pytest.mark.parametrize("target", ["os.system", "lt_sweeps.storage.atomic_write.write_whole"])
def test_no_function_of_a_stored_config_runs_unless_its_module_is_named(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (sweep / "manifest.json").unlink()  # it has the configs too, and they differ
    mark = tmp_path / "ran"
    for group, folder in zip(("dataset", "recipe"), cells(sweep), strict=False):
        path = folder.path / "config.yaml"
        content = yaml.safe_load(path.read_text())
        content["config"][group] = {"_target_": target, "command": f"touch {mark}"}
        path.write_text(yaml.safe_dump(content))
    assert main(["audit", str(sweep.parent.parent)]) == 0
    out = capsys.readouterr().out
    assert out.count(f"names `{target}`, which is not part of lt_sweeps") == 1, "for all cells"
    assert not mark.exists()


@pytest.mark.parametrize("missing", ["config.yaml", "manifest.json", "tickets", "records.jsonl"])
def test_missing_files_are_not_checked_and_fail_no_check(
    sweep: Path, missing: str, tmp_path: Path
) -> None:
    root = sweep.parent.parent
    for path in [*root.glob(f"runs/*/*/{missing}"), sweep / missing, root / missing]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if missing == "records.jsonl":
        for path in root.glob("runs/*/*/DONE"):
            path.unlink()
    states = verdicts(sweep if (sweep / "manifest.json").exists() else root, tmp_path / "a.json")
    assert set(states.values()) <= {"pass", "not checked"}


def test_a_training_that_was_lost_fails_and_one_that_was_dropped_does_not(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sweep.parent.parent
    folder, record, path = last(sweep)
    ticket_path(root, str(record.init), record.seed).unlink()  # the seed draws it again
    path.unlink()
    for where in (sweep, root):
        assert failing(where, sample="0") == ["headers"]
    assert main(["audit", str(sweep), "sample=0"]) == 1
    again = "computes it again\n" in (out := capsys.readouterr().out)
    assert again and f"{path}: lost, though {folder.name} records it; `lt-sweeps resume tiny" in out
    note_dropped(root, {record.stage: [record.seed]})
    for where in (sweep, root):
        assert failing(where, sample="0") == []
    assert main(["audit", str(sweep), "sample=0"]) == 0
    said = "headers: 1 not checked: prune-store or keep= has dropped it\n"
    assert said in capsys.readouterr().out


def test_a_lost_network_that_a_row_reports_fails_unless_it_was_dropped(
    cell: Make, swept: Swept
) -> None:
    sweep = swept(cell(recipe__lr=1.0))
    root = sweep.parent.parent
    record = next(r for f in cells(sweep) for r in f.read().records if r.reports_snapshot)
    ticket_path(root, record.stage, record.seed, "best").unlink()
    for where in (sweep, root):
        assert failing(where, sample="0") == ["headers"]
    note_dropped(root, {record.stage: [f"{record.seed}@best"]})
    for where in (sweep, root):
        assert failing(where, sample="0") == []


def test_lost_records_fail_if_the_cell_was_complete(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lost = sweep.parent.parent, cells(sweep)[0]
    shutil.rmtree(lost.path)
    for where in (sweep, root):
        assert main(["audit", str(where), "sample=0"]) == 0
        assert "records: 1 not checked: the cell is not computed yet" in capsys.readouterr().out
    verified = VerifiedFiles(root, by="an earlier version")
    verified.note(f"runs/{lost.name}", "any")
    verified.save()
    for where in (sweep, root):
        assert failing(where, sample="0") == ["records"]
    assert main(["audit", str(root), "sample=0"]) == 1
    said = f"{lost.records}: lost, though the cell was complete; `lt-sweeps resume tiny"
    assert said in capsys.readouterr().out


def test_a_complete_cell_that_lost_its_checksum_is_a_fault(sweep: Path) -> None:
    """Without DONE, records that were changed would pass as those of a cell that still runs."""
    (folder, *_), root = cells(sweep), sweep.parent.parent
    folder.done.unlink()
    assert not failing(sweep, sample="0")
    verified = VerifiedFiles(root, by="any version")
    verified.note(f"runs/{folder.name}", "any")
    verified.save()
    assert failing(sweep, sample="0") == ["records"]


def test_no_damaged_file_is_a_traceback(sweep: Path) -> None:
    root = sweep.parent.parent
    tickets = sorted(root.glob("tickets/*/1.safetensors"))
    for path, content in zip(tickets, (b"", b"\0" * 9, b"{" * 9_999, b"{}"), strict=False):
        path.write_bytes(content)
    tickets[4].unlink()
    os.mkfifo(tickets[4])
    for path, text in zip(cells(sweep), ("[" * 9_999, "- 1", ""), strict=False):
        (path.path / "config.yaml").write_text(text)
    cells(sweep)[3].records.write_text("[" * 9_999)
    assert {"headers", "configs", "records"} <= {*failing(sweep)}
    (sweep / "manifest.json").write_text("[]")
    assert "manifest" in failing(sweep)
    assert {"headers", "configs", "manifest"} <= {*failing(root)}


@pytest.mark.parametrize("kind", ["ticket", "snapshot", "records", "DONE", "manifest"])
def test_no_flipped_bit_passes(sweep: Path, kind: str) -> None:
    folder, _, ticket = last(sweep)
    files = {
        "ticket": ticket,
        "snapshot": next(sweep.parent.parent.glob("tickets/*/0@4.safetensors")),
        "records": folder.records,
        "DONE": folder.done,
        "manifest": sweep / "manifest.json",
    }
    content, draws = files[kind].read_bytes(), random.Random(kind)
    for _ in range(5):
        flipped = bytearray(content)
        flipped[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
        files[kind].write_bytes(flipped)
        assert failing(sweep, sample="0")


@pytest.mark.parametrize(
    "change",
    [
        lambda ticket: replace(ticket, state={**ticket.state, LAYER: torch.zeros(1, 2, 2)}),
        lambda ticket: replace(ticket, state={**ticket.state, LAYER: ticket.state[LAYER].double()}),
        lambda ticket: replace(ticket, mask={**ticket.mask, "other": ~ticket.mask[LAYER]}),
        lambda ticket: replace(ticket, state={"a": torch.zeros(1)}),
        lambda ticket: replace(ticket, learned={"a": torch.zeros(1)}),
    ],
)
def test_a_ticket_of_another_network_is_named(
    sweep: Path, change: Callable[[Ticket], Ticket]
) -> None:
    _, _, path = last(sweep)
    rewrite(path, change(stored(path)))
    assert failing(sweep, sample="all") == ["masks"]


def test_an_audit_computes_on_the_cpu_where_a_gpu_is_counted_and_cannot_be_used(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert audit(sweep, console=Console(quiet=True))


def test_a_cell_a_ticket_and_a_whole_root_are_audited_too(sweep: Path) -> None:
    assert failing(sweep.parent.parent, sample="1") == []
    assert failing(cells(sweep)[0].path.parent, sample="0") == []
    _, _, path = last(sweep)
    assert failing(path) == []
    flip_a_bit(sweep)
    assert failing(path) == ["checksums"]


def test_a_copy_that_a_person_made_of_tickets_is_named_and_fails_no_check(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = last(sweep)[2]
    for name in ("1 (copy)", "1@best copy", "1~"):
        shutil.copy(path, path.with_name(f"{name}.safetensors"))
    shutil.copytree(path.parent, backup := path.parent.with_name(f"{path.parent.name}.bak"))
    for where in (sweep, sweep.parent.parent):
        assert failing(where, sample="0") == []
    assert main(["audit", str(sweep.parent.parent), "sample=0"]) == 0
    count = 3 + len(list(backup.glob("*.safetensors")))
    named = f"headers: {count} not checked: not named as a ticket, so not written by lt_sweeps"
    assert f"{named}, such as {path.parent}" in capsys.readouterr().out


def test_an_audit_of_a_root_checks_the_manifests_of_all_its_sweeps(sweep: Path) -> None:
    root = sweep.parent.parent
    shutil.copytree(sweep, sweep.with_name("other"))
    assert failing(root, sample="0") == []
    edit_manifest(sweep)
    assert failing(root, sample="0") == ["manifest"]
    edit_config(sweep)
    assert failing(root, sample="0") == ["manifest", "configs"], "as the other sweep has it"


def test_a_cell_that_two_sweeps_of_a_root_spell_differently_passes(
    cell: Make, swept: Swept
) -> None:
    folder = swept(cell(reset__to="4it"))
    folder.rename(folder.with_name("in_steps"))
    other = swept(cell(reset__to="1ep"))
    assert len(cells(other)) == 1
    assert failing(other.parent.parent, sample="0") == []


def test_a_sample_is_as_large_as_it_is_said(sweep: Path, tmp_path: Path) -> None:
    def evaluated(sample: str) -> int:
        verdicts(sweep, tmp_path / "a.json", sample=sample)
        (check,) = (
            check
            for check in json.loads((tmp_path / "a.json").read_text())["checks"]
            if check["check"] == "accuracies"
        )
        return check["compared"] + sum(check["unchecked"].values())

    # Each is measured at its end, and at its best evaluation or not at all there.
    assert [evaluated(sample) for sample in ("0", "3", "all")] == [0, 6, 2 * 10]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["audit"], "audit: got no name; write lt-sweeps audit SWEEP|ROOT|FILE; "),
        (["audit", "nowhere"], "audit: nowhere; sweeps in results: none"),
        (["audit", "."], "audit: . has no results"),
        (["audit", ".", "repeat=-1"], "audit: repeat=-1; give a number of trainings, or all"),
        (["audit", ".", "sample=many"], "audit: sample=many; give a number of trainings, or all"),
        (["audit", ".", "simple=1"], "audit: simple; did you mean `sample`?"),
    ],
)
def test_a_wrong_argument_is_answered_in_one_line(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) in (1, 2)
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said


def test_the_cheap_part_says_its_verdict_in_a_line(sweep: Path) -> None:
    assert audited_cells(sweep)[0] == "audit of records and headers: 10 checks passed"
    swap_seeds(sweep)
    line = audited_cells(sweep)[0]
    assert "1 check FAILED (paths), 9 checks passed; the first of 2: " in line
    assert "its header says seed" in line
    named = f"{cells(sweep)[0].path.parent.name}/0"
    assert "FAILED" not in audited_cells(sweep, cells=[named])[0] or "paths" in line


def test_a_report_prints_the_verdict_of_the_cheap_part_and_shows_it_on_the_page(
    sweep: Path, tmp_path: Path
) -> None:
    count_in_record(sweep)
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    folder = report(sweep, out=tmp_path / "report", console=console, figures=[])
    said = "audit of records and headers: 1 check FAILED (counts), 9 checks passed; the first of 1"
    assert said in console.export_text()
    assert said in (folder / "index.html").read_text()
