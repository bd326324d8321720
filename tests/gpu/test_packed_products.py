"""On a GPU, products with packed 2:4 weights equal those with dense weights."""

from __future__ import annotations

import pytest
import torch

from lt_sweeps.interchange.packed_weights import load_semi_structured, semi_structured
from lt_sweeps.models import FC
from lt_sweeps.storage.ticket import Ticket

pytestmark = pytest.mark.gpu


def test_packed_weights_compute_what_dense_ones_do(device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("torch computes with packed weights on CUDA alone")
    torch.manual_seed(0)
    module = FC((1, 8, 8), 32, hidden=[128])
    mask = {
        f"{name}.weight": torch.tensor([True, False, True, False])
        .expand(1, part.weight.shape[0], part.weight.shape[1] // 4, 4)
        .reshape(1, *part.weight.shape)
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    state = {name: tensor.detach()[None].clone() for name, tensor in module.state_dict().items()}
    state |= {name: state[name] * kept for name, kept in mask.items()}
    module.load_state_dict({name: tensor[0] for name, tensor in state.items()})
    x = torch.randn(64, 1, 8, 8, device=device).half()
    with torch.no_grad():
        dense = module.to(device).half()(x)
        packed = load_semi_structured(
            FC((1, 8, 8), 32, hidden=[128]), semi_structured(Ticket(state, mask))
        )
        torch.testing.assert_close(packed(x), dense, rtol=1e-2, atol=1e-2)
