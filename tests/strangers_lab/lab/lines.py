"""A data set of numbers that brings its own task."""

from __future__ import annotations

import torch

from lt_sweeps.data import Dataset, Split


def lines(*, noise: float = 0.1) -> Dataset:
    """Predict two sums of six numbers."""

    def load() -> dict[str, Split]:
        draws = torch.Generator().manual_seed(0)
        splits = {}
        for name, size in {"train": 256, "val": 64, "test": 64}.items():
            inputs = torch.randn(size, 6, generator=draws)
            sums = torch.stack([inputs[:, :3].sum(1), inputs[:, 3:].sum(1)], 1)
            splits[name] = Split(inputs, sums + noise * torch.randn(size, 2, generator=draws))
        return splits

    return Dataset(
        input_shape=(6,),
        classes=None,
        outputs=2,
        train_size=256,
        prepare=lambda: None,
        load=load,
        scale=1.0,
    )
