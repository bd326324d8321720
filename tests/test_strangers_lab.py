"""Code of another lab, outside the package, runs: a function or class and a yaml for each kind.

Each yaml below `strangers_lab/conf/` is run as a tiny sweep. Its first line `# run: WORDS` gives
the overrides (without it: `GROUP=NAME`). Lines `# verb: WORDS` are further commands; in them
`{sweep}` is the folder of a sweep, from the `run` line or with default overrides, and `{ticket}` a
ticket's file. The samples of conf/README.md run too.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.command_line import CommandLine
from fixtures.documents import PLANNED, write_samples
from fixtures.documents import words as words_of
from fixtures.fresh_process import afresh
from rich.console import Console

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.plan.planning import plan
from lt_sweeps.reporting.sweep_report import report

HERE = Path(__file__).parent / "strangers_lab"
OPTIONS = sorted(path.relative_to(HERE / "conf") for path in (HERE / "conf").rglob("[!_]*.yaml"))
SAMPLES = [  # one that needs Slurm and one that needs other data are planned in test_readme.py
    command
    for command in PLANNED
    if "conf_mylab" in command and not re.search("experiment=|launcher=", command)
]
TINY = {
    "seed": "0",
    "recipe.length": "20it",
    "recipe.evaluate_every": "10it",
    "schedule.levels": "1",
    "hydra.sweeper.params.mask_criterion": "large_final",
    "report.figures": "[curves]",
}
# If an option of these groups is chosen, this key is dropped: only some of the options have it.
REPLACES = {"schedule": "schedule.levels", "method": "schedule.levels"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the other lab's folder, in which the commands run."""
    folder = shutil.copytree(HERE, tmp_path / "strangers_lab")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    forget()
    yield folder
    forget()


def forget() -> None:
    """Forget the lab's modules, as a new process would."""
    for name in [n for n in sys.modules if n.partition(".")[0] in ("lab", "mylab")]:
        del sys.modules[name]
    afresh()


def tiny(words: list[str]) -> list[str]:
    """Add overrides that make the sweep small."""
    given = {word.lstrip("+").partition("=")[0] for word in words}
    aside = {REPLACES.get(key, key) for key in given} | given
    return [*(f"{key}={value}" for key, value in TINY.items() if key not in aside), *words]


def header(option: Path) -> tuple[list[str], list[list[str]]]:
    """Read the first lines of a yaml: the overrides of its sweep, and its commands."""
    said = re.findall(r"^# (run|verb): (.*)$", (HERE / "conf" / option).read_text(), re.MULTILINE)
    runs = [text.split() for kind, text in said if kind == "run"]
    verbs = [text.split() for kind, text in said if kind == "verb"]
    chosen = [] if verbs else [f"{option.parent.as_posix()}={option.stem}"]
    return (runs[0] if runs else chosen), verbs


def targets(config: Any) -> Iterator[str]:
    """Every `_target_` in a yaml that names the lab's code."""
    if isinstance(config, dict):
        yield from (v for k, v in config.items() if k == "_target_" and v.startswith("lab."))
    for value in config.values() if isinstance(config, dict) else ():
        yield from targets(value)
    for value in config if isinstance(config, list) else ():
        yield from targets(value)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_an_option_of_a_stranger_s_runs_and_is_reported(
    lab: Path,
    command_line: CommandLine,
    cells: Callable[..., list[Cell]],
    swept: Callable[..., Path],
    option: Path,
) -> None:
    words, verbs = header(option)
    line = ["--config-dir", "conf", *tiny(words)]
    if option.parts[0] in GROUPS or not words:
        sweep = swept(*cells(*line))
        report(sweep, console=Console(quiet=True), trust=None)
    else:
        status, _, err = command_line(*line, "root=results", "name=tiny", "workers=1")
        assert status == 0, err
        sweep = Path("results/sweeps/tiny")
    assert (sweep / "report/index.html").exists()
    ticket = next(sweep.parents[1].glob("tickets/*/0.safetensors"))
    for verb in verbs:
        given = [word.format(sweep=sweep, ticket=ticket) for word in verb]
        status, _, err = command_line(*given)
        assert status == 0, err


@pytest.mark.parametrize("command", SAMPLES)
def test_a_sample_of_the_documents_runs_and_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cells: Callable[..., list[Cell]],
    swept: Callable[..., Path],
    command: str,
) -> None:
    monkeypatch.syspath_prepend(write_samples(tmp_path))
    monkeypatch.chdir(tmp_path)
    forget()
    sweep = swept(*cells(*tiny(words_of(command)[1:])))
    folder = report(sweep, console=Console(quiet=True), trust=None)
    assert (folder / "index.html").exists()


def kinds() -> Iterator[Any]:
    """One option of each kind that changes results, for each group and key that can name code."""
    seen = set[str]()
    for option in OPTIONS:
        for target in targets(yaml.safe_load((HERE / "conf" / option).read_text())):
            module = target.rpartition(".")[0]
            if option.parts[0] in GROUPS and module not in seen:
                seen.add(module)
                yield pytest.param(option, module, id=f"{option.parts[0]}: {module}")


@pytest.mark.parametrize(("option", "module"), [*kinds()])
def test_an_edit_of_a_stranger_s_code_makes_other_results(
    lab: Path, cells: Callable[..., list[Cell]], option: Path, module: str
) -> None:
    words, _ = header(option)
    before = {unit.stage.key for unit in plan(cells("--config-dir", "conf", *tiny(words))).units}
    with (lab / f"{module.replace('.', '/')}.py").open("a") as file:
        file.write("\nEDITED = True\n")
    forget()
    after = {unit.stage.key for unit in plan(cells("--config-dir", "conf", *tiny(words))).units}
    assert after - before
