"""Transfer of tickets: found on one data set, trained on another (arXiv:1906.02773)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lt_sweeps.config.call import Call
from lt_sweeps.config.keys import SUPPLIED
from lt_sweeps.models.network import Network
from lt_sweeps.plan.methods.finetuning import ZERO
from lt_sweeps.plan.stages import Changes, Init, Reset, Stage, Task, Train, Training, ancestors
from lt_sweeps.plan.stages.transfer import Transfer, check_head
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.evidence import reset as reset_of
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
    to: str = "0it",
    restart: bool = False,
) -> tuple[Train, ...]:
    """Find tickets on `source` and train each on the cell's data set; the dense network first.

    Args:
        source: the data set that tickets are found on, as in a dataset yaml.
        search: the method that finds them, as in a method yaml; every ticket it trains counts.
        search_recipe: the keys of the recipe in which the search differs.
        mask: `random` draws one with as many weights in each layer, a control.
        weights: what is trained under the mask: the `source`'s, as the ticket has them; the
            `target`'s own, of a dense run's time `to`; or another draw of the initial ones.
        restart: weights of the target's time `to` begin the recipe anew.
    """
    if weights != "target" and (to != "0it" or restart):
        raise ValueError(
            f"method: to={to}, restart={restart} with weights={weights}; they are of the target's "
            "dense run, weights=target; a source's ticket has its own (reset.to, method.search)"
        )
    call = Call.of(source, where="method.source", supplied=("data_dir",))
    training = recipe.on(
        Task(call, recipe.task.data_dir), search_recipe, where="method.search_recipe"
    )
    start = Init(_on(init.network, training.task))
    check_head(init.network, start.network)
    given = (start, training, schedule, mask_criterion, reset, freeze)
    found = _tickets(search, dict(zip(SUPPLIED, given, strict=True)))
    body = _whole if mask == "random" else _itself
    dense = Train(init, recipe)
    onto: Stage = init if weights != "target" else _early(dense, to, restart)
    tickets = [
        Transfer(onto, each, body(each) if weights == "source" else None, mask == "random")
        for each in found
    ]
    return (dense, *(Train(each, recipe) for each in tickets))


def _tickets(search: Mapping[str, Any], given: Mapping[str, Any]) -> list[Reset]:
    """The tickets that a method trains, from the densest on."""
    where = "method.search"
    call = Call.of(search, where=where, supplied=SUPPLIED)
    result = call(**given)
    results = result if isinstance(result, tuple) else ancestors(result)
    trained = [stage for stage in results if isinstance(stage, Train) and stage.level > 0]
    found = [t.start for t in trained if isinstance(t.start, Reset) and t.sparsifier == FIXED]
    if not found or len(found) < len(trained):
        raise ValueError(
            f"{where}: `{call.target}` trains no ticket that is a mask on given weights; "
            "imp and continuous_sparsification with protocol=ticket do"
        )
    return found


def _whole(ticket: Reset) -> Reset:
    """The weights that a ticket starts from, the pruned ones included."""
    return Reset(ticket.origin, ticket.reset, ZERO, origin=ticket.origin)


def _itself(ticket: Reset) -> Reset:
    return ticket


def _early(dense: Train, to: str, restart: bool) -> Reset:
    back = reset_of({"_target_": "lt_sweeps.sparsity.resets.rewind", "to": to, "restart": restart})
    return Reset(dense, back, ZERO, origin=dense)


def _on(network: Network, task: Task) -> Network:
    shape, classes = task.dataset.input_shape, task.dataset.classes
    return replace(network, input_shape=shape, classes=classes)
