"""Plain convolutional networks: conv2, conv4 and conv6 differ only in `blocks`."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lt_sweeps.models.fc import FC


class Conv(nn.Module):
    """Blocks of 3x3 convolutions, each block halving the image, then an FC (arXiv 1905.01067).

    Every convolution has a bias and a ReLU; there is neither batch norm nor dropout.

    Raises:
        ValueError: the image is too small to be halved once per block.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        blocks: Sequence[Sequence[int]] = ((64, 64),),
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        least = 2 ** len(blocks)
        if min(height, width) < least:
            raise ValueError(
                f"Conv: {len(blocks)} blocks on {height}x{width} images; every block halves the "
                f"image, so each side must be at least {least}"
            )
        self.blocks = nn.ModuleList()
        for widths in blocks:
            self.blocks.append(_block(channels, widths))
            channels = widths[-1]
        self.head = FC((channels, height // least, width // least), classes, hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            *convolutions, last = block.children()
            for conv in convolutions:
                x = torch.relu_(conv(x))
            # Gives the same numbers as ReLU before pooling, with a quarter of the work.
            x = torch.relu_(F.max_pool2d(last(x), 2))
        return self.head(x)


def _block(channels: int, widths: Sequence[int]) -> nn.ModuleList:
    pairs = pairwise([channels, *widths])
    return nn.ModuleList(nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in pairs)
