"""Figures: from what a report found to pictures at the size a paper prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.reporting.figures.accuracy_curves import by_sparsity, curves, early_stop
from lt_sweeps.reporting.figures.endpoint_dots import endpoints
from lt_sweeps.reporting.figures.layer_survival import layers
from lt_sweeps.reporting.figures.mask_overlap import overlap
from lt_sweeps.reporting.figures.mask_probabilities import probabilities
from lt_sweeps.reporting.figures.sign_changes import signs
from lt_sweeps.reporting.figures.style import Figure, NotDrawn
from lt_sweeps.reporting.figures.training_costs import cost
from lt_sweeps.reporting.figures.weight_plane import plane

# By the names of `report.figures`, in the order of a page.
DRAWN: Mapping[str, Callable[[Analysis], list[Figure]]] = {
    "curves": curves,
    "by_sparsity": by_sparsity,
    "early_stop": early_stop,
    "endpoints": endpoints,
    "layers": layers,
    "cost": cost,
    "overlap": overlap,
    "plane": plane,
    "signs": signs,
    "probabilities": probabilities,
}


def figures(found: Analysis) -> tuple[list[Figure], list[str]]:
    """The figures that the layout asks for, or all that the data allow; and why others are not."""
    wanted = found.layout.figures
    drawn: list[Figure] = []
    missing: list[str] = []
    for name, draw in DRAWN.items():
        if wanted is None or name in wanted:
            try:
                drawn += draw(found)
            except NotDrawn as reason:
                missing.append(f"{name}: not drawn, {reason}")
    return drawn, missing
