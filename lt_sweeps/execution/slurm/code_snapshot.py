"""Copy the code for a sweep's jobs, so that later edits do not affect queued jobs."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import lt_sweeps
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.user_code import names_imported

_LARGEST = 1 << 20  # bytes; larger files are assumed to be data and are not copied
_LIST = ".files"  # the file that lists the names of all files of a copy
JOB = '''"""Compute packs of a sweep, with the copy of the code in this file's folder only."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # Python leaves it out if PYTHONSAFEPATH is set

from lt_sweeps.execution.slurm.job import run_task

if __name__ == "__main__":
    raise SystemExit(run_task())
'''


def copy_code(folder: Path) -> Path:
    """Copy this package, conf/ and user-defined modules to `folder/<hash of their content>`.

    The user-defined modules are those that composing and planning the sweep have imported, and the
    modules that these import in turn, without installed packages.
    """
    files = {name: path.read_bytes() for name, path in _files()} | {"job.py": JOB.encode()}
    target = folder / _content_name(files)
    if target.exists() and is_intact(target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".code-"))
    try:
        for name, blob in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(blob)
        (temporary / _LIST).write_text("\n".join(files), "utf-8")
        temporary.chmod(0o755)
        if target.exists():  # the earlier copy was edited: move it out of the way
            target.rename(temporary.with_name(f"{temporary.name}-edited"))
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary)
        # No error if another process has made the same copy in the meantime.
        if not (target.exists() and is_intact(target)):
            raise
    return target


def is_intact(copy: Path) -> bool:
    """Whether the copied files are unchanged; additional files in the folder are allowed."""
    try:
        names = (copy / _LIST).read_text("utf-8").split("\n")
        return _content_name({name: (copy / name).read_bytes() for name in names}) == copy.name
    except FileNotFoundError:
        return False


def users_modules() -> set[str]:
    """The top-level names of the user-defined modules and packages that this process imported."""
    names = {name.partition(".")[0] for name in sys.modules} - {"__main__", "__mp_main__"}
    installed = _installed()
    return {name for name in names if _is_users(name, installed)}


def unload_users_modules() -> None:
    """Unload user-defined modules, so that the next import of each reads its file again."""
    users = users_modules()
    for name in list(sys.modules):
        if name.partition(".")[0] in users:
            del sys.modules[name]


def only_from(copy: Path) -> None:
    """Restrict imports to a copy and to installed packages.

    Otherwise a module that is missing in the copy would be imported from a folder that people edit
    while jobs are queued.
    """
    installed = _installed()
    kept = [
        p
        for p in sys.path
        if f"{p}{os.sep}".startswith(installed) or p.endswith(".zip") or _listed(p)
    ]
    sys.path[:] = [str(copy), *kept]


def _content_name(files: Mapping[str, bytes]) -> str:
    content = hashlib.sha256()
    for name in sorted(files):
        content.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return content.hexdigest()[:12]


def _files() -> Iterator[tuple[str, Path]]:
    """The files to copy, each with its name in the copy."""
    yield from _tree("lt_sweeps/", Path(lt_sweeps.__file__).parent)
    yield from _tree("conf/", CONF)
    installed, waiting, seen = _installed(), sorted(users_modules()), set[str]()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        file, folders = _place(name)
        if file and not folders:
            copied = [(Path(file).name, Path(file))]
        else:
            copied = [each for folder in folders for each in _tree(f"{name}/", Path(folder))]
        yield from copied
        for inside, path in copied:
            if path.suffix == ".py":
                module = ".".join(Path(inside).with_suffix("").parts)
                names = names_imported(path.read_bytes(), module)
                firsts = {name.partition(".")[0] for name in names}
                waiting += [name for name in firsts if _is_users(name, installed)]


def _is_users(name: str, installed: tuple[str, ...]) -> bool:
    """Whether a module is user-defined: not part of Python, not installed and not this package."""
    file, folders = _place(name)
    places = [place for place in (*folders, file or "") if place]
    inside = any(
        place.startswith(installed) or name in _listed(os.path.dirname(place)) for place in places
    )
    return bool(places) and not inside and name != lt_sweeps.__name__


@functools.cache
def _listed(folder: str) -> frozenset[str]:
    """The top-level names that an installer, such as `pip --target`, has put into a folder."""
    names: set[str] = set()
    for record in Path(folder).glob("*.dist-info/RECORD"):
        lines = record.read_text(errors="replace").splitlines()
        names |= {line.partition(",")[0].partition("/")[0].partition(".")[0] for line in lines}
    return frozenset(names - {""})


def _place(name: str) -> tuple[str | None, list[str]]:
    """The file of a module and the folders of a package, whether it is imported or not."""
    if module := sys.modules.get(name):
        file = getattr(module, "__file__", None)
        if file and file.startswith("<"):  # a module that torch.distributed generates, `<name>.py`
            file = None
        return file, [*map(str, getattr(module, "__path__", ()))]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None, []
    if spec is None:
        return None, []
    return (spec.origin if spec.has_location else None), [*(spec.submodule_search_locations or ())]


def _tree(prefix: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder, without hidden, compiled and large files."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden and path.stat().st_size <= _LARGEST:
            yield f"{prefix}{inside.as_posix()}", path


def _installed() -> tuple[str, ...]:
    """The folders of Python and of installed packages, which are not copied."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    site = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return tuple(str(path) + os.sep for path in sorted({*paths, *site}) if path)
