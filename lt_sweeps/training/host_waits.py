"""`HostWaits`: the operations of a step for which the host waits, so that no graph can have it.

A model, a loss or a sparsifier of a user's may read a number back (`.item()`, an `if` on a tensor),
or send one to the device. A capture of such a step fails and leaves torch's allocator damaged, or,
before torch 2.11, repeats the copy from memory that has been freed. So a step is looked at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result or shape the host has to know before it can go on.
_WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select"),
    *("unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2"),
    *("bincount", "_ctc_loss", "_linalg_check_errors", "_pack_padded_sequence"),
    "embedding_renorm_",
}
_COPIES = {"_to_copy", "copy_", "copy", "lift", "lift_fresh", "lift_fresh_copy"}
_FILLED = {"masked_fill", "masked_fill_", "index_fill", "index_fill_"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class HostWaits(TorchDispatchMode):
    """Within this context `found` lists the operations that the host waits for.

    `read` holds the tensors that were there before and are read. A graph reads them at their place,
    and they must stay there as long as it does: a model that keeps a mask or a state of the last
    batch's size makes another one in an evaluation, and forgets that of the training.
    """

    supports_higher_order_operators = True  # `torch.cond` and the like run as ever

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # for that torch imports its compiler, a second of CPU in every process

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.read: dict[int, Tensor] = {}  # by storage
        self._made: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            if (place := _storage(tensor)) not in self._made:
                self.read.setdefault(place, tensor)
        result = func(*args, **kwargs)
        self._made |= {_storage(tensor) for tensor in _tensors(result)} - self.read.keys()
        if waits(func, args, kwargs, result):
            self.found.append(str(func))
        return result


def waits(func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether the host waits for the device in this call, or copies what may be freed."""
    name = getattr(func, "overloadpacket", func).__name__
    if name in _WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return True
    if name in _COPIES:
        tensors = _tensors((args, kwargs, result))
        # `torch.tensor` shows its copy to the device by nothing but its result.
        made_on_device = name.startswith("lift") and any(_outside(t) for t in tensors)
        return made_on_device or len({tensor.device.type for tensor in tensors}) > 1
    if name in _FILLED:  # by a number that lies on the device, which the host reads first
        return isinstance(args[-1], Tensor) and args[-1].device == args[0].device
    return name in _INDEXED and _by_mask(args, one_number=name != "index")


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    """What views of one tensor have in common; a tensor without a storage is one by itself."""
    plain = type(tensor) in (Tensor, Parameter) and tensor.layout is torch.strided
    return tensor.untyped_storage()._cdata if plain else id(tensor)


def _outside(tensor: Tensor) -> bool:
    return tensor.device.type not in ("cpu", "meta")


def _by_mask(args: Sequence[Any], *, one_number: bool) -> bool:
    """Whether an index is a mask, whose number of places the host must know.

    One number that is written to all places of a mask is written without counting them.
    """
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    filled = one_number and len(masks) == len(indices) == 1 and args[2].numel() == 1
    return bool(masks) and not filled
