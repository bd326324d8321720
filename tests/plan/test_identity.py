"""A stage's key depends on everything that changes its numbers, including user code and data."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures.fresh_process import afresh
from fixtures.tiny_cell import settings
from torch import nn

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan import cell_plan
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages import Evaluate, Init, Prune, Search, Train, ancestors, task
from lt_sweeps.plan.stages import stage as stages
from lt_sweeps.sparsity.schedules import Target

Make = Callable[..., Cell]
MODULE = """
import dataclasses
import pathlib
import numpy
import torch
from identity_helper import FACTOR
from lt_sweeps.config.recipes import Recipe, recipe
from lt_sweeps.data import Dataset, Split

CALLS = []


@dataclasses.dataclass(frozen=True)
class Slow(Recipe):
    def lr_at(self, step):
        return FACTOR * 1e-9


def slow(train_size, *, optimizer: str, lr: float, batch_size: int, length: str):
    stock = recipe(train_size, optimizer=optimizer, lr=lr, batch_size=batch_size, length=length)
    return Slow(**dataclasses.asdict(stock))


def from_file(data_dir: str, *, fingerprint: str = "", seeded: bool = True):
    def load():
        CALLS.append(data_dir)
        pixels = pathlib.Path(data_dir, "pixels.txt").read_text().encode()
        images = torch.from_numpy(numpy.frombuffer(pixels, numpy.uint8).copy()).view(-1, 1, 4, 4)
        if not seeded:
            images = 255 * torch.rand(len(images), 1, 4, 4)
        labels = torch.arange(len(images)) % 4
        return {name: Split(images, labels) for name in ("train", "val", "test")}

    return Dataset((1, 4, 4), 4, 64, lambda: None, load, fingerprint=fingerprint)


