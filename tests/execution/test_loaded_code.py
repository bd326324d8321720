"""All processes of a sweep run the same code, even if files are edited while the sweep runs."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.command_line import TINY, CommandLine, finish, start, tickets, until
from fixtures.tiny_cell import settings
from PIL import Image

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.loaded_code import ChangedCode, LoadedCode, SourceFile, imported, job_code
from lt_sweeps.execution.slurm.code_snapshot import copy_code
from lt_sweeps.execution.submission import Submission
from lt_sweeps.execution.worker_pool import CHANGED
from lt_sweeps.execution.worker_process import serve
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.store import Store

REPOSITORY = Path(__file__).parents[2]
WORDS = [
    *TINY,
    *("schedule.levels=2", "recipe.length=3ep", "seed=0", "workers=1", "backend=loop"),
    "report.figures=[curves]",
]
MINE = """
from pathlib import Path

def luck(final):
    Path(__file__).write_text(Path(__file__).read_text() + "LATER = True\\n")
    return final.abs()
"""
WORKER = """
from lt_sweeps.execution.forking import process_context

def where():
    import lt_sweeps
    print(lt_sweeps.__file__)

if __name__ == "__main__":
    process = process_context().Process(target=where)
    process.start()
    process.join()
"""


def edited(name: str, path: Path) -> LoadedCode:
    """This process's code, with one module that has another source or was found elsewhere."""
    now = LoadedCode.now()
    return LoadedCode({**now.modules, name: SourceFile(path, "0" * 64)})


def test_a_process_runs_the_code_that_it_has_imported() -> None:
    code, found = LoadedCode.now(), imported()
    assert code.check() == found
    assert set(found) <= set(sys.modules), "what is imported later is read from its file later"
    assert "lt_sweeps.__main__" in code.modules, "a worker imports more than its launcher"


def test_a_module_that_was_edited_is_named() -> None:
    path = REPOSITORY / "lt_sweeps" / "storage" / "manifest.py"
    with pytest.raises(ChangedCode, match=f"^code: {path} was edited while the sweep ran"):
        edited("lt_sweeps.storage.manifest", path).check()


def test_a_module_from_elsewhere_is_named_with_both_places(tmp_path: Path) -> None:
    expected = edited("lt_sweeps.storage.manifest", tmp_path / "manifest.py")
    with pytest.raises(ChangedCode, match=rf"was imported from .*; .* with {tmp_path}/manifest.py"):
        expected.check()


def test_a_module_imported_before_an_edit_is_unchanged() -> None:
    then = edited("lt_sweeps.storage.manifest", REPOSITORY / "lt_sweeps/storage/manifest.py")
    then.check(then.modules)


def test_a_job_stops_that_runs_other_code_than_its_copy(tmp_path: Path) -> None:
    with pytest.raises(ChangedCode, match=r"^code: `lt_sweeps.*` was imported from .*; this job"):
        job_code(copy_code(tmp_path))


