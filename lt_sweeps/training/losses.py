"""Losses that torch does not provide as single functions.

A loss is a function of one replicate's outputs and targets. It returns the mean over a batch, one
value for each example, or a pair (sum, count). With one of the last two forms, the loss of an
evaluation does not depend on how the split is divided into batches.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

FAMILY = "losses"  # the first part of these functions' names in stage keys; must never change


def token_cross_entropy(
    outputs: Tensor, targets: Tensor, *, ignore: int = -100
) -> tuple[Tensor, Tensor]:
    """The sum of the cross entropies of all tokens, and the number of tokens.

    Args:
        outputs: logits `[B, T, K]`.
        targets: classes or next tokens `[B, T]`; those equal to `ignore` do not count.
    """
    flat = targets.flatten()
    total = cross_entropy(outputs.flatten(0, -2), flat, reduction="sum", ignore_index=ignore)
    return total, (flat != ignore).sum()
