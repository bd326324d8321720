"""Whether the way through a module depends on data: replicates then may take different ways."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

_OF_SHAPE = ("shape", "size", "dim", "ndim", "numel", "dtype", "device", "is_cuda", "requires_grad")


def branches_on_data(module: nn.Module) -> bool:
    """Whether torch.fx meets an `if` or a `while` on numbers that come from the input.

    A module that it cannot trace for another reason, such as a branch on a shape, has none.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            _Tracer().trace(copy.deepcopy(module))  # a forward may count in a buffer
    except _Branch:
        return True
    except Exception:  # whatever a stranger's forward makes of a stand-in for a tensor
        return False
    return False


class _Branch(Exception):
    pass


class _Tracer(fx.Tracer):
    def to_bool(self, obj: fx.Proxy) -> bool:
        if _of_data(obj.node):
            raise _Branch
        return super().to_bool(obj)


def _of_data(last: fx.Node) -> bool:
    """Whether a value comes from the input by another way than its shape."""
    seen, left = {last}, [last]
    while left:
        node = left.pop()
        named = node.args[1] if node.target is getattr and len(node.args) > 1 else node.target
        if named in _OF_SHAPE:
            continue
        if node.op == "placeholder":
            return True
        left += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return False
