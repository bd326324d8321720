"""README's examples are the files that they say they are, and its commands run or plan."""

import re
import shlex
from pathlib import Path

import pytest
from fixtures.fake_results import FakeSweep
from fixtures.tiny_cell import imagenet

from lt_sweeps.cli.command_line import main

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [
    line
    for language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("python -m lt_sweeps")
]
REPORTS = [line for line in COMMANDS if line.split()[3] in ("report", "compare")]
COMMANDS = [line for line in COMMANDS if line not in REPORTS]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with README's files in it, as a person would have made them."""
    for _, block in BLOCKS:
        if match := re.match(r"# (\S+\.(?:py|yaml))\n", block):
            path = tmp_path / match[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def planned(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    words = shlex.split(command)[3:]
    assert main(words if words[:1] == ["plan"] else ["plan", *words]) == 0
    return capsys.readouterr().out


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 10 and len(SCRIPTS) >= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_plans(mylab: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "distinct" in planned(command, capsys)


def test_the_numbers_that_readme_gives_are_those_that_plan_prints(
    mylab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "185 distinct (37 stages), where each cell alone would take 195" in planned(
        COMMANDS[0], capsys
    )
    assert "55 distinct (11 stages), where each cell alone would take 325" in planned(
        COMMANDS[1], capsys
    )


def test_the_commands_about_a_sweep_that_has_run_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, lr in (("mine", 0.1), ("other", 0.2)):
        sweep = FakeSweep(tmp_path / "results", name)
        for criterion in ("large_final", "random"):
            for seed in (0, 1):
                sweep.cell(
                    f"{name}-{criterion}",
                    seed,
                    accuracies=[0.9, 0.8 + lr * seed / 10],
                    choices={"mask_criterion": criterion},
                    recipe__lr=lr,
                )
    assert REPORTS
    for command in REPORTS:
        assert main(shlex.split(command)[3:]) == 0
    assert (tmp_path / "results/sweeps/mine/report/index.html").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_launch_script_plans(
    script: Path, mylab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "imagenet" in script.stem:
        imagenet(mylab / "imagenet")
    text = script.read_text().replace("\\\n", " ").replace('"$@"', "")
    (command,) = (line for line in text.splitlines() if line.startswith("python -m lt_sweeps"))
    assert "distinct" in planned(command, capsys)
