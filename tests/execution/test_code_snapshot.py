"""The code that a job runs is the code that was submitted."""

import importlib
import subprocess
import sys
from pathlib import Path
from sys import path
from types import ModuleType

import pytest

from lt_sweeps.execution.slurm.code_snapshot import copy_code, only_from, users_modules

SUBMIT = """
import sys
sys.path.insert(0, {mine!r})
import mylab.nets, alone
from pathlib import Path
from lt_sweeps.execution.slurm.code_snapshot import copy_code
print(copy_code(Path({code!r})))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The snapshot of a submission that imported a package without `__init__` and a module."""
    mine = tmp_path / "mine"
    (mine / "mylab" / "__pycache__").mkdir(parents=True)
    (mine / "mylab" / "nets.py").write_text("WIDTH = 1\n")
    (mine / "alone.py").write_text("import mylab.nets\n\ndef luck():\n    import later\n")
    named = 'import importlib, torch\nimportlib.import_module("named")\n'
    (mine / "later.py").write_text(named)
    (mine / "named.py").write_text("")
    script = SUBMIT.format(mine=str(mine), code=str(tmp_path / "code"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


def test_it_holds_the_package_its_conf_and_a_persons_own_modules(copied: Path) -> None:
    names = {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()}
    assert {
        "lt_sweeps/execution/submission.py",
        "lt_sweeps/execution/slurm/job.sh",
        "conf/config.yaml",
    } <= names
    assert {"mylab/nets.py", "alone.py", "job.py"} <= names
    assert "later.py" in names, "which is only imported inside a function"
    assert "named.py" in names, "which counts in stage keys by its name in a call"
    assert not any("torch" in name.split("/")[0] or "__pycache__" in name for name in names)


def test_a_job_imports_from_it_and_not_from_where_it_starts(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "mylab" / "nets.py").write_text("WIDTH = 2\n")
    probe = copied / "probe.py"
    probe.write_text("import lt_sweeps, mylab.nets; print(lt_sweeps.__file__, mylab.nets.WIDTH)")
    done = subprocess.run(
        [sys.executable, str(probe)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path / "mine",
    )
    assert done.stdout.split() == [str(copied / "lt_sweeps" / "__init__.py"), "1"]


def test_the_same_code_is_copied_once(tmp_path: Path) -> None:
    assert copy_code(tmp_path) == copy_code(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_generated_module_is_not_user_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.10 torch.distributed makes one, which no job could be submitted with."""
    generated = ModuleType("_remote_module_non_scriptable")
    generated.__file__ = "<_remote_module_non_scriptable>.py"
    monkeypatch.setitem(sys.modules, generated.__name__, generated)
    assert generated.__name__ not in users_modules()
    assert copy_code(tmp_path).is_dir()


def test_an_installed_package_is_not_user_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's torch is often in its own folder; treating it as user code breaks the process."""
    for name in ("vendored", "beside"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "__init__.py").write_text("")
    about = tmp_path / "some_library-1.0.dist-info"
    about.mkdir()
    (about / "RECORD").write_text("vendored.py,sha256=a,0\ncompiled/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("vendored", "compiled", "beside"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    assert users_modules() & {"vendored", "compiled", "beside"} == {"beside"}
    monkeypatch.syspath_prepend(tmp_path / "own")
    only_from(tmp_path / "copy")
    assert path[:2] == [str(tmp_path / "copy"), str(tmp_path)]
    assert str(tmp_path / "own") not in path
