"""`branches_on_data`: whether a module's control flow depends on its input's numbers.

In a stack, replicates could then need different branches.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

_OF_SHAPE = ("shape", "size", "dim", "ndim", "numel", "dtype", "device", "is_cuda", "requires_grad")


def branches_on_data(module: nn.Module) -> bool:
    """Whether torch.fx finds an `if` or a `while` on numbers that come from the input.

    False for a module that cannot be traced for another reason, such as a branch on a shape.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            _Tracer().trace(copy.deepcopy(module))  # a copy, because tracing may change buffers
    except _Branch:
        return True
    except Exception:  # a custom forward pass may raise anything when it gets a proxy
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
    """Whether a value depends on the input's numbers, and not only on its shape or type."""
    seen, pending = {last}, [last]
    while pending:
        node = pending.pop()
        named = node.args[1] if node.target is getattr and len(node.args) > 1 else node.target
        if named in _OF_SHAPE:
            continue
        if node.op == "placeholder":
            return True
        pending += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return False
