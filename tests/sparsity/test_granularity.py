"""Groups of weights are kept or pruned whole, in exact numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fixtures.hostile_files import forged
from fixtures.tiny_cell import CONV, compute_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF, options
from lt_sweeps.config.seeds import Seed
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.models.network import Network
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Prune, ancestors
from lt_sweeps.sparsity.competition import GroupCompetition, competitions
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.granularity import Granularity
from lt_sweeps.sparsity.group_numbers import groups_of, regrouped
from lt_sweeps.sparsity.pruning import prune
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.weight_groups import WHOLE, Groups
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]
LARGE = Call("lt_sweeps.sparsity.criteria.large_final")
EVERY = ("filter", "neuron", "channel", "kernel", "head", "4x4", "3x2", "2:4", "1:2")
HALF = {"_target_": "lt_sweeps.sparsity.schedules.sparsities", "sparsity": [0.5]}


class Mixed(nn.Module):
    """A network with a layer of each kind that has its own groups."""

    def __init__(
        self, input_shape: Any = (2, 4, 4), classes: int = 4, *, width: int = 8, heads: int = 2
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up = nn.ConvTranspose2d(width, 6, 2)
        self.output = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.second(torch.relu(self.conv(x))))
        tokens = y.flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.output(torch.relu(self.up(mixed.transpose(1, 2).view_as(y))).mean((2, 3)))


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2, whose weight is [in, out]."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


class Generative(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner, self.output = Conv1D(6, 4), nn.Linear(6, classes)


def test_the_outputs_of_a_conv1d_lie_along_its_second_dimension() -> None:
    config = {"net": {"_target_": f"{__name__}.Generative"}, "prunable": {"include": ["inner*"]}}
    network = Network.of(config, (4,), 3)
    rows = {"filter": range(6), "channel": range(4)}
    for word, numbers in rows.items():
        groups = groups_of(granularity(word), network).numbers["inner.weight"]
        groups = groups if word == "filter" else groups.T
        assert groups.tolist() == [[*numbers]] * len(groups)
    pattern = groups_of(granularity("2:4"), network).numbers["inner.weight"]
    assert pattern.tolist() == [[*range(6)]] * 4  # the four inputs of each output
    assert regrouped(granularity("filter"), network)


def net(**args: Any) -> Network:
    target = f"{__name__}.Mixed"
    prunable = {"include": ["*", "up.weight"]}
    return Network.of({"net": {"_target_": target, **args}, "prunable": prunable}, (2, 4, 4), 4)


def granularity(value: Any) -> Granularity:
    found = Granularity.of(value)
    assert found is not None
    return found


def by(value: Any, **args: Any) -> tuple[Groups, tuple[Layer, ...]]:
    network = net(**args)
    return groups_of(granularity(value), network), network.layers


def full(layers: tuple[Layer, ...]) -> dict[str, Tensor]:
    return {la.name: torch.ones(1, *la.shape, dtype=torch.bool) for la in layers}


def drawn(layers: tuple[Layer, ...], seed: int, *, coarse: bool = False) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    weights = {la.name: torch.randn(1, *la.shape, generator=draws) for la in layers}
    return {n: w.round() for n, w in weights.items()} if coarse else weights


def target(layers: tuple[Layer, ...], scope: str, density: float) -> Target:
    sizes = [layer.size for layer in layers]
    sizes = sizes if scope == "layer" else [sum(sizes)]
    return Target(scope, tuple(round(n * density) for n in sizes), 1 - density)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(
    st.sampled_from(EVERY),
    st.sampled_from(["layer", "global"]),
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3),
    st.integers(0, 9),
    st.booleans(),
)
def test_groups_stay_whole_counts_are_exact_and_masks_nest(
    value: str, scope: str, densities: list[float], seed: int, coarse: bool
) -> None:
    groups, layers = by(value, width=8)
    mask, weights = full(layers), drawn(layers, seed, coarse=coarse)
    for level, density in enumerate(sorted(densities, reverse=True), 1):
        aim = target(layers, scope, density)
        given = {"layers": layers, "seed": Seed(seed), "level": level, "groups": groups}
        cut = prune(mask, aim, LARGE, {"final": weights}, **given)
        again = prune(mask, aim, LARGE, {"final": weights}, **given)
        assert all(torch.equal(cut[name], again[name]) for name in cut)
        assert all(bool((cut[name] <= mask[name]).all()) for name in cut)
        assert groups.split_layer(cut) == ""
        for run in competitions(aim, layers, groups):
            left, before = (sum(int(m[name].sum()) for name in run.names) for m in (cut, mask))
            least, most = run.bounds
            assert min(least, before) <= left <= most
        assert all(bool(cut[la.name].any()) for la in layers), "no layer is emptied"
        mask = cut


@settings(max_examples=60)
@given(st.sampled_from(["filter", "channel", "kernel"]), st.floats(0.01, 0.99), st.integers(0, 9))
def test_the_number_of_groups_is_the_nearest_that_there_is(
    value: str, density: float, seed: int
) -> None:
    groups, layers = by(value)
    aim = target(layers, "layer", density)
    given = {"layers": layers, "seed": Seed(seed), "level": 1, "groups": groups}
    mask = prune(full(layers), aim, LARGE, {"final": drawn(layers, seed)}, **given)
    for layer, count in zip(layers, aim.keep, strict=True):
        sizes = groups.sizes[layer.name].tolist()
        reachable = [sum(sizes[:number]) for number in range(1, len(sizes) + 1)] or [layer.size]
        nearest = min(reachable, key=lambda kept: (abs(kept - count), -kept))
        assert int(mask[layer.name].sum()) == nearest


@pytest.mark.parametrize("option", sorted(options("mask_criterion")))
def test_every_criterion_takes_every_granularity_or_says_why_not(option: str) -> None:
    config = yaml.safe_load((CONF / "mask_criterion" / f"{option}.yaml").read_text())
    for value in EVERY:
        if option.endswith("_single"):
            with pytest.raises(ValueError, match="returns the mask itself"):
                Criterion.of({**config, "granularity": value})
        else:
            assert str(Criterion.of({**config, "granularity": value}).granularity) == value


def test_a_group_has_the_mean_score_of_its_weights() -> None:
    groups, layers = by("filter")
    weights = drawn(layers, 0)
    aim = target(layers, "layer", 0.5)
    given = {"layers": layers, "seed": Seed(0), "level": 1, "groups": groups}
    mask = prune(full(layers), aim, LARGE, {"final": weights}, **given)
    means = weights["conv.weight"][0].abs().mean((1, 2, 3))
    rows = mask["conv.weight"][0].flatten(1).all(1)
    assert set(rows.nonzero().flatten().tolist()) == set(means.topk(4).indices.tolist())


def test_a_random_choice_among_groups_does_not_go_by_their_size() -> None:
    """Means of many random numbers are near 1/2, so small groups were kept twice as often."""
    layers = (Layer("small", (20, 1), "hidden"), Layer("large", (20, 200), "hidden"))
    counted = {la.name: torch.arange(20)[:, None].expand(la.shape).int() for la in layers}
    counted["large"] = counted["large"] + 20
    groups, quarter = Groups(granularity("filter"), counted), target(layers, "global", 0.25)
    assert GroupCompetition(layers, 0, groups).shares_noise
    assert not GroupCompetition(layers[1:], 0, groups).shares_noise
    random = Call("lt_sweeps.sparsity.criteria.random")
    kept = {la.name: 0.0 for la in layers}
    for seed in range(30):
        how: dict[str, Any] = {"layers": layers, "seed": Seed.of(seed), "level": 1}
        mask = prune(full(layers), quarter, random, {}, groups=groups, **how)
        assert not groups.split_layer(mask)
        kept = {name: kept[name] + float(m.float().mean()) / 30 for name, m in mask.items()}
    assert kept["large"] == pytest.approx(0.25, abs=0.01)
    assert kept["small"] == pytest.approx(0.25, abs=0.06)  # four standard errors of 600 draws


def test_equal_scores_are_drawn_by_group_from_the_seed() -> None:
    groups, layers = by("filter")
    same = {name: torch.ones_like(w) for name, w in drawn(layers, 0).items()}
    aim = target(layers, "layer", 0.5)

    def rows(seed: int) -> list[int]:
        given = {"layers": layers, "seed": Seed(seed), "level": 1, "groups": groups}
        mask = prune(full(layers), aim, LARGE, {"final": same}, **given)
        return mask["conv.weight"][0].flatten(1).all(1).nonzero().flatten().tolist()

    assert rows(0) == rows(0) and len({tuple(rows(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("value", "layer", "shape"),
    [
        ("filter", "conv.weight", [18] * 8),
        ("channel", "conv.weight", [72] * 2),
        ("kernel", "conv.weight", [9] * 16),
        ("filter", "up.weight", [32] * 6),  # the outputs of a transposed one are its columns
        ("channel", "up.weight", [24] * 8),
        ("2:4", "second.weight", [4] * 144),
        ("4x4", "output.weight", [16, 8]),  # a ragged edge
        ("head", "attention.in_proj_weight", [96, 96]),
        ("head", "attention.out_proj.weight", [32, 32]),
    ],
)
def test_the_sizes_of_groups(value: str, layer: str, shape: list[int]) -> None:
    groups, _ = by(value)
    assert groups.sizes[layer].tolist() == shape


@pytest.mark.parametrize(
    ("value", "layer"),
    [
        ("filter", "output.weight"),  # its rows are classes
        ("neuron", "output.weight"),
        ("2:4", "conv.weight"),  # two inputs are not a multiple of four
        ("head", "conv.weight"),
        ("kernel", "output.weight"),
    ],
)
def test_a_layer_without_such_groups_stays_whole(value: str, layer: str) -> None:
    groups, layers = by(value)
    assert bool((groups.numbers[layer] == WHOLE).all())
    given = {"layers": layers, "seed": Seed(0), "level": 1, "groups": groups}
    aim = target(layers, "global", 0.5)
    assert prune(full(layers), aim, LARGE, {"final": drawn(layers, 0)}, **given)[layer].all()


class Grouped(nn.Module):
    """Convolutions with four groups, with one group per channel, and transposed with two groups."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.four, self.each = nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 16, 1, groups=8)
        self.up, self.output = nn.ConvTranspose2d(16, 6, 2, groups=2), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.up(self.each(self.four(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("value", "layer", "channels"),
    [("channel", "four.weight", 8), ("channel", "each.weight", 8), ("filter", "up.weight", 6)],
)
def test_a_channel_of_a_grouped_convolution_is_one_of_the_network(
    value: str, layer: str, channels: int
) -> None:
    """Without the weights of a group, exactly one channel is no longer read, or written."""
    config = {"net": {"_target_": f"{__name__}.Grouped"}, "prunable": {"include": ["*", "up.*"]}}
    network = Network.of(config, (8, 6, 6), 4)
    groups = groups_of(granularity(value), network)
    numbers = groups.numbers[layer]
    assert len(groups.sizes[layer]) == channels
    module = network.holding(network.draw(Seed(0)))
    part, own = module.get_submodule(layer.removesuffix(".weight")), module.get_parameter(layer)
    assert isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None
    x, silent = torch.randn(1, part.in_channels, 3, 3, requires_grad=True), 0 * part.bias
    for number in numbers.unique():
        weight = own * (numbers != number)
        out = torch.func.functional_call(part, {"weight": weight, "bias": silent}, (x,))
        if value == "filter":
            dead = (out == 0).flatten(2).all(2)[0]
        else:
            (grad,) = torch.autograd.grad(out.square().sum(), x)
            dead = (grad == 0).flatten(2).all(2)[0]
        assert int(dead.sum()) == 1


def test_only_a_granularity_whose_groups_were_wrong_has_another_key(cell: Make) -> None:
    def fields(kind: str, shape: list[int], value: str) -> Any:
        model = {"net": {"_target_": f"{__name__}.{kind}"}}
        asked = cell(model=model, dataset__shape=shape, mask_criterion=large(value), schedule=HALF)
        stages = ancestors(plan([asked]).cells[0].last)
        return next(s.fields()["granularity"] for s in stages if isinstance(s, Prune))

    assert fields("Grouped", [8, 6, 6], "channel") == {"groups": "channel", "version": 2}
    assert fields("Grouped", [8, 6, 6], "filter") == {"groups": "filter"}
    assert fields("Mixed", [2, 4, 4], "channel") == {"groups": "channel"}


def test_a_head_goes_from_all_projections_at_once() -> None:
    groups, layers = by("head", heads=4)
    given = {"layers": layers, "seed": Seed(0), "level": 1, "groups": groups}
    aim = target(layers, "layer", 0.5)
    mask = prune(full(layers), aim, LARGE, {"final": drawn(layers, 0)}, **given)
    rows = mask["attention.in_proj_weight"][0].all(1).view(3, 4, 2)
    columns = mask["attention.out_proj.weight"][0].all(0).view(4, 2)
    assert int(columns.sum()) == 4 and bool((rows == columns).all())


def test_a_pattern_keeps_the_largest_of_each_m_inputs() -> None:
    groups, layers = by("2:4")
    weights = drawn(layers, 3)
    given = {"layers": layers, "seed": Seed(0), "level": 1, "groups": groups}
    aim = target(layers, "layer", 0.5)
    mask = prune(full(layers), aim, LARGE, {"final": weights}, **given)["second.weight"][0]
    largest = weights["second.weight"][0].abs().movedim(1, -1).reshape(-1, 4).topk(2).indices
    expected = torch.zeros(len(largest), 4, dtype=torch.bool).scatter_(1, largest, True)
    assert torch.equal(mask.movedim(1, -1).reshape(-1, 4), expected)


@pytest.mark.parametrize("value", ["filters", 124, "4:2", "0x4", [4], "2:2", None])
def test_a_wrong_granularity_is_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^mask_criterion.granularity: got .*2:4") as error:
        Granularity.of(value)
    assert "\n" not in str(error.value)


def test_a_mask_of_its_own_takes_no_granularity() -> None:
    config = {"_target_": "lt_sweeps.sparsity.criteria.large_final_same_sign_single"}
    assert Criterion.of({**config, "granularity": "weight"}) == Criterion.of(config)
    with pytest.raises(ValueError, match="returns the mask itself"):
        Criterion.of({**config, "granularity": "filter"})


def rows(store: Store, made: Plan) -> list[dict[str, Any]]:
    (cell,) = made.cells
    path = store.root / "runs" / cell.signature / "0" / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def large(value: Any) -> dict[str, Any]:
    return {"_target_": LARGE.target, "granularity": value}


MIXED = {"net": {"_target_": f"{__name__}.Mixed", "heads": 4}}


@pytest.mark.parametrize("value", ["filter", "channel", "kernel", "3x5", "2:4", "head"])
def test_a_sweep_of_groups_is_computed_recorded_and_audited(
    cell: Make, run: Run, value: str
) -> None:
    twice = {**HALF, "sparsity": [0.25, 0.5]}
    model = {"model": MIXED, "dataset__shape": [2, 4, 4]} if value == "head" else {"model": CONV}
    made, store = run(cell(mask_criterion=large(value), schedule=twice, **model))
    found = rows(store, made)
    assert [row["granularity"] for row in found] == [None, value, value]
    for row in found[1:]:
        miss = abs(row["sparsity"] - row["target_sparsity"]) * row["weights_total"]
        assert miss <= row["resolution"] + 1e-6 * row["weights_total"]
    assert audit(store.root, sample="all", trust=__name__, console=Console(quiet=True))


@pytest.mark.parametrize("value", ["neuron", "1:2"])
def test_a_stack_prunes_what_each_seed_alone_prunes(cell: Make, tmp_path: Path, value: str) -> None:
    cells = [cell(mask_criterion=large(value), schedule=HALF, seed=seed) for seed in (0, 1)]
    made, stacked = compute_cells(*cells, root=tmp_path / "stacked")
    _, alone = compute_cells(*cells, root=tmp_path / "alone", alone=True)
    for seed in (0, 1):
        masks = [s.read(made.cells[0].last.key, Seed(seed)).mask for s in (stacked, alone)]
        assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_a_stored_mask_that_splits_a_group_is_found(cell: Make, run: Run) -> None:
    made, store = run(cell(mask_criterion=large("filter"), schedule=HALF))
    last = made.cells[0].last

    def moved(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        mask, weight = tensors["mask/hidden.0.weight"], tensors["hidden.0.weight"]
        row, other = mask.all(1).nonzero()[0, 0], (~mask.any(1)).nonzero()[0, 0]
        mask[row, 0], mask[other, 0] = False, True  # the same number of weights
        weight[row, 0] = 0.0

    assert not made.missing(store, thorough=True)
    forged(store.path(last.key, Seed(0)), moved)
    assert [unit.stage for unit in made.missing(store, thorough=True)] == [last]
    assert not audit(store.root, sample="0", console=Console(quiet=True))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_groups_of_a_whole_layer_count_in_the_target(cell: Make, scope: str) -> None:
    planned = plan([cell(mask_criterion=large("neuron"), schedule={**HALF, "scope": scope})])
    assert any("output.weight is not pruned (its rows are classes)" in n for n in planned.notes)
    # 192 and 96 weights are halved, 32 stay: 176 of 320; over all layers half of all go.
    assert planned.cells[0].last.target_sparsity == (0.45 if scope == "layer" else 0.5)


def test_a_plan_says_what_cannot_be_reached(cell: Make) -> None:
    schedule = {**HALF, "sparsity": [0.5, 0.96]}
    planned = plan([cell(mask_criterion=large("neuron"), schedule=schedule)])
    assert "neuron: hidden.1.weight keeps 4, 1 of 8 neurons" in planned.notes
    assert (
        "neuron: level 2 asks hidden.1.weight to keep 4 weights; one neuron of each layer stays, "
        "so that 12 are left"
    ) in planned.notes


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.9])
def test_few_large_groups_train_at_what_is_nearest(cell: Make, run: Run, sparsity: float) -> None:
    model = {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [4, 3]}}
    large_input = {"dataset__shape": [1, 12, 12], "dataset__train": 64}
    schedule = {**HALF, "sparsity": [sparsity]}
    changes = {"model": model, "schedule": schedule, **large_input}
    made, store = run(cell(mask_criterion=large("neuron"), **changes))
    row = rows(store, made)[1]
    # Four neurons of 144 weights: as many stay as come nearest, and one at least.
    kept = max(1, math.floor(4 * (1 - sparsity) + 0.5))
    assert row["layers_remaining"]["hidden.0.weight"] == 144 * kept
    assert audit(store.root, console=Console(quiet=True))


