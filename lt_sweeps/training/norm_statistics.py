"""Batch-norm statistics of the batches that a body computes, and of none before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from lt_sweeps.sparsity.sparsifiers.sparsifier import per_replicate


@contextmanager
def measured_anew(
    buffers: Mapping[str, Tensor], norms: Mapping[str, float | None], batches: int
) -> Iterator[None]:
    """Forget the running statistics of `norms`, by name with their momentum, before the body.

    Those of momentum m start from 0, and after n batches the weights of these add up to
    1 - (1 - m)^n, which they are divided by; n is what a batch norm counts, and `batches` for an
    instance norm, which counts nothing. Those without momentum are a mean over the batches that are
    counted. `buffers` are `[R, *shape]` by name. In training mode no output depends on them.
    """
    for name in norms:
        for leaf in ("running_mean", "running_var", "num_batches_tracked"):
            buffers[f"{name}.{leaf}"].zero_()
    yield
    for name, momentum in norms.items():
        if momentum is None:
            continue
        counted = buffers[f"{name}.num_batches_tracked"]
        seen = counted.where(counted > 0, batches).double()  # a norm that is not used stays 0
        weights = 1 - (1 - momentum) ** seen
        for leaf in ("running_mean", "running_var"):
            buffer = buffers[f"{name}.{leaf}"]
            buffer.div_(per_replicate(weights, buffer))
