"""A copy of the code for a sweep's jobs, so that later edits do not change what is queued."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lt_sweeps
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.user_code import code_behind, find_module

_LARGEST = 1 << 20  # bytes; a larger file is taken for data and not copied
JOB = '''"""Works on packs of a sweep with the code that lies beside this file."""

from lt_sweeps.execution.slurm.job import run_task

if __name__ == "__main__":
    raise SystemExit(run_task())
'''


def copy_code(folder: Path) -> Path:
    """Copy this package, conf/ and the user's own modules to `folder/<hash of their content>`.

    The user's modules are those that composing and planning the sweep have imported, except
    installed packages.
    """
    files = {name: path.read_bytes() for name, path in _files()} | {"job.py": JOB.encode()}
    content = hashlib.sha256()
    for name in sorted(files):
        content.update(f"{name} {len(files[name])}\n".encode() + files[name])
    target = folder / content.hexdigest()[:12]
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".code-"))
    for name, blob in files.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).write_bytes(blob)
    temporary.chmod(0o755)
    try:
        temporary.rename(target)
    except OSError:  # another process has made the same snapshot meanwhile
        shutil.rmtree(temporary)
    return target


def _files() -> Iterator[tuple[str, Path]]:
    """The files to copy, each with its name in the snapshot."""
    yield from _tree("lt_sweeps", Path(lt_sweeps.__file__).parent)
    yield from _tree("conf", CONF)
    installed = _installed()
    loaded = {name.partition(".")[0] for name in sys.modules}
    for name in sorted((loaded | _imported_later(installed)) - {"__main__"}):
        spec = find_module(name)
        folders = [*(spec.submodule_search_locations or ())] if spec else []
        file = spec.origin if spec and spec.has_location else None
        if name == "lt_sweeps" or not (folders or file):
            continue
        if any(str(path).startswith(installed) for path in [*folders, file or ""] if path):
            continue
        if file and not folders:
            yield Path(file).name, Path(file)
        for folder in folders:
            yield from _tree(name, Path(folder))


def _imported_later(installed: tuple[str, ...]) -> set[str]:
    """Modules that the user's functions import only when they run."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    own = [
        name
        for name, file in sorted(files.items())
        if file and not file.startswith(installed) and name.partition(".")[0] != "lt_sweeps"
    ]
    return {name.partition(".")[0] for name in code_behind(*own)}


def _tree(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a package, without hidden ones, compiled ones and large ones."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden and path.stat().st_size <= _LARGEST:
            yield f"{name}/{inside.as_posix()}", path


def _installed() -> tuple[str, ...]:
    """The folders of Python and of installed packages, which are not copied."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    site = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return tuple(str(path) + os.sep for path in sorted({*paths, *site}) if path)
