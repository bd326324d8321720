"""A report that was written before: read its report.json, and check whether it is up to date.

The report of a complete sweep is not written again if it is up to date: see `is_current`. This
module neither draws nor reads records, so that the check is fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.cell_settings import ASIDE
from lt_sweeps.analysis.results import layouts, layouts_by_name
from lt_sweeps.config.report_config import layout
from lt_sweeps.config.user_code import code_behind
from lt_sweeps.storage.checked_read import (
    DamagedFile,
    NewerFormat,
    check_format,
    read_file,
    read_json,
    typed,
)
from lt_sweeps.storage.measured_speeds import speeds_path
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.sweep_folder import SweepFolder

FILE = "report.json"
FORMAT = "lt_sweeps.report/1"

_PACKAGE = Path(__file__).parents[1]
_PACKAGES = ("reporting", "analysis", "storage", "config")  # their code makes a report


def subfolder(experiment: str) -> str:
    """The subfolder for an experiment, in the report of a sweep with several experiments."""
    return experiment.replace("/", "-")


def is_current(source: Path) -> bool:
    """Whether the report in a sweep's folder is the one that would be written now.

    This is the case if all cells are done, the report was written with the current records, report
    keys and code, and none of its files was changed.
    """
    made_from = digest_of_inputs(source)
    names = {
        cell.labels.get("experiment") or "default" for cell in SweepFolder(source).manifest.cells
    }
    keys_by_name = layouts_by_name(sorted(names), layouts(source))
    return bool(made_from) and all(
        _is_current(source / "report" / subfolder(name), made_from, asdict(layout(keys)))
        for name, keys in keys_by_name.items()
    )


def _is_current(folder: Path, made_from: str, keys: dict[str, Any]) -> bool:
    try:
        written = read_report_json(folder)
    except (ValueError, OSError):
        return False
    return (
        written.get("made_from") == made_from
        and written["layout"] == json.loads(json.dumps(keys))
        and not any(file_faults(folder, written["files"]))
    )


def digest_of_inputs(source: Path) -> str:
    """Return a digest of the code (custom figures included), cells and records behind a report.

    The digest is empty for a root, and for a sweep with unfinished cells: a report of these is
    written again every time.
    """
    sweep = SweepFolder(source)
    if not sweep.exists:
        return ""
    digest = hashlib.sha256(digest_of_code().encode())
    try:
        digest.update(json.dumps(_code_of_figures(sweep), sort_keys=True).encode())
    except ValueError:  # the source of a custom figure cannot be found any more
        return ""
    for cell in sweep.manifest.cells:
        try:
            done = read_file(RunFolder.of(sweep.root, cell.signature, cell.seed).done)
        except (OSError, DamagedFile):
            return ""
        # `DONE` holds the checksum of the records.
        config = {key: value for key, value in cell.config.items() if key not in ASIDE}
        digest.update(json.dumps([cell.name, cell.labels, config], default=str).encode() + done)
    with suppress(OSError, DamagedFile):
        digest.update(read_file(speeds_path(sweep.root)))
    return digest.hexdigest()


def _code_of_figures(sweep: SweepFolder) -> dict[str, str]:
    """Return a hash by name of the modules behind custom figures; their code is read, not run."""
    reports = sweep.manifest.reports.values()
    requested = (figure for keys in reports for figure in keys.get("figures") or ())
    targets = [str(figure.get("_target_")) for figure in requested if isinstance(figure, Mapping)]
    return code_behind(*(target.rpartition(".")[0] for target in targets))


def digest_of_code() -> str:
    """Return a digest of the modules and templates of this package that make a report."""
    paths = sorted(path for name in _PACKAGES for path in (_PACKAGE / name).rglob("*.*"))
    sources = [p.read_bytes() for p in paths if p.suffix in (".py", ".html")]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def read_report_json(folder: Path) -> dict[str, Any]:
    """Read the report.json of the last report in a folder.

    Raises: ValueError: the folder has no report.json, or it is damaged or from a newer version.
    """
    path = folder / FILE
    try:
        content = read_json(path, dict[str, Any])
        check_format(path, content.get("format"), FORMAT)
        figures = typed(dict[str, dict[str, Any]], content.get("figures"))
        typed(dict[str, str], content.get("files"))
        typed(dict[str, Any], content.get("layout"))
        if not all({"stages", "numbers"} <= figure.keys() for figure in figures.values()):
            raise ValueError("a figure lacks `stages` or `numbers`")
    except FileNotFoundError:
        raise ValueError(
            f"check: {path} is missing; `report` without --check writes it with the figures"
        ) from None
    except NewerFormat:
        raise
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"check: {path}: {reason}; `report` rewrites it") from None
    return content


def file_faults(folder: Path, checksums: dict[str, str]) -> Iterator[str]:
    """Yield a line for each file that is missing or was changed since it was written."""
    for name, written in checksums.items():
        if fault := _fault(folder / name, written):
            yield f"{name}: {fault}"


def _fault(path: Path, written: str) -> str:
    """Say what is wrong with a written file; empty if the file is unchanged."""
    try:
        unchanged = checksum(read_file(path)) == written
    except FileNotFoundError:
        return "the file is gone"
    except DamagedFile:
        unchanged = False
    return "" if unchanged else "the file was changed after it was written"


def checksum(content: bytes) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
