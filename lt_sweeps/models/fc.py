"""Fully connected networks."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class FC(nn.Module):
    """Linear layers with ReLU between them; 300-100 is LeNet-300-100 (arXiv 1905.01067)."""

    def __init__(
        self, input_shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (300, 100)
    ) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.output(x)
