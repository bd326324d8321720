"""The residual network for small images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class ResNet(nn.Module):
    """Three stages of widths w, 2w, 4w; depth counts its 3x3 convolutions and the output layer.

    The network of the released code of arXiv 1912.04427: where a block changes the shape, its
    shortcut is a plain 1x1 convolution without batch norm. The final pooling is global, which
    at 32x32 is that code's 8x8 average.

    Raises:
        ValueError: `depth` is not 6n + 2.
    """

    def __init__(
        self, input_shape: Sequence[int], classes: int, *, depth: int = 20, width: int = 16
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"ResNet: depth={depth}; allowed are 8, 14, 20, 26, 32, ... (6n + 2)")
        blocks = (depth - 2) // 6
        self.stem = conv3x3(input_shape[0], width)
        self.norm = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            stage(BasicBlock, width, width, blocks, stride=1),
            stage(BasicBlock, width, 2 * width, blocks, stride=2),
            stage(BasicBlock, 2 * width, 4 * width, blocks, stride=2),
        )
        self.output = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.stem(x)))
        return self.output(self.stages(x).mean((2, 3)))


class BasicBlock(nn.Module):
    """conv, norm, ReLU, conv, norm, plus the shortcut, then ReLU."""

    def __init__(self, channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, width, stride=stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)) + self.shortcut(x))


def stage(
    block: Callable[..., nn.Module], channels: int, width: int, count: int, **first: int
) -> nn.Sequential:
    """Stack `count` blocks; `first` are arguments of the first one, which changes the channels."""
    rest = (block(width, width) for _ in range(count - 1))
    return nn.Sequential(block(channels, width, **first), *rest)


def conv3x3(channels: int, width: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
