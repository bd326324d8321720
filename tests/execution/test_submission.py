"""A sweep is frozen, resumes as it was frozen, and computes nothing twice."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.command_line import TINY, CommandLine
from fixtures.tiny_cell import settings
from torch import Tensor

from lt_sweeps import __version__
from lt_sweeps.config.cells import Cell
from lt_sweeps.data import Dataset, Split
from lt_sweeps.execution.frozen_pack import thawed, work_on
from lt_sweeps.execution.loaded_code import ChangedCode
from lt_sweeps.execution.local_launcher import run_missing
from lt_sweeps.execution.plan_preview import _disk
from lt_sweeps.execution.process_state import forget_plans
from lt_sweeps.execution.resume_sweep import resumed
from lt_sweeps.execution.run_settings import RunSettings, code_version
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.storage.manifest import Launcher, Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.training.training_loop import Interrupted
from lt_sweeps.training.unit_files import UnitFiles

Make = Callable[..., Cell]


def all_packs(made: Plan) -> list:
    return packs(made.units, stack_size={u.stage.key: 9 for u in made.units}, workers=1)


def frozen(made: Plan, root: Path, name: str | None = None) -> SweepFolder:
    return Submission(made, settings(root, name)).freeze(all_packs(made))


def test_a_pack_is_worked_on_from_the_manifest_alone(cell: Make, tmp_path: Path) -> None:
    made = plan([cell(seed=seed) for seed in (0, 1)])
    sweep = SweepFolder(frozen(made, tmp_path).folder)
    for pack in sweep.manifest.packs:
        work_on(sweep, pack, device="cpu")
    assert not made.missing(Store(tmp_path))
    assert len(list(tmp_path.glob("runs/*/*/DONE"))) == 2


def test_a_plan_counts_the_files_that_there_will_be_and_none_else_is_left(
    cell: Make, tmp_path: Path
) -> None:
    made = plan([cell(seed=seed, reset__to="4it", report_at="end") for seed in (0, 1)])
    todo, sweep = all_packs(made), frozen(made, tmp_path)
    said = _disk(made, todo)
    for pack in sweep.manifest.packs:
        work_on(sweep, pack, device="cpu")
    made_files = [p for name in ("tickets", "runs") for p in (tmp_path / name).rglob("*.*")]
    files = [p for p in made_files if p.name != "verified.jsonl"]
    files += list(tmp_path.glob("runs/*/*/DONE"))
    # Two seeds of a drawn network, a snapshot and three tickets; records; the costs of three stages
    assert len(files) == 2 * (1 + 1 + 3) + 2 * 3 + 3
    assert f"in {len(files)} files" in said
    best = plan([cell(seed=seed, reset__to="4it", report_at="best") for seed in (0, 1)])
    assert f"in {len(files) + 2 * 3} files" in _disk(best, all_packs(best))


def test_the_same_cells_are_the_same_sweep_and_others_are_not(cell: Make, tmp_path: Path) -> None:
    one, other = plan([cell()]), plan([cell(), cell(seed=1)])
    folders = [Submission(each, settings(tmp_path)).folder for each in (one, other)]
    assert folders[0] == frozen(one, tmp_path).folder != folders[1]


def test_a_name_is_one_sweeps(cell: Make, tmp_path: Path) -> None:
    typed = replace(settings(tmp_path, "mine"), words=("seed=range(2)", "name=mine"))
    Submission(plan([cell()]), typed).freeze([])
    with pytest.raises(ValueError, match="name: 'mine' is taken by another sweep in ") as raised:
        frozen(plan([cell(seed=1)]), tmp_path, "mine")
    of = " (`'seed=range(2)' name=mine`), which lacks 1 of these 1 cells; choose another name: "
    assert str(raised.value).endswith(of + "stored results are used again")
    edited = r"lacks 1 of these 1 cells \(recipe.lr 0.01 -> 0.1\); choose another"
    with pytest.raises(ValueError, match=edited):
        frozen(plan([cell(recipe__lr=0.1)]), tmp_path, "mine")
    with pytest.raises(
        ValueError, match="is taken by another sweep in .* lacks 1 of these 2 cells"
    ):
        frozen(plan([cell(), cell(seed=1)]), tmp_path, "mine")
    # Two commands with one new name: both were planned before the first was frozen.
    both = [Submission(plan([cell(seed=seed)]), settings(tmp_path, "new")) for seed in (0, 1)]
    both[0].freeze([])
    with pytest.raises(ValueError, match="name: 'new' is taken by another sweep in "):
        both[1].freeze([])
    unnamed = replace(settings(tmp_path, None), search="mine")
    with pytest.raises(ValueError, match="name: 'mine' is taken by another sweep in "):
        Submission(plan([cell(seed=1)]), unnamed)


def test_a_sweep_whose_file_was_edited_says_so_and_not_that_its_name_is_taken(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edited_lab.py").write_text(
        'def scaled(final, *, factor: str = ""):\n    return final * float(open(factor).read())\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "edited_lab", raising=False)
    factor = tmp_path / "factor"
    criterion = {"_target_": "edited_lab.scaled", "factor": str(factor)}
    cells = [cell(mask_criterion=criterion, seed=seed) for seed in (0, 1)]

    def planned() -> Plan:
        forget_plans()  # as in a process of its own
        return plan(cells)

    factor.write_text("1.0")
    sweep = frozen(planned(), tmp_path, "mine")
    factor.write_text("2.0")
    line = "code: level 1 of seed 0 would now be another result, because"
    with pytest.raises(ChangedCode, match=line):
        Submission(planned(), settings(tmp_path, "mine"))
    with pytest.raises(ChangedCode, match=line):
        thawed(sweep, sweep.manifest.packs[1])
    factor.write_text("1.0")
    assert Submission(planned(), settings(tmp_path, "mine")).folder == sweep.folder


def test_an_edit_of_code_in_the_file_of_a_data_set_is_not_called_an_edit_of_data(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, head = tmp_path / "both_lab.py", "from lt_sweeps.data import synthetic\n"
    data = "def data(): return synthetic(shape=[1, 4, 4], classes=4, train=64)\n"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "both_lab", raising=False)

    def planned(criterion: str) -> Plan:
        lab.write_text(f"{head}{data}def score(final): return {criterion}\n")
        forget_plans()
        own = {"_target_": "both_lab.score"}
        return plan([cell(mask_criterion=own, dataset={"_target_": "both_lab.data"})])

    frozen(planned("final"), tmp_path, "mine")
    with pytest.raises(ChangedCode, match="^code: both_lab changed since the sweep was started"):
        Submission(planned("-final"), settings(tmp_path, "mine"))


def test_an_interrupted_sweep_keeps_its_packs(cell: Make, tmp_path: Path) -> None:
    made = plan([cell(seed=seed) for seed in (0, 1, 2)])
    sweep = frozen(made, tmp_path)
    names = [pack.name for pack in sweep.manifest.packs]
    work_on(sweep, sweep.manifest.packs[0], device="cpu")
    again = Submission(made, settings(tmp_path))
    left, new = again.unfinished(again.missing())
    assert [pack.name for pack in left] == names[1:] and not new


def test_a_copied_root_is_resumed_where_the_first_folder_is_missing(
    cells: Callable[..., list[Cell]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = plan(cells(*TINY, "schedule.levels=1", f"root={tmp_path / 'first'}"))
    gone = Launcher(cwd=str(tmp_path / "gone"))
    sweep = Submission(made, settings(tmp_path / "first", "mine")).freeze(all_packs(made), gone)
    sweep.fail(sweep.manifest.packs[0].units[0], "no luck", sweep.manifest.packs[0].name)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    copied = SweepFolder(tmp_path / "copy" / "sweeps" / "mine")
    (failure,) = copied.failures().values()
    assert failure.log == str(copied.log(copied.manifest.packs[0].name))
    monkeypatch.chdir(tmp_path)
    again = resumed(copied)
    assert len(again.missing()) == len(made.units) and again.settings.root == tmp_path / "copy"
    assert (
        f"cannot enter {gone.cwd}, where the sweep was started (No such" in capsys.readouterr().err
    )


def test_a_search_grows_by_its_trials_and_leaves_the_packs_of_others(
    cell: Make, tmp_path: Path
) -> None:
    mine = replace(settings(tmp_path, "s"), search="random-1")
    both = plan([cell(seed=seed) for seed in (0, 1)])
    first = Submission(both, mine).freeze(all_packs(both)).manifest
    assert len(first.packs[0].units) == 2  # an interrupted batch trained both in one stack
    one = plan([cell(seed=seed) for seed in (1, 2)])
    submission = Submission(one, mine)
    assert submission.unfinished(submission.missing())[0] == []
    grown = submission.freeze(all_packs(one)).manifest
    assert [c.seed for c in grown.cells] == ["0", "1", "2"]
    assert [*grown.packs[: len(first.packs)]] == [*first.packs]
    assert {tuple(pack.cells) for pack in grown.packs[len(first.packs) :]} == {(1, 2)}
    assert len(SweepFolder(submission.folder).manifest.stages) == len(first.stages)
    for other in (replace(mine, search="random-2"), settings(tmp_path, "s")):
        with pytest.raises(ValueError, match="'s' is taken by another sweep"):
            Submission(one, other)


def test_a_batch_of_a_search_keeps_the_failures_of_others(cell: Make, tmp_path: Path) -> None:
    mine = replace(settings(tmp_path, "s"), search="random-1")
    one, other = (plan([cell(seed=seed)]) for seed in (0, 1))
    sweep = Submission(one, mine).freeze(all_packs(one))
    (failed, *_) = sweep.manifest.cells[0].units
    sweep.fail(failed, "memory", "pack")
    assert [*Submission(other, mine).freeze(all_packs(other)).failures()] == [failed]
    assert not Submission(one, mine).freeze([]).failures()


def test_a_seed_more_computes_only_what_is_new(cell: Make, tmp_path: Path) -> None:
    first = plan([cell(seed=seed) for seed in (0, 1)])
    for pack in all_packs(first):
        compute(pack.units, first.moments, Store(tmp_path), Machine())
    more = plan([cell(seed=seed, schedule__levels=3) for seed in (0, 1, 2)])
    missing = more.missing(Store(tmp_path))
    assert [(u.stage.level, u.seed.value) for u in missing] == [
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 0),
        (3, 1),
        (3, 2),
    ]


def test_a_corrupt_ticket_is_missing_again(cell: Make, tmp_path: Path) -> None:
    made, store = plan([cell()]), Store(tmp_path)
    for pack in all_packs(made):
        compute(pack.units, made.moments, store, Machine())
    unit = made.units[1]
    path = store.path(unit.stage.key, 0)
    before = path.read_bytes()
    path.write_bytes(before[:-10])
    assert made.missing(store) == (unit,)
    compute([unit], made.moments, store, Machine())
    assert path.read_bytes() == before


def _compute(root: Path, cells: list[Cell], barrier) -> None:
    """Compute all packs, and note every training that ends."""
    finish = UnitFiles.finish

    def noted(files: UnitFiles, *results) -> None:
        with (root / "trained").open("a") as file:
            file.writelines(f"{unit.stage.key}/{unit.seed}\n" for unit in files.units)
        finish(files, *results)

    setattr(UnitFiles, "finish", noted)  # noqa: B010
    made = plan(cells)
    barrier.wait()
    for pack in all_packs(made):
        compute(pack.units, made.moments, Store(root), Machine())


@pytest.mark.parametrize("theirs", [(1, 2, 3), (0, 1, 2)], ids=["overlapping", "the same"])
def test_two_processes_on_one_root_double_nothing(
    cell: Make, tmp_path: Path, command_line: CommandLine, theirs: tuple[int, ...]
) -> None:
    context = command_line.processes
    barrier = context.Barrier(2)
    long = {"schedule__levels": 1, "recipe__length": "30ep"}
    seeds = [(0, 1, 2), theirs]
    both = [
        context.Process(
            target=_compute, args=(tmp_path, [cell(seed=s, **long) for s in of], barrier)
        )
        for of in seeds
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    trained = (tmp_path / "trained").read_text().split()
    assert len(trained) == len(set(trained)) == 2 * len(set(sum(seeds, ())))


def test_who_waits_for_another_process_can_be_stopped(cell: Make, tmp_path: Path) -> None:
    made, store = plan([cell()]), Store(tmp_path)
    claim = store.claim(made.units[0].stage.key, 0)
    with pytest.raises(Interrupted):
        compute(made.units[:1], made.moments, store, Machine(), stopped=lambda: True)
    assert claim is not None


@pytest.mark.parametrize("name", ["a/b", "..", "", 5, "é" * 150])
def test_a_name_is_a_folders(cell: Make, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a folder"):
        Submission(plan([cell()]), settings(tmp_path, name))


def test_a_number_names_a_sweep(cells: Callable[..., list[Cell]]) -> None:
    assert RunSettings.of(cells(*TINY, "name=2027")).name == "2027"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("root", "the config of the cells has no such key; start"),
        ("data_dir", "missing; every config"),
    ],
)
def test_a_frozen_cell_that_lacks_a_setting_is_refused(
    cells: Callable[..., list[Cell]], tmp_path: Path, key: str, said: str
) -> None:
    """`resume` used to say `KeyError: 'root'`."""
    (one,) = cells(*TINY, "seed=0", "mask_criterion=large_final")
    sweep = Submission(plan([one]), settings(tmp_path, "s")).freeze([])
    (frozen,) = sweep.manifest.cells
    config = {name: value for name, value in frozen.config.items() if name != key}
    lacking = replace(sweep.manifest, cells=[replace(frozen, config=config)])
    lacking.write(sweep.path)
    with pytest.raises(ValueError, match=f"^{key}: {said}"):
        resumed(SweepFolder(sweep.folder))


def test_two_that_freeze_one_sweep_keep_each_others_packs(cell: Make, tmp_path: Path) -> None:
    made = plan([cell(seed=seed) for seed in (0, 1)])
    halves = packs(made.units, stack_size={u.stage.key: 9 for u in made.units}, workers=2)
    frozen(made, tmp_path)
    sweep = Submission(made, settings(tmp_path)).freeze(halves)
    names = {pack.name for pack in sweep.manifest.packs}
    assert names == {pack.name for pack in [*all_packs(made), *halves]}


def test_files_that_a_killed_process_was_writing_are_removed(cell: Make, tmp_path: Path) -> None:
    made, store = plan([cell()]), Store(tmp_path)
    unit = made.units[0]
    debris = store.path(unit.stage.key, 0).with_name(".0.safetensors.abc")
    debris.parent.mkdir(parents=True)
    debris.write_bytes(b"half a ticket")
    compute([unit], made.moments, store, Machine())
    assert not debris.exists()


def splits_of(images: dict[str, Tensor]) -> Dataset:
    splits = {n: Split(x, torch.arange(len(x)) % 4) for n, x in images.items()}
    return Dataset((1, 4, 4), 4, len(images["train"]), lambda: None, lambda: splits)


def leaking(*, shared: int, split: str, other: str) -> Dataset:
    """A data set of 200 images per split, of which this many are also in another split."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 200, 1, 4, 4), generator=draws, dtype=torch.uint8)
    named: dict[str, Tensor] = {"train": images[0], "val": images[1], "test": images[2]}
    named[split][:shared] = named[other][-shared:] if shared else named[split][:0]
    return splits_of(named)


