"""Every yaml of every group composes, plans, and trains two steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from lt_sweeps.config import errors
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.taken_options import groups_taken
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Evaluate
from lt_sweeps.storage.store import Store

TINY = [
    *("seed=0", "dataset=synthetic", "recipe.length=2it", "recipe.evaluate_every=1it"),
    *("recipe.batch_size=8", "model.net.hidden=[12,8]"),
    # A default, which a method may ignore; a method must accept the keys that are set for it.
    "hydra.sweeper.params.mask_criterion=large_final",
    *("dataset.train=16", "dataset.validation=8", "dataset.test=8", "dataset.classes=4"),
]
LARGE = ("vgg16", "resnet50")
CHECKED = ("model", "dataset", "method", "mask_criterion", "schedule", "recipe", "reset", "freeze")


def options(group: str) -> list[str]:
    return sorted(errors.options(group))


def test_every_group_is_checked_here() -> None:
    assert errors.groups() == {*CHECKED, "task", "tracker", "experiment"}


def test_only_config_yaml_its_readme_and_folders_lie_in_conf() -> None:
    files = {path.name for path in CONF.iterdir() if path.is_file()}
    assert files == {"README.md", "config.yaml"}


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("method", "mask_criterion", "schedule", "reset", "freeze")
        for option in options(group)
    ],
)
def test_an_option_trains_two_steps(
    cells: Callable[..., list[Cell]],
    run: Callable[..., tuple[Plan, Store]],
    group: str,
    option: str,
) -> None:
    short = {"schedule": []}.get(group, ["schedule.levels=1"])
    if option.startswith(("geometric", "global")):
        short = ["schedule.levels=2"]
    if option == "dnw":
        short = ["schedule=one_shot"]
    method = (
        yaml.safe_load((CONF / "method" / f"{option}.yaml").read_text())
        if group == "method"
        else {}
    )
    if method and "schedule" not in groups_taken(method):
        short = []
    if option in ("snip", "grad", "grasp"):
        short += ["mask_criterion.examples=8"]
    if option.endswith("continuous_sparsification") and group == "method":
        short += ["method.anneal=step"]  # by epoch, beta would not rise in one epoch
    if option == "densities":
        short += ["schedule.densities=[0.5,0.5,0.5]"]
    tiny = [w for w in TINY if not w.startswith(f"{group}=")]
    if option == "amc":
        tiny += ["method.episodes=3", "method.warmup=1"]
    if option == "transfer":
        tiny += ["model.prunable.exclude=[output.weight]", "method.source.test=300"]
    if option == "slimming":
        wide = ["model=resnet20", "model.net.width=2"]
        tiny = [word for word in tiny if not word.startswith("model.")] + wide
    if option == "at_init":
        tiny += ["mask_criterion=random"]
    (cell,) = cells(*tiny, f"{group}={option}", *short)
    made, store = run(cell)
    records = store.root / "runs" / made.cells[0].signature / "0" / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    results = [row for row in rows if row["kind"] != "search"]
    first = results[0]["level"]
    assert [row["level"] for row in results] == list(range(first, first + len(results)))
    scored = {unit.stage.key for unit in made.units if isinstance(unit.stage, Evaluate)}
    assert all(row["train_steps"] == (0 if row["stage"] in scored else 2) for row in rows)
    if not option.endswith("_single"):  # the schedule does not set the size of its mask
        assert audit(store.root, sample="all", console=Console(quiet=True))


@pytest.mark.parametrize("option", options("recipe"))
def test_a_recipe_trains_two_steps(cells, run, option: str) -> None:
    words = [
        f"recipe={option}",
        "method=dense",
        *TINY,
        *(["recipe.milestones=[]"] if "cont" in option else []),
        *(["recipe.milestones=[]", "recipe.warmup=0it"] if "imagenet" in option else []),
    ]
    (cell,) = cells(*words)
    made, store = run(cell)
    assert store.has(made.units[0].stage.key, 0)


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=pytest.mark.slow) if option in LARGE else option
        for option in options("model")
        if option != "fc"
    ],
)
def test_a_model_is_pruned_and_trains_two_steps(cells, run, option: str) -> None:
    words = [w for w in TINY if not w.startswith("model.")]
    wide = ["model.net.depth=10", "model.net.widen=1"]
    narrow = {
        "resnet20": ["model.net.width=2"],
        "vgg16": [],
        "resnet50": [],
        "wrn28_10": wide,
        "wrn22_2": wide,
        "recurrent": ["model.net.width=4"],
        "transformer": ["model.net.width=8"],
        "torchvision": ["model.net.name=mobilenet_v3_small"],
        "timm": ["model.net.name=resnet10t"],
    }
    narrow = narrow.get(option, ["model.net.hidden=[8]"])
    if option == "timm":
        pytest.importorskip("timm")
    if option == "transformer":
        words = [word for word in words if not word.startswith("dataset")] + ["dataset=text"]
    else:
        words += ["dataset.shape=[3,8,8]"]
    (cell,) = cells(f"model={option}", *words, *narrow, "schedule.levels=1")
    made, store = run(cell)
    assert len(made.units) == 2 and not made.missing(store)


@pytest.mark.parametrize("option", options("dataset"))
def test_a_dataset_plans(cells, tmp_path: Path, option: str) -> None:
    words = [f"dataset={option}", f"data_dir={tmp_path}", "seed=0", "mask_criterion=large_final"]
    if option in ("image_folder", "imagenet"):
        pillow = pytest.importorskip("PIL.Image")
        for name in ("cat", "dog"):
            for number in range(40):
                (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
                pillow.new("RGB", (8, 8), (number, 0, 0)).save(
                    tmp_path / "images" / name / f"{number}.png"
                )
        words += [f"dataset.path={tmp_path / 'images'}", "recipe.batch_size=8"]
    if option == "imagenet":
        words += ["dataset.validation=20"]
    if option == "synthetic":
        words += ["dataset.train=64"]
    (cell,) = cells(*words)
    stage = plan([cell]).units[0].stage
    assert stage.network.input_shape in (
        (1, 8, 8),
        (1, 28, 28),
        (3, 32, 32),
        (3, 224, 224),
        (10,),
        (64,),
    )
    brought = {"diabetes": "r2", "text": "perplexity"}  # by the task that the data set names
    assert stage.training.task.kind.main == brought.get(option, "accuracy")


@pytest.mark.parametrize("option", options("task"))
def test_a_task_composes_and_the_command_line_has_the_last_word(cells, option: str) -> None:
    (cell,) = cells(f"task={option}", "dataset=diabetes", "seed=0", "mask_criterion=random")
    assert cell.choices["task"] == option
    kind = plan([cell]).units[0].stage.training.task.kind
    assert [metric.name for metric in kind.metrics] == list(cell.config["task"]["metrics"])


@pytest.mark.parametrize("option", options("tracker"))
def test_a_tracker_composes(cells, option: str) -> None:
    assert len(cells(f"tracker={option}", "seed=0", "mask_criterion=random")) == 1
