"""The tiny cell and the tiny convolutional net that tests train."""

from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "model": {"net": {"_target_": "lt_sweeps.models.FC", "hidden": [12, 8]}},
    "dataset": {
        "_target_": "lt_sweeps.datasets.synthetic",
        "shape": [1, 4, 4],
        "classes": 4,
        "train": 64,
        "validation": 32,
        "test": 32,
    },
    "method": {"_target_": "lt_sweeps.methods.imp.imp"},
    "mask_criterion": {"_target_": "lt_sweeps.criteria.large_final"},
    "schedule": {"_target_": "lt_sweeps.schedules.geometric", "levels": 2},
    "recipe": {
        "_target_": "lt_sweeps.recipes.recipe",
        "optimizer": "adam",
        "lr": 0.01,
        "batch_size": 16,
        "length": "3ep",
    },
    "reset": {"_target_": "lt_sweeps.resets.rewind"},
    "freeze": {"_target_": "lt_sweeps.freezes.zero"},
    "seed": 0,
    "seeds": {},
    "report_at": "best",
    "data_dir": "data",
}


def imagenet(folder: Path) -> None:
    """As many images as a recipe for ImageNet wants: empty files, which no plan reads."""
    for part, count in (("train", 6000), ("test", 1)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                (folder / part / name / f"{number}.png").touch()


CONV = {
    "net": {"_target_": "lt_sweeps.models.ResNet", "depth": 8, "width": 4},
    "prunable": {"exclude": ["output.weight"]},
}
