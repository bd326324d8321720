"""A search by a foreign Hydra sweeper: each trial returns its objective."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from fixtures.job_callback import JobCallback
from fixtures.strange_sweeper import RATES, StrangeSweeper
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from rich.console import Console

from lt_sweeps.analysis.objective import Objective
from lt_sweeps.cli.command_line import main
from lt_sweeps.execution import local_launcher
from lt_sweeps.execution.resume_sweep import resumed
from lt_sweeps.execution.submission import Submission
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.sweep_folder import SweepFolder

TINY = [
    *("dataset=synthetic", "dataset.train=32", "dataset.validation=16", "dataset.test=16"),
    *("recipe.length=4it", "recipe.evaluate_every=2it", "recipe.batch_size=8", "workers=1"),
    *("model.net.hidden=[12,8]", "mask_criterion=random", "schedule.levels=2", "report.figures=[]"),
]
Search = Callable[..., int]


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Search:
    """Run overrides with the foreign sweeper, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    option = tmp_path / "own" / "hydra" / "sweeper" / "strange.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: fixtures.strange_sweeper.StrangeSweeper\n")

    def run(*words: str, report: bool = False) -> int:
        Plugins.instance().register(StrangeSweeper)
        if not report:
            monkeypatch.setattr(local_launcher, "end_search", lambda *_: None)
        flag = f"--config-dir={tmp_path / 'own'}"
        verb, rest = (["plan"], words[1:]) if words[0] == "plan" else ([], words)
        return main([*verb, flag, "hydra/sweeper=strange", *TINY, *rest])

    return run


def rows(folder: Path, rate: float) -> dict[str, dict[int, Record]]:
    """The records of a trial, by seed and level."""
    cells = [
        cell
        for sweep in (folder / "results" / "sweeps").iterdir()
        for cell in SweepFolder(sweep).manifest.cells
        if cell.config["recipe"]["lr"] == rate
    ]
    return {
        cell.seed: {
            row.level: row
            for row in RunFolder.of(folder / "results", cell.signature, cell.seed).read().records
        }
        for cell in cells
    }


def test_a_trial_returns_the_mean_of_its_seeds_at_the_last_level(
    search: Search, tmp_path: Path
) -> None:
    assert search("seed=[0,1]") == 0
    assert list(StrangeSweeper.told) == list(RATES)
    for rate, told in StrangeSweeper.told.items():
        by_seed = rows(tmp_path, rate)
        assert sorted(by_seed) == ["0", "1"]
        assert told == fmean(levels[2].value("val_accuracy") for levels in by_seed.values())


def test_an_objective_names_a_metric_a_level_or_an_endpoint(search: Search, tmp_path: Path) -> None:
    assert search("objective=test_accuracy@1", "seed=3") == 0
    told = StrangeSweeper.told
    assert told == {rate: rows(tmp_path, rate)["3"][1].test_accuracy for rate in RATES}
    # The same trainings serve another objective.
    assert search("objective=area", "seed=3") == 0
    for rate, area in StrangeSweeper.told.items():
        found = [row.value("val_accuracy") for row in rows(tmp_path, rate)["3"].values()]
        assert isinstance(area, float)
        assert min(found) <= area <= max(found)
    assert search("objective=sparsest_not_inferior", "report.margin=0.99", "seed=3") == 0
    for rate, sparsity in StrangeSweeper.told.items():
        last = rows(tmp_path, rate)["3"][2]
        assert sparsity == pytest.approx(1 - last.percent_remaining / 100)


def test_a_trial_without_a_number_is_one_line(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    diverges = ("recipe.optimizer=sgd", "recipe.weight_decay=1e30")
    assert search(*diverges, "+hydra.sweeper.batch=3") == 1
    error = capsys.readouterr().err
    assert (
        "error: objective: val_metric has no finite value for seed 0: the training diverged"
        in error
    )
    assert "Traceback" not in error
    assert search(*diverges, "+hydra.sweeper.failures=true") == 0
    (said,) = set(StrangeSweeper.told.values())
    assert str(said).startswith(
        "objective: val_metric has no finite value for seed 0: the training diverged"
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("val_accuracy@9", "error: objective: got val_accuracy@9; the levels are 0, 1, 2"),
        ("val_acuracy", "objective: got 'val_acuracy'; did you mean `val_accuracy`? give one of"),
    ],
)
def test_an_objective_that_no_cell_has_is_refused_before_anything_runs(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    assert search(f"objective={word}", "+hydra.sweeper.failures=true") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results" / "tickets").exists()


@pytest.mark.parametrize(
    ("direction", "said"),
    [
        ("minimize", "got minimize, and objective=val_metric is better high; give maximize"),
        ("[minimize]", "got minimize, and objective=val_metric is better high; give maximize"),
        ("[maximize,maximize]", "got 2 directions; an objective is one number"),
    ],
)
@pytest.mark.parametrize("verb", [[], ["plan"]])
def test_a_search_for_the_worst_value_is_refused_before_anything_runs(
    search: Search,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: list[str],
    direction: str,
    said: str,
) -> None:
    assert search(*verb, f"+hydra.sweeper.direction={direction}") == 1
    assert f"error: hydra.sweeper.direction: {said}\n" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_search_may_name_the_direction_that_its_objective_has(search: Search) -> None:
    assert search("+hydra.sweeper.direction=maximize", "seed=3") == 0


@pytest.mark.parametrize("word", ["accuracy", "val_accuracy@x", "area@3", "val_accuracy@"])
def test_a_text_that_can_be_no_objective_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"^objective: got '.*'; give sparsest_not_inferior, area"):
        Objective.of(word)


