"""Augmented images equal those of torchvision."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as theirs

from lt_sweeps.data.augmentations import augment, draw_augmentation

COUNT, SIZE = 400, (12, 12)


def how(name: str, seed: int = 0) -> Tensor:
    return draw_augmentation(name, COUNT, SIZE, torch.Generator().manual_seed(seed))


def images(count: int) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, *SIZE), dtype=torch.uint8, generator=draws)


def test_a_resized_crop_is_that_of_torchvision() -> None:
    boxes = how("resized_crop_flip")
    got = augment("resized_crop_flip", images(COUNT), boxes)
    assert boxes[:, -1].unique().tolist() == [0, 1]
    for picture, image, (top, left, tall, wide, flip) in zip(
        got, images(COUNT), boxes.tolist(), strict=True
    ):
        want = theirs.resized_crop(
            image.float(), top, left, tall, wide, list(SIZE), InterpolationMode.BILINEAR, False
        )
        want = want.flip(2) if flip else want
        torch.testing.assert_close(picture, want, rtol=1e-4, atol=2e-3)


def test_boxes_lie_within_the_image_and_have_the_areas_and_aspects_asked_for() -> None:
    size = (224, 224)
    draws = torch.Generator().manual_seed(0)
    top, left, tall, wide, _ = draw_augmentation("resized_crop_flip", 2000, size, draws).unbind(1)
    assert (top >= 0).all() and (top + tall <= 224).all()
    assert (left >= 0).all() and (left + wide <= 224).all()
    area, aspect = tall * wide / 224**2, wide / tall
    assert 0.075 < area.min() < 0.1 and area.max() > 0.9
    assert 0.74 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.35
    # uniform on [0.08, 1], but for large ones that do not fit and are drawn again
    assert 0.4 < area.mean() < 0.54
    assert abs(aspect.log().mean()) < 0.02


def test_a_box_that_never_fits_is_the_whole_image() -> None:
    draws = torch.Generator().manual_seed(0)
    flat = draw_augmentation("resized_crop_flip", 50, (1, 400), draws)
    whole = (flat[:, 2] == 1) & (flat[:, 3] == 400)
    assert whole.any() and (flat[whole][:, :2] == 0).all()


@pytest.mark.parametrize("name", ["crop_flip", "resized_crop_flip"])
def test_an_image_is_augmented_by_its_own_draws_alone(name: str) -> None:
    draws = how(name)
    together = augment(name, images(COUNT), draws)
    part = slice(7, 9)
    assert torch.equal(augment(name, images(COUNT)[part], draws[part]), together[part])
    assert not torch.equal(how(name, seed=1), draws)
    assert math.prod(together.shape) == math.prod(images(COUNT).shape)
