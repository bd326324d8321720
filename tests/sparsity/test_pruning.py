"""Pruning keeps exactly the requested number, and a pruned weight keeps its frozen value."""

import inspect
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, tensor
from torch.nn.utils import prune as torch_prune

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import Seed, repeated
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity import criteria, freezes, resets
from lt_sweeps.sparsity.evidence import whole_mask
from lt_sweeps.sparsity.pruning import prune, restart
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.top_k import keep_top
from lt_sweeps.storage.ticket import Ticket, remaining, sparsity

LAYERS = (Layer("a", (2, 3), "hidden"), Layer("b", (4,), "output"))
ALL = {"a": torch.ones(1, 2, 3, dtype=torch.bool), "b": torch.ones(1, 4, dtype=torch.bool)}
FINAL = {"a": tensor([[[1.0, -2, 3], [4, -5, 6]]]), "b": tensor([[0.5, 7, -8, 9]])}
LARGE = Call("lt_sweeps.sparsity.criteria.large_final")


def ties(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cut(target: Target, kept=ALL, criterion: Call = LARGE, seed: int = 0, final=FINAL):
    evidence = {"final": final} if "final" in criterion.names else {}
    return prune(kept, target, criterion, evidence, layers=LAYERS, seed=Seed(seed), level=1)


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize(
    "scores",
    [
        torch.arange(8.0),
        torch.zeros(8),
        tensor([1.0, 1, 1, 2, 2, 2, 3, 3]),
        torch.full((8,), torch.nan),
    ],
)
def test_exactly_the_count_is_kept_whatever_the_ties(scores: torch.Tensor, count: int) -> None:
    assert int(keep_top(scores, count, ties()).sum()) == count


def test_the_highest_are_kept() -> None:
    scores = torch.randn(500, generator=ties())
    kept = keep_top(scores, 120, ties())
    assert torch.equal(kept.nonzero().squeeze(1), scores.topk(120).indices.sort().values)


def test_ties_are_broken_at_random_from_the_seed() -> None:
    first = keep_top(torch.zeros(64), 32, ties(0))
    assert torch.equal(first, keep_top(torch.zeros(64), 32, ties(0)))
    assert not torch.equal(first, keep_top(torch.zeros(64), 32, ties(1)))
    assert 0 < int(first[:32].sum()) < 32, "the first positions are not favoured"


def test_nan_is_the_lowest_score() -> None:
    assert keep_top(tensor([torch.nan, -5.0, 1.0]), 2, ties()).tolist() == [False, True, True]


def test_layers_are_ranked_by_themselves() -> None:
    mask = cut(Target("layer", (2, 1), 0.7))
    assert mask["a"][0].tolist() == [[False] * 3, [False, True, True]]
    assert mask["b"][0].tolist() == [False, False, False, True]


def test_a_global_scope_ranks_all_layers_together() -> None:
    mask = cut(Target("global", (4,), 0.6))
    assert {name: int(n) for name, n in remaining(mask).items()} == {"a": 1, "b": 3}


def test_global_magnitude_pruning_equals_torchs_own() -> None:
    modules = [torch.nn.Linear(6, 7), torch.nn.Linear(7, 5)]
    weights = {str(n): m.weight.detach().clone()[None] for n, m in enumerate(modules)}
    layers = [Layer(n, tuple(w.shape[1:]), "hidden") for n, w in weights.items()]
    full = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    mask = prune(
        full,
        Target("global", (30,), 0),
        LARGE,
        {"final": weights},
        layers=layers,
        seed=Seed(0),
        level=1,
    )
    torch_prune.global_unstructured(
        [(m, "weight") for m in modules], torch_prune.L1Unstructured, amount=77 - 30
    )
    for number, module in enumerate(modules):
        assert torch.equal(mask[str(number)][0], dict(module.named_buffers())["weight_mask"] != 0)


@pytest.mark.parametrize("criterion", ["random", "large_final", "small_final"])
def test_masks_only_shrink(criterion: str) -> None:
    first = cut(
        Target("layer", (4, 3), 0.3), criterion=Call(f"lt_sweeps.sparsity.criteria.{criterion}")
    )
    second = cut(
        Target("layer", (2, 1), 0.7), first, Call(f"lt_sweeps.sparsity.criteria.{criterion}")
    )
    assert all(bool((second[n] <= first[n]).all()) for n in first)
    assert sparsity(second).item() == pytest.approx(0.7)


def test_random_differs_between_seeds_and_from_magnitude() -> None:
    target, random = Target("layer", (3, 2), 0.5), Call("lt_sweeps.sparsity.criteria.random")
    masks = [cut(target, criterion=random, seed=seed)["a"] for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    big = Target("layer", (3, 2), 0.5)
    assert any(
        not torch.equal(cut(big, criterion=random, seed=s)["a"], cut(big)["a"]) for s in range(3)
    )


def test_a_criterion_that_returns_bools_is_the_mask() -> None:
    signs = Call("lt_sweeps.sparsity.criteria.large_final_same_sign_single")
    init = {name: -w if name == "b" else w for name, w in FINAL.items()}
    mask = prune(
        ALL,
        Target("layer", (1, 1), 0),
        signs,
        {"init": init, "final": FINAL},
        layers=LAYERS,
        seed=Seed(0),
        level=1,
    )
    assert {n: int(left) for n, left in remaining(mask).items()} == {"a": 6, "b": 0}


def no_numbers(final: torch.Tensor) -> torch.Tensor:
    return torch.full_like(final, torch.nan)


def half_no_numbers(final: torch.Tensor) -> torch.Tensor:
    return final.log()  # NaN for the negative half


def infinite(final: torch.Tensor) -> torch.Tensor:
    return 1 / (final - final)


def is_large(final: torch.Tensor) -> torch.Tensor:
    return final.abs() > 2


def imaginary(final: torch.Tensor) -> torch.Tensor:
    return final * 1j


def of_torch(final: torch.Tensor) -> torch.Tensor:
    return torch.rand_like(final)


def of_numpy(final: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.random.rand(len(final)))


def of_python(final: torch.Tensor) -> torch.Tensor:
    return final * random.random()


CALLS: list[int] = []


def counted(final: torch.Tensor) -> torch.Tensor:
    CALLS.append(0)
    return final * len(CALLS)


def one_number(final: torch.Tensor) -> torch.Tensor:
    return final.abs().max()


def flat(final: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(final)


def overwrites(final: torch.Tensor) -> torch.Tensor:
    return final.abs_()


@whole_mask
def not_a_mask(final: torch.Tensor) -> torch.Tensor:
    return final.abs()


def mine(function: object) -> Call:
    return Call(f"{__name__}.{getattr(function, '__name__', '')}")


def test_a_criterion_of_ours_is_computed_once_and_sorts_its_noise_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranking takes most of the start of a level: three sorts per layer and replicate."""
    sorts, argsort = [], torch.Tensor.argsort
    monkeypatch.setattr(
        torch.Tensor, "argsort", lambda t, **how: sorts.append(len(t)) or argsort(t, **how)
    )
    ranks = Call("lt_sweeps.sparsity.criteria.large_init_large_final")
    evidence = {"init": FINAL, "final": FINAL}
    prune(ALL, Target("layer", (2, 1), 0.7), ranks, evidence, layers=LAYERS, seed=Seed(0), level=1)
    assert sorts == [6, 6, 6, 4, 4, 4]


@pytest.mark.parametrize(
    "function",
    [
        function
        for family in (criteria, resets, freezes)
        for name, function in vars(family).items()
        if getattr(function, "__module__", "") == family.__name__ and not name.startswith("_")
    ],
    ids=lambda function: f"{function.__module__.rpartition('.')[2]}.{function.__name__}",
)
def test_functions_of_ours_depend_on_their_arguments_alone(function: Callable[..., Tensor]) -> None:
    """So a sweep does not call them a second time, as it does with user-defined functions."""
    # A criterion sees the weights that compete as a vector, a reset or a freeze a layer.
    shape, evidence = (30,) if function.__module__ == criteria.__name__ else (6, 5), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            evidence |= {} if parameter.default is not parameter.empty else {name: 0.5}
        else:
            numbers = torch.rand(shape, generator=ties()) - 0.5
            evidence[name] = numbers > 0 if name in ("kept", "cut", "keeps", "sampled") else numbers

    def computed() -> dict[str, Tensor]:
        given = {n: v.clone() if isinstance(v, Tensor) else v for n, v in evidence.items()}
        return {"a": function(**given)}

    repeated(computed, function.__name__)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (no_numbers, "not finite for 6 of the 6 weights of a, whose evidence is finite"),
        (half_no_numbers, "not finite for 2 of the 6 weights of a"),
        (infinite, "not finite for 6 of the 6 weights of a"),
        (is_large, "gives bool scores for a; a score is a real number"),
        (imaginary, "gives complex64 scores for a; a score is a real number"),
        (not_a_mask, "gives float32 scores for a; a score is a real number, and bools"),
        (of_torch, "gives other values for a when it is called again"),
        (of_numpy, "gives other values for a when it is called again"),
        (of_python, "gives other values for a when it is called again"),
        (counted, "gives other values for a when it is called again"),
        (one_number, r"gives scores of shape \[\] for the 6 weights of a"),
    ],
)
def test_scores_that_do_not_say_which_weights_stay_are_refused_by_name(
    criterion: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        cut(Target("layer", (2, 1), 0.7), criterion=mine(criterion))
    assert str(refused.value).startswith(f"mask_criterion: `{mine(criterion).target}` gives")


def test_scores_that_are_all_equal_are_said_and_cut_exactly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mask = cut(Target("layer", (2, 1), 0.7), criterion=mine(flat))
    assert {name: int(n) for name, n in remaining(mask).items()} == {"a": 2, "b": 1}
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"mask_criterion: `{mine(flat).target}` gives all {size} weights of {name} one score, so "
        f"the {count} that stay are drawn at random"
        for name, size, count in (("a", 6, 2), ("b", 4, 1))
    ]


def test_a_criterion_that_overwrites_its_evidence_harms_nothing() -> None:
    before = {name: weights.clone() for name, weights in FINAL.items()}
    mask = cut(Target("layer", (2, 1), 0.7), criterion=mine(overwrites))
    assert mask["a"][0].tolist() == [[False] * 3, [False, True, True]]
    assert all(torch.equal(FINAL[name], weights) for name, weights in before.items())


def test_weights_that_diverged_are_pruned_and_no_fault_of_the_criterion() -> None:
    diverged = {**FINAL, "a": torch.full((1, 2, 3), torch.nan)}
    mask = cut(Target("layer", (2, 1), 0.7), final=diverged)
    assert int(mask["a"].sum()) == 2


def test_a_schedule_that_keeps_more_than_is_left_is_refused() -> None:
    left = {**ALL, "b": tensor([[True, False, False, False]])}
    with pytest.raises(
        ValueError, match="schedule: level 1 keeps 2 weights of b, and only 1 are left"
    ):
        cut(Target("layer", (2, 2), 0.6), left)


def test_the_global_generators_are_as_they_were() -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    cut(Target("layer", (2, 1), 0.7))
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def drifting(init: torch.Tensor) -> torch.Tensor:
    return torch.randn_like(init)


def test_a_reset_that_draws_by_itself_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="reset: `.*drifting` gives other values for a when it"):
        restart(
            ALL,
            Ticket(FINAL, ALL, 100),
            mine(drifting),
            Call("lt_sweeps.sparsity.freezes.zero"),
            {"final": FINAL, "init": FINAL},
            base=Ticket(FINAL, ALL),
            step=0,
            layers=LAYERS,
            seed=Seed(0),
            level=1,
        )


def test_restart_rewinds_the_kept_and_pins_the_pruned_for_good() -> None:
    origin = {
        "a": torch.full((1, 2, 3), 0.1),
        "b": torch.full((1, 4), 0.2),
        "bias": tensor([[1.0]]),
    }
    before = {"a": ALL["a"].clone(), "b": tensor([[False, True, True, True]])}
    after = {"a": ALL["a"].clone(), "b": tensor([[False, False, True, True]])}
    state = {**FINAL, "b": tensor([[0.25, 7, -8, 9]]), "bias": tensor([[2.0]])}
    init = {"a": origin["a"], "b": tensor([[0.5, 0.3, 0.2, 0.1]])}
    for freeze, pinned in (("zero", 0.0), ("init", 0.3)):
        ticket = restart(
            after,
            Ticket(state, before, 100),
            Call("lt_sweeps.sparsity.resets.rewind"),
            Call(f"lt_sweeps.sparsity.freezes.{freeze}"),
            {"origin": origin, "final": state, "init": init},
            base=Ticket(origin, before),
            step=0,
            layers=LAYERS,
            seed=Seed(0),
            level=2,
        )
        # Pruned a level ago: stays at 0.25. Pruned now: the freeze's value. Kept: rewound.
        expected = tensor([0.25, pinned, 0.2, 0.1])
        assert torch.equal(ticket.state["b"][0], expected)
        assert ticket.state["bias"].item() == 1.0, "what is not prunable is the origin's"


def test_ranks_are_among_the_weights_that_are_left() -> None:
    """Of weights 4 to 7, 5 and 6 have the highest lower rank; pruned weights are left out."""
    layer = (Layer("a", (8,), "hidden"),)
    left = {"a": tensor([[False] * 4 + [True] * 4])}
    init = {"a": tensor([[9.0, 9, 9, 9, 1, 3, 2, 4]])}
    final = {"a": tensor([[0.0, 0, 0, 0, 2, 3, 4, 1]])}
    both = Call("lt_sweeps.sparsity.criteria.large_init_large_final")
    evidence = {"init": init, "final": final}
    mask = prune(
        left, Target("layer", (1,), 0), both, evidence, layers=layer, seed=Seed(0), level=1
    )
    assert mask["a"][0].nonzero().flatten().tolist() == [5]


def test_a_global_scope_ranks_over_all_layers_alike() -> None:
    layers = (Layer("big", (1000,), "hidden"), Layer("small", (10,), "output"))
    kept = {layer.name: torch.ones(1, *layer.shape, dtype=torch.bool) for layer in layers}
    draws = torch.Generator().manual_seed(0)
    state = {layer.name: torch.randn(1, *layer.shape, generator=draws) for layer in layers}
    both = Call("lt_sweeps.sparsity.criteria.large_init_large_final")
    evidence = {"init": state, "final": state}
    mask = prune(
        kept, Target("global", (202,), 0), both, evidence, layers=layers, seed=Seed(0), level=1
    )
    assert 0 < int(mask["small"].sum()) < 10
