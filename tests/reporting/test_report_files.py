"""`report --check` fails if the data behind a figure have changed, and only then."""

from __future__ import annotations

import errno
import fcntl
import io
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep, sealed
from rich.console import Console

from lt_sweeps.cli.command_line import main
from lt_sweeps.reporting import report_files, written_report
from lt_sweeps.reporting.figures import figure
from lt_sweeps.reporting.sweep_report import check, report
from lt_sweeps.reporting.written_report import checksum, is_current
from lt_sweeps.storage.locks import locked


@pytest.fixture
def sweep(tmp_path: Path) -> FakeSweep:
    made = FakeSweep(tmp_path)
    made.cell("a", 0, accuracies=[0.9, 0.8])
    made.cell("a", 1, accuracies=[0.9, 0.85])
    report(made.folder, console=Console(file=io.StringIO()), figures=["curves", "cost"], band="sd")
    return made


def checked(sweep: FakeSweep) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), record=True, width=200)
    return check(sweep.folder, console=console), console.export_text()


def rewritten(sweep: FakeSweep, **changes: object) -> None:
    path = sweep.root / "runs" / "a" / "0" / "records.jsonl"
    rows = [json.loads(line) | changes for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sealed(path.parent)


def test_the_check_uses_the_layout_with_which_the_report_was_drawn(sweep: FakeSweep) -> None:
    before = sorted((sweep.folder / "report").iterdir())
    stands, text = checked(sweep)
    assert stands and "every figure and table matches the data" in text
    assert sorted((sweep.folder / "report").iterdir()) == before


def test_changed_numbers_fail_the_check_and_their_figures_are_named(sweep: FakeSweep) -> None:
    rewritten(sweep, test_accuracy=0.7)
    stands, text = checked(sweep)
    assert not stands and "accuracy: its numbers have changed" in text and "cost" not in text


def test_another_version_of_a_stage_fails_though_its_numbers_are_equal(sweep: FakeSweep) -> None:
    sweep.cell("a", 1, accuracies=[0.9, 0.85], stages=["dense", "b-1"])
    stands, text = checked(sweep)
    assert not stands and "1 stages new, 0 gone" in text


def test_more_seeds_fail(sweep: FakeSweep) -> None:
    sweep.cell("a", 2, accuracies=[0.9, 0.8])
    assert not checked(sweep)[0]


def test_an_edited_or_lost_file_fails(sweep: FakeSweep) -> None:
    (sweep.folder / "report" / "accuracy.csv").write_text("mean\n0.99\n")
    (sweep.folder / "report" / "accuracy.png").unlink()
    _, text = checked(sweep)
    assert "accuracy.csv: the file was changed after it was written" in text
    assert "accuracy.png: the file is gone" in text


def test_edited_numbers_of_a_figure_fail_though_their_checksum_was_edited_too(
    sweep: FakeSweep,
) -> None:
    folder, edited = sweep.folder / "report", b"mean\n0.99\n"
    (folder / "accuracy.csv").write_bytes(edited)
    written = json.loads((folder / "report.json").read_text())
    written["files"]["accuracy.csv"] = checksum(edited)
    (folder / "report.json").write_text(json.dumps(written))
    stands, text = checked(sweep)
    assert not stands and "accuracy.csv: no longer matches the data" in text


def test_a_report_that_was_never_written_cannot_be_checked(tmp_path: Path) -> None:
    made = FakeSweep(tmp_path, "other")
    made.cell("a", accuracies=[0.9])
    with pytest.raises(ValueError, match=r"check: .*report\.json is missing; `report` without"):
        check(made.folder, console=Console(file=io.StringIO()))


def written_again(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[int, dict[str, bytes]]:
    """Report once more; return the number of drawn pictures, and all files of the report."""
    drawn: list[str] = []
    draw = figure._pictures
    with monkeypatch.context() as patch:
        patch.setattr(figure, "_pictures", lambda f: (drawn.append(f.name), draw(f))[1])
        shown: dict[str, Any] = {"figures": ["curves", "cost"], "band": "sd", **options}
        report(sweep.folder, console=Console(file=io.StringIO()), **shown)
    return len(drawn), {p.name: p.read_bytes() for p in (sweep.folder / "report").iterdir()}


def test_a_picture_is_drawn_again_only_if_something_behind_it_has_changed(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in (sweep.folder / "report").iterdir()}
    assert written_again(sweep, monkeypatch) == (0, before)
    (sweep.folder / "report" / "cost.png").write_bytes(before["accuracy.png"])
    assert written_again(sweep, monkeypatch) == (1, before), "it is not what was written"
    rewritten(sweep, test_accuracy=0.7)
    count, after = written_again(sweep, monkeypatch)
    assert count == 1 and after["accuracy.png"] != before["accuracy.png"]
    assert after["cost.png"] == before["cost.png"], "no accuracy is in it"
    assert written_again(sweep, monkeypatch, band="ci")[0] == 2
    monkeypatch.setattr(report_files, "digest_of_code", lambda: "another version")
    assert written_again(sweep, monkeypatch, band="ci")[0] == 2


def test_a_report_is_current_until_records_keys_or_code_change(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_current(sweep.folder), "its keys are not those of the sweep"
    sweep.reports["default"] = {"figures": ["curves", "cost"], "band": "sd"}
    sweep.cell("b", accuracies=[0.9, 0.7])
    assert not is_current(sweep.folder), "a cell is new"
    written_again(sweep, monkeypatch)
    assert is_current(sweep.folder)
    with monkeypatch.context() as patch:
        patch.setattr(written_report, "digest_of_code", lambda: "another version")
        assert not is_current(sweep.folder)
    rewritten(sweep, seconds=0.25)
    assert not is_current(sweep.folder)
    written_again(sweep, monkeypatch)
    assert is_current(sweep.folder)
    (sweep.root / "runs" / "a" / "0" / "DONE").unlink()
    assert not is_current(sweep.folder), "the cell is at work again"


def test_the_command_fails_with_status_1(
    sweep: FakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(sweep.folder), "--check"]) == 0
    rewritten(sweep, test_accuracy=0.7)
    assert main(["report", str(sweep.folder), "--check"]) == 1
    assert "accuracy: its numbers have changed" in capsys.readouterr().out


def test_a_number_that_no_figure_draws_is_checked_too(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    sweep.cell("a", accuracies=[0.9, 0.8])
    report(sweep.folder, console=Console(file=io.StringIO()), figures=["curves"])
    assert checked(sweep)[0]
    sweep.cells.clear()
    sweep.cell("a", accuracies=[0.9, 0.8], more={"end_test_loss": 9.0})
    stands, text = checked(sweep)
    assert not stands and "records.csv: no longer matches the data" in text
    assert "accuracy" not in text and "summary.csv" not in text


def reported(sweep: FakeSweep, **options: Any) -> Path:
    return report(sweep.folder, console=Console(file=io.StringIO()), figures=["curves"], **options)


def test_files_that_the_new_report_does_not_have_are_removed_and_those_of_the_user_are_not(
    sweep: FakeSweep,
) -> None:
    folder = reported(sweep, metrics=["test_accuracy", "test_loss"])
    assert len([*folder.glob("test_loss.*")]) == 5
    (folder / "test_loss.tex").write_text("mine")
    (folder / "test_loss.pdf").unlink()
    (folder / "test_loss.pdf").mkdir()  # a folder of that name is not ours
    (sweep.folder / "outside.csv").write_text("mine")
    written = json.loads((folder / "report.json").read_text())
    written["files"]["../outside.csv"] = ""  # never a file outside the folder
    (folder / "report.json").write_text(json.dumps(written))
    sweep.cell("a", 2, accuracies=[0.9, 0.8])
    reported(sweep)
    assert {p.name for p in folder.glob("test_loss.*")} == {"test_loss.tex", "test_loss.pdf"}
    assert (sweep.folder / "outside.csv").exists() and (folder / "accuracy.png").exists()
    assert checked(sweep)[0]


def test_the_page_of_an_experiment_goes_when_the_report_no_longer_has_it(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    sweep.cell("a", accuracies=[0.9, 0.8], experiment="one")
    folder = reported(sweep)
    (folder / "notes.txt").write_text("mine")
    report(sweep.folder, out=folder / "loss", console=Console(file=io.StringIO()), figures=[])
    sweep.reports |= {"one": {"title": "first"}, "group/two": {"title": "second"}}
    sweep.cell("b", accuracies=[0.9, 0.7], experiment="group/two")
    reported(sweep)
    assert {p.name for p in folder.iterdir()} == {"notes.txt", "loss", "one", "group-two"}
    sweep.reports.clear()
    sweep.freeze()
    reported(sweep)
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"loss"}
    assert (folder / "loss" / "index.html").exists() and (folder / "notes.txt").exists()
    assert checked(sweep)[0]


def test_two_reports_at_once_do_not_mix_their_files(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, pool = report_files.write_whole, ThreadPoolExecutor(1)
    others: list[Future[Path]] = []

    def interrupted(path: Path, content: bytes) -> bool:
        if path.name == "index.html" and not others:  # the middle of the first report
            others.append(pool.submit(reported, sweep, band="ci"))
            with locked(path.with_name(".report.lock"), wait=0) as free:
                pass
            if free:  # nothing stops the other, so let it write all of its files now
                others[0].result()
        return write(path, content)

    monkeypatch.setattr(report_files, "write_whole", interrupted)
    folder = reported(sweep, band="range")
    others[0].result()
    assert set(pd.read_csv(folder / "accuracy.csv")["band"]) == {"ci"}, "the last one stays"
    assert checked(sweep)[0]
    assert not [p for p in folder.iterdir() if p.name.startswith(".")], "the lock is removed"


def test_a_report_does_not_wait_for_ever(sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.cell("a", accuracies=[0.9, 0.8])
    monkeypatch.setattr(report_files, "_WAIT", 0.01)
    with (
        locked(sweep.folder / "report" / ".report.lock"),
        pytest.raises(ValueError, match="another process has been writing a report"),
    ):
        report(sweep.folder, console=Console(quiet=True))


def test_a_file_system_without_locks_gets_its_report(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    sweep.cell("a", 2, accuracies=[0.9, 0.8])
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refused)
        reported(sweep)
    assert checked(sweep)[0]