def broken(*, splits: int = 3):
    load = lambda: {name: None for name in ("train", "val", "test")[:splits]}
    return Dataset((1, 4, 4), 4, 64, lambda: None, load)
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module, with a data file."""
    (tmp_path / "identity_lab.py").write_text(MODULE)
    (tmp_path / "identity_helper.py").write_text("FACTOR = 1\n")
    (tmp_path / "pixels.txt").write_text("0123456789abcdef" * 64)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("identity_lab", "identity_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    afresh()
    return tmp_path


def own_data(lab: Path, **arguments: object) -> dict[str, object]:
    dataset = {"_target_": "identity_lab.from_file", **arguments}
    return {"dataset": dataset, "data_dir": str(lab)}


def key(cell: Cell) -> str:
    afresh()
    return planned_cell(cell).last.key


def test_a_recipe_of_a_user_s_shares_nothing_with_the_stock_recipe_of_equal_fields(
    cell: Make, lab: Path
) -> None:
    stock = planned_cell(cell())
    own = planned_cell(cell(recipe___target_="identity_lab.slow"))
    assert own.last.training.recipe.lr == stock.last.training.recipe.lr
    keys = [{stage.key for stage in made.trainings} for made in (stock, own)]
    assert keys[0] & keys[1] == set()


def test_an_edit_of_what_a_recipe_s_module_imports_counts(cell: Make, lab: Path) -> None:
    before = key(cell(recipe___target_="identity_lab.slow"))
    (lab / "identity_helper.py").write_text("FACTOR = 20\n")
    assert key(cell(recipe___target_="identity_lab.slow")) != before


def test_a_recipe_counts_by_the_function_that_made_it_too(cell: Make, lab: Path) -> None:
    """A class defined inside the function may differ in ways that its fields do not show."""
    made = planned_cell(cell()).last.training
    assert made.call is not None
    own = replace(made, call=Call("identity_lab.slow", made.call.args))
    assert own != made and own.key != made.key


class Warmed(Train):
    pass


class Halved(Target):
    pass


class Slowed(Recipe):
    pass


def test_values_of_a_user_s_classes_are_not_those_of_ours(cell: Make) -> None:
    last = planned_cell(cell()).last
    assert isinstance(last, Train)
    assert Warmed(last.start, last.training).key != last.key
    counts = ("layer", (1,), 0.5)
    assert Halved(*counts).identity() != Target(*counts).identity()
    slowed = Slowed(**{k: getattr(last.training.recipe, k) for k in Recipe.__dataclass_fields__})
    assert Train(last.start, replace(last.training, recipe=slowed)).key != last.key


def test_a_recipe_that_no_key_can_hold_is_refused_in_one_line(cell: Make) -> None:
    last = planned_cell(cell()).last
    fields = {k: getattr(last.training.recipe, k) for k in Recipe.__dataclass_fields__}
    odd = Slowed(**{**fields, "augment": print})
    with pytest.raises(ValueError, match="a stage key is made of numbers, texts and lists: "):
        Train(last.start, replace(last.training, recipe=odd))


def test_our_own_code_counts_by_its_version(cell: Make, monkeypatch) -> None:
    before = {stage.key for stage in ancestors(planned_cell(cell()).last)}
    monkeypatch.setattr(stages, "NUMERICS", stages.NUMERICS + 1)
    cell_plan._last_stages.cache_clear()
    after = {stage.key for stage in ancestors(planned_cell(cell()).last)}
    cell_plan._last_stages.cache_clear()
    assert before & after == set()


@pytest.mark.parametrize(
    "change", [{"augment": "crop_flip"}, {"order": "fresh"}, {"batch_size": 12}]
)
def test_a_score_with_batch_norm_counts_the_batches_of_its_statistics(
    cell: Make, change: dict
) -> None:
    net = {"_target_": "lt_sweeps.models.ResNet", "depth": 8, "width": 4}
    first = planned_cell(cell(model={"net": net})).last
    start = next(stage for stage in ancestors(first) if isinstance(stage, Init))
    keys = {
        Evaluate(start, first.training.changed(keys, where="recipe")).key
        for keys in ({}, change, {"lr": 0.5})
    }
    assert len(keys) == 2  # the learning rate of a score is nothing


def test_the_content_of_a_user_s_data_counts_and_its_place_does_not(cell: Make, lab: Path) -> None:
    before = key(cell(**own_data(lab)))
    elsewhere = lab / "moved"
    elsewhere.mkdir()
    (elsewhere / "pixels.txt").write_bytes((lab / "pixels.txt").read_bytes())
    assert key(cell(**own_data(elsewhere))) == before
    (lab / "pixels.txt").write_text("0123456789abcdeF" + "0123456789abcdef" * 63)
    assert key(cell(**own_data(lab))) != before


def test_data_with_a_fingerprint_of_their_own_are_not_loaded_for_a_plan(
    cell: Make, lab: Path
) -> None:
    first = key(cell(**own_data(lab, fingerprint="v1")))
    assert sys.modules["identity_lab"].CALLS == []
    assert key(cell(**own_data(lab, fingerprint="v2"))) != first


def test_data_are_loaded_once_for_all_cells_of_a_plan(cell: Make, lab: Path) -> None:
    plan([cell(**own_data(lab), recipe__lr=lr) for lr in (0.1, 0.2, 0.3)])
    assert len(sys.modules["identity_lab"].CALLS) == 1


def test_data_that_differ_at_every_call_are_refused(cell: Make, lab: Path) -> None:
    planned_cell(cell(**own_data(lab))).last.training.task.prepare()
    unseeded = planned_cell(cell(**own_data(lab, seeded=False))).last.training.task
    with pytest.raises(ValueError, match=r"`identity_lab.from_file` returned other images or"):
        unseeded.prepare()


@pytest.mark.parametrize(
    ("splits", "message"),
    [(2, r"`load` returned \['train', 'val'\]; give the splits"), (3, "`load` gave .* for train")],
)
def test_data_that_are_no_splits_are_refused(
    cell: Make, lab: Path, splits: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned_cell(cell(dataset={"_target_": "identity_lab.broken", "splits": splits}))


BYTES = torch.arange(64 * 16, dtype=torch.uint8).view(64, 1, 4, 4)


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [
        ("train", {"inputs": torch.zeros(64, 1, 4, 5)}, "train inputs have shape .*; input_shape="),
        ("val", {"targets": torch.zeros(1, dtype=torch.int64)}, r"its targets have shape \[1\]"),
        ("train", {"rows": torch.arange(8), "targets": torch.arange(8)}, "are 8; train_size=64"),
        ("test", {"inputs": torch.zeros(0, 1, 4, 4), "targets": torch.arange(0)}, "inputs are 0;"),
        ("train", {"inputs": torch.zeros(64, 1, 4, 4).requires_grad_()}, "require a gradient"),
        ("val", {"inputs": torch.rand(64, 1, 4, 4)}, "float32 from .*, and scale=255 would divide"),
        ("val", {"inputs": BYTES % 2}, "uint8 from 0 to 1, and scale=255 would divide"),
        ("val", {"inputs": BYTES > 50}, "bool from 0 to 1, and scale=255 would divide"),
        ("test", {"inputs": BYTES.to(torch.uint16) * 9}, "uint16 from .*, and scale=255"),
        ("test", {"inputs": BYTES * -1.0}, "float32 from -.*, and scale=255 would divide"),
        ("val", {"inputs": BYTES / BYTES.new_zeros(1, 4, 4)}, "val inputs hold NaN or infinite"),
        ("train", {"inputs": BYTES * 1j}, "train inputs are torch.complex64; give real numbers"),
        ("val", {"targets": [0, 1]}, "`load` gave Tensor, list for val; give a Split of two"),
    ],
)
def test_splits_that_are_not_what_their_data_set_says_are_refused(
    lab: Path, split: str, changes: dict, message: str
) -> None:
    dataset = Call("identity_lab.from_file")(data_dir=str(lab))
    splits = dataset.load()
    wrong = {**splits, split: replace(splits[split], **changes)}
    with pytest.raises(ValueError, match=f"dataset: .*{message}"):
        task.content_hash(replace(dataset, load=lambda: wrong))


@pytest.mark.parametrize(
    "changes",
    [
        *[{"mean": (0.5,)}, {"std": (1.0,)}, {"mean": (0.5, 0.5), "std": (1.0, 1.0)}],
        *[{"mean": (0.5,), "std": (0.0,)}, {"scale": 0.0}, {"scale": -255.0}],
    ],
)
def test_a_mean_a_std_and_a_scale_that_do_not_fit_are_refused(
    lab: Path, changes: dict[str, Any]
) -> None:
    dataset = Call("identity_lab.from_file")(data_dir=str(lab))
    with pytest.raises(ValueError, match="a mean and a std above 0, or none|a number above 0"):
        replace(dataset, **changes)


def test_data_sets_of_equal_names_in_two_modules_are_read_apart(lab: Path) -> None:
    """Both give the same fingerprint, because a fingerprint is unique only within its module."""
    (lab / "identity_other.py").write_text(MODULE.replace("copy())", "copy() + 1)"))
    afresh()
    names, given = ("identity_lab.from_file", "identity_other.from_file"), {"fingerprint": "v1"}
    one, other = (task.Task(Call(name, Config(given)), str(lab)).dataset for name in names)
    assert torch.equal(one.load()["val"].inputs + 1, other.load()["val"].inputs)


def test_tokens_are_whole_numbers(lab: Path) -> None:
    dataset = Call("identity_lab.from_file")(data_dir=str(lab))
    halves = {name: replace(part, inputs=part.inputs / 2) for name, part in dataset.load().items()}
    of_tokens = replace(dataset, load=lambda: halves, input_dtype=torch.int64)
    with pytest.raises(ValueError, match="are torch.float32, and would be cut to torch.int64"):
        task.content_hash(of_tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": BYTES * 1.05 - 5},  # resized images
        {"inputs": BYTES.to(torch.float16)},
        {"inputs": BYTES.clamp(max=0)},  # nothing to be seen in a small split
    ],
)
def test_pixels_of_other_types_and_a_little_beyond_their_range_are_taken(
    lab: Path, changes: dict[str, Any]
) -> None:
    dataset = Call("identity_lab.from_file")(data_dir=str(lab))
    splits = dataset.load()
    splits["val"] = replace(splits["val"], **changes)
    assert task.content_hash(replace(dataset, load=lambda: splits))


def test_complex_inputs_stay_where_a_data_set_says_that_they_are(lab: Path) -> None:
    dataset = Call("identity_lab.from_file")(data_dir=str(lab))
    waves = {name: replace(part, inputs=part.inputs * 1j) for name, part in dataset.load().items()}
    assert task.content_hash(replace(dataset, load=lambda: waves, input_dtype=torch.complex64))


def no_data_set() -> dict:
    return {}


def test_a_value_that_is_not_a_data_set_is_refused(cell: Make) -> None:
    with pytest.raises(ValueError, match="dataset: `.*no_data_set` returned dict; give a `lt_"):
        planned_cell(cell(dataset={"_target_": f"{__name__}.no_data_set"}))


@pytest.mark.parametrize(("file", "new"), [("pixels.txt", "2"), ("identity_helper.py", "20")])
def test_data_or_code_that_change_while_a_pack_waits_rename_its_units(
    cell: Make, lab: Path, file: str, new: str
) -> None:
    made = plan([cell(**own_data(lab), recipe___target_="identity_lab.slow")])
    sweep = Submission(made, settings(lab / "results", "waiting")).freeze([])
    frozen = {stage for cell in sweep.manifest.cells for stage in cell.stages}
    afresh()
    assert {unit.stage.key for unit in plan(sweep.cells()).units} == frozen
    (lab / file).write_text((lab / file).read_text().replace("1", new))
    afresh()
    assert {unit.stage.key for unit in plan(sweep.cells()).units}.isdisjoint(frozen)


def test_a_function_that_an_argument_names_counts_by_its_source_too(cell: Make, lab: Path) -> None:
    """Also if our function has the argument: slimming calls the initializer that a model names."""
    net = {"_target_": "lt_sweeps.models.ResNet", "depth": 8, "width": 4}
    model = {"net": net, "init": {"_target_": "identity_helper.draw"}}
    keys = []
    for gain in (1, 2, 1):
        (lab / "identity_helper.py").write_text(f"def draw(module): {gain}\n")
        sys.modules.pop("identity_helper", None)
        keys.append(key(cell(model=model, method={"_target_": "lt_sweeps.plan.methods.slimming"})))
    assert keys[0] == keys[2] != keys[1]


def test_the_order_of_a_mapping_counts_where_a_function_may_go_through_it(
    cell: Make, lab: Path
) -> None:
    (lab / "identity_helper.py").write_text(
        "from torch import nn\n"
        "def net(input_shape, classes, *, blocks: dict):\n"
        "    widths = [16, *blocks.values(), classes]\n"
        "    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    orders = [{"a": 12, "b": 8}, {"b": 8, "a": 12}, {"b": 12, "a": 8}]
    made = [
        planned_cell(cell(model={"net": {"_target_": "identity_helper.net", "blocks": blocks}}))
        for blocks in orders
    ]
    assert [each.last.network.layers[0].shape for each in made] == [(12, 16), (8, 16), (12, 16)]
    assert len({each.last.key for each in made}) == 3


def test_a_release_of_timm_counts(cell: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks and their first weights change between releases."""

    def create_model(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 16, num_classes))

    timm = SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    keys = []
    for release in ("1.0.0", "1.0.1"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, release=release: release)
        made = cell(model={"net": {"_target_": "lt_sweeps.models.timm", "name": "resnet18"}})
        cell_plan._last_stages.cache_clear()
        keys.append(plan([made]).cells[0].last.key)
    assert len(set(keys)) == 2


