"""`HostWaits`: find the operations of a step in which the host waits for the device.

A user-defined model, loss or sparsifier may read a number back (`.item()`, an `if` on a tensor), or
send one to the device. Capturing such a step as a CUDA graph fails and leaves torch's allocator
damaged; before torch 2.11 it may also succeed, and replays then copy from freed memory. So a step
is watched before it is captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result or its shape the host must know before it can continue.
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
    """A context that collects, in `found`, the operations that the host waits for.

    `read` holds the tensors that the operations read and did not create. A graph reads them at
    fixed addresses, so they must live as long as the graph. A model may drop one of them: if it
    keeps a mask or a state with the last batch's size, an evaluation replaces that of the training.
    """

    supports_higher_order_operators = True  # so `torch.cond` and the like run as usual

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True makes torch import its compiler: a second of CPU in every process

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
            if (storage := _storage(tensor)) not in self._made:
                self.read.setdefault(storage, tensor)
        result = func(*args, **kwargs)
        self._made |= {_storage(tensor) for tensor in _tensors(result)} - self.read.keys()
        if waits(func, args, kwargs, result):
            self.found.append(str(func))
        return result


def waits(func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether the host waits for the device in this call, or copies memory that may be freed."""
    name = getattr(func, "overloadpacket", func).__name__
    if name in _WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return True
    if name in _COPIES:
        tensors = _tensors((args, kwargs, result))
        # The copy to the device in `torch.tensor` can be seen only by the device of its result.
        types = {tensor.device.type for tensor in tensors}
        return len(types) > 1 or (name.startswith("lift") and not types <= {"cpu", "meta"})
    if name in _FILLED:  # if the number to fill in is on the device, the host reads it first
        return isinstance(args[-1], Tensor) and args[-1].device == args[0].device
    return name in _INDEXED and _by_mask(args, one_number=name != "index")


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    """An id of a tensor's storage, equal for all its views; special tensors have an id each."""
    plain = type(tensor) in (Tensor, Parameter) and tensor.layout is torch.strided
    return tensor.untyped_storage()._cdata if plain else id(tensor)


def _by_mask(args: Sequence[Any], *, one_number: bool) -> bool:
    """Whether an index is a mask, whose True entries the host must count.

    Writing a single number to all entries of one mask (with `one_number`) needs no count.
    """
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    filled = one_number and len(masks) == len(indices) == 1 and args[2].numel() == 1
    return bool(masks) and not filled
