"""Transforms of torchvision's v2 and user-defined ones, called with one image and its own draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import compute_cells
from torch import Tensor

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import global_draws
from lt_sweeps.data.image_transforms import ImageTransforms
from lt_sweeps.plan.planning import plan
from lt_sweeps.training.training_loop import Interrupted

V2 = "torchvision.transforms.v2"
ERASE = {"_target_": f"{V2}.RandomErasing", "p": 0.5}
SHIFT = {"_target_": f"{V2}.RandomAffine", "degrees": 20, "translate": [0.1, 0.1]}


def test_an_image_is_changed_as_torchvision_changes_it_alone() -> None:
    calls = [
        Call(f"{V2}.{name}", Config(args))
        for name, args in (
            ("RandomHorizontalFlip", {}),
            ("RandomErasing", {"p": 0.5}),
        )
    ]
    images = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    ours = ImageTransforms(calls)(images, range(8), 255.0)
    for number in range(8):
        image = images[number].float() / 255
        with global_draws(number):
            for call in calls:
                image = call()(image)
        assert torch.equal(ours[number], image * 255)
    shuffled = ImageTransforms(calls)(images[[5, 2]], [5, 2], 255.0)
    assert torch.equal(shuffled, ours[[5, 2]])


def test_neither_a_stack_nor_a_stop_changes_a_draw(
    cell: Callable[..., Cell], tmp_path: Path
) -> None:
    keys = {"recipe__augment": [SHIFT, ERASE], "recipe__length": "2ep", "schedule__levels": 1}
    cells = [cell(seed=seed, **keys) for seed in (0, 1)]
    compute_cells(*cells, root=tmp_path / "stacked")
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked % 6 == 5

    for _ in range(30):
        try:
            compute_cells(*cells, root=tmp_path / "alone", alone=True, stopped=stopped)
            break
        except Interrupted:
            continue
    stacked, alone = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in paths}
        for name in ("stacked", "alone")
        for paths in [sorted((tmp_path / name / "tickets").glob("*/*.safetensors"))]
    )
    assert stacked and stacked == alone


def bytes_of(image: Tensor) -> Tensor:
    return (255 * image).to(torch.uint8)


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"_target_": f"{V2}.MixUp", "num_classes": 4}, "a transform gets one image and no label"),
        ({"_target_": f"{V2}.CutMix", "num_classes": 4}, "MixUp|CutMix"),
        ({"_target_": f"{V2}.Resize", "size": 6}, r"an image of \[1, 4, 4\] into \[1, 6, 6\]"),
        ({"_target_": f"{V2}.RandomErasing", "p": 2.0}, "`p` should be a floating point value"),
        ({"_target_": f"{__name__}.bytes_of"}, "makes torch.uint8 of a float32 image on the scale"),
        (
            {"_target_": f"{V2}.Normalize", "mean": [0.5], "std": [0.2]},
            "and no others; give `mean`",
        ),
        ([ERASE, {"_target_": f"{V2}.RandomErasing", "q": 2.0}], r"takes no q"),
        ("crop", "give one of none, crop_flip, resized_crop_flip or a mapping with `_target_`"),
    ],
)
def test_a_transform_that_does_not_fit_is_refused_when_the_plan_is_made(
    cell: Callable[..., Cell], augment: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        plan([cell(recipe__augment=augment)])


OWN_DRAWS = torch.Generator().manual_seed(3)
CALLS: list[int] = []


def draws_of_its_own(image: Tensor) -> Tensor:
    return image.flip(-1) if torch.rand(1, generator=OWN_DRAWS) < 0.5 else image


def counts_its_calls(image: Tensor) -> Tensor:
    CALLS.append(1)
    return image * len(CALLS)


@pytest.mark.parametrize("name", ["draws_of_its_own", "counts_its_calls"])
def test_a_transform_that_does_not_do_the_same_again_is_refused(
    cell: Callable[..., Cell], name: str
) -> None:
    """Otherwise a resumed training, or another pack, would see other images."""
    with pytest.raises(ValueError, match=f"{name}` turns one image into two different ones"):
        plan([cell(recipe__augment={"_target_": f"{__name__}.{name}"})])
