"""A small transformer over bytes that returns a dict, like the models of many labs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Reader(nn.Module):
    """One causal attention block over embedded bytes; its logits predict the next byte."""

    def __init__(self, input_shape: Sequence[int], classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.byte, self.place = nn.Embedding(classes, width), nn.Embedding(input_shape[0], width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mixed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.output = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        length = tokens.shape[1]
        x = self.byte(tokens) + self.place(torch.arange(length, device=tokens.device))
        later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        x = x + self.attention(x, x, x, attn_mask=later, need_weights=False)[0]
        x = x + self.mixed(x)
        return {"logits": self.output(x), "hidden": x}
