"""The output layer is the last linear layer, or the layer that a yaml names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import tiny_cell
from torch import Tensor, nn

from lt_sweeps.execution.own_code_trial import try_out
from lt_sweeps.models.network import Network
from lt_sweeps.models.output_layer import check_output_layer
from lt_sweeps.plan.planning import plan
from lt_sweeps.sparsity.granularity import Granularity
from lt_sweeps.sparsity.group_numbers import groups_of
from lt_sweeps.sparsity.weight_groups import WHOLE


class Backwards(nn.Module):
    """A network that constructs its output layer first, and scales that layer's outputs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(8, classes), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.ones(classes))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * self.first(self.inner(x.flatten(1)).relu())).log_softmax(-1)


class Frozen(Backwards):
    """A network with a fixed output layer after the layer that trains."""

    def __init__(self, classes: int) -> None:
        super().__init__(8)
        self.last = nn.Linear(8, classes).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


class Averaged(Backwards):
    """A network with two output layers, whose outputs are added."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.other = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(1))
        return self.other(y) + self.first(y)


class Normed(Backwards):
    """A network whose output layer has a weight that torch computes."""

    def __init__(self, classes: int) -> None:
        super().__init__(8)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x)).log_softmax(-1)


class Orthogonal(Backwards):
    """The weight of its output layer is farther from the outputs than the one of another layer."""

    def __init__(self, classes: int) -> None:
        super().__init__(8)
        self.last = nn.utils.parametrizations.orthogonal(nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


class Segmented(Backwards):
    """A convolution computes the outputs, from features that two linear layers weight."""

    def __init__(self, classes: int) -> None:
        super().__init__(1)
        self.last = nn.Conv2d(1, classes, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x * super().forward(x)[:, :, None, None]).flatten(1)


def model(kind: type[nn.Module], **more: Any) -> dict[str, Any]:
    return {"net": {"_target_": f"{__name__}.{kind.__name__}"}, **more}


def of(kind: type[nn.Module], **more: Any) -> Network:
    return Network.of(model(kind, **more), (1, 4, 4), 4)


def test_a_net_that_constructs_its_output_layer_first_is_asked_for_its_name(tmp_path: Path) -> None:
    line = (
        "Backwards.* computes its outputs with first but constructs inner .* [+][+]model.head=first"
    )
    with pytest.raises(ValueError, match=line):
        try_out(plan([tiny_cell(model=model(Backwards))]), tmp_path)
    try_out(plan([tiny_cell(model=model(Backwards, head="first"))]), tmp_path)


@pytest.mark.parametrize("kind", [Frozen, Averaged, Normed, Orthogonal, Segmented])
def test_an_output_layer_that_is_the_last_or_cannot_be_seen_is_not_asked_for(kind: Any) -> None:
    net = kind(4)
    check_output_layer(net, net(torch.rand(2, 1, 4, 4)), of(Backwards).net)


def test_the_layer_that_is_named_is_the_output_layer_everywhere() -> None:
    network = of(Backwards, head="first")
    assert {layer.name: layer.kind for layer in network.layers} == {
        "first.weight": "output",
        "inner.weight": "hidden",
    }
    filters = Granularity.of("filter")
    assert filters is not None
    groups = groups_of(filters, network).numbers
    assert bool((groups["first.weight"] == WHOLE).all())
    assert groups["inner.weight"][:, 0].tolist() == [*range(8)]


def test_the_name_counts_in_the_key_where_it_changes_something() -> None:
    usual, same, other = (of(Backwards, head=name) for name in (None, "inner", "first"))
    assert usual.identity() == same.identity() != other.identity()


def test_a_name_of_no_linear_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head: got 'frist'; .*first, inner; .*`first`"):
        of(Backwards, head="frist")
