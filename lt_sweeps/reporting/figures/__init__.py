"""Figures of a report, each written to its own files, at the size in which a paper prints them.

A figure is a function of the analysis. It raises `NotDrawn` with a reason if the data are not
enough. To add a figure, write the function, and name it in `FIGURES` and in `report_config`.
Start at `draw_figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.report_config import REPORT_FILES
from lt_sweeps.reporting.figures import accuracy_curves
from lt_sweeps.reporting.figures.endpoint_dots import endpoint_figures
from lt_sweeps.reporting.figures.figure import Figure, NotDrawn
from lt_sweeps.reporting.figures.layer_survival import layer_figures
from lt_sweeps.reporting.figures.mask_overlap import overlap_figures
from lt_sweeps.reporting.figures.mask_probabilities import probability_figures
from lt_sweeps.reporting.figures.own_figures import draw_own
from lt_sweeps.reporting.figures.sign_changes import sign_figures
from lt_sweeps.reporting.figures.training_costs import cost_figures
from lt_sweeps.reporting.figures.weight_plane import plane_figures

# Figures by their name in `report.figures`, in page order.
FIGURES: Mapping[str, Callable[[Analysis], list[Figure]]] = {
    "curves": accuracy_curves.metric_figures,
    "by_sparsity": accuracy_curves.sparsity_figures,
    "early_stop": accuracy_curves.early_stop_figures,
    "endpoints": endpoint_figures,
    "layers": layer_figures,
    "cost": cost_figures,
    "overlap": overlap_figures,
    "plane": plane_figures,
    "signs": sign_figures,
    "probabilities": probability_figures,
}
FROM_TICKETS = ("overlap", "plane", "probabilities", "signs")
"""The figures that read stored tickets; each is one figure, of the same name."""


def draw_figures(analysis: Analysis) -> tuple[list[Figure], list[str]]:
    """Draw the figures that the layout names, or all that the data allow.

    Returns the figures, and a line with the reason for each figure that is not drawn.
    """
    wanted = analysis.layout.figures
    drawn: list[Figure] = []
    reasons: list[str] = []
    own = [figure for figure in wanted or () if isinstance(figure, Mapping)]
    chosen = {name: draw for name, draw in FIGURES.items() if wanted is None or name in wanted}
    chosen |= {figure["name"]: partial(draw_own, figure) for figure in own}
    for name, draw in chosen.items():
        try:
            for figure in draw(analysis):
                # A figure with the name of another would overwrite its files. A built-in figure
                # repeats a name only if it is the same figure, requested as `test_metric` and as
                # `test_accuracy`; the first one is kept, because it shows the tests.
                if figure.name not in (*REPORT_FILES, *(other.name for other in drawn)):
                    drawn.append(figure)
                elif name not in FIGURES:
                    raise NotDrawn(f"the report has another file `{figure.name}`")
        except NotDrawn as reason:
            reasons.append(f"{name}: not drawn, because {reason}")
    return drawn, reasons