def test_a_pattern_and_its_schedule(cell: Make) -> None:
    plan([cell(mask_criterion=large("1:4"), schedule={**HALF, "sparsity": [0.5, 0.75]})])
    for value, sparsity in (("2:4", [0.25]), ("2:4", [0.3, 0.5]), ("2:4", [0.75])):
        with pytest.raises(ValueError, match=r"2:4 ends at sparsity 0.5.*level 1.*hint"):
            plan([cell(mask_criterion=large(value), schedule={**HALF, "sparsity": sparsity})])


def test_single_weights_keep_the_keys_of_stored_results(cell: Make) -> None:
    keys = [
        plan([cell(mask_criterion=criterion)]).cells[0].last.key
        for criterion in ({"_target_": LARGE.target}, large("weight"))
    ]
    named = [plan([cell(mask_criterion=large(v))]).cells[0].last.key for v in ("filter", "neuron")]
    assert keys[0] == keys[1] != named[0] == named[1]


CRITERIA = ("large_final", "random", "movement", "large_init_large_final", "small_final")


@pytest.mark.parametrize("value", ["filter", "channel", "4x4", "2:4"])
def test_every_method_that_scores_takes_it(cell: Make, value: str) -> None:
    for method in ("imp", "one_shot", "renda", "magnitude", "imp_continued"):
        for name in CRITERIA:
            criterion = {**large(value), "_target_": f"lt_sweeps.sparsity.criteria.{name}"}
            target = {"_target_": f"lt_sweeps.plan.methods.{method}"}
            made = plan([cell(method=target, mask_criterion=criterion, schedule=HALF)])
            cuts = [s for s in ancestors(made.cells[0].last) if isinstance(s, Prune)]
            assert [cut.granularity for cut in cuts] == [value]
            assert made.cells[0].last.granularity == value


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "random"])
@pytest.mark.parametrize("value", ["filter", "2:4"])
def test_before_training(cell: Make, run: Run, name: str, value: str) -> None:
    extra = {"rounds": 4} if name == "synflow" else {} if name == "random" else {"examples": 16}
    criterion = {**large(value), "_target_": f"lt_sweeps.sparsity.criteria.{name}", **extra}
    method = {"_target_": "lt_sweeps.plan.methods.at_init"}
    made, store = run(cell(method=method, mask_criterion=criterion, schedule=HALF))
    groups = groups_of(granularity(value), made.cells[0].last.network)
    assert groups.split_layer(store.read(made.cells[0].last.key, Seed(0)).mask) == ""


def thirds(layer: Layer) -> Tensor:
    """A user-defined granularity: each weight's group is its position modulo three."""
    numbers = torch.arange(layer.size).view(layer.shape) % 3
    return numbers if layer.size > 40 else numbers - 3


def halves(layer: Layer) -> Tensor:
    return torch.zeros(2)


def test_a_function_of_ones_own(cell: Make, run: Run, tmp_path: Path) -> None:
    own = {"_target_": f"{__name__}.thirds"}
    schedule = {**HALF, "sparsity": [1 / 3]}
    made, store = run(cell(mask_criterion=large(own), schedule=schedule))
    assert [row["layers_remaining"] for row in rows(store, made)][1] == {
        "hidden.0.weight": 128,
        "hidden.1.weight": 64,
        "output.weight": 32,
    }
    with pytest.raises(ValueError, match=r"halves` gives hidden.0.weight a tensor of shape \[2\]"):
        plan([cell(mask_criterion=large({"_target_": f"{__name__}.halves"}))])
