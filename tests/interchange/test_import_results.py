"""Imported results become records that a report reads, and wrong files are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from fixtures.hostile_files import not_a_file
from rich.console import Console

from lt_sweeps.cli.command_line import main
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.interchange.exported_tables import export_tables
from lt_sweeps.interchange.import_results import import_
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.storage.store import Store

HPARAMS = """\
Dataset Hyperparameters
    * dataset_name => mnist
    * batch_size => 128
Model Hyperparameters
    * model_name => mnist_lenet_300_100
Pruning Hyperparameters
    * pruning_strategy => sparse_global
    * pruning_fraction => 0.2
Training Hyperparameters
    * lr => 0.1
    * training_steps => 60it"""


def level(main: Path, kept: list[int], accuracy: float, *, iterations: int = 60) -> None:
    """A level as open_lth writes it: the mask as int32, and no newline at the logger's end."""
    main.mkdir(parents=True)
    mask = torch.tensor(kept, dtype=torch.int32).reshape(2, 5)
    torch.save({"fc.weight": mask}, main / "mask.pth")
    state = {"fc.weight": torch.arange(10.0).reshape(2, 5), "fc.bias": torch.ones(2)}
    torch.save(state, main / "model_ep0_it0.pth")
    torch.save({**state, "fc.bias": torch.full((2,), 7.0)}, main / f"model_ep0_it{iterations}.pth")
    lines = [f"test_loss,{iterations},0.3", f"test_accuracy,{iterations},{accuracy}"]
    (main / "logger").write_text("\n".join(["test_accuracy,0,0.1", *lines, "test_examples,60,9.0"]))
    if "level_0" in str(main):
        (main / "hparams.log").write_text(HPARAMS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "open_lth_data"
    for replicate, accuracy in ((1, 0.9), (2, 0.8)):
        place = folder / "lottery_0123" / f"replicate_{replicate}"
        level(place / "level_0" / "main", [1] * 10, accuracy)
        level(place / "level_1" / "main", [1] * 8 + [0] * 2, accuracy - 0.1)
    return folder


def rows(root: Path) -> list[dict]:
    paths = sorted(root.glob("runs/*/*/records.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_record_per_replicate_and_level(data: Path, tmp_path: Path) -> None:
    import_("open_lth", data, root=tmp_path / "r")
    found = rows(tmp_path / "r")
    assert [(row["seed"], row["level"], row["test_accuracy"]) for row in found] == [
        ("1", 0, 0.9),
        ("1", 1, pytest.approx(0.8)),
        ("2", 0, 0.8),
        ("2", 1, pytest.approx(0.7)),
    ]
    assert len({row["cell"] for row in found}) == 1
    assert [row["weights_remaining"] for row in found] == [10, 8, 10, 8]
    assert found[1]["target_sparsity"] == pytest.approx(0.2) and found[1]["step"] == 60


def test_the_ticket_is_the_final_one_pruned(data: Path, tmp_path: Path) -> None:
    import_("open_lth", data, root=tmp_path / "r")
    row = rows(tmp_path / "r")[1]
    ticket = Store(tmp_path / "r").read(row["stage"], "1")
    assert ticket.state["fc.weight"][0, 1].tolist() == [5, 6, 7, 0, 0]
    assert ticket.state["fc.bias"][0].tolist() == [7, 7]


def test_it_is_reported_and_exported_like_a_sweep_of_ours(data: Path, tmp_path: Path) -> None:
    sweep = import_(
        "open_lth", data, root=tmp_path / "r", name="theirs", mask_criterion="magnitude"
    )
    console = Console(record=True, width=120)
    report(sweep, console=console)
    text = console.export_text()
    assert "mnist_lenet_300_100 on mnist" in text and "85.00 [80.00, 90.00]" in text
    curves = pd.read_parquet(export_tables(sweep) / "curves.parquet")
    assert list(curves["test_accuracy"])[:2] == [0.1, 0.9]


def test_an_audit_finds_no_fault_in_its_rows(data: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "r", tmp_path / "audit.json"

    def faults(where: Path) -> list[str]:
        audit(where, out=out, console=Console(quiet=True))
        return [fault for c in json.loads(out.read_text())["checks"] for fault in c["faults"]]

    sweep = import_("open_lth", data, root=root)
    # Both replicates of this lottery have the same weights.
    assert {fault.partition(".safetensors: ")[2] for fault in faults(sweep)} == {
        "its tensors equal those of 1.safetensors"
    }
    shutil.rmtree(root / "sweeps")
    assert not [fault for fault in faults(root) if "records.jsonl" in fault]


def test_a_second_import_is_the_same_sweep_and_other_content_is_another(
    data: Path, tmp_path: Path
) -> None:
    import_("open_lth", data, root=tmp_path / "r", name="theirs")
    before = rows(tmp_path / "r")
    import_("open_lth", data / "lottery_0123", root=tmp_path / "r", name="theirs")
    assert rows(tmp_path / "r") == before
    with pytest.raises(ValueError, match="'theirs' is taken by another sweep"):
        import_("open_lth", data, root=tmp_path / "r", name="theirs", model="fc")


def test_a_level_that_is_not_trained_is_left_out_and_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "lottery_0123" / "replicate_2" / "level_1" / "main" / "logger").unlink()
    import_("open_lth", data, root=tmp_path / "r")
    assert len(rows(tmp_path / "r")) == 3
    assert (
        "replicate_2/level_1/main: left out, because its training is unfinished"
        in capsys.readouterr().out
    )


def test_a_branch_is_a_cell_of_its_own(data: Path, tmp_path: Path) -> None:
    place = data / "lottery_0123" / "replicate_1" / "level_1" / "randomly_prune_4567"
    level(place, [0, 0] + [1] * 8, 0.5)
    import_("open_lth", data, root=tmp_path / "r")
    (branch,) = (row for row in rows(tmp_path / "r") if row["method"] == "randomly_prune")
    assert (branch["level"], branch["test_accuracy"]) == (1, 0.5)


def break_pickle(main: Path) -> None:
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    torch.save(Evil(), main / "mask.pth")


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda main: (main / "mask.pth").write_bytes(b"PK"), "mask.pth: cannot be read"),
        (break_pickle, "mask.pth: cannot be read"),
        (lambda main: torch.save({"fc.weight": torch.tensor([2])}, main / "mask.pth"), "0 and 1"),
        (lambda main: torch.save({}, main / "mask.pth"), "no mask in it"),
        (lambda main: torch.save([torch.ones(2)], main / "mask.pth"), "not tensors by name"),
        (lambda main: torch.save({"a": "b"}, main / "mask.pth"), "not tensors by name"),
        (lambda main: torch.save({3: torch.ones(2)}, main / "mask.pth"), "not tensors by name"),
        (lambda main: torch.save({"a": torch.ones(0)}, main / "mask.pth"), "is empty"),
        (
            lambda main: torch.save({"fc.weight": torch.ones(3)}, main / "mask.pth"),
            "differ in shap",
        ),
        (lambda main: not_a_file(main / "mask.pth", "pipe"), "mask.pth: not a file"),
        (lambda main: not_a_file(main / "logger", "folder"), "logger: not a file"),
        (lambda main: (main / "logger").write_bytes(b"\xff"), "logger: not text"),
        (
            lambda main: (main / "logger").write_text("test_accuracy,60,97.0"),
            r"logger: test_accuracy 97.0 at iteration 60; an accuracy lies in \[0, 1\]",
        ),
        (
            lambda main: (main / "logger").write_text("test_accuracy,60,nan"),
            r"logger: test_accuracy nan at iteration 60; an accuracy lies in \[0, 1\]",
        ),
        (lambda main: (main / "logger").write_text("test_loss,-1,0.5"), "is not `name,"),
        (
            lambda main: (main / "hparams.log").write_text("    * pruning_fraction => 20%\n"),
            "pruning_fraction '20%'; it lies in",
        ),
        (
            lambda main: (main / "logger").write_text("a,b"),
            "logger: line 1: 'a,b' is not `name,",
        ),
        (lambda main: (main / "logger").write_text(""), "logger: empty"),
        (lambda main: (main / "hparams.log").unlink(), "hparams.log: missing"),
        (
            lambda main: torch.save({"x": torch.ones(1)}, main / "model_ep1_it0.pth"),
            r"no weights fc.weight",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm, line: str
) -> None:
    harm(data / "lottery_0123" / "replicate_1" / "level_0" / "main")
    with pytest.raises(ValueError, match=line) as refused:
        import_("open_lth", data, root=tmp_path / "r")
    assert "weights_only" not in str(refused.value), "torch advises to run the file's code"
    assert not (tmp_path / "r").exists() and "ran" not in capsys.readouterr().out


MASK = {"a.weight": torch.tensor([[1, 0], [1, 1]]), "b.weight": torch.tensor([[0, 0], [1, 1]])}
WEIGHTS = {name: torch.full((2, 2), 3.0) for name in MASK}


@pytest.mark.parametrize(
    ("content", "weights"),
    [
        (MASK, False),
        ({n: m.bool() for n, m in MASK.items()}, False),
        ({f"mask/{n}": m.bool() for n, m in MASK.items()} | WEIGHTS, True),
        (
            {f"{n}_mask": m.float() for n, m in MASK.items()}
            | {f"{n}_orig": w for n, w in WEIGHTS.items()},
            True,
        ),
    ],
    ids=["plain", "bool", "ours", "torch.prune"],
)
def test_masks_of_any_safetensors_file_are_imported(
    tmp_path: Path, content: dict[str, torch.Tensor], weights: bool
) -> None:
    safetensors.torch.save_file(content, tmp_path / "m.safetensors")
    import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r", seed="4", level="2")
    (row,) = rows(tmp_path / "r")
    assert (row["seed"], row["level"], row["kind"]) == ("4", 2, "mask")
    assert (row["weights_remaining"], row["weights_total"]) == (5, 8)
    assert row["layers_remaining"] == {"a.weight": 3, "b.weight": 2}
    ticket = Store(tmp_path / "r").read(row["stage"], "4")
    assert torch.equal(ticket.mask["a.weight"][0], MASK["a.weight"].bool())
    assert bool(ticket.state) is weights
    if weights:
        assert ticket.state["b.weight"][0].tolist() == [[0, 0], [3, 3]]


def test_a_mask_is_reported_with_what_was_measured_of_it_or_without(tmp_path: Path) -> None:
    safetensors.torch.save_file(MASK, tmp_path / "m.safetensors")
    sweep = import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r")
    report(sweep, console=Console(record=True))
    sweep = import_(
        "mask", tmp_path / "m.safetensors", root=tmp_path / "s", test_accuracy="0.75", model="fc"
    )
    console = Console(record=True, width=120)
    report(sweep, console=console)
    assert "75.00" in console.export_text()


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["mask", "none.safetensors"], 1, "import: none.safetensors does not exist"),
        (["mask", "text"], 1, "import: text is not a safetensors file"),
        (["mask", "m.safetensors", "seed=a"], 1, "import.seed: got 'a'; give a whole number"),
        (
            ["mask", "m.safetensors", "test_accuracy=97"],
            1,
            "import.test_accuracy: got 97; give a number from 0 to 1",
        ),
        (["mask", "m.safetensors", "sed=1"], 1, "import: no key sed; it has"),
        (["mask", "w.safetensors"], 1, "w.safetensors: mask of w has entries other than 0 and 1"),
        (["open_lth", "."], 1, "import: . is not an open_lth folder"),
        (
            ["open_lht", "."],
            1,
            "import: open_lht; did you mean `open_lth`? options: mask, mcgill, open_lth",
        ),
        (["mask"], 2, "import: got mask; write lt-sweeps import KIND PATH; "),
        (
            ["mask", "m.safetensors", "name=../../evil"],
            1,
            "name: '../../evil' cannot name",
        ),
        (["mask", "m.safetensors", "name=/evil"], 1, "name: '/evil' cannot name a folder"),
        (["mask", "e.safetensors"], 1, "e.safetensors: mask of w is empty"),
        (["mask", "pipe"], 1, "import: pipe is not a safetensors file: pipe: not a file"),
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
    Path("text").write_text("x")
    safetensors.torch.save_file(MASK, "m.safetensors")
    safetensors.torch.save_file({"w": torch.tensor([0.5])}, "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(0)}, "e.safetensors")
    not_a_file(Path("pipe"), "pipe")
    assert main(["import", *words]) == status
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert not Path("results").exists()


def test_an_imported_sweep_is_audited(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = import_("open_lth", data, root=tmp_path / "r")
    assert main(["audit", str(sweep)]) == 1
    assert "2.safetensors: its tensors equal those of 1.safetensors" in capsys.readouterr().out
    for model in data.glob("lottery_0123/replicate_2/*/*/model_ep0_it60.pth"):
        torch.save({n: t + 1 for n, t in torch.load(model, weights_only=True).items()}, model)
    sweep = import_("open_lth", data, root=tmp_path / "other")
    assert main(["audit", str(sweep)]) == 0


def test_a_sweep_lies_in_its_root_whatever_the_file_is_called(tmp_path: Path) -> None:
    safetensors.torch.save_file(MASK, tmp_path / "..a b.safetensors")
    sweep = import_("mask", tmp_path / "..a b.safetensors", root=tmp_path / "r")
    assert sweep == tmp_path / "r" / "sweeps" / "mask-..a_b"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a.weight_mask": None}, "a.weight_orig has no a.weight_mask"),
        ({"a.weight": torch.ones(2, 3)}, "has both a.weight and a.weight_orig"),
        ({"a.weight_orig": None}, "the mask of a.weight has no weights, others have"),
    ],
)
def test_a_pruned_network_with_a_mask_or_weights_missing_is_refused(
    tmp_path: Path, changed: dict[str, torch.Tensor | None], said: str
) -> None:
    """A weight without its mask would not count as prunable, which changes the sparsity."""
    whole = {f"{n}.weight_{part}": torch.ones(2, 3) for n in "ab" for part in ("mask", "orig")}
    kept = {name: t for name, t in {**whole, **changed}.items() if t is not None}
    safetensors.torch.save_file(kept, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=said):
        import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r")


KEPT, FULL = torch.tensor([[True, False], [True, True]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": FULL * ~KEPT, "a_mask": KEPT}, "the mask of a keeps only weights that are 0"),
        ({"a": FULL, "b.causal_mask": KEPT}, "the mask of b.causal has no weights, others have"),
        ({"a": FULL, "mask/a": KEPT, "mask/b": KEPT}, "the mask of b has no weights, others have"),
        ({"a": FULL, "mask/a": KEPT | True, "learned/a": FULL}, "its mask is learned"),
    ],
    ids=["inverted", "buffer", "without weights", "learned"],
)
def test_a_tensor_that_is_not_the_mask_of_its_weights_is_refused(
    tmp_path: Path, content: dict[str, torch.Tensor], said: str
) -> None:
    apart = {name: tensor.clone() for name, tensor in content.items()}
    safetensors.torch.save_file(apart, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=said):
        import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn])
