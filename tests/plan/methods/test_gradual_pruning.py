"""Gradual magnitude pruning ends exactly at its target, and reports a network at that sparsity."""

import json
from collections.abc import Callable

import pytest
import torch
from fixtures.tiny_cell import SGD
from fixtures.training_loops import last, loop_of

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.sparsity.sparsifiers import Gradual
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

GMP = {"_target_": "lt_sweeps.plan.methods.gmp", "every": "3it"}
NINETY = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.9}


def test_the_cubic_schedule_has_its_golden_values() -> None:
    gradual = Gradual("global", (100,), begin=0, end=100, every=10)
    asked = [0.9 * gradual.done(step) for step in (0, 10, 25, 50, 75, 90, 100, 200)]
    golden = [0, 0.2439, 0.520313, 0.7875, 0.885938, 0.8991, 0.9, 0.9]
    assert asked == pytest.approx(golden, abs=5e-7)


@pytest.mark.parametrize("end", [97, 100])
def test_the_last_pruning_is_at_the_end_and_leaves_exactly_the_target(end: int) -> None:
    gradual = Gradual("global", (1234,), begin=20, end=end, every=10)
    acts = [step for step in range(200) if gradual.acts(step, None)]  # type: ignore[arg-type]
    assert acts[0] == 20 and acts[-1] == end and acts[1] == 30
    left = [gradual.remaining(10_000, 1234, step) for step in acts]
    assert left == sorted(left, reverse=True) and left[0] == 10_000 and left[-1] == 1234


def test_the_number_of_kept_weights_is_rounded_to_the_nearest() -> None:
    gradual = Gradual("global", (1,), begin=0, end=3, every=1, power=1.0)
    # of 9 weights 0, 2.67, 5.33 and 8 are pruned
    assert [gradual.remaining(9, 1, step) for step in range(4)] == [9, 6, 4, 1]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_it_ends_exactly_at_the_target(cell: Make, run: Run, scope: str) -> None:
    made, store = run(cell(recipe=SGD, method=GMP, schedule={**NINETY, "scope": scope}))
    end = ticket(made.units[-1].stage, Seed.of(0), store)
    kept = [int(mask.sum()) for mask in end.mask.values()]
    sizes = [mask.numel() for mask in end.mask.values()]
    if scope == "layer":
        assert kept == [round(0.1 * size) for size in sizes]
    assert sum(kept) == round(0.1 * sum(sizes)) or scope == "layer"
    assert all((end.state[name][~mask] == 0).all() for name, mask in end.mask.items())


def test_a_pruned_weight_keeps_its_last_value_and_returns_with_it(
    cell: Make, run: Run, tmp_path
) -> None:
    loop, masking = loop_of(last(cell(recipe=SGD, method=GMP, schedule=NINETY)), Store(tmp_path))
    update = loop.update()
    for step in range(8):
        update(step)
    assert masking.left is not None
    out = (masking.mask == 0)[0].nonzero().squeeze(1)
    assert len(out) > 5 and (masking.left[0, out] != 0).all()
    assert not loop.stack.weights[0, out].any()
    before, first = masking.left.clone(), out[0]
    masking.left[0, first] = 9.0  # the largest of all, so the next pruning brings it back
    for step in range(8, 10):
        update(step)
    assert masking.mask[0, first] == 1 and masking.left[0, first] == 0
    assert 8 < loop.stack.weights[0, first] < 10 and loop.stack.weights[0, first] != 9
    still = ((masking.mask[0] == 0) & (before[0] != 0)).nonzero().squeeze(1)
    assert torch.equal(masking.left[0, still], before[0, still])


def test_the_best_evaluation_is_one_of_the_final_mask(cell: Make, run: Run) -> None:
    """A network that is still denser is not a result at this sparsity, however good it is."""
    recipe, most = {**SGD, "evaluate_every": "1it"}, {**NINETY, "sparsity": 0.98}
    made, store = run(cell(recipe=recipe, method={**GMP, "end": 0.9}, schedule=most))
    about = store.metadata(made.units[-1].stage.key, 0) or {}
    metrics, history = json.loads(about["metrics"]), json.loads(about["history"])
    lowest = min(history, key=lambda row: row["val_loss"])
    assert lowest["step"] <= 14, "or this shows nothing"
    assert metrics["best_step"] > 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"begin": 0.8, "end": 0.5}, "method: begin=0.8, end=0.5; give fractions"),
        ({"end": 1.0}, "method: begin=0.2, end=1; give fractions"),
        ({"begin": 0.5, "end": 0.55}, "begin=0.5, end=0.55 are both step 8 of 16, so nothing"),
        ({"every": "0it"}, "method: every=0 steps"),
        ({"every": 100}, "method.every: got 100; give a "),
        ({"protocol": "ticket"}, "gmp cannot search for tickets"),
        ({"power": -1.0}, "power=-1"),
        ({"finetune": {"lenght": "2ep"}}, "method.finetune: .*takes no lenght"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([cell(recipe=SGD, method={**GMP, **change}, schedule=NINETY)])


@pytest.mark.parametrize("finetune", [None, {"length": "1ep"}])
def test_its_row_says_what_sparsity_was_asked_for(
    cell: Make, run: Run, finetune: dict | None
) -> None:
    made, store = run(cell(recipe=SGD, method={**GMP, "finetune": finetune}, schedule=NINETY))
    path = store.root / "runs" / made.cells[0].signature / "0" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    dense, result = [row for row in rows if row["kind"] == "train"]
    assert (dense["level"], dense["target_sparsity"]) == (0, None)
    assert (result["level"], result["target_sparsity"]) == (1, pytest.approx(0.9, abs=0.002))
