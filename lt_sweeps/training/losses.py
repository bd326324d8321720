"""Losses that torch has under no name of their own.

A loss is a function of the outputs and the targets of one replicate: its mean over the examples of
a batch, one value for each example, or the pair of a sum and of what it is divided by. With either
of the last two a loss of an evaluation does not depend on how a split is cut into batches.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

FAMILY = "losses"  # the first part of these names in stage keys, for ever


def token_cross_entropy(
    outputs: Tensor, targets: Tensor, *, ignore: int = -100
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies of all tokens, and their number.

    Args:
        outputs: logits `[B, T, K]`.
        targets: classes or next tokens `[B, T]`; those equal to `ignore` do not count.
    """
    flat = targets.flatten()
    total = cross_entropy(outputs.flatten(0, -2), flat, reduction="sum", ignore_index=ignore)
    return total, (flat != ignore).sum()
