"""Gradients for criteria equal those of autograd on the plain module."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.execution import materialize
from lt_sweeps.execution.materialize import snapshot, ticket
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Prune, Reset
from lt_sweeps.storage.store import Store
from lt_sweeps.training.gradients import gradient, hessian_gradient
from lt_sweeps.training.task_loss import TaskLoss

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

SNIP = {"_target_": "lt_sweeps.sparsity.criteria.snip", "examples": 24}


def by_hand(stage, state: dict[str, torch.Tensor], examples: int) -> torch.Tensor:
    module = stage.network.module("cpu")
    module.load_state_dict({name: tensor[0] for name, tensor in state.items()})
    split = stage.training.task.dataset.load()["train"]
    order = torch.randperm(64, generator=generator(0, "order", 0))[:examples]
    cross_entropy(module(split.inputs[order].float() / 255), split.targets[order]).backward()
    return module.get_parameter("hidden.0.weight").grad


def test_it_is_the_gradient_of_the_mean_loss_on_the_first_images(cell: Make, tmp_path) -> None:
    stage, store = plan([cell()]).units[0].stage, Store(tmp_path)
    start = ticket(stage.start, Seed.of(0), store)
    ours = gradient(start, stage.network, stage.training.task, Seed.of(0), 24)
    assert torch.allclose(ours["hidden.0.weight"][0], by_hand(stage, dict(start.state), 24))
    assert set(ours) == {"hidden.0.weight", "hidden.1.weight", "output.weight"}


def test_a_hessian_is_computed_in_float32_whatever_a_module_of_the_users_has_set(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`medium` rounds products to bfloat16 on CPUs that have it; a training sets `highest`."""
    stage, used = plan([cell()]).units[0].stage, []
    start = ticket(stage.start, Seed.of(0), Store(tmp_path))
    mean = TaskLoss.mean

    def looked_at(*arguments: Any) -> torch.Tensor:
        used.append(torch.get_float32_matmul_precision())
        return mean(*arguments)

    monkeypatch.setattr(TaskLoss, "mean", looked_at)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        hessian_gradient(start, stage.network, stage.training.task, Seed.of(0), 24, 1.0)
    finally:
        torch.set_float32_matmul_precision(before)
    assert used == ["highest"]


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_evidence_that_overflows_at_an_initialisation_is_refused_and_not_ranked_at_random(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The weights are finite, so no record would show that the mask is random."""
    examples = {} if name == "synflow" else {"examples": 24}
    own = {"_target_": f"lt_sweeps.sparsity.criteria.{name}", **examples}
    deep = {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [4] * 12}}
    method = {"_target_": "lt_sweeps.plan.methods.at_init"}
    (unit,) = plan([cell(mask_criterion=own, method=method, model=deep, schedule__levels=1)]).units[
        -1:
    ]
    assert isinstance(unit.stage.start, Reset)
    pruned, seed, store = unit.stage.start.pruned, Seed.of(0), Store(tmp_path)
    assert isinstance(pruned, Prune)
    start = ticket(pruned.trained, seed, store)

    def weights(value: float) -> None:
        state = {n: torch.full_like(t, value) for n, t in start.state.items()}
        monkeypatch.setattr(materialize, "snapshot", lambda *_: replace(start, state=state))

    weights(1e30)
    with pytest.raises(ValueError, match=r"mask_criterion\.\w+: not finite for \d+ of the \d+ w"):
        ticket(pruned, seed, store)
    weights(torch.nan)  # where a training has made them so, its records say it
    ticket(pruned, seed, store)


def test_snip_cuts_by_the_gradient_at_the_start_of_its_own_round(cell: Make, run: Run) -> None:
    """Not by the gradient of the dense start: the second round has another network."""
    made, store = run(cell(mask_criterion=SNIP, schedule__levels=2))
    for unit in made.units[1:]:
        assert isinstance(unit.stage.start, Reset)
        pruned = unit.stage.start.pruned
        assert isinstance(pruned, Prune)
        before = snapshot(pruned.trained, "start", Seed.of(0), store)
        kept = before.mask["hidden.0.weight"][0]
        score = (
            before.state["hidden.0.weight"][0] * by_hand(pruned.trained, dict(before.state), 24)
        ).abs()
        mask = ticket(pruned, Seed.of(0), store).mask["hidden.0.weight"][0]
        assert score[mask].min() >= score[kept & ~mask].max()


def test_a_pruning_and_a_reset_sum_as_a_worker_does_in_a_process_of_more_threads(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums rounded differently used to give an audit another mask and other starting weights."""
    method = {"_target_": "lt_sweeps.plan.methods.at_init"}
    net = {"net": {"_target_": "lt_sweeps.models.ResNet", "depth": 8, "width": 24}}
    sizes = {"dataset__shape": [3, 16, 16], "schedule__levels": 1}
    constant = {"_target_": "lt_sweeps.sparsity.resets.constant"}
    made = plan([cell(mask_criterion=SNIP, method=method, model=net, reset=constant, **sizes)])
    start, prune = made.units[-1].stage.start, materialize.pruning.prune
    assert isinstance(start, Reset)
    seen: list[torch.Tensor] = []

    def watched(mask, target, call, evidence, **others):
        seen.extend(evidence["grad"].values())
        return prune(mask, target, call, evidence, **others)

    monkeypatch.setattr(materialize.pruning, "prune", watched)
    states = [dict(ticket(start, Seed.of(0), Store(tmp_path)).state)]
    torch.set_num_threads(2)
    states.append(dict(ticket(start, Seed.of(0), Store(tmp_path)).state))
    assert len(seen) % 2 == 0 and all(map(torch.equal, seen, seen[len(seen) // 2 :]))
    assert all(torch.equal(weights, states[1][name]) for name, weights in states[0].items())