@pytest.mark.parametrize("switch", ["dtype(torch.float64)", "device('meta')"])
def test_a_module_that_changes_the_defaults_of_torch_is_refused(
    cell: Make, lab: Path, switch: str
) -> None:
    """Otherwise another dense network would get the key that all sweeps share."""
    (lab / "identity_helper.py").write_text(
        f"import torch\ntorch.set_default_{switch}\nFACTOR = 1\n"
    )
    try:
        with pytest.raises(ValueError, match="^torch: its default dtype is .* which a module of"):
            plan([cell(recipe___target_="identity_lab.slow")])
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_kinds_of_layers_count_where_more_than_the_schedule_reads_them(cell: Make) -> None:
    """Both kinds have one target here, but `neuron` never prunes rows of the output layer."""
    net = {"_target_": "lt_sweeps.models.FC", "hidden": [12, 8]}
    large = "lt_sweeps.sparsity.criteria.large_final"
    half = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
    neurons = {"mask_criterion": {"_target_": large, "granularity": "neuron"}}
    amc = {"method": {"_target_": "lt_sweeps.plan.methods.amc"}, "schedule": half}
    told = [{}, {"hidden.1.weight": "output"}, {"hidden.0.weight": "conv"}]
    for more, count in ((neurons, 3), (amc, 3), ({}, 1)):
        keys = {key(cell(model={"net": net, "kinds": kinds}, **more)) for kinds in told}
        assert len(keys) == count
    searches = plan([cell(model={"net": net, "kinds": kinds}, **amc) for kinds in told]).units
    sizes = {unit.stage.key: 9 for unit in searches}
    found = packs(searches, stack_size=sizes, workers=1)
    assert [len(pack.units) for pack in found if isinstance(pack.units[0].stage, Search)] == [1] * 3
    whole = []
    for kinds in told[:2]:
        last = planned_cell(cell(model={"net": net, "kinds": kinds}, **neurons)).last
        prune = next(stage for stage in ancestors(last) if isinstance(stage, Prune))
        assert prune.groups is not None
        whole.append([n for n, group in prune.groups.numbers.items() if len(group.unique()) == 1])
    assert whole == [["output.weight"], ["hidden.1.weight", "output.weight"]]


