"""A granularity: rows that are kept or pruned in pairs."""

import torch


def pairs(layer):
    """The number of each weight's group, below 0 for a weight that is always kept."""
    rows = torch.arange(layer.shape[0]).view(-1, *[1] * (len(layer.shape) - 1))
    numbers = rows.expand(layer.shape) // 2
    return numbers - layer.shape[0] if layer.kind == "output" else numbers
