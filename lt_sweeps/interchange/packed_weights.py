"""Pack 2:4 semi-structured weights, with which GPUs skip half of each product.

A file holds weights packed for torch's CUTLASS kernels, which run only on CUDA devices of compute
capability 8.x; for newer devices they are packed again for cuSPARSELt. Packing for CUTLASS is plain
indexing and is done here on the CPU: it keeps two of every four inputs, with two bits for the
position of each. Values are float16, which the kernels require.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.sparse import (
    SparseSemiStructuredTensor,
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from lt_sweeps.interchange.ticket_formats import check_names
from lt_sweeps.storage.ticket import Ticket

_ROWS, _COLUMNS = 32, 64  # of float16 for CUTLASS, multiples of cuSPARSELt's 16 and 16
_NEEDED = "a CUDA device of compute capability 8.0 or newer"


def semi_structured(ticket: Ticket) -> dict[str, Tensor]:
    """Return `<name>.packed` and `<name>.meta` for each 2:4 weight, others as in a `state_dict`.

    Prints which weights stay dense and why, and which devices can compute with the file.

    Raises: ValueError: no weight can be packed.
    """
    state: dict[str, Tensor] = {}
    reasons = stays_dense(ticket)
    for name, tensor in ticket.state.items():
        if name in ticket.mask and name not in reasons:
            packed, meta = sparse_semi_structured_from_dense_cutlass(tensor[0].half().contiguous())
            state |= {f"{name}.packed": packed, f"{name}.meta": meta}
        else:
            state[name] = tensor[0].clone()
    if len(reasons) == len(ticket.mask):
        name, reason = next(iter(reasons.items()))
        raise ValueError(
            f"export: form semi_structured: no weight can be packed; {name}: {reason}; give a "
            f"matrix of a multiple of [{_ROWS}, {_COLUMNS}] with at most 2 of 4 inputs left, as "
            "after mask_criterion.granularity=2:4"
        )
    for name, reason in reasons.items():
        print(f"dense: {name}: {reason}")
    print(f"torch computes with packed weights on {_NEEDED} alone; values are float16")
    return state


def stays_dense(ticket: Ticket) -> dict[str, str]:
    """Return the prunable weights that cannot be packed, each with the reason."""
    found = ((name, _reason(ticket.state[name][0])) for name in ticket.mask)
    return {name: reason for name, reason in found if reason}


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the dense `state_dict` of a packed one; weights that were packed are float16."""
    dense = {n: t for n, t in state.items() if not n.endswith((".packed", ".meta"))}
    for name, packed in state.items():
        if name.endswith(".packed"):
            own = name.removesuffix(".packed")
            dense[own] = sparse_semi_structured_to_dense_cutlass(packed, state[f"{own}.meta"])
    return dense


def load_semi_structured(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load the packed weights of `form=semi_structured`; returns the module in float16 on CUDA.

    Raises: ValueError: the device lacks the kernels, or the state is another network's.
    """
    kernels = _kernels()
    dense = unpacked(state)
    check_names(dense, module, where="load_semi_structured")
    module.load_state_dict(dense, strict=False)
    module = module.half().cuda().eval()
    for name in state:
        if name.endswith(".packed"):
            owner, _, leaf = name.removesuffix(".packed").rpartition(".")
            part = module.get_submodule(owner)
            weight = kernels.from_dense(getattr(part, leaf).detach())
            setattr(part, leaf, nn.Parameter(weight, requires_grad=False))
    return module


def _kernels() -> type[SparseSemiStructuredTensor]:
    """Return the packed tensor class that the current CUDA device supports."""
    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    if major == 8:
        return SparseSemiStructuredTensorCUTLASS
    if major > 8 and torch.backends.cusparselt.is_available():
        return SparseSemiStructuredTensorCUSPARSELT
    raise ValueError(
        f"load_semi_structured: torch computes with packed weights on {_NEEDED} alone, "
        "and from 9.0 with cuSPARSELt; `unpacked` gives the dense weights"
    )


def _reason(weight: Tensor) -> str:
    """Say why a weight cannot be packed; empty if it can."""
    if weight.ndim != 2:
        return "not a linear layer's; torch packs matrices"
    rows, columns = weight.shape
    if rows % _ROWS or columns % _COLUMNS:
        return f"[{rows}, {columns}] is not a multiple of [{_ROWS}, {_COLUMNS}]"
    if int(weight.view(rows, -1, 4).count_nonzero(-1).max()) > 2:
        return "more than 2 of 4 inputs are left"
    return ""
