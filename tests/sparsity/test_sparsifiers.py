"""Sparsifiers against closed forms, and learned masks in real trainings."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import CONV
from torch import Tensor

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.cell_plan import planned_cell
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Evaluate, Init, Logits, Prune, Train, Training
from lt_sweeps.sparsity.counter_noise import Noise
from lt_sweeps.sparsity.evidence import Criterion, logits
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import (
    LearnedSparsifier,
    Sparsifier,
    Supermask,
    TrainingState,
    When,
)
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.training.learned_mask import LearnedMask
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

HERE = "lt_sweeps.plan.methods."
SGD = {
    "_target_": "lt_sweeps.config.recipes.recipe",
    "optimizer": "sgd",
    "lr": 20.0,
    "momentum": 0.9,
    "batch_size": 16,
    "length": "5ep",
}

LEARNABLE: dict[str, Any] = {
    "dataset": {
        "_target_": "lt_sweeps.data.synthetic",
        "shape": [1, 4, 4],
        "classes": 4,
        "train": 512,
        "validation": 64,
        "test": 256,
    },
    "model": {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [64]}},
    "recipe": {**SGD, "batch_size": 64, "length": "30ep"},
}


def method(name: str = "learned_supermask", **options: object) -> dict:
    return {"_target_": HERE + name, **options}


def rows(made: Plan, store: Store, number: int = 0) -> list[dict]:
    cell = made.cells[number]
    path = store.root / "runs" / cell.signature / str(cell.seed) / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensors(*shape: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    w, logits, upstream = (
        torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(3)
    )
    return w, logits.requires_grad_(), upstream, torch.rand(shape, generator=draws).double()


def test_the_straight_through_gradient_is_upstream_times_w_times_p_times_1_minus_p() -> None:
    w, logits, upstream, noise = tensors(2, 5, 3)
    Supermask().weights(w, logits, torch.ones(2, 1, 1), noise).backward(upstream)
    p = logits.detach().sigmoid()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, upstream * w * p * (1 - p))


def test_a_weight_is_whole_or_nothing_and_kept_as_often_as_its_chance() -> None:
    noise = Noise(1, 200_000)
    noise.seed([5])
    logits = torch.full((1, 200_000), -0.4)
    drawn = Supermask().weights(torch.ones_like(logits), logits, torch.ones(1, 1), noise.draw())
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(1 / (1 + math.exp(0.4)), abs=0.004)


def test_rescaling_keeps_the_expected_weight() -> None:
    """Divided by the kept fraction of each layer and replicate: E[w_eff] is w."""
    noise, total = Noise(2, 400), torch.zeros(2, 400)
    w = torch.linspace(-1, 1, 400).expand(2, 400)
    for key in range(400):
        noise.seed([key, 1000 + key])
        logits = torch.tensor([[-1.0], [0.7]]).expand(2, 400)
        total += Supermask(rescale=True).weights(w, logits, torch.ones(2, 1), noise.draw())
    slope = (total / 400 * w).sum(1) / (w * w).sum(1)
    assert slope.tolist() == pytest.approx([1, 1], abs=0.03)


def test_the_gradient_of_rescaling_reaches_the_sum() -> None:
    w, logits, upstream, noise = tensors(1, 6)
    Supermask(rescale=True).weights(w, logits, torch.ones(1, 1), noise).backward(upstream)
    p = logits.detach().sigmoid()
    z = (noise < p).double()
    kept, through = z.sum(), (upstream * w * z).sum()
    by_hand = 6 * p * (1 - p) * (upstream * w / kept - through / kept**2)
    assert logits.grad is not None and torch.allclose(logits.grad, by_hand)


def test_rounding_rounds_half_of_a_training_step_and_all_of_a_test() -> None:
    logits, ones = torch.full((1, 10_000), 0.2), torch.ones(1, 10_000)
    noise = torch.rand(1, 10_000, generator=torch.Generator().manual_seed(0))
    mask = Supermask(rounding=True)
    trained = mask.weights(ones, logits, torch.ones(1, 1), noise)
    assert set(trained.unique().tolist()) == {1.0, float(torch.tensor(0.2).sigmoid())}
    assert float((trained == 1).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert bool((mask.deployed(ones, logits, torch.ones(1, 1), noise) == 1).all())


def test_what_is_rounded_gets_no_gradient_as_in_the_released_code() -> None:
    """There, `round` has no gradient, and "the other 50%" backpropagates the probability."""
    w, logits, upstream, noise = tensors(1, 1000)
    weights = Supermask(rounding=True).weights(w, logits, torch.ones(1, 1), noise)
    weights.backward(upstream)
    p = logits.detach().sigmoid()
    by_hand = torch.where(noise < 0.5, 0.0, upstream * w * p * (1 - p))
    assert logits.grad is not None and torch.allclose(logits.grad, by_hand)
    identities = [Supermask(rounding=rounding).identity() for rounding in (False, True)]
    assert [identity.get("version") for identity in identities] == [None, 2]


def test_weights_stay_as_drawn_and_only_logits_are_trained(cell: Make, run: Run) -> None:
    made, store = run(cell(method=method(), recipe=SGD))
    stage = made.units[0].stage
    start, end = (ticket(s, Seed.of(0), store) for s in (stage.start, stage))
    assert all(torch.equal(start.state[name], end.state[name]) for name in start.state)
    assert all(not logits.any() for logits in start.learned.values())
    assert all(logits.any() for logits in end.learned.values())
    assert set(end.learned) == set(end.mask), "biases have none"
    row = rows(made, store)[0]
    p = torch.cat([logits.flatten().sigmoid() for logits in end.learned.values()])
    assert row["sparsity"] == pytest.approx(1 - float(p.mean()), abs=0.01)


def test_a_learned_mask_finds_what_its_weights_can_do(cell: Make, run: Run) -> None:
    made, store = run(
        cell(method=method(rescale=True), **LEARNABLE),
        cell(method=method(randomise_signs=True), **LEARNABLE),
    )
    learned, control = rows(made, store)[-1], rows(made, store, 1)[-1]
    assert learned["end_test_accuracy"] > 0.6, "far from chance"
    assert control["kind"] == "score" and control["end_test_accuracy"] < 0.45, "near chance"


@pytest.mark.parametrize("options", [{}, {"rescale": True}, {"rounding": True}])
def test_a_replicate_in_a_stack_equals_the_same_seed_alone(
    cell: Make, run: Run, tmp_path: Path, options: dict
) -> None:
    cells = [
        cell(
            method=method(bias=bias, **options), model=CONV, recipe={**SGD, "length": "2ep"}, seed=s
        )
        for s in (0, 1)
        for bias in (0.0, -1.0)
    ]
    run(*cells, root=tmp_path / "together", backend="loop")
    made, _ = run(*cells, root=tmp_path / "alone", alone=True, backend="loop")
    together, alone = (_files(tmp_path / name) for name in ("together", "alone"))
    ends = [name for name in together if "@best" not in name]
    assert together == alone and len(ends) == 6 and len(made.units) == 4


def test_every_forward_pass_and_every_replicate_draws_its_own_mask(cell: Make) -> None:
    cells = [cell(method=method(), recipe=SGD, seed=seed) for seed in (0, 1)]
    made, store = plan(cells), Store(Path("unused"))
    loop = TrainingLoop(made.units, store, Machine(), moments=[frozenset()] * 2)
    assert isinstance(loop.masking, LearnedMask)
    loop.masking.raw.fill_(1.0)
    masks = []
    for step in (0, 0, 1):
        loop.masking.at(step)
        loop.masking.compute()
        masks.append(loop.stack.views(loop.stack.weights)["hidden.0.weight"].clone())
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0][0], masks[0][1])


def test_a_test_is_the_mean_accuracy_of_ten_networks_and_not_of_an_ensemble(
    cell: Make, run: Run
) -> None:
    made, store = run(cell(method=method(), **LEARNABLE))
    unit = made.units[0]
    loop = TrainingLoop([unit], store, Machine(), moments=[frozenset()])
    loop.start(ticket(unit.stage.start, unit.seed, store))
    assert isinstance(loop.masking, LearnedMask)
    end = ticket(unit.stage, unit.seed, store)
    for name, view in loop.masking.layout.views(loop.masking.logits).items():
        view.copy_(end.learned[name])
    loop.step = unit.stage.step
    accuracies = []
    for sample in range(10):
        loop.masking.deploy([loop.step], loop.scorer.keys("test", loop.step, sample))
        right = 0
        for x, y in loop.batches.evaluation("test"):
            right += int((loop.stack.logits(x)[0].argmax(1) == y).sum())
        accuracies.append(right / 256)
    assert rows(made, store)[0]["end_test_accuracy"] == pytest.approx(sum(accuracies) / 10)
    assert len(set(accuracies)) > 1


def test_a_learned_training_killed_and_resumed_equals_one_left_alone(
    cell: Make, run: Run, tmp_path: Path
) -> None:
    cells = [cell(method=method(rescale=True), recipe=SGD, seed=seed) for seed in (0, 1)]
    made, _ = run(*cells, root=tmp_path / "whole")
    torn = Store(tmp_path / "torn")
    left = iter(range(7))
    with pytest.raises(Exception, match="stopped at step"):
        compute(
            made.units,
            made.moments,
            torn,
            Machine(checkpoint_every=0.0),
            stopped=lambda: next(left, None) is None,
        )
    run(*cells, root=tmp_path / "torn")
    assert _files(tmp_path / "torn") == _files(tmp_path / "whole")


def test_logits_start_from_the_mask_of_a_criterion(cell: Make, run: Run) -> None:
    made, store = run(
        cell(method=method("learned_supermask_from", dense={"lr": 0.1}, strength=3.0), recipe=SGD)
    )
    stage = made.units[-1].stage
    start, drawn = (ticket(s, Seed.of(0), store) for s in (stage.start, made.units[0].stage.start))
    logits = torch.cat([layer.flatten() for layer in start.learned.values()])
    assert set(logits.unique().tolist()) == {3.0, -3.0}
    _, kept = made.cells[0].last.start.inputs
    mask = ticket(kept, Seed.of(0), store).mask
    assert all(torch.equal(mask[name], start.learned[name] > 0) for name in mask)
    assert all(torch.equal(start.state[name], drawn.state[name]) for name in drawn.state)


@pytest.mark.parametrize("name", ["learned_supermask", "learned_supermask_from"])
def test_signed_constants_are_what_a_learned_mask_can_start_from(
    cell: Make, run: Run, name: str
) -> None:
    """All weights, because a learned mask may keep those that a criterion has pruned."""
    reset = {"_target_": "lt_sweeps.sparsity.resets.constant", "sign": True}
    made, store = run(cell(method=method(name), recipe=SGD, reset=reset))
    weights = ticket(made.cells[0].last, Seed.of(0), store).state["hidden.0.weight"]
    assert weights.abs().unique().numel() == 1 and weights.sign().unique().numel() == 2


def test_a_ticket_can_be_drawn_from_a_learned_mask(cell: Make, run: Run) -> None:
    made, store = run(
        cell(method=method("supermask_ticket", search={**_keys(SGD), "lr": 50.0}), recipe=SGD)
    )
    search, ticketed = (unit.stage for unit in made.units)
    assert search.sparsifier.learns and not ticketed.sparsifier.learns
    mask = ticket(ticketed, Seed.of(0), store).mask["hidden.0.weight"]
    assert 0.2 < float(mask.float().mean()) < 0.8
    assert [row["kind"] for row in rows(made, store)] == ["search", "train"]
    assert [row["level"] for row in rows(made, store)] == [1, 1]


def _keys(recipe: dict) -> dict:
    return {key: value for key, value in recipe.items() if key != "_target_"}


def test_untrained_supermasks_are_scored_on_the_weights_as_drawn(cell: Make, run: Run) -> None:
    supermask = {"_target_": "lt_sweeps.plan.methods.supermask"}
    made, store = run(cell(method=supermask, schedule__levels=3))
    scores = [unit.stage for unit in made.units if isinstance(unit.stage, Evaluate)]
    records = rows(made, store)
    assert [row["kind"] for row in records] == ["search", *["score"] * 4]
    assert [row["level"] for row in records[1:]] == [0, 1, 2, 3]
    assert all(row["train_steps"] == 0 for row in records[1:])
    drawn = ticket(made.units[0].stage.start, Seed.of(0), store).state
    for stage in scores:
        at = ticket(stage, Seed.of(0), store)
        assert stage.depth == 2 and at.step == 0
        for name, kept in at.mask.items():
            assert torch.equal(at.state[name][kept], drawn[name][kept])
            assert not at.state[name][~kept].any()
    assert all(store.read(stage.key, 0).state == {} for stage in scores), "made again, not stored"


def test_batch_norm_statistics_are_those_of_the_masked_net(cell: Make, run: Run) -> None:
    supermask = {"_target_": "lt_sweeps.plan.methods.supermask", "statistics": 50}
    made, store = run(cell(method=supermask, model=CONV, schedule__levels=1))
    unit = made.units[-1]
    start = ticket(unit.stage.start, unit.seed, store)
    loop = TrainingLoop([unit], store, Machine(), moments=[frozenset()])
    loop.start(start)
    mean = loop.stack.state()["norm.running_mean"]
    x = loop.batches.take(loop.batches.index(0))[0][0]
    module = unit.stage.network.module("cpu")
    module.load_state_dict({n: t[0] for n, t in start.state.items()})
    seen: list[Tensor] = []
    module.norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))  # pyright: ignore
    with torch.no_grad():
        module.train()(x)
    close = seen[0].mean((0, 2, 3))
    assert (mean[0] - close).norm() < 0.3 * close.norm(), "not those it was drawn with"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": method("learned_supermask_from", dense={"lrr": 1})}, "lrr"),
        ({"method": method(mask_lr=0.0)}, "positive multiple"),
        (
            {
                "reset": {"_target_": "lt_sweeps.sparsity.resets.mask_init"},
                "method": method("supermask_ticket", search={}),
            },
            r"at their values, and reset mask_init\(",
        ),
        ({"mask_criterion": {"_target_": "lt_sweeps.sparsity.criteria.snip"}}, "examples=128"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_refused_when_the_plan_is_made(
    cell: Make, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned_cell(cell(**change))


def test_only_logits_cut_a_learned_mask_and_only_a_learned_mask_is_cut_by_them(cell: Make) -> None:
    logits = {"_target_": "lt_sweeps.sparsity.criteria.large_logit"}
    with pytest.raises(ValueError, match="learns no mask"):
        planned_cell(cell(mask_criterion=logits))
    search = planned_cell(cell(method=method())).last
    snip = Criterion.of({"_target_": "lt_sweeps.sparsity.criteria.snip", "examples": 8})
    with pytest.raises(ValueError, match="learns a mask"):
        Prune(search, Target.open(search.network.layers), snip, origin=search)


@dataclass(frozen=True)
class Halving(Sparsifier):
    """A user-defined sparsifier that prunes every other weight of each layer at one step."""

    at: int
    kept: int

    @property
    def kept_at_end(self) -> int:
        return self.kept

    def acts(self, step: int, recipe: Recipe) -> When | None:
        return "before" if step == self.at else None

    def rewire(self, state: TrainingState, step: int, recipe: Recipe) -> None:
        for layer in state.layers:
            state.mask[layer.name].view(len(state.seeds), -1)[:, 1::2] = 0


@dataclass(frozen=True)
class Gate(LearnedSparsifier):
    """A user-defined learned mask."""

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        return w * torch.tanh(logits)

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        return logits > 1.0


def halved(init: Init, recipe: Training, *, at: int) -> tuple[Train, Train]:
    kept = sum(-(-layer.size // 2) for layer in init.network.layers)
    return Train(init, recipe), Train(init, recipe, Halving(at, kept))


def gated(init: Init, recipe: Training) -> tuple[Train, Train]:
    start = logits("lt_sweeps.sparsity.mask_logits.constant", value=1.0)
    return Train(init, recipe), Train(Logits(init, start), recipe, Gate())


def test_a_sparsifier_of_one_s_own_is_a_class_and_nothing_else(cell: Make, run: Run) -> None:
    halving = {"_target_": f"{__name__}.halved", "at": 3}
    made, store = run(cell(method=halving), cell(method={"_target_": f"{__name__}.gated"}))
    for number in (0, 1):
        dense, result = rows(made, store, number)
        assert (dense["level"], result["level"]) == (0, 1)
        assert 0 < result["sparsity"] < 1
    end = ticket(made.cells[0].last, Seed.of(0), store)
    assert all(bool(kept.flatten()[::2].all()) for kept in end.mask.values())
    assert all(not state[~end.mask[n]].any() for n, state in end.state.items() if n in end.mask)
    halves = rows(made, store)[1]
    assert halves["target_sparsity"] == halves["sparsity"] == 0.5


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("**/*.safetensors"))}


def test_a_training_with_a_fixed_mask_is_not_renamed_by_sparsifiers(cell: Make) -> None:
    assert "sparsifier" not in planned_cell(cell()).last.fields()
    assert isinstance(planned_cell(cell()).last, Train)
