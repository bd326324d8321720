"""Batches of a data set, each replicate's drawn from its own seed.

There is no loader: the images lie on the device and a batch is an index into them. Images that do
not fit on the device stay in main memory or in their file, and each batch is copied. Order and
augmentation of an epoch are pure functions of (seed, index, epoch), drawn on the CPU, so a batch is
the same on any device, in any pack, and after any resume. The index is `Work.batch_index`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.data import Dataset, Split
from lt_sweeps.data.augmentations import augment, draw_augmentation
from lt_sweeps.data.kept_images import place_once

EVALUATE_BATCH = 500


class Batches:
    """Training batches `[R, B, C, H, W]` and evaluation batches `[B, C, H, W]`."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        seeds: Sequence[Seed],
        indices: Sequence[tuple[int | str, ...]],
        device: torch.device,
    ) -> None:
        self._dataset, self._recipe, self._device = dataset, recipe, device
        splits = dataset.load().items()
        self._splits = {name: place_once(split, device, _placed) for name, split in splits}
        # Whether batches are copied to the device, which a captured graph cannot do.
        self.sent = any(split.images.device.type != device.type for split in self._splits.values())
        self._seeds, self._indices = seeds, indices
        self._epoch = -1
        # Copied to the device here, because a captured graph cannot copy from the host.
        shape = (len(dataset.mean), 1, 1)
        self._mean = torch.tensor(dataset.mean, device=device).view(shape)
        self._std = torch.tensor(dataset.std, device=device).view(shape)
        self.augments = recipe.augment != "none"

    def index(self, step: int) -> Tensor:
        """The images that the replicates train on at `step`, and how each is augmented.

        `[R, B]` image numbers, or `[R, B, 1 + n]` with the n integers that the augmentation drew.
        """
        epoch, position = divmod(step, self._recipe.steps_per_epoch)
        if epoch != self._epoch:
            self._order = self._draw(epoch)
            self._epoch = epoch
        first = position * self._recipe.batch_size
        return self._order[:, first : first + self._recipe.batch_size]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images `[R, B, C, H, W]` and labels `[R, B]` of an `index`."""
        shape, split = index.shape[:2], self._splits["train"]
        if not self.augments:
            index = index[..., None]
        image, how = index.flatten(0, 1).split([1, index.shape[2] - 1], 1)
        image = image.squeeze(1)
        images = self._fetch(split, image)
        if self.augments:
            images = augment(self._recipe.augment, images, how)
        return self._normalise(images).unflatten(0, shape), split.labels[image].view(shape)

    def evaluation(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """All of a split, in order: images `[B, C, H, W]` and labels `[B]`."""
        labels = self._splits[split].labels
        for part in torch.arange(len(labels), device=self._device).split(EVALUATE_BATCH):
            yield self._normalise(self._fetch(self._splits[split], part)), labels[part]

    def _draw(self, epoch: int) -> Tensor:
        rows: dict[tuple[int, int, tuple[int | str, ...]], Tensor] = {}
        keys = [
            (seed.role("order"), seed.role("augment") if self.augments else 0, index)
            for seed, index in zip(self._seeds, self._indices, strict=True)
        ]
        for order, crops, index in dict.fromkeys(keys):
            count = self._dataset.train_size
            images = torch.randperm(count, generator=generator(order, "order", *index, epoch))
            if self.augments:
                draws = generator(crops, "augment", *index, epoch)
                size = self._dataset.input_shape[1:]
                how = draw_augmentation(self._recipe.augment, count, size, draws)
                images = torch.cat([images[:, None], how], 1)
            rows[order, crops, index] = images
        return torch.stack([rows[key] for key in keys]).to(self._device)

    def _fetch(self, split: Split, image: Tensor) -> Tensor:
        """Images by their numbers, on the device."""
        return split.take(image.to(split.images.device)).to(self._device)

    def _normalise(self, images: Tensor) -> Tensor:
        return _normalised(images, self._dataset.scale, self._mean, self._std)


def _placed(split: Split, device: torch.device) -> Split:
    """A split on the device; one that needs over a quarter of the free memory stays outside it."""
    labels = split.labels.to(device)
    fits = split.rows is None
    if fits and device.type == "cuda":
        fits = split.images.nbytes <= torch.cuda.mem_get_info(device)[0] // 4
    return Split(split.images.to(device), labels) if fits else replace(split, labels=labels)


def first_images(dataset: Dataset, seed: Seed, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` training images of a seed's first epoch, not augmented, with labels."""
    order = torch.randperm(dataset.train_size, generator=generator(seed.role("order"), "order", 0))
    split = dataset.load()["train"]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    return (
        _normalised(split.take(order[:count]), dataset.scale, mean, std),
        split.labels[order[:count]],
    )


def _normalised(images: Tensor, scale: float, mean: Tensor, std: Tensor) -> Tensor:
    images = images.to(torch.float32, copy=True)
    if scale != 1:
        images = images.div_(scale)
    return images.sub_(mean).div_(std) if len(mean) else images
