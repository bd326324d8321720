"""The yaml options of verbs such as `export` are read like Hydra's options of a sweep."""

from pathlib import Path

import pytest

from lt_sweeps.config.option_files import read_option


@pytest.mark.parametrize("text", ["3\n", "", "mylab.draw\n", "[1]\n"])
def test_a_file_that_names_no_function_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "figure").mkdir()
    (tmp_path / "figure" / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="^report: .*mine.yaml has no `_target_`"):
        read_option("figure", "mine", where="report", config_dir=str(tmp_path))


def test_a_number_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "figure").mkdir()
    (tmp_path / "figure" / "mine.yaml").write_text("_target_: mylab.draw\nwidth: 1e-3\n")
    option = read_option("figure", "mine", where="report", config_dir=str(tmp_path))
    assert option == {"_target_": "mylab.draw", "width": 0.001}
