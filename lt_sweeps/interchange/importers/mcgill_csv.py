"""Read the tables of the NeurIPS 2019 reproduction of arXiv:1905.01067 (McGill, five runs of FC).

github.com/bmiselis/deconstructing-lottery-tickets has a CSV file for each figure that it reproduces
with the released code. A row has a criterion, a seed, a round (`iteration`) and the test accuracy
at the round's lowest validation loss; there are no weights and no masks.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lt_sweeps.config.identity import digest
from lt_sweeps.config.spelling import listed, paired
from lt_sweeps.interchange.importers.imported_level import ImportedLevel
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.schedules import geometric

COLUMNS = ("mask_criterion", "seed", "iteration", "test_accuracy")
# LeNet-300-100 on MNIST: a round prunes 20 %, but 10 % in the output layer (arXiv:1905.01067).
_LAYERS = (
    Layer("hidden.0.weight", (300, 784), "hidden"),
    Layer("hidden.1.weight", (100, 300), "hidden"),
    Layer("output.weight", (10, 100), "output"),
)
_MOST_ROUNDS = 40  # more would leave a layer with few weights


def read_mcgill(path: Path, choices: Mapping[str, str]) -> list[ImportedLevel]:
    """Read every round of every seed; `choices` override options (`method=supermask`: figure 7).

    Raises: ValueError: the file is not such a table, or a row has impossible values.
    """
    if choices.get("model", "fc") != "fc":
        raise ValueError(f"import: model={choices['model']}; McGill's tables have only model=fc")
    counts = [tuple(layer.size for layer in _LAYERS)]
    counts += [
        target.keep for target in geometric(_LAYERS, levels=_MOST_ROUNDS, hidden=0.2, output=0.1)
    ]
    text = _text(path)
    # Runs of the same criterion and seed in two tables are different cells.
    config = {"imported": path.name, "table": digest(text), "report_at": "best"}
    levels: dict[tuple[str, int, int], ImportedLevel] = {}
    for where, row in _rows(path, text):
        level = replace(_level(where, row, counts, choices), config=config)
        place = (level.choices["mask_criterion"], level.seed, level.level)
        if place in levels:
            raise ValueError(
                f"{where}: {place[0]}, seed {place[1]}, round {place[2]} appears twice"
            )
        levels[place] = level
    if not levels:
        raise ValueError(f"import: {path} has no rows below its header")
    return list(levels.values())


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"import: {path} is not a CSV file: {error}") from None


def _rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row with its file and line number."""
    table = csv.DictReader(text.splitlines())
    try:
        if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
            raise ValueError(
                f"import: {path} has no columns {listed(missing)}; it needs {listed(COLUMNS)}"
            )
        for row in table:
            yield f"{path}:{table.line_num}", row
    except csv.Error as error:
        raise ValueError(f"import: {path} is not a CSV file: {error}") from None


def _level(
    where: str, row: Mapping[str, str], counts: list[tuple[int, ...]], choices: Mapping[str, str]
) -> ImportedLevel:
    try:
        seed, level = int(row["seed"]), int(row["iteration"])
        accuracy = float(row["test_accuracy"])
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {paired(row)}; seed and iteration are counts") from None
    if not (
        row["mask_criterion"] and 0 <= accuracy <= 1 and 0 <= level < len(counts) and seed >= 0
    ):
        raise ValueError(
            f"{where}: {row['mask_criterion']!r}, seed {seed}, iteration {level}, test_accuracy "
            f"{accuracy}; an iteration is at most {len(counts) - 1}, an accuracy lies in [0, 1]"
        )
    names = [layer.name for layer in _LAYERS]
    return ImportedLevel(
        choices={
            "model": "fc",
            "dataset": "mnist",
            "method": "imp",
            "reset": "rewind",
            **choices,
            "mask_criterion": row["mask_criterion"],
        },
        config={},
        seed=seed,
        level=level,
        left=dict(zip(names, counts[level], strict=True)),
        total=dict(zip(names, counts[0], strict=True)),
        metrics={"test_accuracy": accuracy},
        target_sparsity=1 - sum(counts[level]) / sum(counts[0]),
        report_at="best",
    )
