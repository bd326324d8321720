"""Schedules and groups: check a schedule for a pattern N:M, list the groups that levels keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lt_sweeps.models.network import Network
from lt_sweeps.sparsity.competition import group_competitions
from lt_sweeps.sparsity.granularity import WHERE, Granularity
from lt_sweeps.sparsity.group_numbers import groups_of
from lt_sweeps.sparsity.schedules import Target


def check_schedule(granularity: Granularity, schedule: Sequence[Target], network: Network) -> None:
    """Check that a schedule fits a granularity.

    Raises: ValueError: the network has no such groups; or, for a pattern N:M, a level does not keep
    n of each M inputs, with n from N to M, or the last level neither N nor M.
    """
    groups = groups_of(granularity, network)
    if granularity.pattern is None:
        return
    kept, size = granularity.pattern
    for level, target in enumerate(schedule, 1):
        least = {*range(kept, size + 1)} if level < len(schedule) else {kept, size}
        for layers, count in target.groups(network.layers):
            total = sum(layer.size for layer in layers)
            number = round(size * count / total)
            fits = abs(count - total * number / size) <= len(layers) and number in least
            if not fits and any(len(groups.sizes[layer.name]) for layer in layers):
                raise ValueError(
                    f"{WHERE}: {granularity} ends at sparsity {1 - kept / size:g}, by levels of "
                    f"1 - n/{size}; level {level} of the schedule asks for {1 - count / total:.4g}"
                    f" of {layers[0].name if len(layers) == 1 else 'all layers'}; "
                    f"hint: schedule=one_shot schedule.sparsity={1 - kept / size:g}"
                )


def group_counts(
    granularity: Granularity, schedule: Sequence[Target], network: Network
) -> Iterator[str]:
    """A plan's lines about groups: how many stay at each level, and goals out of reach."""
    groups, layers = groups_of(granularity, network), network.layers
    whole = [layer.name for layer in layers if not len(groups.sizes[layer.name])]
    if whole:
        why = " (its rows are classes)" if granularity.word in ("filter", "neuron") else ""
        yield f"{granularity}: {', '.join(whole)} is not pruned{why}"
    # The same layers compete at every level; `levels` is one such competition, level by level.
    runs = (group_competitions(target, layers, groups) for target in schedule)
    for levels in zip(*runs, strict=True):
        together = levels[0].names
        _, total = levels[0].number_kept
        if not total:
            continue
        verb = "keep" if len(together) > 1 else "keeps"
        every = len(together) == len(layers)
        name = "all layers" if every else ", ".join(together)
        kept = ", ".join(str(run.number_kept[0]) for run in levels)
        of = f"each {total}" if granularity.pattern else f"{total}"
        yield f"{granularity}: {name} {verb} {kept} of {of} {granularity.noun}s"
        for level, run in enumerate(levels, 1):
            if run.falls_short:
                yield (
                    f"{granularity}: level {level} asks {name} to keep {run.goal} weights; one "
                    f"{granularity.noun} of each layer stays, so that {run.bounds[1]} are left"
                )
