"""Ranking on a device keeps the same weights as ranking on the CPU, and the host never waits."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from fixtures.captured_step import no_waits
from torch import Tensor, tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity import top_k
from lt_sweeps.sparsity.top_k import (
    keep_top,
    keep_top_of_each,
    keep_top_of_layers,
    of_one_size,
)

SEEDS = tuple(map(Seed.of, range(4)))
TIED = tensor([1.0, 1, 1, 2, 2, 2, 3, 3])


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(top_k, "host_reads", lambda tensor: False)
    yield


def ranked(scores: Tensor, counts: list[int], *index: int | str) -> Tensor:
    return keep_top_of_each(scores, tensor(counts), SEEDS[: len(scores)], *index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_ties_it_keeps_what_the_cpu_keeps(dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 1000, generator=draws, dtype=dtype)
    counts = [0, 1, 637, 1000]
    alone = [keep_top(row, count, draws) for row, count in zip(scores, counts, strict=True)]
    assert torch.equal(ranked(scores, counts), torch.stack(alone))


@pytest.mark.parametrize("count", range(-1, 10))
@pytest.mark.parametrize(
    "row",
    [
        torch.arange(8.0),
        torch.zeros(8),
        TIED,
        torch.full((8,), torch.nan),
        tensor([torch.inf, torch.inf, torch.inf, 1, 1, -torch.inf, -torch.inf, torch.nan]),
    ],
    ids=["apart", "equal", "tied", "nan", "infinite"],
)
def test_exactly_the_count_is_kept_and_none_of_the_others_is_higher(
    row: Tensor, count: int
) -> None:
    scores, counts = torch.stack([row, row.flip(0), row]), [count, count, 3]
    numbers = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    for kept, values, asked in zip(ranked(scores, counts), numbers, counts, strict=True):
        assert int(kept.sum()) == min(max(asked, 0), 8)
        assert not kept.any() or kept.all() or values[kept].min() >= values[~kept].max()


def test_ties_are_drawn_by_the_seed_and_the_index_and_favour_no_position() -> None:
    kept = [ranked(torch.zeros(2, 60), [20, 20], step, "fc") for step in range(600)]
    assert torch.equal(kept[7], ranked(torch.zeros(2, 60), [20, 20], 7, "fc"))
    assert torch.equal(
        kept[7][1:], keep_top_of_each(torch.zeros(1, 60), tensor([20]), SEEDS[1:2], 7, "fc")
    )
    assert not torch.equal(kept[7][0], kept[7][1]) and not torch.equal(kept[7], kept[8])
    times = torch.stack(kept).float().sum((0, 1))  # of 1,200: 400 +- 16.3 for each position
    assert float((times - 400).abs().max()) < 65
    pairs = Counter(int((row[:30] & row[30:]).sum()) for draw in kept for row in draw)
    assert 3.0 < sum(n * c for n, c in pairs.items()) / 1200 < 3.45  # 30 * 20/60 * 19/59 = 3.22


def test_equal_noise_is_settled_by_position() -> None:
    noise = tensor([[0.5] * 8, [0.1, 0.9] * 4])
    kept = top_k.keep_top_of_rows(torch.zeros(2, 8), tensor([3, 5]), noise)
    assert kept.int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 1, 0, 1]]


def test_it_does_not_wait_for_the_device() -> None:
    scores = TIED.repeat(4, 1)
    expected = ranked(scores, [1, 3, 5, 7])
    counts = tensor([1, 3, 5, 7])
    with no_waits():
        assert expected is not keep_top_of_each(scores, counts, SEEDS)
    with pytest.raises(RuntimeError, match="wait"), no_waits():
        keep_top(scores[0], 3, torch.Generator())


class _Count(TorchDispatchMode):
    """Counts the operations that a device would start."""

    started = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.started += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("on_host", [False, True])
def test_layers_of_one_size_are_ranked_as_each_alone_and_in_one_go_on_a_device(
    on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_k, "host_reads", lambda tensor: on_host)
    draws = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (6, 4, 50), generator=draws).float()  # with ties
    counts = torch.randint(0, 51, (6, 4), generator=draws)
    indices = [("drop", 7, f"layer{number}") for number in range(6)]
    alone = [
        keep_top_of_each(s, c, SEEDS, *i) for s, c, i in zip(scores, counts, indices, strict=True)
    ]
    assert torch.equal(keep_top_of_layers(scores, counts, SEEDS, indices), torch.stack(alone))
    if not on_host:
        operations = []
        for number in (1, 6):
            with _Count() as count:
                keep_top_of_layers(scores[:number], counts[:number], SEEDS, indices[:number])
            operations.append(count.started)
        # Only the key of each layer takes an operation of its own.
        assert operations[1] <= operations[0] + 6


def test_layers_are_grouped_by_size_in_their_order_and_within_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = {"a": (2, 3), "b": (4,), "c": (3, 2), "d": (6,), "e": (4,)}
    layers = [Layer(name, shape, "linear") for name, shape in shapes.items()]

    def named() -> list[str]:
        return ["".join(part.name for part in group) for group in of_one_size(layers, 2)]

    assert named() == ["acd", "be"]
    monkeypatch.setattr(top_k, "_TOGETHER", 25)  # two layers of six weights and two replicates
    assert named() == ["ac", "be", "d"]
    monkeypatch.setattr(top_k, "_TOGETHER", 1)
    assert named() == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_increasing_order_is_that_of_a_stable_sort(dtype: torch.dtype) -> None:
    special = tensor([0.0, -0.0, torch.nan, -torch.nan, torch.inf, -torch.inf, 1e-42, -1e-42])
    draws = torch.Generator().manual_seed(0)
    for count in (0, 1, 50_000):  # torch sorts many integers by their digits, and few as floats
        scores = torch.randn(count, generator=draws).to(dtype)
        odd = torch.randint(16, (count,), generator=draws)
        scores = torch.where(odd < 8, special.to(dtype)[odd % 8], scores)
        assert top_k.increasing(scores).equal(scores.argsort(stable=True))
