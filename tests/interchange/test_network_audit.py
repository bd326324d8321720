"""`audit` of files from other code: open_lth folders, checkpoints, and torch's pruning."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fixtures.hostile_files import not_a_file
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import prune

from lt_sweeps.analysis.audit_findings import FOREIGN_CHECKS
from lt_sweeps.cli.command_line import main
from lt_sweeps.interchange.audit_results import audit


def failing(where: Path, states: tuple[str, ...] = ("FAIL",)) -> list[str]:
    out = where.parent / "audit.json"
    passed = audit(where, out=out, console=Console(quiet=True))
    found = [c["check"] for c in json.loads(out.read_text())["checks"] if c["state"] in states]
    assert passed == (not found) or states != ("FAIL",)
    return found


def weights(seed: int, step: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(100 * seed + step)
    shapes = {"fc.weight": (8, 10), "fc.bias": (8,)}
    return {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}


def level(main: Path, seed: int, number: int, kept: int) -> None:
    """A level as open_lth writes it: every stored copy of the weights is pruned."""
    main.mkdir(parents=True)
    mask = (torch.arange(80) < kept).to(torch.int32).reshape(8, 10)
    torch.save({"fc.weight": mask}, main / "mask.pth")
    for step, name in ((0, "model_ep0_it0.pth"), (number + 1, "model_ep2_it0.pth")):
        state = weights(seed, step)
        state["fc.weight"] *= mask
        torch.save(state, main / name)
    (main / "logger").write_text("test_accuracy,0,0.1\ntest_loss,60,0.3\ntest_accuracy,60,0.9")
    if number == 0:
        (main / "hparams.log").write_text("Pruning Hyperparameters\n    * pruning_fraction => 0.2")


@pytest.fixture
def lottery(tmp_path: Path) -> Path:
    """Two replicates of three levels, and a branch that prunes at random."""
    folder = tmp_path / "open_lth_data" / "lottery_0123"
    for replicate in (1, 2):
        for number, kept in enumerate((80, 64, 51)):
            level(
                folder / f"replicate_{replicate}" / f"level_{number}" / "main",
                replicate,
                number,
                kept,
            )
    branch = folder / "replicate_1" / "level_2" / "randomly_prune_4567"
    level(branch, 1, 2, 51)
    mask = (torch.arange(80) >= 29).to(torch.int32).reshape(8, 10)
    torch.save({"fc.weight": mask}, branch / "mask.pth")
    torch.save(
        {k: v * mask if k == "fc.weight" else v for k, v in weights(1, 9).items()},
        branch / "model_ep2_it0.pth",
    )
    (folder / "replicate_2" / "level_3" / "main").mkdir(parents=True)  # not trained yet
    return folder


def edit(path: Path, change: Callable[[Tensor], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content["fc.weight"])
    torch.save(content, path)


def put(index: tuple[int, int], value: float) -> Callable[[Tensor], None]:
    return lambda tensor: tensor.__setitem__(index, value)


def copy_replicate(folder: Path) -> None:
    for name in ("model_ep0_it0.pth", "model_ep2_it0.pth"):
        for at in ("level_0", "level_1", "level_2"):
            source = folder / "replicate_1" / at / "main" / name
            shutil.copy(source, folder / "replicate_2" / at / "main" / name)


def regrow(folder: Path) -> None:
    """At level 2, keep a weight that level 1 has pruned, instead of another one."""
    main = folder / "replicate_2" / "level_2" / "main"
    for name in ("mask.pth", "model_ep0_it0.pth", "model_ep2_it0.pth"):
        edit(main / name, put((0, 0), 0))
    edit(main / "mask.pth", put((7, 9), 1))
    edit(main / "model_ep0_it0.pth", put((7, 9), float(weights(2, 0)["fc.weight"][7, 9])))


def prune_less(folder: Path) -> None:
    """Write level 1 again as level 2."""
    main = folder / "replicate_2" / "level_2" / "main"
    torch.save({"fc.weight": (torch.arange(80) < 64).int().reshape(8, 10)}, main / "mask.pth")
    start = weights(2, 0)
    start["fc.weight"] *= (torch.arange(80) < 64).reshape(8, 10)
    torch.save(start, main / "model_ep0_it0.pth")


MAIN, LAST = Path("replicate_2", "level_2", "main"), "model_ep2_it0.pth"
PLANTS: dict[str, Callable[[Path], object]] = {
    "files": lambda folder: (folder / MAIN / "mask.pth").write_bytes(b"PK"),
    "masks": lambda folder: edit(folder / MAIN / "mask.pth", put((0, 0), 2)),
    "pinned": lambda folder: edit(folder / MAIN / "model_ep2_it0.pth", put((7, 9), 0.1)),
    "counts": prune_less,
    "nesting": regrow,
    "rewound": lambda folder: edit(folder / MAIN / "model_ep0_it0.pth", put((0, 0), 0.5)),
    "finite": lambda folder: edit(folder / MAIN / "model_ep2_it0.pth", put((0, 0), torch.nan)),
    "metrics": lambda folder: (folder / MAIN / "logger").write_text("test_accuracy,60,97.0"),
    "seeds": copy_replicate,
}


def test_a_good_open_lth_folder_passes_every_check(lottery: Path) -> None:
    assert failing(lottery, states=("pass",)) == [*FOREIGN_CHECKS]
    assert failing(lottery.parent, states=("pass",)) == [*FOREIGN_CHECKS]
    renamed = lottery.rename(lottery.with_name("mine"))
    assert failing(renamed, states=("pass",)) == [*FOREIGN_CHECKS]


@pytest.mark.parametrize(("check", "plant"), PLANTS.items(), ids=PLANTS)
def test_a_fault_of_open_lth_fails_its_check_and_no_other(
    lottery: Path, check: str, plant: Callable[[Path], object]
) -> None:
    plant(lottery)
    assert failing(lottery) == [check]


def test_every_check_has_a_plant() -> None:
    assert PLANTS.keys() == FOREIGN_CHECKS.keys()


def test_torchs_pruned_checkpoints_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, amount in ((1, 0.5), (2, 0.75)):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4))
        prune.l1_unstructured(module[0], "weight", amount=amount)
        torch.save(module.state_dict(), tmp_path / f"level_{number}.pt")
    assert failing(tmp_path) == []
    assert main(["audit", str(tmp_path)]) == 0
    assert "level_2.pt: sparsity 0.75 (0.weight 0.75)" in capsys.readouterr().out
    (tmp_path / "level_1.pt").rename(tmp_path / "aside")
    (tmp_path / "level_2.pt").rename(tmp_path / "level_1.pt")
    (tmp_path / "aside").rename(tmp_path / "level_2.pt")
    assert failing(tmp_path) == ["nesting"]


@pytest.mark.parametrize("of_first", ["_orig", ""])
def test_masks_next_to_weights_are_masks_with_and_without_torchs_suffix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_first: str
) -> None:
    masks = {"a.weight": torch.eye(4), "b.weight": torch.ones(4, 4).triu()}
    state = {f"{name}_mask": mask for name, mask in masks.items()}
    state |= {f"a.weight{of_first}": torch.randn(4, 4), "b.weight": torch.randn(4, 4).triu()}
    if not of_first:
        state["a.weight"] *= masks["a.weight"]
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    assert main(["audit", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("sparsity 0.5625 (", "a.weight 0.75", "b.weight 0.375"))
    state["b.weight"] += 1  # its pruned weights are no longer 0
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    assert failing(tmp_path) == ["pinned"]


def test_a_tied_weight_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(module[0], "weight", amount=0.75)
    module[1] = module[0]
    torch.save(module.state_dict(), tmp_path / "tied.pt")
    assert main(["audit", str(tmp_path)]) == 0
    assert "tied.pt: sparsity 0.75 (0.weight 0.75)" in capsys.readouterr().out
    safetensors.torch.save_file(
        {name: tensor.clone() for name, tensor in module.state_dict().items()},
        tmp_path / "tied.safetensors",
    )
    (tmp_path / "tied.pt").unlink()
    assert main(["audit", str(tmp_path)]) == 0
    assert "tied.safetensors: sparsity 0.75 (0.weight 0.75)" in capsys.readouterr().out


def test_zeros_of_a_plain_state_dict_count_as_pruned(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for seed in (0, 1):
        for number in (0, 1):
            state = weights(seed, number)
            state["fc.weight"] *= torch.arange(80).reshape(8, 10) >= 20 * number
            path = folder / f"seed{seed}_level{number}"
            safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
            torch.save({"state_dict": state, "best_acc": 97.5}, path.with_suffix(".pt"))
    assert failing(folder) == []
    torch.save({"state_dict": weights(0, 7), "best_acc": 101.0}, folder / "seed2_level0.pt")
    assert failing(folder) == ["metrics"]
    shutil.copy(folder / "seed0_level1.pt", folder / "seed2_level0.pt")
    shutil.copy(folder / "seed0_level0.pt", folder / "seed2_level1.pt")
    assert failing(folder) == ["nesting"]
    shutil.copy(folder / "seed0_level1.pt", folder / "seed2_level1.pt")
    assert failing(folder) == ["seeds"]


def test_a_checkpoint_of_any_content_is_read(tmp_path: Path) -> None:
    """Names may be numbers, and a number whose name begins as `accuracy` does may be none."""
    state = {0: torch.eye(2), "meta": torch.empty(2, device="meta")}
    torch.save({"model": state, "accumulation_steps": 128, "val_acc1": 97.0}, tmp_path / "a.pt")
    assert failing(tmp_path) == []


@pytest.mark.parametrize("key", ["mask", "masks"])
def test_masks_in_a_mapping_of_their_own_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    state, masks = weights(0, 0), {key: {"fc.weight": (torch.arange(80) < 60).reshape(8, 10)}}
    for number, content in enumerate((masks, {"state_dict": state, **masks}, {**state, **masks})):
        torch.save(content, tmp_path / f"{number}.pt")
    assert failing(tmp_path / "0.pt") == []
    assert failing(tmp_path / "1.pt") == failing(tmp_path / "2.pt") == ["pinned"]
    capsys.readouterr()
    main(["audit", str(tmp_path)])
    assert capsys.readouterr().out.count("pt: sparsity 0.25 (fc.weight 0.25)") == 3
    torch.save({"pruning": masks[key]}, tmp_path / "3.pt")
    with pytest.raises(ValueError, match="and masks under `mask` or `masks`"):
        audit(tmp_path / "3.pt", console=Console(quiet=True))


@pytest.mark.filterwarnings("ignore:TypedStorage", "ignore:torch.quantize_per_tensor")
def test_quantized_weights_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.eye(4)
    torch.save({"w": torch.quantize_per_tensor(weight, 0.1, 3, torch.qint8)}, tmp_path / "a.pt")
    assert main(["audit", str(tmp_path)]) == 0
    assert "a.pt: sparsity 0.75 (w 0.75)" in capsys.readouterr().out


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def test_a_pickle_that_would_run_code_is_named_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"a": {"w": Evil()}, "b": ["w"], "c": 1, "d": {}}.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "e.safetensors").write_bytes(b"\xff" * 9)
    (tmp_path / "f.pt").mkdir()
    os.mkfifo(tmp_path / "g.pth")
    assert failing(tmp_path) == ["files"]
    assert not (tmp_path / "evil").exists()
    with pytest.raises(ValueError, match="holds no weights"):
        audit(tmp_path / "d.pt", console=Console(quiet=True))


@pytest.mark.parametrize(
    ("harm", "check"),
    [
        (lambda main: torch.save({"a": "b"}, main / "mask.pth"), "masks"),
        (lambda main: torch.save({3: torch.ones(2)}, main / "mask.pth"), "masks"),
        (lambda main: torch.save({"fc.weight": torch.ones(0)}, main / "mask.pth"), "masks"),
        (lambda main: torch.save([1], main / LAST), "files"),
        (
            lambda main: torch.save({"fc.weight": torch.ones(2)}, main / "model_ep2_it0.pth"),
            "masks",
        ),
        (lambda main: not_a_file(main / "mask.pth", "pipe"), "files"),
        (lambda main: not_a_file(main / "logger", "pipe"), "files"),
        (lambda main: not_a_file(main / "logger", "folder"), "files"),
        (lambda main: (main / "logger").write_text("a,b"), "files"),
        (lambda main: (main / "logger").write_text("test_accuracy,1,nan"), "metrics"),
        (lambda main: (main / "logger").write_bytes(b"\xff"), "files"),
    ],
)
def test_a_damaged_open_lth_folder_is_no_traceback(
    lottery: Path, harm: Callable[[Path], object], check: str
) -> None:
    harm(lottery / MAIN)
    assert failing(lottery) == [check]


@pytest.mark.parametrize("text", ["    * pruning_fraction => 20%", "    * lr => 0.1"])
def test_hparams_without_a_fraction_leave_the_sparsities_unchecked(
    lottery: Path, text: str
) -> None:
    for path in lottery.glob("*/level_0/main/hparams.log"):
        path.write_text(text)
    assert failing(lottery) == []
    assert "counts" in failing(lottery, states=("not checked",))
