"""The notes of a plan: settings that have no effect, and what seeds and groups mean for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.keys import GROUPS
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.taken_options import not_taken
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.mask_notes import notes_on_masks
from lt_sweeps.plan.stages import Prune, ancestors
from lt_sweeps.sparsity.group_schedules import group_counts


def notes(planned: Sequence[Planned]) -> Iterator[str]:
    """The notes on the cells of a multirun; several cells may cause the same note."""
    alike: dict[str, list[Planned]] = {}
    for cell in planned:
        alike.setdefault(cell.signature, []).append(cell)
    for cells in alike.values():
        yield from _given_weights(cells[0])
        yield from _late_milestones(cells[0])
        yield from _unused_gamma(cells[0])
        yield from notes_on_masks(cells[0])
        yield from _untaken(cells)
        yield from _counts_of_groups(cells[0])


def _given_weights(cell: Planned) -> Iterator[str]:
    """Say what a seed changes if it does not draw the weights."""
    network = cell.last.network
    if network.weights is not None:
        drawn = ", ".join(sorted(network.drawn)) or "no weights"
        yield (
            f"{cell.labels['model']} begins with {network.weights.said}; a seed changes "
            f"the order of batches, augmentation, noise and {drawn}"
        )


def _late_milestones(cell: Planned) -> Iterator[str]:
    for recipe in dict.fromkeys(work.training.recipe for work in cell.trainings):
        if late := ", ".join(map(str, recipe.unreached)):
            yield (
                f"recipe.milestones: {late} of a training of {recipe.length} steps; a "
                "milestone at its end or later does nothing"
            )


def _unused_gamma(cell: Planned) -> Iterator[str]:
    recipes = [work.training.recipe for work in cell.trainings]
    if recipes[0].gamma != Recipe.gamma and not any(recipe.milestones for recipe in recipes):
        yield f"recipe.gamma: {recipes[0].gamma:g} does nothing without recipe.milestones"


def _untaken(cells: Sequence[Planned]) -> Iterator[str]:
    """Name the groups that were swept, and the keys that were set, without effect on the method."""
    method, folded = cells[0].labels["method"], set[str]()
    for group in GROUPS:
        options = {cell.cell.choices.get(group) for cell in cells}
        if cells[0].labels.get(group) is None and len(options) > 1:
            folded.add(group)
            yield f"{method} takes no {group}, so its {len(options)} options give the same line"
    if not folded:
        yield from _equal_cells([cell.cell for cell in cells if cell.seed == cells[0].seed])
    for cell in cells:
        yield from (not_taken(key, cell.cell) for key in cell.cell.untaken if key not in folded)


def _equal_cells(cells: Sequence[Cell]) -> Iterator[str]:
    """Say which cells lead to the same stages although their overrides differ."""
    words = dict.fromkeys(word for cell in cells for word in cell.overrides)
    differing = [word for word in words if not all(word in cell.overrides for cell in cells)]
    if differing:
        yield f"{', '.join(differing)} compute the same, so they are one line of a report"


def _counts_of_groups(cell: Planned) -> Iterator[str]:
    """Say how many groups each layer keeps, if weights are kept or pruned in groups."""
    prunings = [stage for stage in ancestors(cell.last) if isinstance(stage, Prune)]
    if prunings and (grouped := prunings[0].criterion.granularity) is not None:
        yield from group_counts(grouped, [p.target for p in prunings], prunings[0].network)
