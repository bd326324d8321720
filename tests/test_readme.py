"""The documents are right: commands plan or run, links lead somewhere, samples are files that work,
and tables name every option and key.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fixtures.documents import (
    BLOCK,
    DOCUMENTS,
    OURS,
    PAPERS,
    PLANNED,
    READING,
    ROOT,
    SHELL,
    SHOWING,
    blocks,
    commands,
    words,
    write_samples,
)
from fixtures.paper_trainings import TRAININGS
from fixtures.tiny_cell import imagenet

from lt_sweeps.cli.command_line import main
from lt_sweeps.cli.commands import VERBS
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples of all documents, as a user would have written them."""
    return write_samples(tmp_path_factory.mktemp("mylab"))


@pytest.fixture
def mylab(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written)
    monkeypatch.syspath_prepend(written)
    return written


def planned(command: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    given = words(command)
    assert main(["plan", *(given[1:] if given[:1] == ["plan"] else given), *more]) == 0
    return re.sub(r"[ \n]+", " ", capsys.readouterr().out)


def test_the_documents_contain_commands() -> None:
    assert len(PLANNED) >= 25 and len(READING) >= 5 and len(SCRIPTS) >= 15


@pytest.mark.parametrize("command", PAPERS)
def test_a_paper_is_drawn_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([*words(command), f"root={tmp_path}"]) == 1
    assert "0 of" in capsys.readouterr().out


@pytest.mark.parametrize("command", PLANNED)
def test_a_command_plans(mylab: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    if "dataset.path=DIR" in command and not (mylab / "DIR").exists():
        imagenet(mylab / "DIR")
    assert "distinct" in planned(command, capsys)


@pytest.mark.parametrize("command", SHOWING)
def test_a_command_prints_the_recorded_output(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(words(command)) == 0
    assert "mask_criterion" in capsys.readouterr().out


def test_plan_prints_the_lines_that_the_documents_show(
    mylab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = 0
    for block in blocks("console"):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = entry.splitlines()
            if words(command)[:1] == ["plan"]:
                output = planned(command, capsys)
                for line in shown:
                    assert line == "..." or re.sub(" +", " ", line) in output
                    checked += 1
    assert checked
    (command,) = (c for c in PLANNED if "schedule.levels=range(1,11)" in c)
    assert "55 distinct (11 stages), instead of 325 without sharing" in planned(command, capsys)


def test_the_commands_about_results_run(
    cells: Callable[..., list[Cell]],
    swept: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    short = [
        *("mask_criterion=large_final,random", "seed=0,1", "schedule.levels=1"),
        *("dataset=synthetic", "dataset.train=64", "recipe.length=2ep", "model.net.hidden=[12,8]"),
    ]
    for name, more in (("first", []), ("lower_rate", ["recipe.lr=6e-4"])):
        sweep = swept(*cells(*short, *more))
        sweep.rename(sweep.with_name(name))
    for ticket in (tmp_path / "results/tickets").glob("*/0.safetensors"):
        (tmp_path / "results/tickets/KEY").mkdir(exist_ok=True)
        (tmp_path / "results/tickets/KEY/0.safetensors").write_bytes(ticket.read_bytes())
    assert READING
    for command in READING:
        assert main(words(command)) == 0, command
    assert (tmp_path / "results/sweeps/first/report/index.html").exists()


def test_every_other_command_is_a_program_that_is_there() -> None:
    for command in commands():
        if not command.startswith(OURS):
            program, *rest = shlex.split(command, comments=True)
            assert program in SHELL or (ROOT / program).is_file(), command
            for path in rest:
                if re.fullmatch(r"(tests|launch|lt_sweeps|conf|\.ci)/[\w./]+", path):
                    assert (ROOT / path).exists(), command


def test_a_summary_of_commands_names_only_verbs_that_exist() -> None:
    lines = [line for block in blocks("text") for line in block.splitlines()]
    verbs = [line.split()[3] for line in lines if line.startswith(OURS)]
    assert verbs and {verb for verb in verbs if not verb.isupper()} <= {*VERBS, "plan"}


def test_readme_is_read_in_five_minutes() -> None:
    assert len(DOCUMENTS["README.md"].split()) <= 1800
    assert all(len(line) <= 120 for line in DOCUMENTS["README.md"].splitlines())


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "launch/results.md"])
def test_a_line_of_prose_fits_into_a_window(name: str) -> None:
    lines = BLOCK.sub("", DOCUMENTS[name]).splitlines()
    assert not [line for line in lines if len(line) > 120 and line[0] not in "|!"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_an_existing_file_and_heading(name: str) -> None:
    prose = BLOCK.sub("", DOCUMENTS[name])
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), link
        if heading:
            assert heading in _anchors(file), link


def _anchors(file: Path) -> set[str]:
    """The anchors that GitHub generates for a document's headings."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_conf_readme_names_every_option_and_every_key() -> None:
    text = BLOCK.sub("", DOCUMENTS["conf/README.md"])
    named = set(re.findall(r"[\w@.]+", " ".join(re.findall(r"`([^`]+)`", text))))
    options = {
        path.stem
        for path in CONF.glob("*/*.yaml")
        if not path.stem.startswith("_") and path.parent.name != "experiment"
    }
    keys = {
        key
        for fragment in ("config.yaml", "recipe/_keys.yaml", "report/_keys.yaml")
        for key in yaml.safe_load((CONF / fragment).read_text())
    }
    assert not (options | keys) - named - {"_target_", "defaults", "hydra", "budget"}


def test_launch_readme_names_every_script_and_every_experiment() -> None:
    text = DOCUMENTS["launch/README.md"]
    presets = {
        path.relative_to(CONF / "experiment").with_suffix("")
        for path in CONF.glob("experiment/*/*.yaml")
        if not path.stem.endswith("_quick") and not path.stem.startswith("_")
    }
    for name in (*(path.name for path in SCRIPTS), *map(str, presets)):
        assert f"`{name}`" in text, name


def command_of(script: Path) -> str:
    text = script.read_text().replace("\\\n", " ").replace('"$@"', "")
    (command,) = (line for line in text.splitlines() if line.startswith(OURS))
    return command


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_launch_script_is_an_experiment_on_nets_that_its_test_plans_or_plans(
    script: Path, mylab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict(word.split("=", 1) for word in words(command_of(script)))
    # Keys of its own may be mistyped, and several experiments are one plan.
    if not set(given) <= {"experiment", "model"} or "," in given["experiment"]:
        assert "distinct" in planned(command_of(script), capsys, "seed=0")
        return
    nets = given["model"].split(",") if "model" in given else []
    assert {*nets} <= TRAININGS[given["experiment"]].keys()
