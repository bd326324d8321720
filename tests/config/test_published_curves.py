"""Published curves are read from CSV files by name, and drawn with the names of the report."""

from pathlib import Path

import pytest

from lt_sweeps.config.published_curves import FOLDER, curves_of_file, with_files
from lt_sweeps.config.report_config import layout

OWN = """# my notes
line,model,dataset,reset,sparsity,value,source
dense,fc,mnist,rewind,0.5,0.97,me
dense,fc,mnist,rewind,0.9,0.95,me
random,fc,mnist,,0.5,0.9,me
"""

FC = {"model": "fc", "dataset": "mnist"}


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.csv").write_text(OWN)
    return str(tmp_path / "own.csv")


def test_rows_of_a_line_are_the_points_of_a_curve(own: str) -> None:
    dense, random = curves_of_file(own)
    assert dense["points"] == [[0.5, 0.97], [0.9, 0.95]] and dense["where"] == {
        **FC,
        "reset": "rewind",
    }
    assert random["points"] == [[0.5, 0.9]] and random["where"] == FC


def test_numbers_without_a_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("line,model,sparsity,value,source\nrandom,fc,0.5,0.9,me\n")
    with pytest.raises(ValueError, match="report.published: random names no dataset; give"):
        layout({"published": [{"file": str(tmp_path / "own.csv")}]})


def test_a_mapping_chooses_lines_and_renames_them(own: str) -> None:
    (curve,) = with_files([{"file": own, "lines": {"random": "a random mask"}}])
    assert (curve["label"], curve["source"]) == ("a random mask", "me")


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        ({"file": "resnet50"}, r"report.published: no file .*resnet50.csv; files are cont"),
        (
            {"file": "deconstructing_criteria", "lines": ["large_finl"]},
            "has no line `large_finl`; did you mean `large_final`",
        ),
        ({"file": "deconstructing_criteria", "line": ["random"]}, "did you mean `lines`"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_names(entry: dict, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        layout({"published": [entry]})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",value", ",values", "has no column value; it has "),
        (",", ";", "has no column line; it has .*separated by commas"),
        ("0.9,0.95", '0.9,"0,95"', "row 2: value is '0,95'; give a number"),
        ("0.9,0.95", "x,0.95", "row 2: sparsity is 'x'; give a number"),
        ("0.9,0.95,me", "0.9", "row 2 has other columns than the first line"),
        ("0.9,0.95,me", "0.9,0.95,me,me", "row 2 has other columns than the first line"),
        ("0.9,0.95", "0.9,95", "test_accuracy is 95 at sparsity 0.9; give a fraction in"),
        ("# my notes", "# \xe9", "can't decode byte"),
    ],
)
def test_a_malformed_table_is_refused(own: str, old: str, new: str, said: str) -> None:
    Path(own).write_bytes(OWN.replace(old, new).encode("latin-1"))
    with pytest.raises(ValueError, match=f"^report.published: .*{said}"):
        layout({"published": [{"file": own}]})


def test_a_table_from_a_spreadsheet_begins_with_a_mark(own: str) -> None:
    Path(own).write_text(OWN.removeprefix("# my notes\n"), encoding="utf-8-sig")
    assert [curve["label"] for curve in curves_of_file(own)] == ["dense", "random"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_a_file_of_ours_says_where_its_numbers_come_from_and_can_be_drawn(path: Path) -> None:
    assert path.read_text().startswith("# ")
    published = layout({"published": [{"file": path.stem}]}).published
    assert published and all("arXiv:" in curve.source for curve in published)
