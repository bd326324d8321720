"""Stages with equal content have equal keys, and every difference that matters changes the key."""

import errno
import importlib
import pkgutil
import re
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lt_sweeps
from lt_sweeps.config.call import Call
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.identity import public_name
from lt_sweeps.data import Dataset, Split
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages import Init, Task, Train, ancestors

Make = Callable[..., Cell]
MOVEMENT = {"_target_": "lt_sweeps.sparsity.criteria.movement"}


def printed(cell: Cell) -> list[str]:
    return [str(stage) for stage in ancestors(planned_cell(cell).last)]


TASK = "synthetic(classes=4, shape=[1, 4, 4], test=32, train=64, validation=32), adam lr 0.01"
DENSE = ["init    FC(hidden=[12, 8])", f"train   {TASK}, steps 0 to 12"]


def test_the_plan_of_dense(cell: Make) -> None:
    assert printed(cell(method={"_target_": "lt_sweeps.plan.methods.dense"})) == DENSE


def test_the_plan_of_imp(cell: Make) -> None:
    level = ["reset   rewind(), zero()", f"train   {TASK}, steps 0 to 12"]
    assert printed(cell()) == [
        *DENSE,
        "prune   large_final(), to sparsity 0.2000",
        *level,
        "prune   large_final(), to sparsity 0.3600",
        *level,
    ]


def test_the_plan_of_one_shot(cell: Make) -> None:
    assert printed(cell(method={"_target_": "lt_sweeps.plan.methods.one_shot"})) == [
        *DENSE,
        "prune   large_final(), to sparsity 0.3600",
        "reset   rewind(), zero()",
        f"train   {TASK}, steps 0 to 12",
    ]


