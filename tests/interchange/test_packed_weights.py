"""2:4 weights are packed as by torch, and unpack to the original weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lt_sweeps.interchange.packed_weights import (
    load_semi_structured,
    semi_structured,
    stays_dense,
    unpacked,
)
from lt_sweeps.models import FC
from lt_sweeps.storage.ticket import Ticket


def ticket(shape: tuple[int, ...], kept: int = 2, of: int = 4) -> Ticket:
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(1, *shape, generator=draws)
    groups = torch.rand(weight.numel() // of, of, generator=draws)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    mask.scatter_(1, groups.topk(kept).indices, True)
    mask = mask.view_as(weight)
    state = {"a.weight": weight * mask, "a.bias": torch.ones(1, shape[0])}
    return Ticket(state, {"a.weight": mask})


def test_it_unpacks_to_the_same_weights_in_half_the_numbers() -> None:
    start = ticket((64, 128))
    state = semi_structured(start)
    assert set(state) == {"a.weight.packed", "a.weight.meta", "a.bias"}
    assert state["a.weight.packed"].shape == (64, 64)
    dense = unpacked(state)["a.weight"]
    assert torch.equal(dense, start.state["a.weight"][0].half())


@pytest.mark.parametrize(
    ("shape", "kept", "reason"),
    [
        ((64, 128), 3, "more than 2 of 4 inputs are left"),
        ((10, 64), 2, "[10, 64] is not a multiple of [32, 64]"),
        ((32, 64, 3, 4), 2, "not a linear layer's; torch packs matrices"),
    ],
)
def test_what_cannot_be_packed_says_why(shape: tuple[int, ...], kept: int, reason: str) -> None:
    start = ticket(shape, kept)
    assert stays_dense(start) == {"a.weight": reason}
    with pytest.raises(ValueError, match="no weight can be packed; a.weight: ") as error:
        semi_structured(start)
    assert "\n" not in str(error.value)
    # The granularity alone does not cure a wrong shape, so it is not offered as a hint.
    assert "a multiple of [32, 64] with at most 2 of 4" in str(error.value)
    assert "hint" not in str(error.value)


def on_a_device(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, *, cusparselt: bool = True
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: cusparselt)


@pytest.mark.parametrize(
    ("capability", "cusparselt"), [(None, True), ((7, 5), True), ((9, 0), False)]
)
def test_without_kernels_one_line_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, cusparselt: bool
) -> None:
    on_a_device(monkeypatch, capability, cusparselt=cusparselt)
    with pytest.raises(ValueError, match="^.*8.0 or newer alone, .*; `unpacked` gives .*$"):
        load_semi_structured(FC((1, 4, 4), 4), dict[str, Tensor]())


def test_a_state_of_another_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_device(monkeypatch, (8, 0))
    with pytest.raises(ValueError, match="the file has no hidden.0.bias, .*; give the module that"):
        load_semi_structured(FC((1, 4, 4), 4), dict[str, Tensor]())


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [((8, 0), "CUTLASS"), ((8, 9), "CUTLASS"), ((9, 0), "CUSPARSELT"), ((12, 0), "CUSPARSELT")],
)
def test_a_device_gets_the_packed_tensors_that_it_computes_with(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kernels: str
) -> None:
    """CUTLASS's products raise an error on any capability but 8.x."""
    on_a_device(monkeypatch, capability)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    taken: dict[str, list[Tensor]] = {"CUTLASS": [], "CUSPARSELT": []}
    for name, weights in taken.items():
        own = getattr(torch.sparse, f"SparseSemiStructuredTensor{name}")

        def from_dense(weight: Tensor, weights: list[Tensor] = weights) -> Tensor:
            weights.append(weight)
            return -weight

        monkeypatch.setattr(own, "from_dense", from_dense)
    start = ticket((64, 128))
    module = torch.nn.Sequential()
    module.add_module("a", torch.nn.Linear(128, 64))
    loaded = load_semi_structured(module, semi_structured(start))
    (weight,) = taken.pop(kernels)
    assert list(taken.values()) == [[]]
    assert torch.equal(weight, start.state["a.weight"][0].half())
    assert torch.equal(loaded.get_parameter("a.weight"), -weight)
