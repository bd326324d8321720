"""Published curves: the CSV files of `conf/published/`, drawn beside the lines of a report.

A file starts with `#` lines that say where its numbers come from. Each row is a point: the `line`
it belongs to, its `sparsity`, its `value` in the unit of the records and its `source`. `metric` is
`test_accuracy` where there is no such column; an endpoint has no sparsity. Every other column is a
group (`model`, `dataset`) whose option a panel must show for the point to be drawn there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lt_sweeps.config.call import nearest
from lt_sweeps.config.errors import CONF

FOLDER = CONF / "published"
_WHERE = "report.published"


def with_files(entries: Iterable[Any]) -> list[Any]:
    """The entries of `report.published`, with the curves of a file in the place of its name."""
    curves: list[Any] = []
    for entry in entries:
        is_file = isinstance(entry, Mapping) and "file" in entry
        curves += _chosen(**entry) if is_file else [entry]
    return curves


def _chosen(file: str, lines: Mapping[str, str] | Iterable[str] | None = None) -> list[Any]:
    """The curves of a file; of some `lines` only, and under other names where it is a mapping."""
    curves = _curves(FOLDER / f"{file}.csv" if "." not in file else Path(file))
    known = list(dict.fromkeys(curve["label"] for curve in curves))
    chosen = known if lines is None else list(lines)
    for line in chosen:
        if line not in known:
            raise ValueError(
                f"{_WHERE}: {file} has no line {line!r}{nearest(line, known)}; lines are {known}"
            )
    names = dict(lines) if isinstance(lines, Mapping) else dict(zip(chosen, chosen, strict=True))
    return [c | {"label": names[c["label"]]} for c in curves if c["label"] in names]


@cache
def _curves(path: Path) -> list[dict[str, Any]]:
    """The curves of a file as entries of `report.published`; consecutive rows are one curve."""
    if not path.is_file():
        files = sorted(file.stem for file in FOLDER.glob("*.csv"))
        raise ValueError(
            f"{_WHERE}: {path} does not exist; give the path of a CSV file, or one of {files}"
        )
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    curves: list[dict[str, Any]] = []
    for row in csv.DictReader(lines):
        try:
            label, source = row.pop("line"), row.pop("source")
            sparsity, value = row.pop("sparsity", ""), float(row.pop("value"))
            point = [float(sparsity), value] if sparsity else None
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: {error}; each row has a line, a source, a value and, but for endpoints, "
                "a sparsity"
            ) from None
        curve: dict[str, Any] = {"label": label, "source": source}
        curve["metric"] = row.pop("metric", "test_accuracy")
        curve["where"] = {group: option for group, option in row.items() if option}
        if point and curves and {**curve, "points": None} == {**curves[-1], "points": None}:
            curves[-1]["points"].append(point)
        else:
            curves.append({**curve, "points": [point]} if point else {**curve, "value": value})
    return curves
