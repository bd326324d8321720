"""Networks for sequences: a causal transformer for tokens, and a recurrent classifier."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """A decoder-only transformer: it predicts the next token from the tokens so far.

    A block is attention, then two linear layers; each part follows a layer norm and is added to its
    input, as in GPT-2. Tokens `[B, T]` int64 become outputs `[B, T, classes]`.

    Args:
        tied: the output layer shares the weights of the embedding.

    Raises:
        ValueError: the inputs are not tokens, or `heads` does not divide `width`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        width: int = 64,
        heads: int = 4,
        depth: int = 2,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            shape = list(input_shape)
            raise ValueError(f"Transformer: got inputs of {shape}; give [T] tokens: dataset=text")
        if width % heads:
            raise ValueError(f"Transformer: width={width} is not a multiple of heads={heads}")
        self.tokens = nn.Embedding(classes, width)
        self.places = nn.Embedding(input_shape[0], width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes, bias=False)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        if tied:
            self.output.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        later = torch.ones(count, count, dtype=torch.bool, device=x.device).triu(1)
        x = self.tokens(x) + self.places(torch.arange(count, device=x.device))
        for block in self.blocks:
            x = block(x, later)
        return self.output(self.norm(x))


class Recurrent(nn.Module):
    """An LSTM or GRU that reads a sequence, and a linear layer on its last state.

    The inputs are tokens `[B, T]` int64 of a vocabulary, sequences `[B, T, features]`, or images
    `[B, C, H, W]`, which it reads row by row.

    Raises:
        ValueError: the inputs are none of these, or `vocabulary` does not fit them.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        width: int = 64,
        depth: int = 1,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        if (len(input_shape) == 1) != (vocabulary is not None) or len(input_shape) > 3:
            raise ValueError(
                f"Recurrent: inputs of {list(input_shape)} and vocabulary={vocabulary}; give [T] "
                "tokens with `vocabulary` (the number of different tokens), or sequences "
                "[T, features] or images [C, H, W] without it"
            )
        self.tokens = None if vocabulary is None else nn.Embedding(vocabulary, width)
        features = input_shape[-1] * (input_shape[0] if len(input_shape) == 3 else 1)
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.cells = kind(width if self.tokens else features, width, depth, batch_first=True)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.tokens is not None:
            x = self.tokens(x)
        elif x.ndim == 4:  # joins the rows of all channels
            x = x.transpose(1, 2).flatten(2)
        return self.output(self.cells(x)[0][:, -1])


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=later, need_weights=False)[0]
        return x + self.outer(nn.functional.gelu(self.inner(self.norm2(x))))
