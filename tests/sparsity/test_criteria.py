"""Each criterion against values worked out by hand, or against its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from lt_sweeps.sparsity import criteria
from lt_sweeps.sparsity.evidence import Criterion

INIT = tensor([1.0, -2.0, 3.0, -0.5])
FINAL = tensor([2.0, -1.0, -1.0, -1.5])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("large_final", [2.0, 1.0, 1.0, 1.5]),
        ("small_final", [-2.0, -1.0, -1.0, -1.5]),
        ("large_init", [1.0, 2.0, 3.0, 0.5]),
        ("small_init", [-1.0, -2.0, -3.0, -0.5]),
        ("magnitude_increase", [1.0, -1.0, -2.0, 1.0]),
        ("movement", [1.0, 1.0, 4.0, 1.0]),
        ("large_final_same_sign", [2.0, 1.0, 0.0, 1.5]),
        ("large_final_diff_sign", [0.0, 0.0, 1.0, 0.0]),
        ("magnitude_increase_same_sign", [1.0, -1.0, 0.0, 1.0]),
        ("magnitude_increase_diff_sign", [0.0, 0.0, -2.0, 0.0]),
        ("large_final_same_sign_single", [True, True, False, True]),
        ("large_final_diff_sign_single", [False, False, True, False]),
    ],
)
def test_each_formula_gives_the_values_worked_out_by_hand(name: str, expected: list) -> None:
    function = getattr(criteria, name)
    evidence = {"init": INIT, "final": FINAL}
    named = {key: evidence[key] for key in function.__annotations__ if key in evidence}
    assert function(**named).tolist() == expected


def test_a_weight_at_0_has_a_sign_of_its_own() -> None:
    init, final = tensor([0.0, 0.0, 1.0, -1.0]), tensor([0.0, 1.0, 0.0, 0.0])
    same = [True, False, False, False]
    assert criteria.large_final_same_sign_single(init, final).tolist() == same
    assert criteria.large_final_diff_sign_single(init, final).tolist() == [not s for s in same]


def test_a_learned_mask_keeps_what_lies_above_its_boundary_and_not_on_it() -> None:
    logits = tensor([-1.0, 0.0, 1.0])
    assert criteria.learned(logits).tolist() == [False, False, True]
    assert criteria.slim(tensor([0.4, 0.5, 0.6]), percent=0.5).tolist() == [False, False, True]
    chances = torch.sigmoid(logits)
    assert criteria.drawn(logits, chances).tolist() == [False] * 3
    assert criteria.drawn(logits, chances - 1e-3).tolist() == [True] * 3


def test_of_equal_logits_the_larger_weights_stay() -> None:
    logits, final = tensor([1.0, 0.0, 1.0, 1.0]), tensor([2.0, 9.0, -3.0, 2.0])
    assert criteria.large_logit(logits, final).tolist() == [1.0, 0.0, 2.0, 1.0]


def quadrant(init: torch.Tensor, final: torch.Tensor, count: int) -> torch.Tensor:
    """The released rule: one percentile q for both, at which {both above q} has `count` members."""
    a, b = init.abs(), final.abs()
    both = [(a >= a.quantile(q)) & (b >= b.quantile(q)) for q in torch.linspace(0, 1, 4001)]
    return min(both, key=lambda mask: abs(int(mask.sum()) - count))


@pytest.mark.parametrize("count", [200, 1000, 3000])
def test_min_of_ranks_is_the_quadrant_rule(count: int) -> None:
    draws = torch.Generator().manual_seed(0)
    init, final, noise = (torch.randn(4000, generator=draws) for _ in range(3))
    score = criteria.large_init_large_final(init, final, noise)
    kept = torch.zeros(4000, dtype=torch.bool)
    kept[score.topk(count).indices] = True
    assert int((kept != quadrant(init, final, count)).sum()) <= 4


def test_the_small_form_is_the_large_form_of_negated_magnitudes() -> None:
    draws = torch.Generator().manual_seed(0)
    init, final, noise = (torch.randn(50, generator=draws) for _ in range(3))
    small = criteria.small_init_small_final(init, final, noise)
    assert (
        small.argmax()
        == torch.maximum(init.abs().argsort().argsort(), final.abs().argsort().argsort()).argmin()
    )


RANKED = ["large_init_large_final", "small_init_small_final"]


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("tied", ["init", "final", "half of init", "both"])
def test_ties_of_ranks_are_broken_at_random_as_by_numpys_lexsort(name: str, tied: str) -> None:
    """The released code sorts by (score, random). By position, only one half would be kept."""
    draws = torch.Generator().manual_seed(0)
    init, final, noise = (torch.randn(10_000, generator=draws) for _ in range(3))
    if tied in ("init", "both"):  # `reset=constant_init_sign`
        init = init.sign()
    if tied in ("final", "both"):
        final = final.sign()
    if tied == "half of init":  # `freeze=variant_2`
        init = torch.where(torch.rand(10_000, generator=draws) < 0.5, 0.0, init)
    score = getattr(criteria, name)(init, final, noise)
    kept = torch.zeros(10_000, dtype=torch.bool)
    kept[score.topk(2000).indices] = True
    in_first_half = float(kept[:5000].sum()) / 2000
    assert in_first_half == pytest.approx(_by_lexsort(name, init, final), abs=0.05)
    assert in_first_half == pytest.approx(0.5, abs=0.05)


def _by_lexsort(name: str, init: torch.Tensor, final: torch.Tensor) -> float:
    """The fraction of kept weights in the first half, with the released code's tie-break."""
    draws, sign = np.random.RandomState(1), 1 if name.startswith("large") else -1
    ranks = np.empty((2, len(init)))
    for row, weights in zip(ranks, (init, final), strict=True):
        order = np.lexsort((draws.random_sample(len(init)), sign * weights.abs().numpy()))
        row[order] = np.arange(len(init))
    kept = np.argsort(ranks.min(0))[-2000:]
    return float((kept < 5000).mean())


@pytest.mark.parametrize("name", RANKED)
def test_without_ties_the_noise_changes_no_rank(name: str) -> None:
    draws = torch.Generator().manual_seed(0)
    init, final, *noises = (torch.randn(500, generator=draws) for _ in range(4))
    first, second = (getattr(criteria, name)(init, final, noise) for noise in noises)
    assert torch.equal(first, second)


def misnamed(finl: Tensor, *, power: float = 1.0) -> Tensor:
    return finl**power


def bare(final, *, power=1.0):
    return final**power


def test_an_argument_with_a_default_is_a_key_though_it_has_no_annotation() -> None:
    criterion = Criterion.of({"_target_": f"{__name__}.bare", "power": 2.0})
    assert [name for name, _ in criterion.evidence] == ["final"]
    assert criterion.call(final=torch.tensor([3.0])).tolist() == [9.0]


def test_unknown_evidence_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"it cannot have: finl; did you mean `final`\? it can"):
        Criterion.of({"_target_": f"{__name__}.misnamed"})
