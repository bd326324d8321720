"""The results of an experiment, from every sweep under a root that has cells of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.results import CellResults, Results, read_results
from lt_sweeps.storage.sweep_folder import SweepFolder


def results_of_experiment(
    root: Path, experiment: str, *, nets: Mapping[str, str], metrics: Collection[str]
) -> Results:
    """Read an experiment's cells whose net is in `nets`, on that net's data set, each cell once.

    If `nets` is empty, cells of every net and data set count. An experiment may have been swept net
    by net, or continued later, so all its sweeps are read, the oldest first.

    Raises: ValueError: a file under the root cannot be read.
    """
    cells: dict[str, CellResults] = {}
    layouts: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for folder in _sweeps(root, experiment):
        results = read_results(folder, metrics=metrics)
        layouts[experiment] = results.layouts.get(experiment, {})
        notes += results.notes
        for cell in results.cells:
            net, data = cell.choices.get("model"), cell.choices.get("dataset")
            fits = not nets or (net is not None and nets.get(net) == data)
            if cell.experiment == experiment and fits:
                cells.setdefault(cell.name, cell)
    return Results(experiment, tuple(cells.values()), tuple(notes), root, layouts)


def _sweeps(root: Path, experiment: str) -> Iterator[Path]:
    """The folders of the sweeps that have cells of the experiment, the oldest first."""
    manifests = sorted((root / "sweeps").glob("*/manifest.json"))
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime):
        cells = SweepFolder(path.parent).manifest.cells
        if any((cell.labels.get("experiment") or "default") == experiment for cell in cells):
            yield path.parent