def test_a_search_is_one_sweep_with_one_report(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("seed=[0,1]", "+hydra.sweeper.batch=1", report=True) == 0
    assert capsys.readouterr().out.count("index.html") == 1  # it is drawn at the end alone
    (folder,) = (tmp_path / "results" / "sweeps").iterdir()
    assert folder.name.startswith("default-strange-")
    first = SweepFolder(folder).manifest
    assert [(c.config["recipe"]["lr"], c.seed) for c in first.cells] == [
        (rate, seed) for rate in RATES for seed in "01"
    ]
    with (folder / "report" / "summary.csv").open() as file:
        lines = {row["curve"] for row in csv.DictReader(file)}
    assert lines == {f"lr={rate}" for rate in RATES}
    # Every pack names its own cells, although later trials added cells.
    for pack in first.packs:
        units = {unit for number in pack.cells for unit in first.cells[number].units}
        assert {*pack.units} <= units
    assert audit(folder, console=Console(quiet=True))

    # Started again in other batches it computes nothing, and changes no cell.
    tickets = stamps(tmp_path)
    assert search("seed=[0,1]", "+hydra.sweeper.batch=2", "workers=2", report=True) == 0
    assert stamps(tmp_path) == tickets
    again = SweepFolder(folder).manifest
    assert [cell.name for cell in again.cells] == [cell.name for cell in first.cells]
    assert (again.packs, again.content) == (first.packs, first.content)
    assert resumed(SweepFolder(folder)).settings.workers == 2
    assert "nothing has changed since" in capsys.readouterr().out


def test_a_search_that_was_interrupted_goes_on_with_what_is_stored(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Submission, "write_records", interrupted)
        assert search("seed=4") == 130
    (folder,) = (tmp_path / "results" / "sweeps").iterdir()
    tickets = stamps(tmp_path)
    assert tickets
    assert search("seed=4", "+hydra.sweeper.batch=1") == 0  # no batch holds a whole earlier pack
    assert list((tmp_path / "results" / "sweeps").iterdir()) == [folder]
    assert tickets.items() <= stamps(tmp_path).items()
    assert list(StrangeSweeper.told) == list(RATES)


def test_only_trials_of_one_search_join_its_sweep(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("name=mine", "seed=0") == 0
    assert [path.name for path in (tmp_path / "results" / "sweeps").iterdir()] == ["mine"]
    manifest = (tmp_path / "results" / "sweeps" / "mine" / "manifest.json").read_bytes()
    for words in (["hydra/sweeper=strange", "seed=1"], ["hydra/sweeper=cells", "seed=0"]):
        assert search("name=mine", *words) == 1
        assert "name: 'mine' is taken by another sweep in results" in capsys.readouterr().err
    path = tmp_path / "results" / "sweeps" / "mine" / "manifest.json"
    assert path.read_bytes() == manifest


def test_a_search_on_the_test_set_is_warned_of_once(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    assert search("plan", "objective=test_loss", "seed=0") == 0
    warnings = [line for line in caplog.messages if line.startswith("objective: test_loss")]
    assert len(warnings) == 1
    caplog.clear()
    assert search("plan", "seed=0") == 0
    assert not caplog.messages


def test_the_jobs_of_a_foreign_launcher_are_one_sweep_with_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended: list[JobStatus] = []
    monkeypatch.setattr(
        JobCallback, "on_job_end", lambda _, job_return, **__: ended.append(job_return.status)
    )
    # Two jobs ask for a level that they do not have, and compute nothing; the others go on.
    words = ["hydra/launcher=basic", *TINY, "seed=0", "schedule.levels=1,2", "recipe.lr=0.01,0.02"]
    words = [word for word in words if word != "schedule.levels=2"]
    callback = "+hydra.callbacks.mine._target_=fixtures.job_callback.JobCallback"
    assert main([*words, callback, "objective=val_accuracy@2"]) == 1
    assert ended == [JobStatus.FAILED] * 2 + [JobStatus.COMPLETED] * 2
    shown = capsys.readouterr()
    assert shown.out.count("index.html") == 1
    assert "error: objective: got val_accuracy@2; the levels are 0, 1" in shown.err
    (folder,) = (tmp_path / "results" / "sweeps").iterdir()
    cells = SweepFolder(folder).manifest.cells
    found = [(c.config["schedule"]["levels"], c.config["recipe"]["lr"]) for c in cells]
    assert found == [(2, 0.01), (2, 0.02)]


@pytest.mark.parametrize("sweeper", ["cells", "strange"])
def test_a_plan_starts_no_job_of_a_foreign_launcher(
    search: Search,
    sweeper: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a job was started")

    monkeypatch.setattr(BasicLauncher, "launch", started)
    words = [f"hydra/sweeper={sweeper}", "hydra/launcher=basic", "hydra.sweep.dir=mine"]
    assert search("plan", *words, "seed=[0,1]") == 0
    shown = capsys.readouterr()
    assert "hydra/launcher=basic would run each combination as a job of its own" in shown.out
    assert re.search(r"^cells +[2-6]\b", shown.out, re.MULTILINE) and shown.err == ""
    assert not Path("results").exists() and not Path("mine").exists()


def interrupted(_: Submission) -> int:
    raise KeyboardInterrupt


def stamps(folder: Path) -> dict[str, int]:
    """The time at which each ticket was written."""
    files = (folder / "results" / "tickets").glob("*/*.safetensors")
    return {str(path): path.stat().st_mtime_ns for path in files}
