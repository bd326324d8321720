"""The list of verified files forgets only what newer lines replace."""

from __future__ import annotations

from pathlib import Path

from lt_sweeps.storage.verified_files import VerifiedFiles, verified_names


def noted(root: Path, by: str, **versions: str) -> None:
    files = VerifiedFiles(root, by=by)
    for name, version in versions.items():
        files.note(name, version)
    files.save()


def test_lines_of_other_checks_stay_when_the_list_is_written_anew(tmp_path: Path) -> None:
    """An audit learns from this list which cells were complete."""
    (tmp_path / "tickets").mkdir()
    noted(tmp_path, "tickets", a="1", b="1", c="1")
    noted(tmp_path, "a trial of own code", trial="passed")
    assert verified_names(tmp_path) == {"a", "b", "c", "trial"}
    for version in map(str, range(2, 9)):
        noted(tmp_path, "tickets", a=version)
    lines = (tmp_path / "tickets" / "verified.jsonl").read_text().splitlines()
    assert len(lines) < 11, "it is written anew once most lines are of earlier versions"
    assert verified_names(tmp_path) == {"a", "b", "c", "trial"}
    assert VerifiedFiles(tmp_path, by="a trial of own code").has("trial", "passed")
    assert VerifiedFiles(tmp_path, by="tickets").has("a", "8")
