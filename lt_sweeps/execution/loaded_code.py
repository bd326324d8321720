"""`LoadedCode`: the code that a process runs, to check that all processes of a sweep run the same.

A sweep starts new processes for hours, and people edit code in the meantime. On the local machine a
sweep runs the code of its launcher, and a worker that imports different code stops. On Slurm it
runs the copy that was made when the jobs were submitted.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import lt_sweeps
from lt_sweeps.execution.slurm.code_snapshot import is_intact, users_modules

PACKAGE = Path(lt_sweeps.__file__).parent


class ChangedCode(ValueError):
    """Code or data changed since the sweep was started."""


@dataclass(frozen=True)
class SourceFile:
    """The file that a module was imported from, and the digest of its source."""

    path: Path
    sha256: str


Imported = Mapping[str, SourceFile]
"""The modules of this package and user-defined modules that a process has imported, by name."""


@dataclass(frozen=True)
class LoadedCode:
    """The code of a sweep: all modules of this package, and the user-defined modules it imported.

    If `copy` is given, it is a Slurm job's copy of the code, and every module must be inside it.
    """

    modules: Mapping[str, SourceFile]
    copy: Path | None = None

    @classmethod
    def now(cls, *, copy: Path | None = None) -> LoadedCode:
        """Return the code of this process, with all of this package: workers import more of it."""
        package = {name: _source(path) for name, path in _package().items()}
        return cls({**package, **imported()}, copy)

    def check(self, before: Imported | None = None) -> Imported:
        """Check that every module this process has imported is this code; return those modules.

        Args:
            before: the modules that it had imported earlier, with their source at that time; later
                edits of their files have no effect on this process.

        Raises:
            ChangedCode: a module has a different source, or was imported from another file.
        """
        found = imported(before)
        for name, source in found.items():
            if self.copy is not None and not source.path.is_relative_to(self.copy):
                raise ChangedCode(
                    f"code: `{name}` was imported from {source.path}; this job runs the copy "
                    f"{self.copy}"
                )
            expected = self.modules.get(name)
            if expected is None:
                continue
            if source.path != expected.path:
                raise ChangedCode(
                    f"code: `{name}` was imported from {source.path}; the sweep was started with "
                    f"{expected.path}"
                )
            if source.sha256 != expected.sha256:
                raise ChangedCode(
                    f"code: {source.path} was edited while the sweep ran; undo the edit and repeat "
                    "the command to continue, or give another name or none to compute with the "
                    "edited code"
                )
        return found


def imported(before: Imported | None = None) -> Imported:
    """The modules that this process has imported; those in `before` keep their source of then."""
    known = before or {}
    return {name: known.get(name) or _source(path) for name, path in _imported()}


def job_code(copy: Path) -> LoadedCode:
    """Return the code of a Slurm job: the copy that was made when the job was submitted.

    Raises:
        ChangedCode: this process has imported code from elsewhere, or the copy was edited.
    """
    copy = copy.resolve()
    code = LoadedCode.now(copy=copy)
    code.check()
    if not is_intact(copy):
        raise ChangedCode(f"code: the copy {copy} was edited; `resume` submits jobs with a new one")
    return code


def _package() -> dict[str, Path]:
    """The files of all modules of this package."""
    files: dict[str, Path] = {}
    for path in PACKAGE.resolve().rglob("*.py"):
        parts = (PACKAGE.name, *path.relative_to(PACKAGE.resolve()).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def _imported() -> Iterator[tuple[str, Path]]:
    """The name and file of each imported module that is user-defined or from this package."""
    own = {PACKAGE.name, *users_modules()}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in own and file and Path(file).is_file():
            yield name, Path(file).resolve()


def _source(path: Path) -> SourceFile:
    return SourceFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
