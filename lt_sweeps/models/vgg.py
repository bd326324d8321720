"""VGG with batch norm and a single linear layer, for small images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lt_sweeps.models.resnet import conv3x3, stage

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions with batch norm, then one linear layer (arXiv 1912.04427).

    Each block halves the image until a side is a single pixel; the remaining pixels are averaged.
    At 32x32 these are the five poolings of VGG, and any other size works too.

    Raises:
        ValueError: `depth` is not 11, 13, 16 or 19.
    """

    def __init__(self, input_shape: Sequence[int], classes: int, *, depth: int = 16) -> None:
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise ValueError(
                f"VGG: depth={depth}; allowed are {', '.join(map(str, _CONVOLUTIONS))}"
            )
        channels = input_shape[0]
        self.blocks = nn.ModuleList()
        for count, width in zip(_CONVOLUTIONS[depth], _WIDTHS, strict=True):
            self.blocks.append(stage(ConvLayer, channels, width, count))
            channels = width
        self.output = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
            if min(x.shape[2:]) > 1:
                x = F.max_pool2d(x, 2)
        return self.output(x.mean((2, 3)))


class ConvLayer(nn.Module):
    """A 3x3 convolution, batch norm and ReLU; the norm makes a bias redundant."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, width)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.norm(self.conv(x)))
