"""Batches of a data set; each replicate's batches are drawn from its own seed.

There is no loader: the inputs are on the device, and a batch is an index into them. Inputs that do
not fit on the device stay in main memory or in their file; threads copy the next batches from there
while a step runs. The order and the augmentation of an epoch are pure functions of (seed, index,
epoch), where index is `Work.batch_index`. They are drawn on the CPU, so a batch is the same on any
device, in any pack, and after any resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.data import Dataset, Split
from lt_sweeps.data.augmentations import augment, draw_augmentation
from lt_sweeps.data.dataset import check_split
from lt_sweeps.data.image_transforms import SEEDS, ImageTransforms
from lt_sweeps.data.kept_images import place_once
from lt_sweeps.data.prefetch import Prefetch

EVALUATE_BATCH = 500
_OF_FREE = 16  # scaled inputs may take at most 1/16 of a GPU's free memory


class _Scaled(Split):
    """A split whose inputs are already scaled and normalised for training."""


class Batches:
    """The training batches `[R, B, ...]` and evaluation batches `[B, ...]` of one pack."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        seeds: Sequence[Seed],
        indices: Sequence[tuple[int | str, ...]],
        device: torch.device,
    ) -> None:
        self._dataset, self._recipe, self._device = dataset, recipe, device
        self.augments = recipe.augment != "none"
        self._splits = dict[str, Split]()
        for name, split in dataset.load().items():
            scales = device.type == "cuda" and not (name == "train" and self.augments)
            form = repr((dataset.scale, dataset.mean, dataset.std)) if scales else "raw"
            place = partial(_checked, dataset, name, scales=scales)
            self._splits[name] = place_once(split, device, form, place)
        keys = [
            (seed.role("order"), seed.role("augment") if self.augments else 0, index)
            for seed, index in zip(seeds, indices, strict=True)
        ]
        self._keys = list(dict.fromkeys(keys))  # replicates of one seed share an order
        self._rows = torch.tensor([self._keys.index(key) for key in keys])
        self._epochs: dict[int, tuple[Tensor, Tensor]] = {}
        # Copied to the device here, because a captured graph cannot copy from the host.
        self._mean, self._std = (values.to(device) for values in dataset.scaling)
        self._rows_on_device = self._rows.to(device)
        calls = recipe.augment
        self._transforms = ImageTransforms(calls) if isinstance(calls, tuple) else None
        self._prefetched = self._prefetch("train", self._images, recipe.length)

    @property
    def targets(self) -> list[Tensor]:
        """The targets of the splits train, val and test, in this order."""
        return [self._splits[name].targets for name in ("train", "val", "test")]

    def outside(self, split: str) -> bool:
        """Whether a split's images stay outside the device, in main memory or in their file."""
        inputs, rows = self._splits[split].inputs, self._splits[split].rows
        return rows is not None or inputs.device.type != self._device.type

    def index(self, step: int) -> Tensor:
        """The numbers of the images that each replicate trains on at `step`: `[R, B]`.

        With augmentation, `[R, B, 1 + n]`: each image's number, then the n integers drawn for its
        augmentation.
        """
        return self._step_index(step)[1]

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The arguments of `take` for a step: its index, and its images if they are stored outside.

        A step needs nothing else from the host, so a captured graph can read both from tensors of
        its own.
        """
        index = self.index(step)
        return (index, self._prefetched.take(step)) if self.outside("train") else (index,)

    def take(self, index: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the inputs `[R, B, ...]` and targets `[R, B, ...]` of an `index`.

        `images` `[R * B, ...]` are the images of the index, if they are stored outside the device.
        """
        shape, split = index.shape[:2], self._splits["train"]
        if not self.augments:
            index = index[..., None]
        image, how = index.flatten(0, 1).split([1, index.shape[2] - 1], 1)
        image = image.squeeze(1)
        copies = images is not None
        images = self._sent(images) if images is not None else self._fetch(split, image)
        if self._transforms is not None:
            images = self._transforms(images, how.flatten().tolist(), self._dataset.scale)
        elif self.augments:
            images = augment(str(self._recipe.augment), images, how)
        x = self._normalise(split, images, copy=copies)
        return x.unflatten(0, shape), split.targets.index_select(0, image).unflatten(0, shape)

    def evaluation(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a whole split in order, in batches of inputs and targets `[B, ...]`."""
        place = self._splits[split]
        numbers = torch.arange(len(place.targets), device=place.inputs.device).split(EVALUATE_BATCH)
        labels = place.targets.split(EVALUATE_BATCH)
        if not self.outside(split):
            for part, y in zip(numbers, labels, strict=True):
                yield self._normalise(place, place.take(part)), y
            return
        prefetch = self._prefetch(split, lambda number: numbers[number], len(numbers))
        try:
            for number, y in enumerate(labels):
                yield self._normalise(place, self._sent(prefetch.take(number))), y
        finally:
            prefetch.close()

    def close(self) -> None:
        """End the threads that fetch training batches; a later `batch` starts them again."""
        self._prefetched.close()

    def _prefetch(self, split: str, rows: Callable[[int], Tensor], end: int) -> Prefetch:
        return Prefetch(self._splits[split], rows, end, pinned=self._device.type == "cuda")

    def _images(self, step: int) -> Tensor:
        """The numbers of a step's images, on the host: `[R * B]`."""
        index = self._step_index(step)[0][self._rows]
        return (index[..., 0] if self.augments else index).flatten()

    def _step_index(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's index: for each distinct order on the host, for each replicate on the device."""
        epoch, position = divmod(step, self._recipe.steps_per_epoch)
        if epoch not in self._epochs:
            # Keep the previous epoch: while it ends, the next epoch's first batches are fetched.
            self._epochs = {e: self._epochs[e] for e in (epoch - 1,) if e in self._epochs}
            orders = torch.stack([self._draw(epoch, *key) for key in self._keys])
            # The device waits for this transfer, so each order is sent once (5 orders of MNIST are
            # 2 MB) and repeated for the replicates on the device (20 MB for 45 replicates).
            on_device = orders.to(self._device).index_select(0, self._rows_on_device)
            self._epochs[epoch] = orders, on_device
        first = position * self._recipe.batch_size
        host, device = self._epochs[epoch]
        part = slice(first, first + self._recipe.batch_size)
        return host[:, part], device[:, part]

    def _draw(self, epoch: int, order: int, crops: int, index: tuple[int | str, ...]) -> Tensor:
        count = self._dataset.train_size
        images = torch.randperm(count, generator=generator(order, "order", *index, epoch))
        if not self.augments:
            return images
        draws = generator(crops, "augment", *index, epoch)
        if self._transforms is not None:
            how = torch.randint(SEEDS, (count, 1), generator=draws)
        else:
            _, *size = self._dataset.input_shape
            how = draw_augmentation(str(self._recipe.augment), count, (size[0], size[1]), draws)
        return torch.cat([images[:, None], how], 1)

    def _fetch(self, split: Split, image: Tensor) -> Tensor:
        """Read images by their numbers and send them to the device."""
        return self._sent(split.take(image.to(split.inputs.device)))

    def _sent(self, images: Tensor) -> Tensor:
        return images.to(self._device, non_blocking=True)

    def _normalise(self, split: Split, images: Tensor, *, copy: bool = False) -> Tensor:
        if isinstance(split, _Scaled):
            return images
        return _normalised(images, self._dataset, self._mean, self._std, copy=copy)


def _checked(
    dataset: Dataset, name: str, split: Split, device: torch.device, *, scales: bool
) -> Split:
    """Check a split and place it on the device.

    The check is done here, so that it happens once per device: it reads the whole split. With
    `scales`, the inputs are also normalised for training if they then take a small part of the free
    memory, so that on a GPU a batch is taken by one kernel.
    """
    check_split(dataset, name, split)
    placed = _placed(split, device)
    if not scales or placed.rows is not None or placed.inputs.device.type != device.type:
        return placed
    size = placed.inputs.numel() * dataset.input_dtype.itemsize
    if size > torch.cuda.mem_get_info(device)[0] // _OF_FREE:
        return placed
    scaling = (values.to(device) for values in dataset.scaling)
    return _Scaled(_normalised(placed.inputs, dataset, *scaling, copy=True), placed.targets)


def _placed(split: Split, device: torch.device) -> Split:
    """Place a split on the device, without inputs that need over a quarter of its free memory."""
    targets = split.targets.to(device)
    fits = split.rows is None
    if fits and device.type == "cuda":
        fits = split.inputs.nbytes <= torch.cuda.mem_get_info(device)[0] // 4
    return Split(split.inputs.to(device), targets) if fits else replace(split, targets=targets)


def first_images(dataset: Dataset, seed: Seed, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` training inputs of a seed's first epoch, unaugmented, and their targets."""
    order = torch.randperm(dataset.train_size, generator=generator(seed.role("order"), "order", 0))
    split = dataset.load()["train"]
    inputs = _normalised(split.take(order[:count]), dataset, *dataset.scaling)
    return inputs, split.targets[order[:count]]


def _normalised(
    images: Tensor, dataset: Dataset, mean: Tensor, std: Tensor, *, copy: bool = False
) -> Tensor:
    """Normalise inputs for training; float inputs change in place, unless `copy` is set.

    Inputs that are not float32, such as tokens, keep their values.
    """
    images = images.to(dataset.input_dtype, copy=copy)
    if dataset.input_dtype != torch.float32:
        return images
    if dataset.scale != 1:
        images = images.div_(dataset.scale)
    return images.sub_(mean).div_(std) if len(mean) else images
