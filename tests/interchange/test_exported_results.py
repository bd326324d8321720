"""`export`: tidy tables that equal the records, and tickets for other code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import lt_sweeps
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.interchange.exported_tables import export_tables
from lt_sweeps.storage.dropped_tickets import note_dropped
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Swept = Callable[..., Path]


@pytest.fixture
def exported(cell: Make, swept: Swept) -> tuple[Path, Path]:
    folder = swept(*(cell(seed=seed) for seed in (0, 1)))
    return folder, export_tables(folder)


def test_a_row_per_cell_seed_and_level(exported: tuple[Path, Path]) -> None:
    folder, out = exported
    rows = pd.read_parquet(out / "records.parquet")
    paths = sorted(folder.parent.parent.glob("runs/*/*/records.jsonl"))
    records = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert len(rows) == len(records) == 6
    for name in ("cell", "seed", "level", "test_accuracy", "sparsity", "stage"):
        assert list(rows[name]) == [record[name] for record in records]


def test_csv_and_parquet_hold_the_same(exported: tuple[Path, Path]) -> None:
    _, out = exported
    for name in ("records", "curves"):
        parquet = pd.read_parquet(out / f"{name}.parquet")
        assert len(parquet) and parquet.to_csv(index=False) == (out / f"{name}.csv").read_text()


def test_a_curve_row_per_evaluation(exported: tuple[Path, Path]) -> None:
    _, out = exported
    rows = pd.read_parquet(out / "curves.parquet")
    # 2 seeds, 3 levels, evaluations at 0, 4, 8 and 12
    assert len(rows) == 2 * 3 * 4
    assert set(rows["step"]) == {0, 4, 8, 12}


def test_the_sizes_of_the_network_and_of_what_is_live(exported: tuple[Path, Path]) -> None:
    _, out = exported
    rows = pd.read_parquet(out / "records.parquet")
    dense = rows[rows["level"] == 0].iloc[0]
    # 16*12 + 12*8 + 8*4 weights and 12 + 8 + 4 biases
    assert dense["parameters_total"] == dense["parameters_effective"] == 320 + 24
    assert dense["flops_total"] == dense["flops_effective"] == 2 * 320
    assert (rows["weights_effective"] <= rows["weights_remaining"]).all()


def test_the_size_of_a_network_that_was_only_scored_is_that_of_its_mask(
    cell: Make, swept: Swept
) -> None:
    scored = {"_target_": "lt_sweeps.plan.methods.supermask"}
    kept = {"_target_": "lt_sweeps.sparsity.criteria.random"}
    rows = pd.read_csv(
        export_tables(swept(cell(method=scored, mask_criterion=kept))) / "records.csv"
    )
    assert list(rows["kind"]) == ["score"] * 3
    assert rows["weights_effective"][0] == rows["weights_total"][0]
    assert (rows["weights_effective"][1:] <= rows["weights_remaining"][1:]).all()


def test_an_unfinished_sweep_is_exported_as_far_as_it_goes(
    cell: Make, swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = swept(cell(seed=0), cell(seed=1))
    (path,) = folder.parent.parent.glob("runs/*/1")
    for file in path.iterdir():
        file.unlink()
    out = export_tables(folder, effective="false")
    assert "1 of 2 cells unfinished" in capsys.readouterr().out
    assert set(pd.read_csv(out / "records.csv")["seed"]) == {0}


def test_a_ticket_by_its_file(
    cell: Make, swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = swept(cell())
    ticket = next(folder.parent.parent.glob("tickets/*/0.safetensors"))
    assert main(["export", str(ticket), "form=prune", f"out={tmp_path / 'x.pt'}"]) == 0
    assert "output.weight_orig" in torch.load(tmp_path / "x.pt", weights_only=True)
    ticket.write_bytes(ticket.read_bytes()[:-1] + b"#")
    assert main(["export", str(ticket), f"out={tmp_path / 'y.pt'}"]) == 1
    assert "do not match their checksum" in capsys.readouterr().err
    assert not (tmp_path / "y.pt").exists()


def test_a_ticket_that_is_gone_is_named_with_what_computes_it_again(
    cell: Make, swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = swept(cell())
    root = folder.parent.parent
    saved = lt_sweeps.open(folder).ticket(level=1)
    saved.path.unlink()
    cell_folder = next(root.glob("runs/*/0"))
    again = f"`lt-sweeps resume {folder.name} root={root}` computes it again"
    for dropped, reason in (
        (False, f"lost, though {cell_folder.parent.name}/0 records it; {again}"),
        (True, f"prune-store or keep= has dropped it; remove {cell_folder}, then {again}"),
    ):
        if dropped:
            note_dropped(root, {saved.stage: ["0"]})
        assert main(["export", str(saved.path), f"out={tmp_path / 'x.pt'}"]) == 1
        assert capsys.readouterr().err == f"error: export: {saved.path}: {reason}\n"
        with pytest.raises(ValueError, match=re.escape(f"ticket: {saved.path}: {reason}")):
            saved.module("end")
    dense = lt_sweeps.open(folder).ticket(level=0).path.parent
    for other in (saved.path.with_name("9.safetensors"), dense / "0@77.safetensors"):
        assert main(["export", str(other)]) == 1
        assert capsys.readouterr().err == f"error: export: {other}: there is no such ticket\n"


def test_a_root_may_be_called_tickets(
    cell: Make, swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = swept(cell()).parent.parent.rename(tmp_path / "tickets")
    assert main(["export", str(root / "sweeps" / "tiny")]) == 0
    assert (root / "sweeps" / "tiny" / "export").is_dir()


@pytest.mark.parametrize("reported", ["best", "end"])
def test_the_weights_of_a_ticket_are_those_that_are_reported(
    cell: Make, swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str], reported: str
) -> None:
    folder = swept(cell(report_at=reported))
    end = next(folder.parent.parent.glob("tickets/*/0.safetensors"))
    store, key = Store(folder.parent.parent), end.parent.name
    best, words = store.path(key, "0", "best"), ["form=state_dict"]
    if not best.exists():  # else the last evaluation was not the best one
        other = store.read(key, "0")
        other.state["output.weight"].mul_(2)
        store.write(key, "0", other, {}, "best")
    wanted = {"": reported, "at=reported": reported, "at=end": "end"}
    for at, moment in wanted.items():
        out = tmp_path / "x.pt"
        assert main(["export", str(end), *words, *filter(None, [at]), f"out={out}"]) == 0
        state = store.read(key, "0", moment).state["output.weight"][0]
        assert torch.equal(torch.load(out, weights_only=True)["output.weight"], state)
        said = {"best": "the weights of the best evaluation", "end": "the weights at the end"}
        assert said[moment] in capsys.readouterr().out
    for words, line in (
        ([str(end), "at=best"], "export: at=best; give reported or end"),
        ([str(best), "at=end"], "export: at=end, but 0@best.safetensors names the moment best"),
    ):
        assert main(["export", *words]) == 1
        assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([".", "form=prune"], 1, "export: form=prune is for a ticket; . is a folder"),
        ([".", "at=end"], 1, "export: at=end is for a ticket; . is a folder"),
        (["."], 1, "export: . has no records yet"),
        ([".", "effective=no"], 1, "export: effective=no; give true or false"),
        ([".", "forms=prune"], 2, "export: forms; did you mean `form`? keys:"),
        (["nowhere"], 1, "export: nowhere; sweeps in results: none"),
        (["file.txt"], 1, "export: file.txt is not a ticket"),
        (["file.txt", "speed=true"], 1, "export: speed=true is for tables; file.txt is a file"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "file.txt":
        Path("file.txt").touch()
    assert main(["export", *words]) == status
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}") and err.count("\n") == 1
