"""The wide residual network for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lt_sweeps.models.resnet import conv3x3, stage


class WideResNet(nn.Module):
    """Three stages of widths 16k, 32k, 64k, normalised before every convolution (arXiv:1605.07146).

    Depth counts the convolutions and the output layer. Where a block changes the shape, its
    shortcut is a 1x1 convolution of the normalised input. There is no dropout. The final pooling
    is global.

    Raises:
        ValueError: `depth` is not 6n + 4.
    """

    def __init__(
        self, input_shape: Sequence[int], classes: int, *, depth: int = 28, widen: int = 10
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"WideResNet: depth={depth}; allowed are 10, 16, 22, 28, ... (6n + 4)")
        blocks, channels = (depth - 4) // 6, 16
        self.stem = conv3x3(input_shape[0], channels)
        width = 16 * widen
        self.stages = nn.Sequential(
            stage(PreActivationBlock, channels, width, blocks, stride=1),
            stage(PreActivationBlock, width, 2 * width, blocks, stride=2),
            stage(PreActivationBlock, 2 * width, 4 * width, blocks, stride=2),
        )
        self.norm = nn.BatchNorm2d(4 * width)
        self.output = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.output(torch.relu_(self.norm(x)).mean((2, 3)))


class PreActivationBlock(nn.Module):
    """norm, ReLU, conv, norm, ReLU, conv, plus the shortcut."""

    def __init__(self, channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = conv3x3(channels, width, stride=stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.shortcut = None
        if stride != 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ahead = torch.relu_(self.norm1(x))
        y = self.conv2(torch.relu_(self.norm2(self.conv1(ahead))))
        return y + (x if self.shortcut is None else self.shortcut(ahead))
