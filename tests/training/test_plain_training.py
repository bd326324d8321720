"""Whole methods equal the same methods written in plain torch, from the papers alone.

Weights, masks and records of all levels are compared, at batch sizes that do not divide the data,
with warm-up, decay of weights and rates, smoothed labels, and evaluations within epochs.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fixtures.plain_training import (
    Plain,
    PlainMask,
    differences,
    drop_and_grow,
    gradual,
    smaller,
)
from fixtures.tiny_cell import CONV, SGD, TINY
from torch import Tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Reset, Stage, Work
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
SEED = Seed.of(3)
ODD = {
    **SGD,
    "batch_size": 13,
    "length": "17it",
    "evaluate_every": "5it",
    "milestones": ["9it"],
    "warmup": "4it",
    "label_smoothing": 0.1,
    "drop_last": False,
}
ADAMW = {**ODD, "optimizer": "adamw", "lr": 0.01, "momentum": 0.0, "nesterov": False}
OWN = {**TINY["recipe"], "optimizer": {"_target_": "torch.optim.SGD", "weight_decay": 0.1}}
UP = {"include": ["*", "up.weight"]}
NETS: dict[str, dict[str, Any]] = {
    "fc": TINY["model"],
    "resnet": CONV,
    "tied": {"net": {"_target_": "fixtures.plain_training.Tied"}},
    "upsampled": {"net": {"_target_": "fixtures.plain_training.Upsampled"}, "prunable": UP},
}


def computed(
    run: Run, cell: Cell
) -> tuple[list[Work], Callable[[Stage], Ticket], dict[str, Record]]:
    """The results of a cell, the dense network first, with their tickets and records."""
    made, store = run(cell)
    (planned,) = made.cells
    results = [stage for stage in planned.trainings if stage.key in planned.levels]
    rows = RunFolder.of(store.root, planned.signature, SEED).read().records
    return results, lambda stage: ticket(stage, SEED, store)[0], {row.stage: row for row in rows}


def plain_of(stage: Work, kind: type[Plain] = Plain, **more: Any) -> Any:
    """The network of a training as its seed draws it, with all weights kept."""
    dataset, recipe = stage.training.task.dataset, stage.training.recipe
    mask = {layer.name: torch.ones(layer.shape) for layer in stage.network.layers}
    mask = {} if kind is PlainMask else mask
    module, noise = stage.network.module("cpu"), stage.noise_index
    plain = kind(module, dataset, recipe, SEED.value, mask, noise, **more)
    plain.load(stage.network.draw(SEED))
    return plain


def check(found: Ticket, row: Record, plain: Plain) -> None:
    for name, kept in found.mask.items():
        assert torch.equal(kept[0], plain.mask[name] > 0), name
    assert not differences({name: t[0] for name, t in found.state.items()}, plain.state())
    assert row.best_step == plain.best_step
    tested = {"best": row.best_test_accuracy, "end": row.end_test_accuracy}
    assert tested == pytest.approx(plain.tested)


@pytest.mark.parametrize(
    ("net", "recipe", "to"),
    [
        ("fc", ADAMW, "0it"),
        ("resnet", ODD, "4it"),
        ("tied", ODD, "0it"),
        ("upsampled", ODD, "4it"),
    ],
)
def test_a_dense_network_and_its_rewound_ticket(
    cell: Make, run: Run, net: str, recipe: dict[str, Any], to: str
) -> None:
    reset = {"_target_": "lt_sweeps.sparsity.resets.rewind", "to": to}
    asked = cell(model=NETS[net], recipe=recipe, reset=reset, schedule__levels=1, seed=SEED.value)
    (first, second), tickets, rows = computed(run, asked)
    dense = plain_of(first).train()
    check(tickets(first), rows[first.key], dense)
    rewound = plain_of(second)
    rewound.mask = dict(smaller(dense, dense.mask, 1 - (1 - 0.2)))
    rewound.load(dense.snapshots[second.start.step])
    check(tickets(second), rows[second.key], rewound.train(start=second.start.step))


@pytest.mark.parametrize(("name", "net"), [("gmp", "fc"), ("gmp", "resnet"), ("rigl", "upsampled")])
def test_a_mask_that_changes_in_training(cell: Make, run: Run, name: str, net: str) -> None:
    asked = cell(
        model=NETS[net],
        recipe=ODD,
        method={"_target_": f"lt_sweeps.plan.methods.{name}", "every": "2it"},
        schedule={"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5},
        seed=SEED.value,
    )
    results, tickets, rows = computed(run, asked)
    stage, plain = results[-1], plain_of(results[-1])
    sizes = {layer.name: layer.size for layer in stage.network.layers}
    hook = gradual({n: round(size / 2) for n, size in sizes.items()}, 3, 13, 2)
    if name == "rigl":  # it begins with a mask that is drawn
        plain.mask = {n: kept[0].float() for n, kept in tickets(stage.start).mask.items()}
        plain.load(stage.network.draw(SEED))
        hook = drop_and_grow(0.3, 12, 2)
    check(tickets(stage), rows[stage.key], plain.train(hook=hook))


def test_pruning_that_goes_on_with_its_weights(cell: Make, run: Run) -> None:
    """IMP-Continued: no rewinding, and new batches and dropout at every level."""
    called = {"_target_": "lt_sweeps.plan.methods.imp_continued"}
    recipe = {**ODD, "order": "fresh"}
    asked = cell(model=NETS["tied"], recipe=recipe, method=called, seed=SEED.value)
    results, tickets, rows = computed(run, asked)
    before = None
    for stage in results:
        plain = plain_of(stage)
        if before is not None:
            plain.mask = dict(smaller(before, before.mask, 1 - (1 - 0.2)))
            plain.load(before.state())
        before = plain.train(index=stage.batch_index)
        check(tickets(stage), rows[stage.key], plain)


S0, BETA, LAMBDA, DECAY = -0.01, 50.0, 1e-4, 0.02
SOFT = {"s0": S0, "lmbda": LAMBDA, "final_beta": BETA, "rounds": 2}
THRESHOLD = {"s_init": -3.0, "threshold_decay": DECAY, "same_decay": False}


def annealed(stage: Work) -> PlainMask:
    """Continuous Sparsification: w c sigmoid(beta s), with beta rising every epoch up to 50."""
    c, per_epoch = 1 + math.exp(-S0), stage.training.recipe.steps_per_epoch
    last = math.ceil(stage.training.recipe.length / per_epoch) - 1
    return plain_of(
        stage,
        PlainMask,
        s={layer.name: torch.full(layer.shape, S0) for layer in stage.network.layers},
        made=lambda w, s, b: c * (b * s).sigmoid() * w,
        kept=lambda w, s: c * (s > 0) * w,
        beta=lambda step: BETA ** (step // per_epoch / last),
        penalty=lambda s, b: LAMBDA * c * (b * s).sigmoid().sum(),
    )


def shrunk(stage: Work) -> PlainMask:
    """STR: sign(w) relu(|w| - sigmoid(s)), with one s for each layer."""

    def made(w: Tensor, s: Tensor, b: float = 1.0) -> Tensor:
        return w.sign() * (w.abs() - s.sigmoid()).relu()

    s = {layer.name: torch.full([1] * len(layer.shape), -3.0) for layer in stage.network.layers}
    return plain_of(stage, PlainMask, s=s, made=made, kept=made, decay=DECAY)


@pytest.mark.parametrize("order", ["same", "fresh"])
@pytest.mark.parametrize("net", ["tied", "upsampled"])
@pytest.mark.parametrize(
    ("method", "options", "plainly"),
    [("continuous_sparsification", SOFT, annealed), ("soft_threshold", THRESHOLD, shrunk)],
)
def test_a_mask_that_is_trained_and_what_it_keeps(
    cell: Make,
    run: Run,
    method: str,
    options: dict[str, float],
    plainly: Callable[[Work], PlainMask],
    net: str,
    order: str,
) -> None:
    called = {"_target_": f"lt_sweeps.plan.methods.{method}", **options}
    recipe = {**ODD, "order": order}
    asked = cell(model=NETS[net], recipe=recipe, method=called, seed=SEED.value)
    (_, *results), tickets, rows = computed(run, asked)
    starts = [stage.start.trained for stage in results if isinstance(stage.start, Reset)]
    searches = [trained for trained in starts if isinstance(trained, Work)]
    search = plainly(searches[0])
    for trained, stage in zip(searches, results, strict=True):
        search.noise = trained.noise_index
        search.train(index=trained.batch_index)
        found, tuned = tickets(trained), plain_of(stage)
        assert not differences({name: t[0] for name, t in found.state.items()}, search.state())
        assert not differences({name: t[0] for name, t in found.learned.items()}, search.s)
        kept = {n: search.kept(search.weights[n], s).detach() for n, s in search.s.items()}
        tuned.mask = {name: (weight != 0).float() for name, weight in kept.items()}
        tuned.load({**search.state(), **kept})
        check(tickets(stage), rows[stage.key], tuned.train(index=stage.batch_index))
        search.now = 1.0
        for s in search.s.values():  # of another round: min(beta s, s0)
            s.data.mul_(BETA).clamp_(max=S0)


@pytest.mark.parametrize(
    ("method", "recipe"), [("continuous_sparsification", ODD), ("imp", ADAMW), ("imp", OWN)]
)
def test_what_a_module_freezes_stays_as_it_is(
    cell: Make, run: Run, method: str, recipe: dict[str, Any]
) -> None:
    """Weight decay would move it even without a gradient."""
    called = {"_target_": f"lt_sweeps.plan.methods.{method}"}
    asked = cell(model=NETS["tied"], recipe=recipe, method=called, seed=SEED.value)
    results, tickets, _ = computed(run, asked)
    for stage in results:
        assert (tickets(stage).state["scale"] == 2).all()
        assert stage.fields()["untrained"] == 2, "not a result of the version that decayed it"


def test_without_decay_a_frozen_parameter_adds_nothing_to_a_key(cell: Make) -> None:
    assert "untrained" not in planned_cell(cell(model=NETS["tied"])).last.fields()
    assert "untrained" not in planned_cell(cell(recipe=ODD)).last.fields()
