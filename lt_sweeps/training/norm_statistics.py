"""`measured_anew`: batch-norm statistics of only those batches that a body computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from lt_sweeps.sparsity.sparsifiers.sparsifier import per_replicate


@contextmanager
def measured_anew(
    buffers: Mapping[str, Tensor], norms: Mapping[str, float | None], batches: int
) -> Iterator[None]:
    """Reset the running statistics of `norms` (name -> momentum), and correct them after the body.

    Running statistics with momentum m start from 0. After n batches, the weights of these batches
    add up to 1 - (1 - m)^n, so the statistics are divided by this number. A batch norm counts n
    itself; an instance norm does not, so n is `batches` for it. Statistics without a momentum
    (None) are already the mean over the counted batches. `buffers` are `[R, *shape]` by name. In
    training mode no output depends on the running statistics, so the reset does not affect the
    body's outputs.
    """
    for name in norms:
        for leaf in ("running_mean", "running_var", "num_batches_tracked"):
            buffers[f"{name}.{leaf}"].zero_()
    yield
    for name, momentum in norms.items():
        if momentum is None:
            continue
        counted = buffers[f"{name}.num_batches_tracked"]
        seen = counted.where(counted > 0, batches).double()  # statistics of unused norms stay 0
        weights = 1 - (1 - momentum) ** seen
        for leaf in ("running_mean", "running_var"):
            buffer = buffers[f"{name}.{leaf}"]
            buffer.div_(per_replicate(weights, buffer))
