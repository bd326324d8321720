"""Commands on a damaged root: one line, an exit status, and reading renames no file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fixtures.hostile_files import listed, not_a_file
from fixtures.tiny_cell import TINY, settings

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.interchange.stored_plan import planned_run, planned_works
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder

READING = ("report", "export", "status", "compare", "sync")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one cell with two levels, computed once; each test damages a copy of its root."""
    root = tmp_path_factory.mktemp("computed") / "results"
    config = {**TINY, "schedule": {**TINY["schedule"], "levels": 1}, "tracker": {"_target_": None}}
    config |= {"device": "cpu", "root": "results", "name": "tiny", "checkpoint_every": 60}
    config |= {"backend": "auto", "dry_run": False, "workers": 1, "stack_size": "auto"}
    groups = ("model", "dataset", "method", "mask_criterion", "schedule", "recipe")
    choices = {group: group for group in (*groups, "reset", "freeze")}
    made = plan([Cell(Config(config), choices, ())])
    for unit in made.units:
        compute([unit], made.moments, Store(root), Machine())
    submission = Submission(made, settings(root, "tiny"))
    assert submission.write_records() == 1
    return submission.freeze([]).folder


@pytest.fixture
def sweep(computed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    root = tmp_path / "results"
    shutil.copytree(computed.parent.parent, root)
    return root / "sweeps" / "tiny"


def _command(verb: str, sweep: Path, out: Path) -> int:
    more = {
        "report": [f"out={out}", "figures=[]"],
        "export": [f"out={out}"],
        "compare": [str(sweep.with_name("twin"))],
    }
    return main([verb, str(sweep), *more.get(verb, [])])


def _answer(
    verb: str, sweep: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Return the status and output of a command, which must not change any file of the root."""
    root = sweep.parent.parent
    before = listed(root)
    status = _command(verb, sweep, out)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    changed = {name for name, at in listed(root).items() if before.get(name) != at}
    own = re.compile(r"/(\.mirror\.lock|dashboard\.json|wandb/.*)$")
    assert not {name for name in changed if not own.search(name)}
    assert set(before) <= set(listed(root))
    return status, re.sub(r"\s+", " ", said)


def _one(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def _edited(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert re.search(old, content)
    path.write_bytes(re.sub(old, new, content, count=1))


def _twice(path: Path) -> None:
    _edited(path, rb'"level": 1', rb'"level": 1, "level": 1')


RECORDS: dict[str, Callable[[Path], object]] = {
    "an edited number": lambda p: _edited(p, rb'"test_accuracy": 0\.\d', b'"test_accuracy": 0.0'),
    "a row less": lambda p: p.write_bytes(p.read_bytes().splitlines(keepends=True)[0]),
    "a row more": lambda p: p.write_bytes(p.read_bytes() + p.read_bytes().splitlines()[0] + b"\n"),
    "none": lambda p: p.write_bytes(b""),
    "a key twice": _twice,
    "infinity": lambda p: _edited(p, rb'"val_loss": [\d.]+', b'"val_loss": Infinity'),
    "a huge number": lambda p: _edited(p, rb'"val_loss": [\d.]+', b'"val_loss": 1e999'),
    "a level below 0": lambda p: _edited(p, rb'"level": 1', b'"level": -5'),
    "a level of 400 digits": lambda p: _edited(p, rb'"level": 1', b'"level": 1' + b"0" * 400),
    "half a character": lambda p: _edited(p, rb'"device": "cpu"', rb'"device": "\\ud800"'),
    "other counts": lambda p: _edited(p, rb'"weights_remaining": \d', b'"weights_remaining": 1'),
    "deep nesting": lambda p: p.write_bytes(b"[" * 200_000),
    "no text": lambda p: p.write_bytes(b"\xff\xfe\n"),
    "a folder": lambda p: not_a_file(p, "folder"),
    "a pipe": lambda p: not_a_file(p, "pipe"),
    "a loop": lambda p: not_a_file(p, "loop"),
}


def test_records_that_are_not_those_of_done_are_named_by_every_command_that_shows_them(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _one(sweep.parent.parent, "runs/*/*/records.jsonl")
    right = path.read_bytes()
    shutil.copytree(sweep, sweep.with_name("twin"))
    for name, harm in RECORDS.items():
        harm(path)
        for verb in READING if name == "an edited number" else ("report", "status"):
            status, said = _answer(verb, sweep, tmp_path / "out", capsys)
            assert status == 1, (name, verb, said)
            assert str(path.parent) in said.replace(" ", ""), (name, verb, said)
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(right)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "empty", "other"])
def test_a_done_that_is_no_checksum_is_named(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = _one(sweep.parent.parent, "runs/*/*/DONE")
    if kind in ("empty", "other"):
        path.write_bytes(b"" if kind == "empty" else b"0" * 64 + b"\n")
    else:
        not_a_file(path, kind)
    for verb in ("report", "status"):
        status, said = _answer(verb, sweep, tmp_path / "out", capsys)
        assert status == 1 and str(path.parent) in said.replace(" ", "")


# Ten lines that stand for ten billion values.
BOMB = b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 10)) for n in range(97, 107)
)
CONFIGS = (
    b"",
    b"[1]",
    b"choices: {}\n",
    b"\xff\xfe",
    b"a: &a [*a]\n",
    b"a: !!bool x\n",
    b"a: !!python/object/apply:os.system [true]\n",
    b"[" * 5000,
    BOMB + b"choices: {}\nconfig: *k\n",
)


@pytest.mark.parametrize("content", CONFIGS)
def test_a_config_that_is_not_a_mapping_is_one_line(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = _one(sweep.parent.parent, "runs/*/*/config.yaml")
    path.write_bytes(content)
    for verb in ("report", "export"):
        status, said = _answer(verb, sweep, tmp_path / "out", capsys)
        assert status == 1 and str(path) in said.replace(" ", "")


def test_a_process_that_stays_open_reads_a_file_that_was_written_again(sweep: Path) -> None:
    root = sweep.parent.parent
    config = _one(root, "runs/*/*/config.yaml")
    cell, seed = config.parent.parent.name, config.parent.name
    trainings = [len(planned_run(root, cell, seed, ()).trainings)]
    content = yaml.safe_load(config.read_text())
    content["config"]["schedule"]["levels"] += 1
    config.write_text(yaml.safe_dump(content))
    trainings.append(len(planned_run(root, cell, seed, ()).trainings))
    assert trainings == [2, 3] and len(planned_works(root, cell, ())) == 3
    run = RunFolder(config.parent)
    run.done.write_text("none")
    sweep.rename(sweep.with_name("renamed"))
    for name in ("renamed", "again"):
        sweep.with_name("renamed").rename(sweep.with_name(name))
        assert f"resume {name} " in str(run.read().faults)
        sweep.with_name(name).rename(sweep.with_name("renamed"))


def test_a_config_of_another_cell_is_named(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _one(sweep.parent.parent, "runs/*/*/config.yaml")
    path.write_text(path.read_text().replace("seed: '0'", "seed: '1'"))
    status, said = _answer("report", sweep, tmp_path / "out", capsys)
    assert status == 1 and "seed 1; its folder says otherwise" in said


def _submission(sweep: Path, *cells: Cell, dry_run: bool) -> Submission:
    asked = replace(settings(sweep.parent.parent, sweep.name), dry_run=dry_run)
    return Submission(plan(cells), asked)


MANIFESTS = {
    "empty": b"",
    "torn": b'{"name": "tiny", "ex',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "of another format": b'{"format": "lt_sweeps.manifest/3", "cells": []}',
    "no text": b"\xff\xff",
}


@pytest.mark.parametrize("kind", [*MANIFESTS, "folder", "pipe", "loop"])
def test_a_damaged_manifest_is_written_again_by_the_same_words_and_by_nothing_else(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path, before = SweepFolder(sweep).path, SweepFolder(sweep).manifest
    if kind in MANIFESTS:
        path.write_bytes(MANIFESTS[kind])
    else:
        not_a_file(path, kind)
    for verb in ("report", "status", "resume"):
        status, said = _answer(verb, sweep, tmp_path / "out", capsys)
        assert status == 1, said
        if kind != "loop" or verb != "report":
            assert "the command that started the sweep writes it again" in said, said
    cell = before.cell(0)
    looked = listed(sweep)
    again = _submission(sweep, cell, dry_run=True)
    assert again.unfinished(again.missing())[0] == []
    assert listed(sweep) == looked
    _submission(sweep, cell, dry_run=False).freeze([])
    assert SweepFolder(sweep).manifest.cells == before.cells
    assert path.with_name("manifest.json.corrupt-0").exists() or kind == "loop"


def test_a_manifest_of_a_newer_format_is_refused_and_stays(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, path = SweepFolder(sweep).manifest.cell(0), SweepFolder(sweep).path
    path.write_text(json.dumps({"format": "lt_sweeps.manifest/99"}))
    for verb in ("report", "status", "resume", "sync"):
        status, said = _answer(verb, sweep, tmp_path / "out", capsys)
        assert status == 1 and "a newer version of lt_sweeps wrote it" in said
    with pytest.raises(ValueError, match="a newer version of lt_sweeps wrote it"):
        _submission(sweep, cell, dry_run=False)
    assert json.loads(path.read_text()) == {"format": "lt_sweeps.manifest/99"}


@pytest.mark.parametrize("kind", ["flipped", "cut", "folder", "pipe", "loop", "newer"])
def test_a_damaged_ticket_is_refused_by_export_and_not_renamed(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    key = SweepFolder(sweep).manifest.cells[0].stages[-1]
    path = sweep.parent.parent / "tickets" / key / "0.safetensors"
    content = path.read_bytes()
    if kind in ("folder", "pipe", "loop"):
        not_a_file(path, kind)
    else:
        harmed = {"flipped": content[:-1] + b"#", "cut": content[:99]}
        newer = content.replace(b"lt_sweeps.ticket/2", b"lt_sweeps.ticket/3")
        path.write_bytes(harmed.get(kind, newer))
    for verb in ("export", "report", "status"):
        status, said = _answer(verb, sweep, tmp_path / "out", capsys)
        if verb == "export":
            assert status == 1 and str(path) in said.replace(" ", "")
            assert "run the sweep again" in said or "a newer version" in said


def test_damaged_initial_weights_are_drawn_again(sweep: Path) -> None:
    made = plan([SweepFolder(sweep).manifest.cell(0)])
    init = made.units[0].stage.start
    path = sweep.parent.parent / "tickets" / init.key / "0.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"#")
    assert _submission(sweep, made.cells[0].cell, dry_run=False).write_records() == 1
    assert path.read_bytes() == before


def test_notes_of_failures_and_heartbeats_that_are_damaged_are_none(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("failed", "running"):
        (sweep / folder).mkdir(exist_ok=True)
        for number, content in enumerate((b"", b"[]", b"null", b"[" * 99_999, b'{"packs": {}}')):
            (sweep / folder / f"x-{number}.json").write_bytes(content)
        not_a_file(sweep / folder / "pipe-0.json", "pipe")
        not_a_file(sweep / folder / "loop-0.json", "loop")
    (sweep.parent.parent / "speeds.json").write_bytes(b'{"train cpu": -1.0}')
    assert _answer("status", sweep, tmp_path / "out", capsys)[0] == 0


def test_a_damaged_note_of_submitted_jobs_says_what_to_delete(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "jobs").mkdir()
    (sweep / "jobs" / "0.json").write_text("{")
    status, said = _answer("status", sweep, tmp_path / "out", capsys)
    assert status == 1 and "0.json: not valid JSON" in said and "delete it" in said


def _planted(sweep: Path, config: Path, **changes: object) -> None:
    """Name foreign functions in a cell's config and in the manifest of its sweep."""
    content = yaml.safe_load(config.read_text())
    content["config"] |= changes
    config.write_text(yaml.safe_dump(content))
    manifest = SweepFolder(sweep).manifest
    (cell,) = manifest.cells
    cells = [replace(cell, config=Config({**cell.config, **changes}))]
    replace(manifest, cells=cells).write(SweepFolder(sweep).path)


@pytest.mark.parametrize("target", ["os.system", "lt_sweeps.x.os.system", "evil.touch"])
def test_reading_somebodys_results_runs_none_of_their_code(
    sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
) -> None:
    """The named functions do not run, and their modules are not even imported."""
    monkeypatch.syspath_prepend(tmp_path)
    ran, out = tmp_path / "ran", tmp_path / "out"
    touch = f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
    (tmp_path / "evil.py").write_text(f"{touch}def touch(command):\n    pass\n")
    config = _one(sweep.parent.parent, "runs/*/*/config.yaml")
    evil = {"_target_": target, "command": f"touch {ran}"}
    for key in ("dataset", "tracker", "recipe"):
        _planted(sweep, config, **{key: evil})
        verbs = ("sync",) if key == "tracker" else ()
        for verb in ("export", "resume", "status", "report", *verbs):
            status, said = _answer(verb, sweep, out, capsys)
            if verb in ("export", "resume", "sync"):
                assert status == 1 and f"names `{target}`, which is not part" in said, said
        assert not ran.exists()
    assert main(["export", str(sweep), f"out={out}", "effective=false"]) == 0
    if target == "evil.touch":  # the person at the keyboard may
        main(["export", str(sweep), f"out={out}", "trust=evil"])
        assert ran.exists()
