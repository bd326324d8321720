"""A copy of the code that a sweep was submitted with: editing it changes nothing in queued jobs."""

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

_LARGEST = 1 << 20  # bytes of a file that is source, and not data that lies beside it
JOB = '''"""Works on packs of a sweep with the code that lies beside this file."""

from lt_sweeps.execution.slurm.job import run_task

if __name__ == "__main__":
    raise SystemExit(run_task())
'''


def snapshot(folder: Path) -> Path:
    """Copy this package, conf/ and a person's own modules to `folder/<hash of all of it>`.

    A person's modules are those that composing and planning the sweep have imported, from
    wherever nothing is installed.
    """
    files = {name: path.read_bytes() for name, path in _files()} | {"job.py": JOB.encode()}
    content = hashlib.sha256()
    for name in sorted(files):
        content.update(f"{name} {len(files[name])}\n".encode() + files[name])
    target = folder / content.hexdigest()[:12]
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=".code-"))
    for name, blob in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(blob)
    made.chmod(0o755)
    try:
        made.rename(target)
    except OSError:  # another process was quicker with the same
        shutil.rmtree(made)
    return target


def _files() -> Iterator[tuple[str, Path]]:
    """Each file by its name in the snapshot."""
    yield from _tree("lt_sweeps", Path(lt_sweeps.__file__).parent)
    yield from _tree("conf", CONF)
    installed = _installed()
    for name in sorted({name.partition(".")[0] for name in sys.modules} - {"__main__"}):
        module = sys.modules.get(name)
        places = [*getattr(module, "__path__", ())]
        single = getattr(module, "__file__", None)
        if name == "lt_sweeps" or not (places or single):
            continue
        if any(str(place).startswith(installed) for place in [*places, single or ""] if place):
            continue
        if single and not places:
            yield Path(single).name, Path(single)
        for place in places:
            yield from _tree(name, Path(place))


def _tree(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden and path.stat().st_size <= _LARGEST:
            yield f"{name}/{inside.as_posix()}", path


def _installed() -> tuple[str, ...]:
    """Where Python and its packages are installed, which a submission does not copy."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    site = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return tuple(str(path) + os.sep for path in sorted({*paths, *site}) if path)
