"""Each criterion against values worked by hand, or its own definition."""

import pytest
import torch
from torch import tensor

from lt_sweeps.sparsity import criteria

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
def test_values(name: str, expected: list) -> None:
    function = getattr(criteria, name)
    evidence = {"init": INIT, "final": FINAL}
    named = {key: evidence[key] for key in function.__annotations__ if key in evidence}
    assert function(**named).tolist() == expected


def quadrant(init: torch.Tensor, final: torch.Tensor, count: int) -> torch.Tensor:
    """The released rule: the one percentile q of both at which {both above} has `count` members."""
    a, b = init.abs(), final.abs()
    both = [(a >= a.quantile(q)) & (b >= b.quantile(q)) for q in torch.linspace(0, 1, 4001)]
    return min(both, key=lambda mask: abs(int(mask.sum()) - count))


@pytest.mark.parametrize("count", [200, 1000, 3000])
def test_min_of_ranks_is_the_quadrant_rule(count: int) -> None:
    draws = torch.Generator().manual_seed(0)
    init, final = (torch.randn(4000, generator=draws) for _ in range(2))
    score = criteria.large_init_large_final(init, final)
    kept = torch.zeros(4000, dtype=torch.bool)
    kept[score.topk(count).indices] = True
    assert int((kept != quadrant(init, final, count)).sum()) <= 4


def test_the_small_form_is_the_large_form_of_negated_magnitudes() -> None:
    draws = torch.Generator().manual_seed(0)
    init, final = (torch.randn(50, generator=draws) for _ in range(2))
    small = criteria.small_init_small_final(init, final)
    assert (
        small.argmax()
        == torch.maximum(init.abs().argsort().argsort(), final.abs().argsort().argsort()).argmin()
    )