def named_in_keys() -> Iterator[tuple[str, Callable]]:
    """Every public function and class of a module with a family, by its name in keys."""
    for module in pkgutil.walk_packages(lt_sweeps.__path__, "lt_sweeps."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            ours = callable(value) and getattr(value, "__module__", None) == module.name
            if ours and not name.startswith("_") and not isinstance(value, type(Callable)):
                with suppress(ValueError):  # it is in no family, so that no key can name it
                    yield str(public_name(value)), value


def test_no_two_functions_share_a_name_in_keys() -> None:
    names = Counter(name for name, _ in named_in_keys())
    assert len(names) > 80
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("group", ["mask_criterion", "reset", "freeze", "model", "dataset"])
def test_every_function_of_an_option_has_a_stable_name_in_keys(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        for target in re.findall(r"_target_: (lt_sweeps[\w.]+)", path.read_text()):
            name = public_name(Call(target).function)
            assert name is not None and name.count(".") == 1, target
            assert "lt_sweeps" not in str(Call(target).identity()["target"])


def test_a_function_of_ours_keeps_its_name_when_its_file_moves(monkeypatch) -> None:
    function = Call("lt_sweeps.sparsity.criteria.random").function
    moved = types.ModuleType("lt_sweeps.elsewhere")
    moved.FAMILY, moved.random = "criteria", function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lt_sweeps.elsewhere", moved)
    monkeypatch.setattr(function, "__module__", "lt_sweeps.elsewhere")
    assert public_name(function) == "criteria.random"


def test_a_function_of_ours_in_no_family_is_refused() -> None:
    with pytest.raises(ValueError, match="has no name in stage keys"):
        public_name(public_name)


def test_keys_are_pinned(cell: Make) -> None:
    """A change here renames every stored result of every user, except for a change of a version."""
    last = planned_cell(cell()).last
    keys = [stage.key for stage in ancestors(last) if stage.level < 2]
    assert keys == PINNED


PINNED = [
    "b733c07537ddbd6c",
    "c3b6c40c0cc2b4ed",
    "ba7c1809f65cc41d",
    "45834cc8843dd791",
    "825a74bdc33abd16",
]


def test_nothing_that_only_changes_speed_or_place_is_in_a_key(cell: Make) -> None:
    first, second = cell(), cell(root="elsewhere", device="cuda", stack_size=3, data_dir="there")
    assert planned_cell(first).last.key == planned_cell(second).last.key
    assert planned_cell(cell(seed=7)).last.key == planned_cell(first).last.key


@pytest.mark.parametrize(
    "change",
    [
        {"model__net": {"_target_": "lt_sweeps.models.FC", "hidden": [12, 9]}},
        {"dataset__train": 80},
        {"recipe__lr": 0.02},
        {"recipe__length": "4ep"},
        {"recipe__order": "fresh"},
        {"schedule__hidden": 0.3},
        {"mask_criterion": MOVEMENT},
        {"reset": {"_target_": "lt_sweeps.sparsity.resets.keep"}},
        {"reset__to": "1ep"},
        {"freeze": {"_target_": "lt_sweeps.sparsity.freezes.init"}},
    ],
)
def test_everything_that_changes_a_result_changes_the_key(cell: Make, change: dict) -> None:
    assert planned_cell(cell(**change)).last.key != planned_cell(cell()).last.key


def test_the_criterion_does_not_touch_the_dense_training(cell: Make) -> None:
    first, second = (planned_cell(cell(**c)).trainings for c in ({}, {"mask_criterion": MOVEMENT}))
    assert first[0] == second[0] and first[1] != second[1]


def test_equal_times_in_other_units_are_the_same(cell: Make) -> None:
    assert planned_cell(cell(reset__to="1ep")).last == planned_cell(cell(reset__to="4it")).last


def test_all_rewind_points_and_snapshots_share_one_dense_training(cell: Make) -> None:
    made = plan(
        [cell(schedule__levels=1, reset__to=to) for to in ("0it", "1ep", "2ep")]
        + [cell(schedule__levels=1, mask_criterion={**MOVEMENT, "init": "5it", "final": "best"})]
    )
    dense = made.cells[0].trainings[0]
    assert [unit.stage.level for unit in made.units] == [0, 1, 1, 1, 1]
    assert made.moments[dense.key] == {4, 8, 5, "best"}


def test_the_initialisation_is_independent_of_data_and_recipe(cell: Make) -> None:
    inits = {
        next(s for s in ancestors(planned_cell(c).last) if isinstance(s, Init)).key
        for c in (cell(), cell(recipe__lr=0.5), cell(dataset__train=80))
    }
    assert len(inits) == 1


def untrained(init: Init) -> Init:
    return init


def listed(init: Init, recipe: Any) -> list[Train]:
    return [Train(init, recipe)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mask_criterion__final": "ended"},
            "mask_criterion.final: got 'ended'; give one of",
        ),
        ({"mask_criterion__init": "start"}, r"mask_criterion: .*takes no init"),
        ({"mask_criterion__final": "99ep"}, "mask_criterion.final: 99ep is step 396, outside the"),
        ({"reset__to": "99ep"}, "reset.to: 99ep is step 396, outside the training"),
        ({"reset__to": "3ep"}, "reset.to: 3ep is the end of the training; nothing would be left"),
        ({"reset__rewnd": 1}, "reset: .*takes no rewnd"),
        ({"recipe__length": "three"}, "recipe.length: got 'three'; give a duration with its unit"),
        ({"recipe__optimizer": "lion"}, "recipe.optimizer: got 'lion'; give one of sgd, adam"),
        ({"recipe__momentum": 0.9}, "recipe: optimizer=adam has betas, but no momentum"),
        ({"recipe__batch_size": 65}, "recipe.batch_size: got 65; give 1 to 64 images"),
        ({"schedule__levels": "two"}, "schedule.levels: got 'two'; give a whole number or null"),
        ({"mask_criterion__final": None}, "mask_criterion.final: got None; give a moment"),
        ({"seeds": 5}, "seeds: got 5; give a role its own seed"),
        ({"recipe__gamma": -3.0}, "recipe.gamma: got -3.0"),
        ({"recipe__warmup": "9ep"}, "recipe.warmup: got 36 steps; the length is 12"),
        (
            {"recipe__decay": "cosine", "recipe__milestones": ["1ep"]},
            "decay=cosine has no milestones",
        ),
        ({"schedule__levels": None, "schedule__sparsity": 0.0}, "sparsity 0 prunes nothing"),
        ({"scedule": 1}, "scedule: unknown key; did you mean `schedule`"),
        ({"report_at": "test"}, "report_at: got 'test'; give best or end"),
        ({"seed": "abc"}, "seed: got 'abc'; give a whole number"),
        ({"seeds": {"data": 3}}, "seeds: no role"),
        (
            {"model__prunable": {"include": ["conv*"]}},
            "include: `conv.*matches no parameter",
        ),
        ({"model__nett": 1}, "model: no key `nett`"),
        ({"method": {"_target_": "lt_sweeps.sparsity.criteria.random"}}, "method: "),
        ({"method": {"_target_": f"{__name__}.untrained"}}, r"untrained` returned Init; give a T"),
        ({"method": {"_target_": f"{__name__}.listed"}}, r"listed` returned list; give a"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([cell(**change)])


def own_file(path: str) -> Dataset:
    with open(path) as file:
        raise AssertionError(file.read())


def test_a_file_that_a_users_data_set_cannot_read_is_said_with_its_key(tmp_path: Path) -> None:
    """The line used to name the file alone, or the place alone."""
    wrong = tmp_path / "wrong.npz"
    wrong.write_text("no images")
    for path, key, fault in (
        (tmp_path / "missing.npz", "dataset.path", "No such file"),
        (wrong, "dataset", r"test_stages.py:\d+: AssertionError: no images"),
    ):
        config = {"_target_": f"{__name__}.own_file", "path": str(path)}
        task = Task(Call.of(config, where="dataset", supplied=("data_dir",)))
        with pytest.raises(ValueError, match=rf"^{key}: own_file\(.*cannot be loaded: .*{fault}"):
            _ = task.dataset


def own_lazy(path: str, *, fingerprint: str = "", prepares: bool = False) -> Dataset:
    def read() -> dict[str, Split]:
        raise KeyError(path) if path == "labels" else OSError(errno.ENOSPC, "disk is full")

    steps: dict[str, Any] = {"load": read, "prepare": read if prepares else lambda: None}
    return Dataset((1, 2, 2), 2, 4, fingerprint=fingerprint, **steps)


@pytest.mark.parametrize("prepares", [False, True])
@pytest.mark.parametrize("fingerprint", ["", "1"])
def test_an_error_of_a_lazy_load_is_said_with_its_key(fingerprint: str, prepares: bool) -> None:
    """The line used to name the file alone; a full disk stays an OSError, which is waited for."""
    for path, kind in (("labels", ValueError), ("full", OSError)):
        config = {"path": path, "fingerprint": fingerprint, "prepares": prepares}
        config["_target_"] = f"{__name__}.own_lazy"
        task = Task(Call.of(config, where="dataset", supplied=("data_dir",)))
        said = r"^dataset: own_lazy\(.*cannot be loaded: .*test_stages.py:\d+: KeyError: 'labels'$"
        with pytest.raises(kind, match=said if kind is ValueError else "disk is full"):
            task.dataset.prepare() if prepares else task.dataset.load()
        if not fingerprint:
            with pytest.raises(kind):
                task.identity()
