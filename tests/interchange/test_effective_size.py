"""The weights on some path through a network, compared with hand counts and brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lt_sweeps import models
from lt_sweeps.interchange.effective_size import network_size
from lt_sweeps.interchange.followed_paths import Unfollowed
from lt_sweeps.models.network import Network

FC = {"_target_": "lt_sweeps.models.FC"}


def network(net: dict, shape: tuple[int, int, int], classes: int) -> Network:
    return Network.of({"net": net}, shape, classes)


def full(net: Network) -> dict[str, Tensor]:
    return {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in net.layers}


def test_a_unit_that_nothing_reaches_and_one_that_reaches_nothing_do_not_count() -> None:
    # 2 inputs, hidden units a b c, 1 output
    net = network({**FC, "hidden": [3]}, (1, 1, 2), 1)
    kept = {
        "hidden.0.weight": torch.tensor([[1, 0], [0, 0], [1, 1]]).bool(),  # nothing reaches b
        "output.weight": torch.tensor([[1, 1, 0]]).bool(),  # c reaches nothing
    }
    found = network_size(net, kept)
    assert found.weights_effective == 2  # input 0 to a, a to the output
    # and the biases of a, of b (a constant, which goes on) and of the output
    assert found.parameters_effective == 2 + 3
    assert found.parameters_total == 6 + 3 + 3 + 1
    assert (found.flops_total, found.flops_effective) == (2 * 9, 2 * 2)


def live_by_enumeration(kept: list[Tensor]) -> int:
    """Find the weights on any path by trying every path."""
    on: set[tuple[int, int, int]] = set()
    widths = [kept[0].shape[1], *(k.shape[0] for k in kept)]
    for units in itertools.product(*map(range, widths)):
        steps = [(n, units[n + 1], units[n]) for n in range(len(kept))]
        if all(kept[n][out, into] for n, out, into in steps):
            on.update(steps)
    return len(on)


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_every_path_walked(seed: int) -> None:
    net = network({**FC, "hidden": [5, 4]}, (1, 2, 3), 3)
    draws = torch.Generator().manual_seed(seed)
    kept = {x.name: torch.rand(x.shape, generator=draws) < 0.25 for x in net.layers}
    assert network_size(net, kept).weights_effective == live_by_enumeration(list(kept.values()))


def test_all_of_a_dense_network_is_live_and_its_operations_are_counted() -> None:
    net = network(
        {"_target_": "lt_sweeps.models.Conv", "blocks": [[2]], "hidden": [3]}, (1, 4, 4), 2
    )
    found = network_size(net, full(net))
    assert found.parameters_effective == found.parameters_total
    # 16 positions of 2*1*9 weights, then 2*2*2 pooled values to 3 units and on to 2
    assert found.flops_effective == found.flops_total == 2 * (16 * 18 + 8 * 3 + 3 * 2)


def test_pooling_lets_every_position_go_on() -> None:
    # the corner of the kernel sees only padding at the first place of each pooling window
    net = network(
        {"_target_": "lt_sweeps.models.Conv", "blocks": [[1]], "hidden": [1]}, (1, 2, 2), 1
    )
    kept = full(net)
    kept["blocks.0.0.weight"] = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    kept["blocks.0.0.weight"][0, 0, 0, 0] = True
    assert network_size(net, kept).weights_effective == 3


def test_a_channel_that_dies_takes_what_stands_on_it_and_the_shortcut_lives() -> None:
    net = network({"_target_": "lt_sweeps.models.ResNet", "depth": 8, "width": 2}, (1, 8, 8), 2)
    kept = full(net)
    dense = network_size(net, kept)
    assert dense.parameters_effective == dense.parameters_total
    # the first block's second convolution dies; the identity goes around it
    kept["stages.0.0.conv2.weight"][:] = False
    found = network_size(net, kept)
    gone = kept["stages.0.0.conv1.weight"].numel() + kept["stages.0.0.conv2.weight"].numel()
    assert dense.weights_effective - found.weights_effective == gone


def test_a_constant_activation_is_no_arrival() -> None:
    class Sigmoid(nn.Sequential):
        def __init__(self, input_shape, classes) -> None:
            super().__init__(
                nn.Flatten(), nn.Linear(2, 2), nn.Sigmoid(), nn.LayerNorm(2), nn.Linear(2, classes)
            )

    import lt_sweeps.models

    lt_sweeps.models.Sigmoid = Sigmoid  # type: ignore[attr-defined]
    try:
        net = network({"_target_": "lt_sweeps.models.Sigmoid"}, (1, 1, 2), 1)
        kept = full(net)
        kept["1.weight"][0] = False
        # two weights into unit 1, one out of it: sigmoid(0) = 0.5 is no path
        assert network_size(net, kept).weights_effective == 3
    finally:
        del lt_sweeps.models.Sigmoid  # type: ignore[attr-defined]


def test_a_deep_network_neither_overflows_nor_underflows() -> None:
    net = network({"_target_": "lt_sweeps.models.ResNet", "depth": 110, "width": 4}, (3, 8, 8), 10)
    assert network_size(net, full(net)).weights_effective == sum(layer.size for layer in net.layers)


class Between(nn.Module):
    """Two linear layers, and a module between them."""

    way: Callable[[Tensor], Tensor]

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(input_shape[0], 8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(type(self).way(self.first(x)))


NUMBERS = itertools.count()


def between(monkeypatch: pytest.MonkeyPatch, way: Callable[[Tensor], Tensor]) -> Network:
    name = f"Between{next(NUMBERS)}"  # networks of one name are taken for one network
    made = type(name, (Between,), {"way": staticmethod(way)})
    monkeypatch.setattr(models, name, made, raising=False)
    return Network.of({"net": {"_target_": f"lt_sweeps.models.{name}"}}, (4,), 3)


@pytest.mark.parametrize(
    "way",
    [
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt(),
        lambda x: nn.functional.normalize(x, dim=1),
        lambda x: x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt(),
        lambda x: nn.functional.softmin(x, dim=1),
        lambda x: torch.cos(x),
        lambda x: x * torch.zeros(8),
    ],
    ids=["difference", "layer norm", "normalise", "rms norm", "softmin", "cos", "mask"],
)
def test_a_network_of_which_ones_tell_no_paths_has_no_size(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[Tensor], Tensor]
) -> None:
    net = between(monkeypatch, way)
    with pytest.raises(Unfollowed, match="a function after first"):
        network_size(net, full(net))


@pytest.mark.parametrize(
    "way",
    [
        lambda x: nn.functional.rms_norm(x, [8]),
        lambda x: x.clamp(-0.5, 0.5),
        lambda x: nn.functional.hardshrink(x, 2.0),
        lambda x: nn.functional.prelu(x, torch.full((8,), 0.25)),
        lambda x: nn.functional.softsign(x),
        lambda x: x * x.sigmoid(),
    ],
    ids=["rms norm", "clamp", "shrink", "prelu", "softsign", "gate"],
)
def test_what_passes_on_what_arrives_ends_no_path(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[Tensor], Tensor]
) -> None:
    net = between(monkeypatch, way)
    kept = full(net)
    assert network_size(net, kept).weights_effective == 4 * 8 + 8 * 3
    kept["first.weight"][0] = False  # and the three weights that read its unit
    assert network_size(net, kept).weights_effective == 4 * 7 + 7 * 3


def test_a_transposed_convolution_counts_where_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads 4 x 4 positions, with 1 * 2 * 2 * 2 weights for each, and writes 8 x 8."""

    class Upsampled(nn.Module):
        def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(input_shape[0], 2, 2, stride=2)
            self.output = nn.Linear(2, classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.up(x).mean((2, 3)))

    monkeypatch.setattr(models, "Upsampled", Upsampled, raising=False)
    config = {"net": {"_target_": "lt_sweeps.models.Upsampled"}}
    net = Network.of(config, (1, 4, 4), 3)
    assert network_size(net, full(net)).flops_total == 2 * (16 * 8 + 2 * 3)
    net = Network.of({**config, "prunable": {"include": ["*", "up.weight"]}}, (1, 4, 4), 3)
    kept = full(net)
    kept["up.weight"][:, 1] = False  # its second channel, and the three weights that read it
    assert network_size(net, kept).weights_effective == 4 + 3
    assert network_size(net, kept).flops_effective == 2 * (16 * 4 + 3)


