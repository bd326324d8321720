"""What every figure of a report stands on, and whether it still does.

`report.json` beside the figures holds the layout that they were drawn in and, for each, its stages
and the checksums of its numbers and files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.style import Figure, csv

FILE = "report.json"
FORMAT = "lt_sweeps.reporting.sweep_report/1"


def provenance(
    found: Analysis, figures: Sequence[Figure], files: Mapping[str, bytes]
) -> dict[str, Any]:
    """What `report.json` says of a report that is about to be written."""
    return {
        "format": FORMAT,
        "name": found.reading.name,
        "unfinished": found.reading.unfinished,
        "code_versions": list(found.reading.versions),
        "layout": asdict(found.layout),
        "figures": {
            figure.name: {
                "caption": figure.caption,
                "stages": list(figure.stages),
                "numbers": _sum(csv(figure.data)),
            }
            for figure in figures
        },
        "files": {name: _sum(content) for name, content in files.items()},
    }


def recorded(folder: Path) -> dict[str, Any]:
    """Raises: ValueError: no report has been written there."""
    path = folder / FILE
    try:
        said = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"check: no {path}; `report` writes it with the figures") from None
    except ValueError as error:
        raise ValueError(f"check: {path} cannot be read: {error}") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ValueError(f"check: {path} is no {FORMAT}")
    return said


def changes(folder: Path, said: Mapping[str, Any], figures: Sequence[Figure]) -> list[str]:
    """What is no longer as `said`, a line each; nothing if every figure stands."""
    now = {figure.name: figure for figure in figures}
    found = []
    for name, before in said["figures"].items():
        if name not in now:
            found.append(f"{name}: can no longer be drawn from what is there")
        elif before["numbers"] != _sum(csv(now[name].data)):
            found.append(f"{name}: its numbers have changed{_stages(before, now[name])}")
        elif before["stages"] != list(now[name].stages):
            found.append(f"{name}: it stands on other stages{_stages(before, now[name])}")
    found += [f"{name}: new; not in the report" for name in now if name not in said["figures"]]
    return found + [
        f"{name}: {fault}"
        for name, checksum in said["files"].items()
        if (fault := _fault(folder / name, checksum))
    ]


def _stages(before: Mapping[str, Any], now: Figure) -> str:
    new = set(now.stages) - set(before["stages"])
    gone = set(before["stages"]) - set(now.stages)
    return f" ({len(new)} stages new, {len(gone)} gone)" if new or gone else ""


def _fault(path: Path, checksum: str) -> str:
    if not path.exists():
        return "the file is gone"
    return "" if _sum(path.read_bytes()) == checksum else "the file is not the one written"


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
