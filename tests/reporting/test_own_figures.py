"""A user-defined figure is drawn if it is trusted, and a sweep gets its report in any case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fixtures.fake_results import FakeSweep
from fixtures.fresh_process import afresh
from rich.console import Console

from lt_sweeps.config.report_config import layout, named_figures
from lt_sweeps.reporting.sweep_comparison import compare_sweeps
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.reporting.written_report import is_current

MODULE = "fixtures.strange_figures"


def asked(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "_target_": f"{MODULE}.{name}", **more}


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    sweep = FakeSweep(tmp_path)
    sweep.reports = {"default": {"figures": ["curves", asked("good")]}}
    sweep.cell("large", accuracies=[0.9, 0.8], sparsities=[0, 0.5])
    return sweep


def test_a_stored_figure_is_drawn_only_by_a_module_that_is_trusted(sweep: FakeSweep) -> None:
    with pytest.raises(ValueError, match=f"only trusted code is run; hint: trust={MODULE} if"):
        report(sweep.folder, console=Console(quiet=True))
    for trust in (None, (MODULE,)):
        folder = report(sweep.folder, console=Console(quiet=True), trust=trust)
        assert (folder / "good.pdf").exists() and "All of them." in (
            folder / "good.txt"
        ).read_text()


def test_a_report_is_drawn_again_after_the_code_of_a_user_defined_figure_was_edited(
    sweep: FakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "edited_figures.py"
    own.write_text("from fixtures.strange_figures import good\n")
    monkeypatch.syspath_prepend(tmp_path)
    keys = {"figures": [{"name": "good", "_target_": "edited_figures.good"}]}
    sweep.reports = {"default": keys}
    sweep.cell("random", accuracies=[0.9, 0.8], sparsities=[0, 0.5])
    report(sweep.folder, console=Console(quiet=True), trust=("edited_figures",))
    assert is_current(sweep.folder)
    own.write_text("from fixtures.strange_figures import good\nSCALE = 2\n")
    afresh()
    assert not is_current(sweep.folder)


def test_a_figure_that_fails_is_left_out_and_the_report_says_where(sweep: FakeSweep) -> None:
    folder = report(sweep.folder, console=Console(quiet=True), figures=["curves", asked("broken")])
    page = (folder / "index.html").read_text()
    assert (folder / "accuracy.png").exists()
    assert re.search(r"its function fails: \S*strange_figures.py:9: KeyError", page)


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (asked("good", metrik="x"), r"takes no metrik.*mean `metric`"),
        ({"_target_": f"{MODULE}.good"}, "has a `_target_` and a `name`"),
        ({**asked("good"), "name": "curves"}, "that is none of curves"),
        ({**asked("good"), "name": "../good"}, "a `name` of letters"),
        ("by_epoch", "report.figures: got 'by_epoch'; give one of curves"),
    ],
)
def test_a_figure_that_does_not_exist_is_refused_when_the_plan_is_made(
    figure: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        layout({"figures": named_figures([figure], [])})


def test_a_figure_without_a_caption_is_refused(sweep: FakeSweep) -> None:
    with pytest.raises(ValueError, match="give a matplotlib figure and its caption"):
        report(sweep.folder, console=Console(quiet=True), figures=[asked("bare")])


@pytest.mark.parametrize(
    "name", ["accuracy", "accuracy_by_level", "test_r2", "records", "summary", "cost", "profile"]
)
def test_a_figure_that_would_replace_another_file_of_the_report_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"report.figures: got .*name: {name}, "):
        layout({"figures": [{**asked("good"), "name": name}]})
    with pytest.raises(ValueError, match="report.figures: two are called `good`"):
        layout({"figures": [asked("good"), asked("good")]})


def test_no_file_of_a_report_may_be_a_figure_of_a_user(sweep: FakeSweep) -> None:
    folder = report(sweep.folder, console=Console(quiet=True), figures=["curves", "endpoints"])
    for name in {path.stem for path in folder.iterdir()}:
        with pytest.raises(ValueError, match="report.figures"):
            layout({"figures": [{**asked("good"), "name": name}]})


def test_two_sweeps_are_compared_in_a_figure_of_a_user_too(tmp_path: Path) -> None:
    sweeps = [FakeSweep(tmp_path, name) for name in ("one", "other")]
    for rate, made in enumerate(sweeps):
        made.cell(made.folder.name, accuracies=[0.9, 0.8], recipe__lr=rate)
    one, other = (made.folder for made in sweeps)
    keys = {"figures": [asked("good")], "out": tmp_path / "out"}
    compare_sweeps(one, other, console=Console(quiet=True), **keys)
    assert (tmp_path / "out" / "good.png").exists()
