"""Properties of pruning, schedules, resets and freezes for any network, scores and seed."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity import freezes, resets, schedules
from lt_sweeps.sparsity.pruning import prune, restart
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.storage.ticket import Mask, Ticket

CRITERIA = (
    *("large_final", "small_final", "large_init", "small_init", "magnitude_increase", "movement"),
    *("large_init_large_final", "small_init_small_final", "random"),
)
RESETS = ("rewind", "keep", "reinit", "reshuffle", "constant", "random_signs")
FREEZES = ("zero", "init", "final", "variant", "reversed_variant", "random_zeros")

seeds = st.integers(0, 2**31).map(Seed.of)
shapes = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 6)).filter(lambda shape: math.prod(shape) > 3),
    min_size=1,
    max_size=3,
)


def layers_of(shapes: list[tuple[int, ...]]) -> tuple[Layer, ...]:
    return tuple(Layer(f"{n}.weight", shape, "hidden") for n, shape in enumerate(shapes))


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[Layer, ...], dict[str, Tensor], dict[str, Tensor]]:
    """Layers with initial and final weights, which repeat a few values or are drawn freely."""
    layers = layers_of(draw(shapes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    coarse = draw(st.booleans())

    def weights(layer: Layer) -> Tensor:
        values = torch.randn(1, *layer.shape, generator=generator)
        return (2 * values).round() / 2 if coarse else values

    init, final = ({la.name: weights(la) for la in layers} for _ in range(2))
    return layers, init, final


def dense(layers: tuple[Layer, ...]) -> dict[str, Tensor]:
    return {la.name: torch.ones(1, *la.shape, dtype=torch.bool) for la in layers}


def call(module: str, name: str) -> Call:
    return Call(f"lt_sweeps.sparsity.{module}.{name}")


def pruned(network, target: Target, criterion: str, seed: Seed, kept=None, level=1):
    layers, init, final = network
    evidence = {"init": init, "final": final}
    named = call("criteria", criterion)
    wanted = {name: state for name, state in evidence.items() if name in named.names}
    return prune(
        dense(layers) if kept is None else kept,
        target,
        named,
        wanted,
        layers=layers,
        seed=seed,
        level=level,
    )


@given(networks(), st.sampled_from(CRITERIA), seeds, st.data())
def test_pruning_keeps_exactly_the_count_within_what_was_kept(network, criterion, seed, data):
    layers = network[0]
    scope = data.draw(st.sampled_from(("layer", "global")))
    sizes = [la.size for la in layers] if scope == "layer" else [sum(la.size for la in layers)]
    first = tuple(data.draw(st.integers(1, size)) for size in sizes)
    second = tuple(data.draw(st.integers(1, count)) for count in first)
    one = pruned(network, Target(scope, first, 0.1), criterion, seed)
    two = pruned(network, Target(scope, second, 0.2), criterion, seed, kept=one, level=2)
    for mask, counts in ((one, first), (two, second)):
        left = [int(mask[la.name].sum()) for la in layers]
        assert (tuple(left) if scope == "layer" else (sum(left),)) == counts
    assert all(not (two[name] & ~one[name]).any() for name in one)
    again = pruned(network, Target(scope, first, 0.1), criterion, seed)
    assert all(torch.equal(one[name], again[name]) for name in one)


@given(networks(), seeds, st.data())
def test_no_pruned_weight_scores_higher_than_a_kept_one(network, seed, data):
    layers, _, final = network
    counts = tuple(data.draw(st.integers(1, la.size)) for la in layers)
    mask = pruned(network, Target("layer", counts, 0.1), "large_final", seed)
    for la in layers:
        kept, size = mask[la.name], final[la.name].abs()
        if not kept.all():
            assert size[kept].min() >= size[~kept].max()


@given(shapes, st.floats(0.05, 0.9), st.integers(1, 12), st.sampled_from(("layer", "global")))
def test_a_schedule_rises_empties_no_layer_and_floors_what_it_prunes(shapes, rate, levels, scope):
    layers = layers_of(shapes)
    rates = {"conv": rate, "hidden": rate, "output": rate}
    try:
        targets = schedules.geometric(layers, levels=levels, scope=scope, **rates)
    except ValueError as error:  # a layer that is too small for so many levels
        assert "schedule:" in str(error)
        return
    before = [la.size for la in layers] if scope == "layer" else [sum(la.size for la in layers)]
    for target in targets:
        assert sum(target.keep) < sum(before) and 0 not in target.keep
        for now, earlier in zip(target.keep, before, strict=True):
            # n - floor(rate * n), where the rate is one minus its complement in floating point.
            assert now - 1 < earlier * (1 - rate) + 1e-9 and now >= earlier * (1 - rate) - 1e-9
        before = list(target.keep)


@given(shapes, st.floats(0.01, 0.99), st.sampled_from(("layer", "global")))
def test_one_shot_reaches_its_sparsity_up_to_half_a_weight_of_each_group(shapes, sparsity, scope):
    layers = layers_of(shapes)
    try:
        (target,) = schedules.one_shot(layers, sparsity=sparsity, scope=scope)
    except ValueError as error:
        assert "schedule:" in str(error)
        return
    total = sum(la.size for la in layers)
    assert abs(sum(target.keep) - (1 - sparsity) * total) <= 0.5 * len(target.keep) + 1e-9


@given(networks(), st.sampled_from(RESETS), st.sampled_from(FREEZES), seeds, st.data())
def test_a_restart_pins_what_is_pruned_for_good_and_changes_nothing_else(
    network, reset, freeze, seed, data
):
    layers, init, final = network
    counts = tuple(data.draw(st.integers(1, la.size)) for la in layers)
    mask = pruned(network, Target("layer", counts, 0.1), "large_final", seed)
    kept = dense(layers)
    bias = {"bias": torch.ones(1, 3)}
    evidence = {"init": init, "origin": init, "final": final}

    def start(trained: Ticket, mask: Mask, level: int) -> Ticket:
        return restart(
            mask,
            trained,
            call("resets", reset),
            call("freezes", freeze),
            evidence,
            base=Ticket({**init, **bias}, kept, 0),
            step=0,
            layers=layers,
            seed=seed,
            level=level,
        )

    first = start(Ticket({**final, **bias}, kept, 9), mask, 1)
    fewer = tuple(data.draw(st.integers(1, count)) for count in counts)
    sparser = pruned(network, Target("layer", fewer, 0.2), "large_final", seed, kept=mask, level=2)
    second = start(Ticket(first.state, mask, 9), sparser, 2)
    for la in layers:
        name = la.name
        gone = ~mask[name]
        if freeze != "random_zeros":  # which draws its zeros anew among all that is pruned
            assert torch.equal(first.state[name][gone], second.state[name][gone])
        if freeze == "zero":
            assert not first.state[name][gone].any()
        if freeze == "init":
            assert torch.equal(first.state[name][gone], init[name][gone])
        if reset == "rewind":
            assert torch.equal(first.state[name][mask[name]], init[name][mask[name]])
    assert torch.equal(first.state["bias"], bias["bias"])
    again = start(Ticket({**final, **bias}, kept, 9), mask, 1)
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)


@settings(max_examples=50)
@given(networks(), st.integers(0, 2**31), st.booleans())
def test_signed_resets_keep_signs_and_permutations_keep_values(network, draw, sign):
    layers, weights, _ = network
    generator = torch.Generator().manual_seed(draw)
    for la in layers:
        init, noise = weights[la.name][0], torch.rand(la.shape, generator=generator)
        kept = torch.rand(la.shape, generator=generator) < 0.5
        shuffled = resets.reinit(init, init, kept, noise, sign=sign)
        assert torch.equal(shuffled.abs().flatten().sort()[0], init.abs().flatten().sort()[0]) or (
            sign and not init.all()  # a weight that starts at 0 has no sign to give
        )
        within = resets.reshuffle(init, kept, noise, sign=sign)
        constant = resets.constant(init, init, kept, noise, sign=sign)
        if sign:
            for values in (shuffled, within, constant):
                assert torch.equal(values.sign(), init.sign() * values.abs().sign())
        else:
            assert torch.equal(within[kept].sort()[0], init[kept].sort()[0])
        sizes = constant[constant != 0].abs()
        assert torch.allclose(sizes, init.std(correction=0).expand_as(sizes), atol=1e-6)


@given(networks(), st.integers(0, 2**31))
def test_a_freeze_gives_zero_or_the_weights_own_value(network, draw):
    layers, init, final = network
    generator = torch.Generator().manual_seed(draw)
    for la in layers:
        one, two = init[la.name][0], final[la.name][0]
        cut = torch.rand(la.shape, generator=generator) < 0.5
        noise = torch.rand(la.shape, generator=generator)
        for values in (freezes.variant(one, two), freezes.reversed_variant(one, two)):
            assert ((values == 0) | (values == one)).all()
        zeros = freezes.random_zeros(one, two, ~cut, cut, noise, pinned_too=False)
        assert ((zeros == 0) | (zeros == one))[cut].all()
        assert torch.equal(zeros[~cut], two[~cut])  # weights pinned before are unchanged
        both = (freezes.variant(one, two) == 0) & (freezes.reversed_variant(one, two) == 0)
        assert not (both & (one != 0)).any()