def test_labels_and_kinds_of_tensors_count(lab: Path) -> None:
    dataset = Call("identity_lab.from_file")(data_dir=str(lab))
    splits = dataset.load()
    hashes = set()
    for change in (
        lambda split: split,
        lambda split: replace(split, targets=split.targets.flip(0)),
        lambda split: replace(split, inputs=split.inputs.float()),
        lambda split: replace(split, inputs=split.inputs.flip(-1)),
        lambda split: replace(split, rows=torch.arange(len(split.targets))),
    ):
        changed = {name: change(split) for name, split in splits.items()}
        hashes.add(task.content_hash(replace(dataset, load=lambda changed=changed: changed)))
    hashes.add(task.content_hash(replace(dataset, scale=1.0)))
    assert len(hashes) == 6


def test_a_text_is_known_by_its_content_and_not_by_its_path(tmp_path: Path) -> None:
    def identity(path: Path | None) -> dict[str, Any]:
        call = Call.of({"_target_": "lt_sweeps.data.text", "path": path and str(path)}, where="")
        return task.Task(call).identity()

    here, there, other = (tmp_path / name for name in ("here.txt", "there.txt", "other.txt"))
    for path, text in ((here, "to be or not to be "), (there, "to be or not to be "), (other, "x")):
        path.write_text(text * 2000)
    assert identity(here) == identity(there) != identity(other)
    assert identity(None)["args"]["path"] is None, "so the keys of the usual text stay"