def mislabelled() -> Dataset:
    """A data set with one test label that is not among the classes."""
    dataset = leaking(shared=0, split="test", other="train")
    dataset.load()["test"].targets[7] = 9
    return dataset


def from_1() -> Dataset:
    """Nine classes with labels 1 to 8, in order: the validation split has two of them."""
    images = torch.rand(160, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = 1 + torch.arange(160) // 9 % 8
    parts = {"train": slice(0, 72), "val": slice(72, 88), "test": slice(88, 160)}
    splits = {name: Split(images[part], labels[part]) for name, part in parts.items()}
    return Dataset((1, 4, 4), 9, 72, lambda: None, lambda: splits, scale=1.0)


def leak(shared: int, split: str = "test", other: str = "train") -> dict:
    return {
        "_target_": f"{__name__}.leaking",
        "shared": shared,
        "split": split,
        "other": other,
    }


@pytest.mark.parametrize(("split", "other"), [("test", "train"), ("val", "train"), ("test", "val")])
def test_a_split_taken_from_another_is_refused(
    cell: Make, tmp_path: Path, split: str, other: str
) -> None:
    made = plan([cell(dataset=leak(150, split, other))])
    message = f"150 of 200 {split} examples are {other} examples too"
    with pytest.raises(ValueError, match=message) as refused:
        Submission(made, settings(tmp_path)).check_splits(made.units)
    assert str(refused.value).startswith("dataset: leaking(")


def test_a_label_outside_the_classes_is_refused_before_anything_is_trained(
    cell: Make, tmp_path: Path
) -> None:
    made = plan([cell(dataset={"_target_": f"{__name__}.mislabelled"})])
    with pytest.raises(ValueError, match="task: targets of .* go from 0 to 9; its 4 classes"):
        Submission(made, settings(tmp_path)).check_splits(made.units)


@pytest.mark.parametrize(("shared", "said"), [(0, []), (3, ["3 of 200 test examples are train"])])
def test_a_few_images_that_splits_share_are_counted_aloud(
    cell: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: int, said: list[str]
) -> None:
    made = plan([cell(dataset=leak(shared))])
    Submission(made, settings(tmp_path)).check_splits(made.units)
    assert len(caplog.messages) == len(said)
    assert all(text in line for text, line in zip(said, caplog.messages, strict=True))


def test_a_class_without_an_example_is_said(
    cell: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Labels from 1 on, and a validation split that was cut from sorted examples."""
    made = plan([cell(dataset={"_target_": f"{__name__}.from_1"})])
    Submission(made, settings(tmp_path)).check_splits(made.units)
    (line,) = caplog.messages
    assert line.endswith(
        "from_1(): no example of class 0 in train; of class 0, 3, 4, 5, 6 and 2 more in val; "
        "of class 0 in test"
    )


def test_a_sweep_on_shared_examples_does_not_start(cell: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="200 of 200 test examples are train examples too"):
        run_missing(Submission(plan([cell(dataset=leak(200))]), settings(tmp_path)))
    assert not list(tmp_path.glob("tickets/*/*.safetensors"))


def test_a_commit_that_git_does_not_tell_in_time_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 30)

    monkeypatch.setattr(subprocess, "run", late)
    code_version.cache_clear()
    assert code_version() == f"{__version__}+unknown"
    code_version.cache_clear()
