"""Augmentations of training images: random crops and flips.

An augmentation has two steps. `draw_augmentation` draws a few integers per image on the CPU, before
the epoch; `augment` applies them to a batch on its device. So an image is augmented in the same way
on any device and in any pack.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, pad

_PADDING = 4
_AREA, _ASPECT, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


def draw_augmentation(name: str, count: int, size: tuple[int, int], draws: Generator) -> Tensor:
    """Draw the augmentation of `count` images of `size` (rows, columns): `[count, n]` integers."""
    if name == "crop_flip":
        corner = [torch.randint(2 * _PADDING + 1, (count, 2), generator=draws)]
    else:
        corner = _boxes(count, size, draws)
    return torch.cat([*corner, torch.randint(2, (count, 1), generator=draws)], 1)


def augment(name: str, images: Tensor, how: Tensor) -> Tensor:
    """Augment images `[N, C, H, W]`, each by its row of `how` `[N, n]` from `draw_augmentation`."""
    return (_crop_flip if name == "crop_flip" else _resized_crop_flip)(images, how)


def _boxes(count: int, size: tuple[int, int], draws: Generator) -> list[Tensor]:
    """Draw one box per image, of random area and aspect ratio: corners and sizes `[count, 2]`.

    Ten boxes are drawn, and the first that fits into the image is used; if none fits, the whole
    image. This follows torchvision's RandomResizedCrop.
    """
    whole = torch.tensor(size)
    area, aspect = torch.rand(2, _TRIES, count, generator=draws)
    area = math.prod(size) * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
    low, high = map(math.log, _ASPECT)
    aspect = torch.exp(low + (high - low) * aspect)
    tries = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], -1).round().long()
    fits = ((tries > 0) & (tries <= whole)).all(-1)
    first = torch.where(fits, torch.arange(_TRIES)[:, None], _TRIES).amin(0)
    tries = torch.cat([tries, whole.expand(1, count, 2)])
    boxes = tries[first, torch.arange(count)]
    room = whole - boxes
    corner = (torch.rand(count, 2, generator=draws) * (room + 1)).long()
    return [corner.minimum(room), boxes]


def _crop_flip(images: Tensor, how: Tensor) -> Tensor:
    """Pad each image with zeros, crop it to its own size, and mirror it if `flip` is 1."""
    (top, left, flip), (height, width) = how.unbind(1), images.shape[2:]
    padded = pad(images, (_PADDING,) * 4)
    rows = top[:, None] + torch.arange(height, device=top.device)
    across = torch.arange(width, device=left.device).expand(len(left), width)
    columns = left[:, None] + torch.where(flip[:, None] == 1, width - 1 - across, across)
    image = torch.arange(len(images), device=top.device)
    picked = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _resized_crop_flip(images: Tensor, how: Tensor) -> Tensor:
    """Resize a box of each image bilinearly to the image's size, and mirror it if `flip` is 1."""
    (top, left, tall, wide, flip), (height, width) = how.unbind(1), images.shape[2:]
    rows, columns = _centres(top, tall, height), _centres(left, wide, width)
    columns = torch.where(flip[:, None] == 1, columns.flip(1), columns)
    # For `grid_sample`, -1 is the left or upper edge of an image, and 1 the right or lower edge.
    x, y = (2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1
    grid = torch.stack(
        [x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1
    )
    return grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _centres(first: Tensor, length: Tensor, size: int) -> Tensor:
    """The positions at which a box is sampled to get `size` pixels: `[N, size]`, in image pixels.

    The box has `length` pixels and begins at pixel `first`, both `[N]`.
    """
    at = (torch.arange(size, device=first.device) + 0.5) * (length[:, None] / size) - 0.5
    # Positions are clamped to the box's outermost pixels, so that no pixel outside the box is read.
    return first[:, None] + at.clamp(min=0).minimum(length[:, None] - 1)