def test_a_pruned_weight_is_0_even_if_it_is_stored_as_nan(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    weights = torch.where(KEPT, FULL, torch.nan).to(dtype)
    given = {"module.a": weights, "mask/module.a": KEPT}
    safetensors.torch.save_file(given, tmp_path / "m.safetensors")
    import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r")
    (row,) = rows(tmp_path / "r")
    assert row["finite"] and row["layers_remaining"] == {"a": 3}
    ticket = Store(tmp_path / "r").read(row["stage"], row["seed"])
    assert ticket.state["a"][0].tolist() == [[1, 0], [3, 4]]


def test_a_tied_weight_counts_once(tmp_path: Path) -> None:
    """`form=prune` writes it under each of its names, as in torch's `state_dict`."""
    weight, mask = torch.arange(6.0).view(2, 3), torch.tensor([[1.0, 0, 0], [1, 1, 0]])
    names = {"in.weight": weight, "out.weight": weight.clone(), "other.weight": 2 * weight}
    given = {f"{name}_orig": tensor for name, tensor in names.items()}
    given |= {f"{name}_mask": mask.clone() for name in names}
    safetensors.torch.save_file(given, tmp_path / "m.safetensors")
    import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r")
    (row,) = rows(tmp_path / "r")
    assert row["layers_remaining"] == {"in.weight": 3, "other.weight": 3}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_lose_the_name_of_their_wrapper(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    given = {"a.weight_mask": torch.eye(2), "a.weight_orig": torch.full((2, 2), 3.0), "scale": []}
    wrapped = {f"module.{n}": torch.as_tensor(t).to(dtype) for n, t in given.items()}
    safetensors.torch.save_file(wrapped, tmp_path / "m.safetensors")
    import_("mask", tmp_path / "m.safetensors", root=tmp_path / "r")
    (row,) = rows(tmp_path / "r")
    assert row["layers_remaining"] == {"a.weight": 2} and row["finite"]
    ticket = Store(tmp_path / "r").read(row["stage"], row["seed"])
    stored = torch.float32 if dtype == torch.bfloat16 else dtype  # numpy does not know it
    assert torch.equal(ticket.state["a.weight"][0], 3 * torch.eye(2, dtype=stored))


def test_a_file_of_the_same_name_does_not_replace_the_results_of_another_sweep(
    tmp_path: Path,
) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        safetensors.torch.save_file(MASK, tmp_path / folder / "m.safetensors")
    root, one, other = tmp_path / "r", tmp_path / "one", tmp_path / "other"
    import_("mask", one / "m.safetensors", root=root, name="one", test_accuracy="0.9")
    with pytest.raises(ValueError, match="import: sweep one has different results for seed 0"):
        import_("mask", other / "m.safetensors", root=root, name="other", test_accuracy="0.1")
    assert [row["test_accuracy"] for row in rows(root)] == [0.9]
    import_("mask", other / "m.safetensors", root=root, name="other", test_accuracy="0.9")
    import_("mask", other / "m.safetensors", root=root, name="third", test_accuracy="0.1", seed="1")
    # a number that was mistyped can be mended under its own name
    import_("mask", one / "m.safetensors", root=root, name="third", test_accuracy="0.2", seed="1")
    assert sorted(row["test_accuracy"] for row in rows(root)) == [0.2, 0.9]