def test_a_pool_with_gaps_has_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = between(monkeypatch, lambda x: nn.functional.max_pool1d(x, 2, 1, 0, 7).repeat(1, 8))
    with pytest.raises(Unfollowed, match="dilation"):  # the first and the last of 8 alone
        network_size(pooled, full(pooled))


class Frames(nn.Module):
    """Apply a convolution to every frame of a video, with the frames folded into the batch."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2, classes)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.conv(x.flatten(0, 1)).mean((2, 3))
        return self.output(frames.unflatten(0, x.shape[:2]).mean(1))


class Latents(nn.Module):
    """Four trained vectors that attend to six tokens."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, more: bool = False) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.ones(4, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=more)
        self.output = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.latents.expand(len(x), -1, -1)
        return self.output(self.attention(queries, x, x)[0].mean(1))


class Products(nn.Module):
    """Products with parameters outside any layer: as they are, transposed, and in `addmm`."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(5, 8))
        self.three, self.added = nn.Parameter(torch.ones(5, classes)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.added, (x @ self.one) @ self.two.T, self.three)


def of_class(
    monkeypatch: pytest.MonkeyPatch, kind: type, shape: tuple[int, ...], **keys
) -> Network:
    monkeypatch.setattr(models, kind.__name__, kind, raising=False)
    prunable = keys.pop("prunable", {})
    config = {"net": {"_target_": f"lt_sweeps.models.{kind.__name__}", **keys}}
    return Network.of({**config, "prunable": prunable}, shape, 3)


@pytest.mark.parametrize(
    ("kind", "shape", "multiplied"),
    [
        (Frames, (5, 1, 4, 4), 5 * 16 * (2 * 9) + 2 * 3),
        # the queries and the output of 4 places, the keys and values of 6
        (Latents, (6, 8), 4 * 64 + 2 * 6 * 64 + 4 * 64 + 8 * 3),
        (Products, (4,), 4 * 8 + 8 * 5 + 5 * 3),
    ],
)
def test_every_product_with_a_weight_is_counted_as_often_as_it_is_used(
    monkeypatch: pytest.MonkeyPatch, kind: type, shape: tuple[int, ...], multiplied: int
) -> None:
    own = {"prunable": {"include": ["one", "two", "three"]}} if kind is Products else {}
    net = of_class(monkeypatch, kind, shape, **own)
    size = network_size(net, full(net))
    assert size.flops_total == size.flops_effective == 2 * multiplied
    assert size.parameters_effective == size.parameters_total


def test_of_joined_projections_the_rows_are_used_as_often_as_their_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = of_class(monkeypatch, Latents, (6, 8))
    kept, joined = full(net), "attention.in_proj_weight"
    dense = network_size(net, kept).flops_effective
    for rows, used in ((slice(0, 1), 4), (slice(8, 9), 6)):  # a query alone, a key alone
        cut = kept[joined].clone()
        cut[rows] = False
        found = network_size(net, {**kept, joined: cut}).flops_effective
        # the other factor of the product does not count either
        assert dense - found == 2 * 8 * (4 + 6), used


def test_a_closed_gate_ends_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """sigmoid(bias) is above 0, so the gated value passes even if the gate has no weights left."""

    class Excited(nn.Module):
        def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
            super().__init__()
            self.first, self.gate = nn.Linear(4, 6), nn.Linear(6, 6)
            self.output = nn.Linear(6, classes)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.output(x * self.gate(x).sigmoid().view(-1, 6))

    net = of_class(monkeypatch, Excited, (4,))
    kept = full(net)
    assert network_size(net, kept).weights_effective == 24 + 36 + 18
    kept["gate.weight"][:] = False
    assert network_size(net, kept).weights_effective == 24 + 18
    kept["first.weight"][0] = False  # nothing arrives that the gate could multiply
    assert network_size(net, kept).weights_effective == 20 + 15


def test_a_tied_weight_is_one_weight_wherever_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied(nn.Module):
        def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight, self.output = self.first.weight, nn.Linear(4, classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.second(self.first(x)))

    net = of_class(monkeypatch, Tied, (4,))
    kept = full(net)
    kept["first.weight"][0] = False
    size = network_size(net, kept)
    assert size.parameters_total == 16 + 4 * 3 + 3
    # The row of unit 0 is pruned, so the weights that read it do not count; its column still reads
    # the image.
    assert size.weights_effective == 12 + 9
    assert size.flops_effective == 2 * (12 + 12 + 9)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (lambda x, w: nn.functional.linear(x, w[:4]), "a part of weight"),
        (lambda x, w: nn.functional.linear(x, 2 * w), "weights that it computes"),
        (lambda x, w: torch.einsum("bi,oi->bo", x, w), "einsum"),
    ],
)
def test_a_product_that_cannot_be_counted_is_said(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[Tensor, Tensor], Tensor], reason: str
) -> None:
    class Own(nn.Module):
        def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, 4))
            self.output = nn.Linear(way(torch.ones(1, 4), self.weight).shape[1], classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(way(x, self.weight))

    Own.__name__ = f"Own{next(NUMBERS)}"
    net = of_class(monkeypatch, Own, (4,))
    with pytest.raises(Unfollowed, match=reason):
        network_size(net, full(net))


def test_a_key_of_its_own_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net = of_class(monkeypatch, Latents, (6, 8), more=True)
    with pytest.raises(Unfollowed, match="add_bias_kv"):
        network_size(net, full(net))
