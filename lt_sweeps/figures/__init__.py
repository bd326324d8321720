"""Figures: from what a report found to pictures at the size a paper prints them."""

from __future__ import annotations

from collections.abc import Callable

from lt_sweeps.figures.curves import by_sparsity, curves, early_stop
from lt_sweeps.figures.paper import Figure
from lt_sweeps.findings import Findings

DRAWN: dict[str, Callable[[Findings], list[Figure]]] = {
    "curves": curves,
    "by_sparsity": by_sparsity,
    "early_stop": early_stop,
}


def figures(found: Findings) -> list[Figure]:
    """The figures that the layout asks for, or all that the data allow."""
    wanted = found.layout.figures
    return [
        figure
        for name, draw in DRAWN.items()
        if wanted is None or name in wanted
        for figure in draw(found)
    ]
