"""Freezes on values worked out by hand, and their choices over the rounds of a real chain."""

from collections.abc import Callable

import pytest
import torch
from torch import tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Reset, Train
from lt_sweeps.sparsity import freezes
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

INIT = tensor([1.0, -2.0, 3.0, -0.5, 0.7])
FINAL = tensor([2.0, -1.0, -1.0, -0.5, 0.1])  # away, towards, towards, neither, towards
LAYER = "hidden.0.weight"


def of(name: str, **options: object) -> dict:
    return {"_target_": f"lt_sweeps.sparsity.freezes.{name}", **options}


def test_each_formula_gives_the_values_worked_out_by_hand() -> None:
    assert freezes.zero(FINAL).tolist() == [0.0] * 5
    assert freezes.init(INIT) is INIT and freezes.final(FINAL) is FINAL
    assert freezes.variant(INIT, FINAL).tolist() == pytest.approx([1.0, 0.0, 0.0, -0.5, 0.0])
    assert freezes.reversed_variant(INIT, FINAL).tolist() == pytest.approx([0.0, -2, 3, -0.5, 0.7])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pinned_too", [True, False])
def test_random_zeros_has_as_many_zeros_as_variant_1_anywhere(seed: int, pinned_too: bool) -> None:
    cut = tensor([True, True, True, True, False, False])  # of these two moved towards zero
    kept = tensor([False] * 5 + [True])  # the fifth was pruned before, and pinned to 0.1
    init, final = torch.cat([INIT, tensor([5.0])]), torch.cat([FINAL, tensor([4.0])])
    noise = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    values = freezes.random_zeros(init, final, kept, cut, noise, pinned_too=pinned_too)
    assert int((values[~kept] == 0).sum()) == 2
    assert pinned_too or int((values[cut] == 0).sum()) == 2
    as_pinned = torch.where(cut, init, final)
    assert torch.equal(values[values != 0], as_pinned[values != 0])


def levels(cell: Make, run: Run, freeze: dict, **more: object) -> list[dict[str, torch.Tensor]]:
    """The first layer's starting weights, mask and trained weights, at each of three levels."""
    made, store = run(cell(freeze=freeze, schedule__levels=3, **more))
    levels = []
    for unit in made.units[1:]:
        start, end = (ticket(s, Seed.of(0), store) for s in (unit.stage.start, unit.stage))
        assert isinstance(unit.stage.start, Reset) and isinstance(unit.stage.start.trained, Train)
        before = ticket(unit.stage.start.trained, Seed.of(0), store)
        drawn = ticket(made.units[0].stage.start, Seed.of(0), store)
        levels.append(
            {
                "init": drawn.state[LAYER][0],
                "start": start.state[LAYER][0],
                "kept": start.mask[LAYER][0],
                "end": end.state[LAYER][0],
                "final": before.state[LAYER][0],
                "held": ~before.mask[LAYER][0],
            }
        )
    return levels


@pytest.mark.parametrize(
    "freeze",
    [
        of("zero"),
        of("init"),
        of("final"),
        of("variant"),
        of("variant", kept_too=True),
        of("random_zeros", pinned_too=False),
        of("reversed_variant"),
    ],
    ids=lambda freeze: f"{freeze['_target_'].rpartition('.')[2]}{freeze.get('kept_too', '')}",
)
def test_a_decision_persists_and_a_frozen_weight_is_the_same_bits_after_training(
    cell: Make, run: Run, freeze: dict
) -> None:
    before = None
    for level in levels(cell, run, freeze):
        pruned = ~level["kept"]
        assert torch.equal(level["start"][pruned], level["end"][pruned])
        if before is not None:
            assert torch.equal(level["start"][~before["kept"]], before["end"][~before["kept"]])
        before = level


def test_random_zeros_may_pin_to_zero_what_was_pruned_before_and_changes_nothing_else_of_it(
    cell: Make, run: Run
) -> None:
    before, moved = None, 0
    for level in levels(cell, run, of("random_zeros")):
        assert torch.equal(level["start"][~level["kept"]], level["end"][~level["kept"]])
        cut = ~level["kept"] & ~level["held"]
        towards = int((level["init"].abs() > level["final"].abs())[cut].sum())
        pinned = level["start"] if before is None else before["end"]
        changed = level["held"] & (level["start"] != pinned)
        assert bool((level["start"][changed] == 0).all())
        moved += int(changed.sum())
        assert int((level["start"][cut] == 0).sum()) + int(changed.sum()) <= towards
        before = level
    assert moved, "of some weights that were pruned before"


def test_variant_1_pins_to_zero_what_moved_towards_it_and_to_init_the_rest(
    cell: Make, run: Run
) -> None:
    zeros = 0
    for level in levels(cell, run, of("variant")):
        cut = ~level["kept"] & ~level["held"]
        init, final = level["init"][cut], level["final"][cut]
        expected = torch.where(init.abs() > final.abs(), 0.0, init)
        assert torch.equal(level["start"][cut], expected)
        assert torch.equal(level["start"][level["kept"]], level["init"][level["kept"]])
        zeros += int((expected == 0).sum())
    assert zeros


def test_variant_2_starts_kept_weights_from_zero_too_and_its_zeros_accumulate(
    cell: Make, run: Run
) -> None:
    zeroed = None
    for level in levels(cell, run, of("variant", kept_too=True)):
        kept = level["kept"]
        init = level["init"] if zeroed is None else torch.where(zeroed, 0.0, level["init"])
        expected = torch.where(init.abs() > level["final"].abs(), 0.0, init)
        assert torch.equal(level["start"][kept], expected[kept])
        assert bool((level["end"][kept & (level["start"] == 0)] != 0).any()), "they are trained"
        now = kept & (expected == 0)
        zeroed = now if zeroed is None else (zeroed & kept) | now
    assert zeroed is not None and zeroed.any()


def test_resets_and_freezes_cross(cell: Make, run: Run) -> None:
    """Variant 2 acts first and sets weights to 0, which then have sign 0 in every reset."""
    reset = {"_target_": "lt_sweeps.sparsity.resets.constant", "sign": True}
    for level in levels(cell, run, of("variant", kept_too=True), reset=reset):
        started = level["start"][level["kept"]]
        assert (started == 0).any() and started[started != 0].abs().unique().numel() == 1


def test_every_arm_differs_from_every_other(cell: Make, run: Run) -> None:
    arms = [
        of("zero"),
        of("init"),
        of("variant"),
        of("variant", kept_too=True),
        of("random_zeros"),
        of("reversed_variant"),
    ]
    ends = [levels(cell, run, arm)[0]["end"] for arm in arms]
    for n, end in enumerate(ends):
        assert not any(torch.equal(end, other) for other in ends[:n])
