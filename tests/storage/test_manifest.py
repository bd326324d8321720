"""A manifest is read back as it was written, and a damaged one is refused in one line."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lt_sweeps.config.call import Config
from lt_sweeps.storage.checked_read import DamagedFile, NewerFormat
from lt_sweeps.storage.manifest import (
    FORMAT,
    FrozenCell,
    FrozenPack,
    FrozenStage,
    Launcher,
    Machine,
    Manifest,
)

UNITS = [("a" * 16, "0"), ("b" * 16, "1"), ("b" * 16, "2")]
PACK = FrozenPack("p", 1, UNITS, Machine(), [0], {"a" * 16: [], "b" * 16: ["best", 7]}, "job")
CELL = FrozenCell("s", "0", {"model": None}, Config({"seed": 0}), ["a"], {"a": 1})
MANIFEST = Manifest(
    "mine",
    "default",
    "c",
    [CELL],
    {
        "a" * 16: FrozenStage(0, 0, 12, "train", []),
        "b" * 16: FrozenStage(1, 0, 12, "train", ["a" * 16]),
    },
    [PACK],
    Launcher("slurm", "/there", {"time": 60}),
    {"default": {"baseline": "random"}},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == MANIFEST
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == FORMAT


def test_a_cell_is_the_one_that_was_composed() -> None:
    cell = MANIFEST.cell(0)
    assert (cell.config, cell.choices) == (CELL.config, CELL.labels)


def test_halves_have_all_units_and_only_their_own_moments() -> None:
    first, second = PACK.halves()
    assert [*first.units, *second.units] == UNITS
    assert first.moments == PACK.moments and set(second.moments) == {"b" * 16}
    assert len({PACK.name, first.name, second.name}) == 3


def signed(row: dict[str, object]) -> str:
    """A manifest with the checksum of its content."""
    content = json.dumps(row)
    return content[:-1] + f', "sha256": "{hashlib.sha256(content.encode()).hexdigest()}"}}'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "damaged: not valid JSON"),
        ("{", "damaged: not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "damaged"),
        ("null", "damaged"),
        ('{"format": "lt_sweeps.manifest/2"}', "its format is 'lt_sweeps.manifest/2'; this"),
        (json.dumps({"format": FORMAT}), "it has no checksum"),
        (signed({"format": FORMAT}), "missing or unknown"),
        (
            signed({"format": FORMAT, "name": "", "experiment": "", "content": "", "cells": [3]}),
            "damaged: cells: got 3; it is an object with",
        ),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused_with_the_cure(
    tmp_path: Path, content: str, line: str
) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DamagedFile, match=line) as refused:
        Manifest.read(tmp_path / "manifest.json")
    assert str(refused.value).endswith("the command that started the sweep writes it again")


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    MANIFEST.write(path)
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(DamagedFile, match="does not match its checksum"):
        Manifest.read(path)


def test_a_newer_manifest_says_which_version_wrote_it(tmp_path: Path) -> None:
    machine = Machine(code_version="9.9.0+abc")
    new = replace(MANIFEST, format="lt_sweeps.manifest/5", packs=[replace(PACK, machine=machine)])
    (tmp_path / "manifest.json").write_text(json.dumps(new, default=vars))
    with pytest.raises(NewerFormat, match=r"newer version of lt_sweeps \(9.9.0\+abc\) wrote it"):
        Manifest.read(tmp_path / "manifest.json")


def test_a_manifest_that_names_what_it_does_not_hold_is_refused(tmp_path: Path) -> None:
    replace(MANIFEST, stages={}).write(tmp_path / "manifest.json")
    with pytest.raises(DamagedFile, match="no stage aaaa"):
        Manifest.read(tmp_path / "manifest.json")
