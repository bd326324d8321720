"""A manifest is read as it was written, and a damaged one is refused in one line."""

import json
from pathlib import Path

import pytest

from lt_sweeps.config.call import Config
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
    {"a": FrozenStage(1, 0, 12, "train", ["z"])},
    [PACK],
    Launcher("slurm", "/there", {"time": 60}),
    {"default": {"baseline": "random"}},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == MANIFEST
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == FORMAT


def test_a_manifest_of_version_0_1_0_is_read_without_its_second_labels(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    MANIFEST.write(path)
    content = json.loads(path.read_text())
    content["cells"][0]["choices"] = {"model": "fc"}
    path.write_text(json.dumps(content))
    assert Manifest.read(path) == MANIFEST


def test_a_cell_is_the_one_that_was_composed() -> None:
    cell = MANIFEST.cell(0)
    assert (cell.config, cell.choices) == (CELL.config, CELL.labels)


def test_halves_have_all_units_and_only_their_own_moments() -> None:
    first, second = PACK.halves()
    assert [*first.units, *second.units] == UNITS
    assert first.moments == PACK.moments and set(second.moments) == {"b" * 16}
    assert len({PACK.name, first.name, second.name}) == 3


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "has format None; this version reads"),
        ('{"format": "lt_sweeps.manifest/2"}', "has format 'lt_sweeps.manifest/2'; this"),
        (json.dumps({"format": FORMAT}), "is damaged: KeyError"),
        (json.dumps({"format": FORMAT, "cells": [3]}), "is damaged: AttributeError"),
    ],
)
def test_what_is_not_a_manifest_is_refused(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=line):
        Manifest.read(tmp_path / "manifest.json")
