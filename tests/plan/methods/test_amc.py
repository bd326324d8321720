"""AMC meets its budget exactly in every episode, keeps the best densities, and learns."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Search, needs
from lt_sweeps.sparsity.sparsifiers import Amc, TrainingState
from lt_sweeps.sparsity.sparsifiers.amc import Walk
from lt_sweeps.sparsity.sparsifiers.ddpg import Agent
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

AMC = {
    "_target_": "lt_sweeps.plan.methods.amc",
    "episodes": 6,
    "warmup": 3,
    "finetune": {"length": "1ep"},
}
EIGHTY = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.8, "scope": "global"}
LAYERS = (
    Layer("a", (8, 4, 3, 3), "conv"),
    Layer("b", (20, 30), "hidden"),
    Layer("c", (5, 20), "output"),
)
SIZES = (288, 600, 100)


def searched(made: Plan) -> Search:
    (stage,) = [unit.stage for unit in made.units if isinstance(unit.stage, Search)]
    return stage


def test_the_fine_tuning_waits_for_the_search_whose_ticket_it_starts_from(cell: Make) -> None:
    made = plan([cell(method=AMC, schedule=EIGHTY)])
    search = searched(made)
    assert needs(made.cells[0].last) == (search,) and needs(search) == made.cells[0].lasts[:1]


@pytest.mark.parametrize("first", [math.nan, -math.inf])
def test_a_reward_that_is_no_number_teaches_nothing_and_is_never_the_best(first: float) -> None:
    """If the network of one replicate diverges, it keeps its budget, and the pack continues."""
    walk, masks = Walk(Amc(100, (1, 1, 1), warmup=2), LAYERS, Seed.of(0)), []
    for reward in (first, first, first, 0.5, first, 0.4):
        masks.append(walk.go())
        walk.learn(reward)
        assert walk.best == masks[0 if len(masks) < 4 else 3] and sum(walk.best) == 100


@pytest.mark.parametrize("keep", [22, 100, 500, 980])
def test_every_episode_keeps_exactly_the_budget_and_no_layer_less_than_its_least(
    keep: int,
) -> None:
    walk = Walk(Amc(keep, (1, 1, 1), warmup=5, lowest=0.02), LAYERS, Seed.of(0))
    for episode in range(12):
        counts = walk.go()
        assert sum(counts) == keep
        assert all(max(1, round(0.02 * n)) <= k <= n for k, n in zip(counts, SIZES, strict=True))
        walk.learn(float(episode))


def test_the_agent_remembers_the_actions_that_it_chose_and_not_the_clipped_ones() -> None:
    """As in the released code, which clips actions inside its environment."""
    walk = Walk(Amc(100, (1, 1, 1)), LAYERS, Seed.of(0))
    act, chosen = walk.agent.act, []
    walk.agent.act = lambda state: chosen.append(act(state)) or chosen[-1]
    counts = walk.go()
    assert walk.actions == chosen
    assert any(abs(a - n / size) > 0.1 for a, n, size in zip(chosen, counts, SIZES, strict=True))


def test_the_agent_learns_which_layer_pays(tmp_path: Path) -> None:
    """All accuracy comes from the first layer, so in the end that layer gets nearly all weights."""
    walk = Walk(Amc(300, (1, 1, 1), warmup=30), LAYERS, Seed.of(0))
    first = []
    for _ in range(150):
        counts = walk.go()
        first.append(counts[0] / 288)
        walk.learn(counts[0] / 288)
    random, learnt = sum(first[:30]) / 30, sum(first[-30:]) / 30
    assert learnt > 0.9 > random + 0.2


def test_an_agent_s_draws_are_its_seed_s_alone() -> None:
    def actions(seed: int, disturb: bool = False) -> list[float]:
        agent = Agent(3, torch.Generator().manual_seed(seed), warmup=1, memory=100)
        found = []
        for _ in range(4):
            states = [torch.rand(3, generator=torch.Generator().manual_seed(n)) for n in range(5)]
            if disturb:
                torch.rand(7)
            acted = [agent.act(state) for state in states]
            agent.learn(states, acted, sum(acted))
            found += acted
        return found

    assert actions(0) == actions(0, disturb=True) != actions(1)
    assert all(0 <= action <= 1 for action in actions(0))


def test_rewards_count_above_the_mean_of_those_that_are_remembered() -> None:
    """The released code averages over batches instead of episodes."""
    states = [torch.zeros(3)] * 4
    agent = Agent(3, torch.Generator().manual_seed(0), warmup=9, memory=100)
    for episode in range(10):
        agent.learn(states, [0.5] * 4, float(episode == 9))
    assert agent._average is not None and 0 < agent._average < 0.25  # 1 of 10 episodes had 1


def test_the_best_episode_s_mask_stays_and_has_the_largest_weights_of_each_layer() -> None:
    (layer,) = (Layer("w", (4, 5), "hidden"),)
    other = Layer("v", (5, 4), "hidden")
    draws = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(1, 4, 5, generator=draws), "v": torch.randn(1, 5, 4)}
    mask = {name: torch.ones_like(tensor) for name, tensor in weights.items()}
    state = TrainingState((layer, other), weights, weights, mask, (), (Seed.of(0),))
    seen: list[tuple[float, torch.Tensor]] = []

    def score(batches: int) -> list[float]:
        accuracy = -abs(float(mask["w"].sum()) - 9) / 40 + 0.5
        seen.append((accuracy, mask["w"].clone()))
        return [accuracy]

    Amc(16, (1, 1), episodes=20, warmup=20).search(state, score)
    _, kept = max(seen, key=lambda each: each[0])
    assert torch.equal(mask["w"], kept) and mask["w"].sum() + mask["v"].sum() == 16
    assert weights["w"][mask["w"] == 1].abs().min() >= weights["w"][mask["w"] == 0].abs().max()


@pytest.mark.parametrize("recalibrate", [0, 2])
def test_a_search_ends_with_its_mask_on_the_dense_run_s_weights(
    cell: Make, run: Run, recalibrate: int
) -> None:
    method = {**AMC, "recalibrate": recalibrate}
    made, store = run(cell(model=CONV, recipe=SGD, method=method, schedule=EIGHTY))
    dense, tuned = made.cells[0].lasts
    found = ticket(searched(made), Seed.of(0), store)
    end = ticket(dense, Seed.of(0), store)
    total = sum(layer.size for layer in dense.network.layers)
    assert sum(int(mask.sum()) for mask in found.mask.values()) == round(0.2 * total)
    start = ticket(tuned.start, Seed.of(0), store)
    for name, kept in found.mask.items():
        assert torch.equal(found.state[name], end.state[name] * kept)
        assert torch.equal(start.state[name], found.state[name])
    assert list(made.cells[0].levels.values()) == [0, 1]


def test_a_search_is_known_by_what_it_tries(cell: Make) -> None:
    keys = {
        searched(plan([cell(recipe=SGD, method={**AMC, **how}, schedule=EIGHTY)])).key
        for how in ({}, {"episodes": 7}, {"lowest": 0.05}, {"recalibrate": 1})
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lowest": 0.3},
            "lowest=0.3 keeps 97 weights, a sparsity of at most 0.6969; .* asks for 0.8",
        ),
        ({"lowest": 0.0}, "method: lowest=0; give a density between 0 and 1"),
        ({"episodes": 0}, "method: episodes=0, warmup=3"),
        ({"episodes": 3}, "method: episodes=3, warmup=3; all episodes would have random densities"),
        ({"protocol": "ticket"}, "amc cannot search for tickets"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([cell(recipe=SGD, method={**AMC, **change}, schedule=EIGHTY)])
