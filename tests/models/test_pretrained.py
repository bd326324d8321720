"""Networks that start from pretrained weights: what is loaded, drawn and refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.interchange.exported_tables import export_tables
from lt_sweeps.interchange.exported_ticket import export_ticket
from lt_sweeps.models import pretrained
from lt_sweeps.models.network import Network
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Init
from lt_sweeps.storage.store import Store

SHAPE = (1, 4, 4)
FC = {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [12, 8]}}
RESNET = {"net": {"_target_": "lt_sweeps.models.torchvision", "name": "resnet18"}}
Run = Callable[..., tuple[Plan, Store]]


def of(weights: object, classes: int = 4, **keys: Any) -> Network:
    return Network.of({**FC, "weights": str(weights), **keys}, SHAPE, classes)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Pretrained weights for four classes."""
    return Network.of(FC, SHAPE, 4).draw(Seed(77))


@pytest.fixture
def file(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, tmp_path / "somebodys.safetensors")
    return tmp_path / "somebodys.safetensors"


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name in first if torch.equal(first[name], second[name])]  # shapes too


@pytest.mark.parametrize("form", ["safetensors", "pt", "checkpoint", "parallel", "half"])
def test_every_seed_begins_with_the_weights_of_the_file(
    tmp_path: Path, state: dict[str, Tensor], form: str
) -> None:
    path = tmp_path / f"somebodys.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        save_file(state, path)
    else:
        parallel = {f"module.{name}": t for name, t in state.items()}
        half = {name: t.half() for name, t in state.items()}
        around = {"epoch": 3, "state_dict": state}
        torch.save(
            {"pt": state, "checkpoint": around, "parallel": parallel, "half": half}[form], path
        )
    network = of(path)
    first, second = network.draw(Seed(0)), network.draw(Seed(1))
    assert equal(first, second) == list(state) and not network.drawn
    assert {t.dtype for t in first.values()} == {torch.float32}
    for name, tensor in state.items():
        torch.testing.assert_close(first[name], tensor, atol=1e-3, rtol=1e-3)
    # Another draw, which the reset `redraw` asks for, is a draw of the seed's.
    assert not equal(network.draw(Seed(0), "fresh", 1), first).count("output.weight")


def test_a_head_of_another_size_and_what_is_named_is_drawn_by_the_seed(file: Path) -> None:
    ten = of(file, classes=10)
    assert ten.drawn == {"output.weight", "output.bias"}
    first, second = ten.draw(Seed(0)), ten.draw(Seed(1))
    assert set(first) - set(equal(first, second)) == ten.drawn
    named = of(file, redraw=["hidden.1"])
    assert named.drawn == {"hidden.1.weight", "hidden.1.bias"}


def test_a_block_to_be_drawn_is_no_block_whose_number_begins_alike(tmp_path: Path) -> None:
    deep = {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [4] * 11}}
    path = tmp_path / "deep.safetensors"
    save_file(Network.of(deep, SHAPE, 4).draw(Seed(0)), path)
    for word in ("hidden.1", "hidden.1.*", "*.1"):
        named = Network.of({**deep, "weights": str(path), "redraw": [word]}, SHAPE, 4)
        assert named.drawn == {"hidden.1.weight", "hidden.1.bias"}


