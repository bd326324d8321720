"""Put any bytes in the place of any file of ours: it is read correctly, repaired, or refused.

Hypothesis makes the bytes: random ones, and those of a correct file with bits flipped, cut,
spliced, or with a JSON value replaced by another. No reader may raise anything but a one-line
`ValueError`, and no reader may accept changed content in a file that has a checksum.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fixtures.fake_results import FakeSweep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lt_sweeps.execution.slurm.squeue import Batch, batches, over
from lt_sweeps.interchange.importers.mask_file import read_mask_file
from lt_sweeps.interchange.importers.open_lth_folder import read_open_lth
from lt_sweeps.reporting.report_files import FORMAT, read_report_json
from lt_sweeps.storage.manifest import FrozenStage, Manifest
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store, UnitCost
from lt_sweeps.storage.sweep_folder import (
    Heartbeat,
    PackAtWork,
    SweepFolder,
)
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.unit_costs import known_speeds
from lt_sweeps.tracking.tracked_sweep import history
from lt_sweeps.tracking.wandb_offline import rows_written

EXAMPLES = 60
ABOUT = {
    "level": 1,
    "sparsity": 0.5,
    "layers_remaining": {"a.weight": 3},
    "layers_total": {"a.weight": 6},
    "metrics": {"finite": True, "best_step": 0, "end_val_loss": 0.5, "best_val_loss": 0.5},
    "history": [{"step": 0, "val_loss": 0.5}],
}


@dataclass(frozen=True)
class File:
    """A file with its correct content, its reader, and whether its checksum covers all of it."""

    path: Path
    read: Callable[[], Any]
    sealed: bool = False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def harmed(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw other bytes to put in the place of `content`."""
    how = draw(st.sampled_from(("any", "flip", "cut", "splice", "value", "deep")))
    if how == "any":
        return draw(st.binary(max_size=200))
    if how == "deep":
        return draw(st.sampled_from((b"[", b'{"a":', b"a: [", b"- "))) * 20_000
    if how == "value":
        return _with_another_value(draw, content)
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return content[:at]
    if how == "splice":
        return content[:at] + draw(st.binary(max_size=20)) + content[at:]
    flipped = bytearray(content or b"\0")
    flipped[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


def _with_another_value(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON document in which one value, at any depth, is replaced by one of any type."""
    try:
        document = json.loads(content.split(b"\n")[0])
    except ValueError:
        return content[1:]
    at, value = document, draw(JSON)
    while isinstance(at, dict | list) and at:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else [*range(len(at))]))
        if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
            at[key] = value
            break
        at = at[key]
    return json.dumps(document).encode() + b"\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, File]:
    root = tmp_path_factory.mktemp("root")
    return {**_tickets(root), **_records(root), **_notes(root), **_imports(root)}


def _tickets(root: Path) -> dict[str, File]:
    store = Store(root)
    state = {"a.weight": torch.arange(6.0).view(1, 2, 3), "a.bias": torch.ones(1, 2)}
    ticket = Ticket(state, {"a.weight": torch.arange(6).view(1, 2, 3) > 2}, 7)
    store.write("key", 3, ticket, ABOUT)
    store.write_checkpoint("key", 3, 5, {"weights": torch.ones(4)}, {"history": []})
    store.write_costs("key", [3], UnitCost(seconds=1.5, device="cpu", stack_size=2))
    (root / "speeds.json").write_text(json.dumps({"train cpu": 3.5}))
    path = store.path("key", 3)

    def read() -> Any:
        _, facts = store.has("key", 3), store.facts("key", 3)
        read = store.read("key", 3)
        return facts, {name: tensor.tolist() for name, tensor in read.state.items()}

    def checkpoint() -> Any:
        metadata, tensors = store.read_checkpoint("key", 3, 5)
        return metadata, {name: tensor.tolist() for name, tensor in tensors.items()}

    return {
        "ticket": File(path, read),
        "history": File(path, lambda: history(path.parent, "3")),
        "checkpoint": File(path.with_name("3.partial-5.safetensors"), checkpoint, sealed=True),
        "cost": File(path.with_name("costs.jsonl"), lambda: store.cost("key", 3)),
        "speeds": File(root / "speeds.json", lambda: known_speeds(root)),
    }


def _records(root: Path) -> dict[str, File]:
    folder = RunFolder(FakeSweep(root).cell("a", accuracies=[0.9, 0.8]))

    def read() -> Any:
        found = folder.read(stages=["dense", "a-1"])
        if found.faults:
            raise ValueError(found.faults[0])
        return found

    return {
        "records": File(folder.records, read, sealed=True),
        "DONE": File(folder.done, read, sealed=True),
        "config": File(folder.path / "config.yaml", folder.read_config),
    }


def _notes(root: Path) -> dict[str, File]:
    sweep = SweepFolder(root / "sweeps" / "noted")
    cells = SweepFolder(root / "sweeps" / "fig3").manifest.cells
    stages = {"dense": FrozenStage(0, 0, 12, "train", [])}
    manifest = Manifest("noted", "fake", "", cells, stages)
    manifest.write(sweep.path)
    sweep.fail(("dense", "0"), "it broke", "pack")
    sweep.beat("me", Heartbeat("here", {"p": PackAtWork([("dense", "0")], 3)}, ["q"]))
    Batch(0, "lt", [["p"]], "cpu", 1, [], [False]).write(sweep)
    (sweep.folder / "jobs" / "over-0.0").write_text("0\n")
    figure = {"caption": "c", "stages": ["s"], "numbers": "0"}
    report = {"format": FORMAT, "layout": {}, "figures": {"f": figure}, "files": {"f.png": "0"}}
    for name, content in {
        "report/report.json": report,
        "offline-run-1/mirrored.json": {"run": "a", "rows": 3, "done": True},
    }.items():
        (sweep.folder / name).parent.mkdir()
        (sweep.folder / name).write_text(json.dumps(content))
    folder = sweep.folder
    return {
        "manifest": File(sweep.path, lambda: Manifest.read(sweep.path), sealed=True),
        "failure": File(folder / "failed" / "dense-0.json", lambda: SweepFolder(folder).failures()),
        "heartbeat": File(folder / "running" / "me.json", lambda: SweepFolder(folder).running()),
        "batch": File(folder / "jobs" / "0.json", lambda: batches(sweep)),
        "over": File(folder / "jobs" / "over-0.0", lambda: over(sweep)),
        "report": File(
            folder / "report" / "report.json", lambda: read_report_json(folder / "report")
        ),
        "mirrored": File(folder / "offline-run-1" / "mirrored.json", lambda: rows_written(folder)),
    }


def _imports(root: Path) -> dict[str, File]:
    mask = {"fc.weight": torch.tensor([[1, 0], [1, 1]])}
    safetensors.torch.save_file(mask, root / "mask.safetensors")
    main = root / "lottery_1" / "replicate_1" / "level_0" / "main"
    main.mkdir(parents=True)
    torch.save(mask, main / "mask.pth")
    torch.save({"fc.weight": torch.ones(2, 2)}, main / "model_ep1_it0.pth")
    (main / "logger").write_text("test_loss,5,0.3\ntest_accuracy,5,0.9\n")
    (main / "hparams.log").write_text("    * pruning_fraction => 0.2\n    * lr => 0.1\n")
    path = root / "mask.safetensors"
    names = ("mask.pth", "model_ep1_it0.pth", "logger", "hparams.log")
    theirs = {name: File(main / name, lambda: read_open_lth(root / "lottery_1")) for name in names}
    return {"mask": File(path, lambda: read_mask_file(path)), **theirs}


NAMES = (
    *("ticket", "history", "checkpoint", "cost", "speeds", "records", "DONE", "config"),
    *("manifest", "failure", "heartbeat", "batch", "over", "report", "mirrored"),
    *("mask", "mask.pth", "model_ep1_it0.pth", "logger", "hparams.log"),
)


@pytest.mark.filterwarnings("ignore")  # torch warns of what it reads
@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_are_read_as_written_or_are_one_line(files: dict[str, File], name: str) -> None:
    file = files[name]
    right = file.path.read_bytes()
    written = file.read()

    @settings(
        max_examples=EXAMPLES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(harmed(right))
    def read(content: bytes) -> None:
        file.path.write_bytes(content)
        try:
            found = file.read()
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
        else:
            assert not file.sealed or found == written

    try:
        read()
    finally:
        file.path.write_bytes(right)
