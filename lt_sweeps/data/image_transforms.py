"""`ImageTransforms`: augmentations from torchvision's v2 or user-defined ones, image by image.

A transform draws from torch's global generators, once per call. So it is called with a single
image, on that image's device, and the generators are seeded again before each image, with a number
that is drawn from (seed, epoch, image). The draws for an image then do not depend on the rest of
its batch, on the pack or on a resume.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.call import Call
from lt_sweeps.config.seeds import global_draws
from lt_sweeps.config.users_mistakes import told_by

_TRIES = 16  # a transform may leave half of all images unchanged, so `check` draws several times
SEEDS = 2**32  # numpy's generator accepts seeds below this


class ImageTransforms:
    """Applies transforms, one after another, to single images `[C, H, W]` on the scale from 0 to 1.

    If a call names a class, it is instantiated once and the instance is called with the image; a
    function gets the image as its argument `image`.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._transforms: list[Callable[[Tensor], Tensor]] = []
        for call in calls:
            if not inspect.isclass(call.function):
                self._transforms.append(lambda image, call=call: call(image=image))
                continue
            try:
                self._transforms.append(call())
            except Exception as error:  # user code failed, or the class rejects its arguments
                raise ValueError(f"recipe.augment: `{call.target}`: {told_by(error)}") from None

    def __call__(self, images: Tensor, numbers: Sequence[int], scale: float) -> Tensor:
        """Transform images `[N, C, H, W]` with values up to `scale`, each seeded by its number."""
        changed = []
        for image, number in zip(images.float() / scale, numbers, strict=True):
            with global_draws(number):
                for transform in self._transforms:
                    image = transform(image)
            changed.append(image)
        return torch.stack(changed) * scale

    def check(self, shape: tuple[int, ...]) -> None:
        """Try each transform on an image of this shape.

        Raises:
            ValueError: a transform fails, changes the image's shape or scale, normalises, or gives
                another result with the same seed.
        """
        original = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for call, transform in zip(self._calls, self._transforms, strict=True):
            try:
                images, repeated = (
                    [_transformed(transform, original, number) for number in range(_TRIES)]
                    for _ in "ab"
                )
            except Exception as error:
                raise ValueError(
                    f"recipe.augment: `{call.target}` fails on an image of {list(shape)}: "
                    f"{told_by(error)}; a transform gets one image and no label"
                ) from None
            image = images[0]
            if not isinstance(image, Tensor) or image.shape != shape:
                result = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
                raise ValueError(
                    f"recipe.augment: `{call.target}` turns an image of {list(shape)} into "
                    f"{result}; return an image of the same shape"
                )
            if not image.is_floating_point():  # bytes range to 255, but evaluations use 0 to 1
                raise ValueError(
                    f"recipe.augment: `{call.target}` makes {image.dtype} of a float32 image on "
                    "the scale from 0 to 1; it must stay on that scale"
                )
            if type(transform).__name__ == "Normalize":
                raise ValueError(
                    f"recipe.augment: `{call.target}` would normalise training images, and no "
                    "others; give `mean` and `std` to the data set"
                )
            if not all(map(_equal, images, repeated)):
                raise ValueError(
                    f"recipe.augment: `{call.target}` turns one image into two different ones with "
                    "the same seed: it counts its calls, or has its own generator; draw from the "
                    "global generators of torch, numpy or Python, which are seeded for each image"
                )


def _transformed(transform: Callable[[Tensor], Any], image: Tensor, number: int) -> Any:
    with global_draws(number):
        return transform(image.clone())


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
