"""Ticket transfer: find tickets on one data set, train them on another (arXiv:1906.02773)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.config.durations import Duration
from lt_sweeps.config.keys import SUPPLIED
from lt_sweeps.plan.methods.after_search import ZERO, reset_by
from lt_sweeps.plan.stages import (
    Changes,
    Init,
    Reset,
    Stage,
    Train,
    Training,
    Transfer,
    Work,
    ancestors,
)
from lt_sweeps.plan.stages.transfer import check_head
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import FIXED


def transfer(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
    *,
    source: Mapping[str, Any],
    search: Mapping[str, Any],
    search_recipe: Changes = "same",
    mask: Literal["found", "random"] = "found",
    weights: Literal["source", "target", "init"] = "source",
    to: Duration = "0it",
    restart: bool = False,
) -> tuple[Train, ...]:
    """Find tickets on `source` and train each on the cell's data set; the first result is dense.

    Args:
        source: the data set on which tickets are found, as in a dataset yaml.
        search: the method that finds them, as in a method yaml; all tickets that it trains are
            transferred.
        search_recipe: the keys of the recipe that the search changes.
        mask: `random` draws a mask with the same number of weights in each layer, as a control.
        weights: the weights to train under the mask: those of the ticket (`source`), those of the
            target's own dense run at time `to` (`target`), or the target's initial weights
            (`init`).
        restart: with weights=target, start the recipe again instead of continuing from `to`.
    """
    if weights != "target" and (to != "0it" or restart):
        raise ValueError(
            f"method: to={to}, restart={restart} with weights={weights}; they belong to "
            "weights=target; for a source's ticket, set reset.to or method.search"
        )
    if freeze != ZERO:
        raise ValueError(
            f"freeze: {freeze}; a transferred ticket is 0 where it is pruned, whatever the search "
            "pinned; give freeze=zero"
        )
    call = Call.of(source, where="method.source", supplied=("data_dir",))
    training = recipe.on(
        replace(recipe.task, call=call), search_recipe, where="method.search_recipe"
    )
    shape, outputs = training.task.dataset.input_shape, training.task.dataset.outputs
    start = Init(replace(init.network, input_shape=shape, classes=outputs))
    check_head(init.network, start.network)
    supplied = (start, training, schedule, mask_criterion, reset, freeze)
    tickets = _tickets(search, dict(zip(SUPPLIED, supplied, strict=True)))
    dense = Train(init, recipe)
    early = reset_by("rewind", to=to, restart=restart)
    onto: Stage = init if weights != "target" else Reset(dense, early, ZERO, origin=dense)
    random, from_source = mask == "random", weights == "source"
    bodies = [(_whole(ticket) if random else ticket) if from_source else None for ticket in tickets]
    pairs = zip(tickets, bodies, strict=True)
    return (dense, *(Train(Transfer(onto, t, body, random), recipe) for t, body in pairs))


def _tickets(search: Mapping[str, Any], supplied: Mapping[str, Any]) -> list[Reset]:
    """The tickets that a method trains, the densest first."""
    where = "method.search"
    call = Call.of(search, where=where, supplied=SUPPLIED)
    result = call(**supplied)
    results = result if isinstance(result, tuple) else ancestors(result)
    trained = [stage for stage in results if isinstance(stage, Work) and stage.level > 0]
    tickets = [w.start for w in trained if isinstance(w.start, Reset) and w.sparsifier == FIXED]
    if not tickets or len(tickets) < len(trained):
        raise ValueError(
            f"{where}: `{call.target}` trains no tickets (masks on stored weights); use imp, or "
            "continuous_sparsification with protocol=ticket"
        )
    return tickets


def _whole(ticket: Reset) -> Reset:
    """The weights that a ticket starts from, including pruned weights, for a random mask."""
    return Reset(ticket.origin, ticket.reset, ZERO, origin=ticket.origin)
