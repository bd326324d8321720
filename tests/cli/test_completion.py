"""Tab completion proposes valid words in every shell, and imports no large library."""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

from lt_sweeps.cli import status_view
from lt_sweeps.cli.arguments import USAGE, VERB_WORDS
from lt_sweeps.cli.command_line import main
from lt_sweeps.cli.commands import VERBS
from lt_sweeps.cli.completion import _keys_of, script
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.option_files import option_names
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.interchange.exported_tables import export_tables
from lt_sweeps.interchange.exported_ticket import export_ticket


@pytest.mark.parametrize("command", ["lt-sweeps", ".venv/bin/python3 -m lt_sweeps"])
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pl", "plan"),
        ("mask_criterion=large_f", "mask_criterion=large_final"),
        ("mask_criterion=large_final,ran", "mask_criterion=large_final,random"),
        ("plan mask_criterion=large_f", "mask_criterion=large_final"),
        ("experiment=deconstructing/crit", "experiment=deconstructing/criteria"),
        ("plan recipe.l", "recipe.lr="),
        ("seed=0,1 hydra/launcher=slurm hydra.launcher.par", "hydra.launcher.partition="),
        ("--config-dir own model=m", "model=mine"),
        ("keep=re", "keep=reported"),
        ("report.figures=[curves,over", "report.figures=[curves,overlap"),
        ("--config-d", "--config-dir"),
        ("plan none=1 x", ""),
        ("report mi", "mine"),
        ("report mine fig", "figures="),
        ("report mine --ch", "--check"),
        ("report mine figures=[curves,ov", "figures=[curves,overlap"),
        ("compare mine my", "mysterious"),
        ("export mine form=", "form=prune"),
        ("export mine at=r", "at=reported"),
        ("prune-store mine keep=", "keep=records"),
        ("sync mine tracker=mlflow u", "uri="),
        ("sync mine mode=", "mode=offline"),
        ("resume mine part", "partition="),
        ("import ma", "mask"),
        ("import mask a.safetensors model=co", "model=conv2"),
        ("paper dec", "deconstructing"),
        ("logs root=elsewhere th", "theirs"),
        ("report zz", ""),
        ("report 'zz", ""),
        ("import --config-dir own th", "theirs"),
        ("import --config-dir=own ma", "mask"),
        ("import --config-dir nowhere ma", "mask"),
        ("export --config-dir own mi", "mine"),
        ("export mine -cd own form=co", "form=counts"),
        ("report mine --config-dir own figures=[curves,by_e", "figures=[curves,by_epochs"),
        ("--config-dir own report.figures=by_e", "report.figures=by_epochs"),
    ],
)
def test_tab_completes_verbs_and_options_and_never_prints_an_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    typed: str,
    offered: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("results/sweeps/mine", "results/sweeps/mysterious", "elsewhere/sweeps/theirs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("defaults: [fc]\n")
    for option in ("importer/theirs", "export_form/counts", "figure/by_epochs"):
        (tmp_path / "own" / option).parent.mkdir()
        (tmp_path / "own" / f"{option}.yaml").touch()
    monkeypatch.setenv("COMP_LINE", f"{command} {typed}")
    assert main(["-sc", "query=bash"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert offered in out.splitlines() if offered else not out


@pytest.mark.parametrize("typed", ["logs mine rand", "logs mine 'random s", "logs mine random\\ s"])
def test_tab_completes_a_cell_as_the_report_names_it(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "results" / "sweeps" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "sweeps" / "mine" / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(status_view, "cell_names", lambda _: ["random seed 0", "random seed 10"])
    monkeypatch.setenv("COMP_LINE", f"lt-sweeps {typed}")
    assert main(["-sc", "query=zsh"]) == 0
    assert capsys.readouterr().out == "random seed 0\nrandom seed 10\n"


@pytest.mark.parametrize("verb", VERBS)
def test_tab_offers_what_a_verb_takes(verb: str, tmp_path: Path) -> None:
    offered = VERB_WORDS[verb]
    for word in re.findall(r"--[\w-]+|\b[a-z_]+(?==)", USAGE[verb].replace("exit status", "")):
        known = {*offered, *GROUPS, *_keys_of("tracker/wandb"), *_keys_of("hydra/launcher/slurm")}
        assert word in known, f"{verb}: its help names {word}"
    if verb == "export":
        both = (signature(each).parameters for each in (export_tables, export_ticket))
        taken = set().union(*both) - {"where", "path", "keys", "config_dir"}
        assert {*offered} - {"root", "--config-dir"} == taken
        assert set(offered["form"]) == {*option_names("export_form")}
    if verb == "audit":
        assert {*offered} - {"root"} == {*signature(audit).parameters} - {"where", "console"}


def test_tab_imports_no_large_library() -> None:
    code = (
        "import os, sys; from lt_sweeps.__main__ import run\n"
        "for line in ('plan mask_criterion=ran', 'report mine figures=', 'export m form='):\n"
        "    os.environ['COMP_LINE'] = f'lt-sweeps {line}'; assert run() == 0\n"
        "assert not {'torch', 'matplotlib', 'pandas', 'numpy', 'scipy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "-sc", "query=fish"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mask_criterion=random\n")


def test_the_script_of_bash_completes_both_commands(tmp_path: Path) -> None:
    # A command that prints the proposals stands for ours; bash itself runs the script.
    ours = tmp_path / "python"
    ours.write_text("#!/bin/sh\nprintf '%s\\n' recipe.lr= 'random seed 0'\n")
    ours.chmod(0o755)
    check = """
    compopt() { echo "compopt $*"; }
    ask() {
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=99 COMPREPLY=()
        _lt_sweeps "$1"; printf '<%s>' "${COMPREPLY[@]}"; echo
    }
    ask PYTHON -m lt_sweeps rec; ask PYTHON -m other rec; ask PYTHON fi
    complete -p lt-sweeps python
    """.replace("PYTHON", str(ours))
    done = subprocess.run(["bash", "-c", script("bash") + check], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "compopt -o nospace",
        r"<recipe.lr=><random\ seed\ 0>",
        "<>",
        "<>",
        "complete -o bashdefault -o default -F _lt_sweeps lt-sweeps",
        "complete -o bashdefault -o default -F _lt_sweeps python",
    ]


@pytest.mark.parametrize("words", [["install=tcsh"], ["uninstall=bash"], []], ids=str)
def test_a_shell_without_a_script_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-sc", *words]) == 2
    given = words[0] if words else "-sc"
    line = f"error: -sc: got {given}; give install=SHELL for one of bash, zsh, fish\n"
    assert capsys.readouterr().err == line