def in_copy(copy: Path, program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a copy of the code, as a job does."""
    (copy / "probe.py").write_text(program)
    words = [sys.executable, str(copy / "probe.py")]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder)


def test_a_job_stops_whose_copy_was_edited(tmp_path: Path) -> None:
    copy = copy_code(tmp_path)
    program = f"""
from pathlib import Path
from lt_sweeps.execution.loaded_code import job_code
job_code(Path({str(copy)!r}))
"""
    assert in_copy(copy, program, tmp_path).stderr == ""
    with (copy / "lt_sweeps" / "sparsity" / "criteria.py").open("a") as file:
        file.write("# later\n")
    assert f"code: the copy {copy} was edited" in in_copy(copy, program, tmp_path).stderr
    again = copy_code(tmp_path)
    assert again == copy and "# later" not in (copy / "lt_sweeps/sparsity/criteria.py").read_text()


def test_a_job_runs_its_copy_though_its_cluster_customises_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, site = tmp_path / "mine", tmp_path / "site"
    for folder in (mine, site):
        folder.mkdir()
    (mine / "mylab.py").write_text("WIDTH = 1\n")
    (site / "sitecustomize.py").write_text("import beside, mylab\n")
    (site / "beside.py").write_text("")
    monkeypatch.syspath_prepend(mine)
    monkeypatch.setitem(sys.modules, "mylab", importlib.import_module("mylab"))
    copy = copy_code(tmp_path / "code")
    (mine / "mylab.py").write_text("WIDTH = 2\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{mine}")
    program = f"""
from pathlib import Path
from lt_sweeps.execution.slurm.job import _code_of
_code_of(Path({str(copy)!r}))
import mylab
print(mylab.WIDTH)
"""
    done = in_copy(copy, program, tmp_path)
    assert done.stdout == "1\n", done.stderr


def test_workers_import_from_a_jobs_copy_and_not_from_the_folder_it_started_in(
    tmp_path: Path,
) -> None:
    here = tmp_path / "here"
    (here / "lt_sweeps" / "storage").mkdir(parents=True)
    for folder in (here / "lt_sweeps", here / "lt_sweeps" / "storage"):
        (folder / "__init__.py").write_text("")
    (here / "lt_sweeps" / "storage" / "manifest.py").write_text("")
    copy = copy_code(tmp_path / "code")
    done = in_copy(copy, WORKER, here)
    assert done.stdout.split() == [str(copy / "lt_sweeps" / "__init__.py")], done.stderr


def test_a_module_of_the_users_that_is_edited_while_a_sweep_runs_ends_it_with_one_line(
    tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edits_itself.py").write_text(MINE)
    (tmp_path / "own" / "mask_criterion").mkdir(parents=True)
    (tmp_path / "own" / "mask_criterion" / "luck.yaml").write_text("_target_: edits_itself.luck\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [*WORDS, f"--config-dir={tmp_path / 'own'}", "mask_criterion=luck"]
    status, _, err = command_line(*words, f"root={tmp_path / 'results'}")
    assert status == 1
    said = (
        "was edited while the sweep ran; undo the edit and repeat the command to continue, or give "
        "another name or none to compute with the edited code"
    )
    assert err == f"error: code: {tmp_path / 'edits_itself.py'} {said}\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that holds the package, in which a user starts sweeps and edits files."""
    folder = tmp_path / "clone"
    for name in ("lt_sweeps", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    return folder


def flip(clone: Path) -> Path:
    """Edit a criterion so that it ranks weights in the opposite order."""
    path = clone / "lt_sweeps" / "sparsity" / "criteria.py"
    text = path.read_text()
    assert "return final.abs()" in text
    path.write_text(text.replace("return final.abs()", "return -final.abs()"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_an_edit_of_the_package_changes_nothing_in_a_sweep_that_runs(
    clone: Path, tmp_path: Path, command_line: CommandLine, killed: bool
) -> None:
    """A process that starts after the edit, in place of a killed one, does not see the edit."""
    words = [*WORDS, "mask_criterion=large_final", "recipe.length=600ep"]
    assert command_line(*words, f"root={tmp_path / 'whole'}").status == 0
    process = start(*words, f"root={tmp_path / 'results'}", folder=clone, code=clone)
    until(lambda: list(tmp_path.glob("results/sweeps/*/logs/*.log")), process)
    flip(clone)
    for child in children(process.pid) if killed else ():
        os.kill(child, signal.SIGKILL)
    status, _, err = finish(process)
    assert status == 0, err
    assert tickets(tmp_path / "results") == tickets(tmp_path / "whole")


def children(parent: int) -> list[int]:
    """The processes that train the packs of a launcher."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_data_that_changed_since_a_sweep_was_started_are_named(
    cell: Callable[..., Cell], tmp_path: Path, command_line: CommandLine
) -> None:
    for name, count in (("cats", 10), ("dogs", 10)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), number).save(tmp_path / "pets" / name / f"{number}.bmp")
    pets = {"_target_": "lt_sweeps.data.image_folder", "path": str(tmp_path / "pets"), "size": 4}
    made = plan([cell(dataset=pets, recipe__batch_size=8)])
    units = packs(made.units, stack_size={u.stage.key: 1 for u in made.units}, workers=1)
    sweep = Submission(made, settings(tmp_path / "results")).freeze(units)
    (tmp_path / "pets" / "dogs" / "0.bmp").write_bytes(b"another size")
    os.utime(tmp_path / "pets" / "dogs")
    ours, theirs = command_line.processes.Pipe()
    ours.send(sweep.manifest.packs[0])
    arguments = (theirs, sweep.folder, "cpu", None, LoadedCode.now())
    process = command_line.processes.Process(target=serve, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == CHANGED
    said = ours.recv()
    assert re.match(r"data: the content of image_folder\(path='.*pets', size=4\) changed", said)
    assert made.missing(Store(tmp_path / "results")) == made.units
