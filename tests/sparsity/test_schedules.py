"""Schedules keep exactly the specified numbers of weights."""

from typing import Any

import pytest

from lt_sweeps.config.call import Call, Config
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.schedules import geometric, one_shot, sparsities, targets_of

FC = [
    Layer("hidden.0", (300, 784), "hidden"),
    Layer("hidden.1", (100, 300), "hidden"),
    Layer("output", (10, 100), "output"),
]


def conv(*channels: int, flat: int) -> list[Layer]:
    pairs = zip((3, *channels), channels, strict=False)
    convs = [Layer(f"conv{n}", (o, i, 3, 3), "conv") for n, (i, o) in enumerate(pairs)]
    rest = [((256, flat), "hidden"), ((256, 256), "hidden"), ((10, 256), "output")]
    return convs + [Layer(f"fc{n}", shape, kind) for n, (shape, kind) in enumerate(rest)]


CONV4 = conv(64, 64, 128, 128, flat=8192)
CONV6 = conv(64, 64, 128, 128, 256, 256, flat=4096)
PAPER: dict[str, Any] = {"hidden": 0.2, "output": 0.1}


@pytest.mark.parametrize(
    ("layers", "rate", "level", "expected"),
    [
        (FC, 0.1, 1, [188161, 24001, 901]),
        (FC, 0.1, 2, [150529, 19201, 811]),
        (FC, 0.1, 12, [16165, 2065, 286]),
        (FC, 0.1, 24, [1114, 145, 85]),
        (CONV4, 0.1, 24, [143, 2945, 5886, 11768, 9906, 313, 209]),
        (CONV6, 0.15, 1, [1469, 31335, 62669, 125338, 250676, 501351, 838861, 52429, 2305]),
    ],
)
def test_counts_of_arxiv_1905_01067(
    layers: list[Layer], rate: float, level: int, expected: list[int]
) -> None:
    targets = geometric(layers, levels=24, conv=rate, **PAPER)
    assert list(targets[level - 1].keep) == expected


@pytest.mark.parametrize(("level", "percent"), [(4, 41.05), (12, 6.96), (24, 0.50)])
def test_percent_remaining_of_fc(level: int, percent: float) -> None:
    keep = geometric(FC, levels=24, **PAPER)[level - 1].keep
    assert 100 * sum(keep) / 266_200 == pytest.approx(percent, abs=0.005)


def test_a_global_scope_counts_over_all_layers() -> None:
    targets = geometric(FC, levels=2, scope="global", output=0.2, hidden=0.2)
    assert [target.keep for target in targets] == [(212_961,), (170_369,)]


def test_targets_on_the_way_to_a_sparsity_are_those_of_the_endless_schedule() -> None:
    endless = geometric(FC, levels=5, **PAPER)
    to_half = geometric(FC, sparsity=0.5, **PAPER)
    assert to_half[:-1] == endless[:3]
    assert sum(to_half[-1].keep) == pytest.approx(133_100, abs=2)


def test_the_level_that_ends_at_a_sparsity_rounds_to_the_nearest_count() -> None:
    layers = [Layer("a", (10, 10), "hidden"), Layer("b", (1, 9), "output")]
    assert geometric(layers, sparsity=0.7)[-1].keep == (30, 3)  # of 30.0 and 2.7


def test_a_sparsity_that_a_level_hits_is_that_level() -> None:
    endless = geometric(FC, levels=3, **PAPER)
    assert geometric(FC, sparsity=round(endless[2].sparsity, 4), **PAPER) == endless


def test_listed_sparsities_are_rounded_within_each_layer() -> None:
    (first, second) = sparsities(FC, sparsity=[0.5, 0.9])
    assert first.keep == (117_600, 15_000, 500)
    assert second.keep == (23_520, 3_000, 100)
    assert one_shot(FC, sparsity=0.9) == (second,)


@pytest.mark.parametrize("wrong", [1.0, -0.1, 1.5])
def test_a_sparsity_outside_its_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"schedule: sparsity .* lies outside \[0, 1\)"):
        one_shot(FC, sparsity=wrong)


def test_a_percentage_is_answered_with_the_fraction() -> None:
    with pytest.raises(ValueError, match=r"sparsity 80 lies outside \[0, 1\); did you mean 0.8\?"):
        one_shot(FC, sparsity=80)


def test_sparsity_must_rise() -> None:
    message = "must rise at every level, got 0.8 at level 1 and 0.8 at level 2, which .* weights$"
    with pytest.raises(ValueError, match=message):
        sparsities(FC, sparsity=[0.8, 0.8])


def test_a_level_that_asks_for_less_than_one_weight_is_said() -> None:
    layers = [Layer("a", (4, 5), "hidden")]
    most = "this network allows 9 levels at most"
    message = f"at level 9 and .* at level 10, which keep 5 and 5 weights; {most}$"
    with pytest.raises(ValueError, match=message):
        geometric(layers, levels=10)
    assert len(geometric(layers, levels=9)) == 9


def test_an_emptied_layer_is_named() -> None:
    with pytest.raises(ValueError, match="leaves nothing of output"):
        one_shot(FC, sparsity=0.9999)


@pytest.mark.parametrize("wrong", [{"levels": 0}, {}, {"levels": 3, "sparsity": 0.5}])
def test_levels_or_sparsity_but_not_both(wrong: dict) -> None:
    with pytest.raises(ValueError, match="schedule: "):
        geometric(FC, **wrong)


def test_a_global_scope_needs_one_rate() -> None:
    with pytest.raises(ValueError, match="a global scope needs one rate"):
        geometric(FC, levels=2, scope="global", **PAPER)


def bare(layers: list[Layer], *, levels: list[float]) -> list[float]:
    return levels


@pytest.mark.parametrize("levels", [[0.5, 0.7], []])
def test_a_schedule_that_returns_no_targets_is_refused(levels: list[float]) -> None:
    schedule = Call(f"{__name__}.bare", Config(levels=levels))
    with pytest.raises(ValueError, match=r"schedule: `.*bare` returned \[.*; give a Target for"):
        targets_of(schedule, FC)
