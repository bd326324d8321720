"""Published curves: the CSV files of `conf/published/`, drawn next to the lines of a report.

A file starts with `#` lines that say where its numbers come from. Each row is a point: the `line`
it belongs to, its `sparsity`, its `value` in the unit of the records and its `source`. Without a
column `metric`, the metric is `test_accuracy`. The value of an endpoint has no sparsity. Every
other column is a group, and the point is drawn only in panels with the given option of that group;
the columns `model` and `dataset` are required.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lt_sweeps.config.call import made
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.spelling import listed, nearest

FOLDER = CONF / "published"


def with_files(entries: Iterable[Any]) -> list[Any]:
    """Return the entries of `report.published`, with each named file replaced by its curves."""
    curves: list[Any] = []
    for entry in entries:
        if isinstance(entry, Mapping) and "file" in entry:
            curves += made(curves_of_file, entry, where="report.published")
        else:
            curves.append(entry)
    return curves


def curves_of_file(
    file: str, lines: Mapping[str, str] | Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the curves of a file as entries of `report.published`.

    Args:
        file: the name of a file in `conf/published/`, or a path that ends in `.csv`.
        lines: the lines to return, all by default; a mapping also gives them new names.
    """
    path = Path(file) if file.endswith(".csv") else FOLDER / f"{file}.csv"
    if not path.is_file():
        names = sorted(own.stem for own in FOLDER.glob("*.csv"))
        raise ValueError(f"report.published: no file {path}; files are {listed(names)}")
    curves = list(_curves(path))
    known = [curve["label"] for curve in curves]
    labels = lines if isinstance(lines, Mapping) else {line: line for line in lines or known}
    for line in labels:
        if line not in known:
            hint = nearest(line, known) or ";"
            raise ValueError(
                f"report.published: {file} has no line `{line}`{hint} it has {listed(known)}"
            )
    return [c | {"label": labels[c["label"]]} for c in curves if c["label"] in labels]


def _curves(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the curves of a file; consecutive rows with the same text form one curve.

    Only sparsity and value differ between the rows of a curve.

    Raises: ValueError: the file is not such a table, or has text in the place of a number.
    """
    try:  # utf-8-sig: spreadsheets write a byte order mark
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"report.published: {path}: {error}") from None
    reader = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    columns = list(reader.fieldnames or [])
    if missing := [name for name in ("line", "value") if name not in columns]:
        raise ValueError(
            f"report.published: {path} has no column {missing[0]}; it has "
            f"{listed(columns)}, and columns are separated by commas"
        )
    for row, group in groupby(_rows(reader, path), _without_numbers):
        points = [[point.get("sparsity"), float(point["value"])] for point in group]
        fields = {"label": row.pop("line", None), "source": row.pop("source", None)}
        fields["metric"] = row.pop("metric", "test_accuracy")
        fields["where"] = {group: option for group, option in row.items() if option}
        if points[0][0]:
            yield fields | {"points": [[float(sparsity), value] for sparsity, value in points]}
        else:
            yield fields | {"value": points[0][1]}


def _rows(reader: csv.DictReader[str], path: Path) -> Iterable[dict[str, Any]]:
    """Yield the rows of a table, checked. Raises: ValueError: as `_curves`."""
    for row in reader:
        where = f"report.published: {path}: row {reader.line_num - 1}"
        if None in row or None in row.values():
            raise ValueError(f"{where} has other columns than the first line of the table")
        for name, text in {"value": row["value"], "sparsity": row.get("sparsity") or "0"}.items():
            try:
                float(text)
            except ValueError:
                raise ValueError(f"{where}: {name} is {text!r}; give a number") from None
        yield row


def _without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {column: text for column, text in row.items() if column not in ("sparsity", "value")}
