"""One kernel that masks, updates and pins equals the plain update, run by Triton's interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.method_cases import ADAM, MOMENTUM, method_cells

from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.planning import Plan
from lt_sweeps.storage.store import Store
from lt_sweeps.training import own_kernels
from lt_sweeps.training.optimizers import Optimizer

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
Update = Callable[..., None]
MODULE = "lt_sweeps.training.kept_update"
CLOSE = 4e-7  # of the largest number, after ten steps: a few roundings of float32
OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 0.01, "betas": (0.8, 0.99), "eps": 1e-3},
    {"optimizer": "adam", "betas": (0.0, 0.99)},
    {"optimizer": "adam", "betas": (0.9, 0.0)},
    {"optimizer": "adamw", "weight_decay": 0.01},
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "weight_decay": 0.01},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
]


@pytest.fixture
def update_kept(interpreted_kernels: None) -> Update:
    return importlib.import_module(MODULE).update_kept


def stacked(options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Two rows longer than a block, their gradients, and their optimizer."""
    draws = torch.Generator().manual_seed(1)
    mask = (torch.rand(2, 1100, generator=draws) < 0.3).float()
    weights = torch.randn(2, 1100, generator=draws).to(dtype)
    grads = torch.zeros_like(weights)
    return weights, grads, mask, Optimizer(weights, grads, **options)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_it_equals_the_plain_update_and_a_pruned_weight_stays(
    update_kept: Update, options: dict[str, Any]
) -> None:
    (plain, plain_grads, mask, by_torch), (ours, grads, _, by_us) = (
        stacked(options),
        stacked(options),
    )
    pinned = ours * (1 - mask)
    draws = torch.Generator().manual_seed(2)
    for step in range(10):
        drawn = torch.randn(grads.shape, generator=draws)
        plain_grads.copy_(drawn * mask)
        by_torch.step(0.02 / (step + 1))
        torch.addcmul(pinned, plain, mask, out=plain)
        by_torch.mask_(mask)
        grads.copy_(drawn)
        update_kept(by_us, ours, grads, mask, 0.02 / (step + 1))
    assert torch.equal(ours * (1 - mask), pinned)
    assert float((ours - plain).abs().max()) <= CLOSE * float(plain.abs().max())
    for name, tensor in by_torch.tensors.items():
        difference = (by_us.tensors[name] - tensor).abs().max()
        assert float(difference) <= CLOSE * max(1.0, float(tensor.abs().max())), name
    assert all(float((m * (1 - mask)).abs().max()) == 0 for m in by_us.moments.values())


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_reading_all_or_what_is_kept_gives_the_same_bytes(
    update_kept: Update, options: dict[str, Any]
) -> None:
    ends = []
    for skips in (True, False):
        weights, grads, mask, optimizer = stacked(options)
        draws = torch.Generator().manual_seed(3)
        for _ in range(3):
            grads.copy_(torch.randn(grads.shape, generator=draws))
            update_kept(optimizer, weights, grads, mask, 0.02, skips=skips)
        ends.append([weights, *optimizer.tensors.values()])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("before", [0, 3, 60_000])
def test_the_corrections_of_adam_have_all_digits_at_any_step(
    update_kept: Update, before: int
) -> None:
    options = {"optimizer": "adam"}
    exact, exact_grads, mask, by_torch = stacked(options, torch.float64)
    ours, grads, _, by_us = stacked(options)
    for optimizer in (by_torch, by_us):
        optimizer.steps.fill_(before)
        optimizer.steps[1] = before + 5  # a row has a count of its own
        optimizer.ready()
    began = exact.clone()
    exact_grads.copy_(mask * torch.linspace(-1, 1, mask.shape[1]))
    grads.copy_(exact_grads)
    by_torch.step(0.5)
    update_kept(by_us, ours, grads, mask, 0.5)
    moved = (exact - began).abs().max()
    assert float((ours - exact).abs().max()) <= 1e-6 * max(1.0, float(moved))
    assert by_us.steps.tolist() == [before + 1, before + 6]


@pytest.mark.parametrize("recipe", [ADAM, MOMENTUM], ids=["adam", "sgd"])
@pytest.mark.parametrize("name", ["imp", "rigl"])
def test_a_training_by_one_kernel_is_the_plain_training_up_to_rounding(
    cell: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    update_kept: Update,
    name: str,
    recipe: dict[str, Any],
) -> None:
    calls = 0

    def counted(*args: Any, skips: bool) -> None:
        nonlocal calls
        calls += 1
        update_kept(*args, skips=skips)

    cells = method_cells(cell, name, recipe)
    cells = [c for c in cells if c.config["seed"] == 0]
    made, plain = run(*cells, root=tmp_path / "plain")
    monkeypatch.setattr(own_kernels, "run_on", lambda weights: True)
    monkeypatch.setattr(f"{MODULE}.update_kept", counted)
    ours = run(*cells, root=tmp_path / "ours")[1]
    # The pruned level of IMP, and RigL but for a step in which it rewires.
    assert calls == {"imp": 8, "rigl": 7}[name]
    unit = made.units[-1]
    one, other = (store.read(unit.stage.key, unit.seed) for store in (plain, ours))
    told = [store.cost(unit.stage.key, unit.seed).backend for store in (plain, ours)]
    assert told == ["chain", "chain+triton"]
    for layer, mask in one.mask.items():
        assert torch.equal(mask, other.mask[layer])
        torch.testing.assert_close(other.state[layer], one.state[layer], rtol=1e-4, atol=1e-5)
        assert not other.state[layer][~mask].any()


def test_a_record_says_which_trainings_our_kernel_updated(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, update_kept: Update
) -> None:
    """Not dense ones, which have no mask, and not clipped ones, whose update is torch's."""
    monkeypatch.setattr(own_kernels, "run_on", lambda weights: True)
    for clip, last in ((None, "loop+triton"), ({"norm": 1.0}, "loop")):
        changed = cell(recipe={**ADAM, "clip": clip}, schedule__levels=1)
        made, store = run(changed, backend="loop")
        costs = [store.cost(unit.stage.key, unit.seed) for unit in made.units]
        assert [cost.backend for cost in costs] == ["loop", last]


def test_our_kernels_never_run_on_a_cpu_and_a_machine_without_triton_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert not own_kernels.run_on(torch.zeros(1))
    # Here no kernel can be built for a GPU, as on a machine that has no compiler.
    own_kernels._tried.cache_clear()
    assert not own_kernels._tried("cpu") and not own_kernels._tried("cpu")
    assert len([r for r in caplog.records if "Triton does not work here" in r.message]) == 1
    own_kernels._tried.cache_clear()
