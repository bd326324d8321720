"""A record has one writer and one reader, and a file that was not written by it is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep

from lt_sweeps.config.quantities import METRICS
from lt_sweeps.storage.record import COLUMNS, FORMAT, Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.tracking.tracked_runs import FACTS, RESULTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return FakeSweep(tmp_path).cell("a", accuracies=[0.9, 0.8])


def change(folder: Path, **changes: Any) -> tuple[str, ...]:
    """Change the first record of a file; return the message of the refusal."""
    path = folder / "records.jsonl"
    first, *others = path.read_text().splitlines()
    row = {k: v for k, v in (json.loads(first) | changes).items() if v != "absent"}
    path.write_text("".join(line + "\n" for line in (json.dumps(row), *others)))
    (folder / "DONE").unlink()
    return RunFolder(folder).read().faults


def test_every_list_of_metrics_names_fields_of_a_record() -> None:
    assert {*METRICS, *RESULTS, *FACTS} <= set(COLUMNS)


def test_a_line_begins_with_the_version_and_has_every_field(folder: Path) -> None:
    row = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
    assert list(row) == [field.name for field in fields(Record)]
    assert next(iter(row.items())) == ("format", FORMAT)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"format": "lt_sweeps.record/0"}, "its format is 'lt_sweeps.record/0'"),
        ({"stage": "absent"}, "no stage"),
        ({"colour": "red"}, "unknown colour"),
        ({"level": 1.5}, "`level` is 1.5"),
        ({"level": True}, "`level` is True"),
        ({"kind": "guess"}, "`kind` is 'guess'"),
        ({"layers_total": [1]}, "`layers_total` is [1]"),
        ({"weights_remaining": 1001}, "`weights_remaining` is 1001 of 1000"),
        ({"notes": ["a", 1]}, "`notes` is ['a', 1]"),
        ({"metrics": {"test_r2": "high"}}, "`metrics` is {'test_r2': 'high'}"),
        ({"precision": "float8"}, "`precision` is 'float8'"),
        ({"train_steps": -1}, "`train_steps` is -1; it lies in [0, 9223372036854775807]"),
        ({"test_accuracy": 90.0}, "`test_accuracy` is 90.0; it lies in [0, 1]"),
        ({"val_loss": 10**400}, "`val_loss` is 1000"),  # too large for a float
        ({"cell": "b"}, "its folder says otherwise"),
    ],
)
def test_a_row_that_is_not_a_record_is_a_fault(
    folder: Path, changes: dict[str, Any], fault: str
) -> None:
    faults = change(folder, **changes)
    assert len(faults) == bool(fault)
    assert all(f"{folder / 'records.jsonl'}:1: " in each and fault in each for each in faults)


def test_a_loss_that_is_no_number_is_written_as_null(folder: Path) -> None:
    first, _ = RunFolder(folder).read().records
    RunFolder(folder).write([replace(first, val_loss=math.nan, finite=False)], complete=False)
    (record,) = RunFolder(folder).read().records
    assert record.val_loss is None and math.isnan(record.value("val_accuracy"))


def test_a_cell_without_rows_yet_has_no_faults(folder: Path) -> None:
    (folder / "DONE").unlink()
    RunFolder(folder).write([], complete=False)
    stored = RunFolder(folder).read()
    assert not (stored.records or stored.done or stored.faults or stored.half_written)
    (folder / "records.jsonl").unlink()
    assert RunFolder(folder).read() == stored


def test_equal_values_of_many_records_are_stored_once(tmp_path: Path) -> None:
    """65,000 records of a lab's report, each with its own dict and counts, took 630 MiB."""
    sweep = FakeSweep(tmp_path)
    (one, next_level), (other, _) = (
        RunFolder(sweep.cell("a", seed, accuracies=[0.9, 0.8])).read().records for seed in (0, 1)
    )
    assert not hasattr(one, "__dict__")
    for name in ("layers_remaining", "layers_total", "after", "stage", "code_version"):
        assert getattr(one, name) is getattr(other, name)
    assert one.layers_total is next_level.layers_total
    assert one.test_accuracy is one.best_test_accuracy


def test_records_are_read_without_torch() -> None:
    code = "import sys, lt_sweeps.storage.run_folder, lt_sweeps.storage.ticket_file\n"
    code += "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