def test_the_key_knows_the_content_and_not_the_path(tmp_path: Path, file: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copy.write_bytes(file.read_bytes())
    save_file(Network.of(FC, SHAPE, 4).draw(Seed(78)), other)
    keys = [Init(of(path)).key for path in (file, copy, other)]
    assert keys[0] == keys[1] != keys[2]
    assert (
        len({*keys, Init(of(file, redraw=["output"])).key, Init(Network.of(FC, SHAPE, 4)).key}) == 4
    )


def test_a_file_that_changes_after_the_plan_is_refused(file: Path) -> None:
    network = of(file)
    save_file(Network.of(FC, SHAPE, 4).draw(Seed(78)), file)
    with pytest.raises(ValueError, match="has changed since the plan was made"):
        network.draw(Seed(0))


def test_a_file_that_changes_just_before_it_is_read_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, content = of(file), file.read_bytes()
    pretrained._read.cache_clear()
    read = pretrained.read_safetensors

    def late(path: Path) -> dict[str, Tensor]:
        save_file(Network.of(FC, SHAPE, 4).draw(Seed(78)), path)
        return read(path)

    monkeypatch.setattr(pretrained, "read_safetensors", late)
    with pytest.raises(ValueError, match="has changed since the plan was made"):
        network.draw(Seed(0))
    monkeypatch.undo()
    file.write_bytes(content)
    assert equal(network.draw(Seed(0)), network.draw(Seed(1)))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weights": "nowhere.pt"}, "model.weights: `nowhere.pt` is not a file; give a file, "),
        ({"weights": 3}, "model.weights: got 3; give a file"),
        ({"weights": "torchvision:resnot"}, "torchvision has no weights 'resnot'"),
        ({"weights": "torchvision:ResNet18_Weights.V9"}, "torchvision has no weights"),
        ({"redraw": ["output"]}, r"model.redraw: got output without model.weights; give both"),
        ({"weights": "FILE", "redraw": ["conv*"]}, r"model.redraw: `conv\*` matches no tensor"),
        ({"weights": "FILE", "redraw": "output"}, "model.redraw: got 'output'; give a list"),
        (
            {"weights": "FILE", "net": {**FC["net"], "hidden": [12, 9]}},
            "has another shape of hidden.1.bias, hidden.1.weight",
        ),
        (
            {"weights": "FILE", "net": {**FC["net"], "hidden": [12]}, "redraw": ["output"]},
            "has hidden.1.bias, hidden.1.weight, which FC.* does not have; list in model.redraw",
        ),
        (
            {"weights": "FILE", "net": {**FC["net"], "hidden": [12, 8, 8]}},
            "has no hidden.2.bias, hidden.2.weight, which",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    file: Path, keys: dict[str, Any], says: str
) -> None:
    if keys.get("weights") == "FILE":
        keys = {**keys, "weights": str(file)}
    with pytest.raises(ValueError, match=says) as error:
        Network.of({**FC, **keys}, SHAPE, 4)
    assert "\n" not in str(error.value)


def test_tensors_that_the_network_lacks_are_ignored_if_redraw_names_them(file: Path) -> None:
    shallow = {**FC, "net": {**FC["net"], "hidden": [12]}, "weights": str(file)}
    network = Network.of({**shallow, "redraw": ["output", "hidden.1"]}, SHAPE, 4)
    assert network.drawn == {"output.weight", "output.bias"}


def test_a_ticket_whose_mask_is_learned_gives_no_weights(
    cell: Callable[..., Cell], swept: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights without the mask are another network than the one that was measured."""
    masked = cell(method={"_target_": "lt_sweeps.plan.methods.learned_supermask"})
    folder = swept(masked)
    path = Store(folder.parent.parent).path(plan([masked]).cells[0].last.key, "0")
    with pytest.raises(ValueError, match="is a ticket whose mask is learned"):
        of(path)
    for form in ("state_dict", "prune", "sparse", "semi_structured"):
        with pytest.raises(ValueError, match=f"form {form}: the mask of this ticket is learned"):
            export_ticket(path, form=form, out=folder / "x.pt")
    rows = pd.read_csv(export_tables(folder) / "records.csv")
    assert rows["parameters_effective"].isna().all()
    assert "left empty where a mask is learned" in capsys.readouterr().out


def test_bytes_that_are_no_weights_are_one_line(tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=f"model.weights: .*{name}"):
            of(tmp_path / name)


def test_weights_of_torchvision_are_taken_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = {**RESNET, "weights": "torchvision:resnet18"}
    name = get_model_weights("resnet18")["DEFAULT"].url.rpartition("/")[2]
    path = tmp_path / "hub" / "checkpoints" / name
    with pytest.raises(ValueError, match=f"resnet18 is not on this machine; download http.*{path}"):
        Network.of(config, (3, 16, 16), 5)
    path.parent.mkdir(parents=True)
    theirs = Network.of(RESNET, (3, 16, 16), 1000).draw(Seed(3))
    theirs["bn1.running_mean"] += 1
    torch.save(theirs, path)
    network = Network.of(config, (3, 16, 16), 5)
    assert network.drawn == {"fc.weight", "fc.bias"}
    ours = network.draw(Seed(0))
    assert {name for name in theirs if name not in equal(ours, theirs)} == network.drawn


def test_a_sweep_from_a_ticket_is_pruned_rewound_and_audited(
    cell: Callable[..., Cell], run: Run, swept: Callable[..., Path], tmp_path: Path
) -> None:
    """The file is a dense network of ours; pruned networks are rewound to its weights."""
    made, store = run(cell(method={"_target_": "lt_sweeps.plan.methods.dense"}))
    dense = made.cells[0].last
    ticket = store.path(dense.key, made.cells[0].seed)
    pretrained = {**FC, "weights": str(ticket), "redraw": []}
    cells = [cell(model=pretrained, seed=seed) for seed in (0, 1)]
    (note,) = plan(cells).notes
    assert note.endswith("a seed changes the order of batches, augmentation, noise and no weights")
    sweep = swept(*cells)
    (init,) = {c.last.network for c in plan(cells).cells}
    begun, trained = init.draw(Seed(0)), store.read(dense.key, made.cells[0].seed).state
    assert all(torch.equal(begun[name], trained[name][0]) for name in begun)
    assert audit(sweep)
