"""What lies on a path, worked out by hand and by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lt_sweeps import models
from lt_sweeps.interchange.effective_size import Unfollowed, network_size
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
    """Weights on any path, path by path."""
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
    """Two linear layers, and what lies between them."""

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
    with pytest.raises(Unfollowed, match="behind first"):
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
    """4 x 4 places are read by 1 * 2 * 2 * 2 weights each, prunable or not; 8 x 8 are written."""

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
