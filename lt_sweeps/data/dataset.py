"""`Dataset` describes a data set before it is read; a `Split` holds tensors that were read."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lt_sweeps.config.spelling import listed

PIXELS = 255.0  # the scale of a data set that does not give one
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Inputs [N, ...] and their targets [N, ...], of any shape and type.

    Images [N, C, H, W] are uint8 or float32, and class numbers [N] are int64. If `rows` [N] are
    given, `inputs` is the whole data set in its file, too large to be copied, and `rows` are the
    numbers of the inputs that belong to the split.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor | None = None

    def take(self, index: Tensor) -> Tensor:
        """Return inputs by their numbers in the split; `index` is on the device of the inputs."""
        # Six times as fast on a CPU as `inputs[index]` (batches of 60 of MNIST, n = 7).
        return self.inputs.index_select(0, index if self.rows is None else self.rows[index])


@dataclass(frozen=True)
class Dataset:
    """A data set: what is known before it is read, and how to read it.

    `prepare` downloads or decodes the data on first use, and raises a FileNotFoundError that names
    the missing files and the place for them. `load`, called after it, returns the splits train, val
    and test. `input_shape` is the shape of one example, and `classes` the number of classes. A data
    set without classes sets `classes` to None, and `outputs` to the number of values that a network
    must return for one example.

    Inputs are converted to float32 and divided by `scale`, which brings pixels into [0, 1]. If
    `mean` and `std` are given, training then subtracts `mean` and divides by `std`, per channel.
    With another `input_dtype`, such as int64 for token numbers, networks get the inputs unchanged.

    The content of the data is part of every stage key. So a user-defined data set is loaded and
    hashed when a plan is made, unless it sets `fingerprint`: a text that changes with the content,
    for data that take long to load.
    """

    input_shape: tuple[int, ...]
    classes: int | None
    train_size: int
    prepare: Callable[[], None]
    load: Callable[[], dict[str, Split]]
    scale: float = PIXELS
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fingerprint: str = ""
    outputs: int = 0
    input_dtype: torch.dtype = torch.float32
    lacks: Callable[[], str] = str  # what `prepare` has to download, as a sentence; "" if nothing

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))  # a list has no hash
        if not (callable(self.prepare) and callable(self.load)):
            raise ValueError("dataset: give functions as `load` and `prepare` (or `lambda: None`)")
        if self.classes is not None:
            object.__setattr__(self, "outputs", self.outputs or self.classes)
        if self.outputs < 1:
            raise ValueError("dataset: no `classes`; give `outputs`, the number of a net's outputs")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"dataset: scale={self.scale}; give a number above 0 to divide by")
        if self.input_dtype != torch.float32 and self.mean:
            raise ValueError(f"dataset: {self.input_dtype} inputs stay unscaled; omit mean and std")
        sizes, several = {len(self.mean), len(self.std)}, {0, 1, *self.input_shape[:1]}
        if len(sizes) > 1 or not sizes <= several or not all(std > 0 for std in self.std):
            raise ValueError(
                f"dataset: mean={list(self.mean)}, std={list(self.std)}; give each channel of "
                f"input_shape={list(self.input_shape)} a mean and a std above 0, or none"
            )

    @property
    def scaling(self) -> tuple[Tensor, Tensor]:
        """Mean and std, shaped to fit an example: `[C, 1, ...]`; empty if none are given."""
        size = (len(self.mean), *[1] * (len(self.input_shape) - 1))
        return torch.tensor(self.mean).view(size), torch.tensor(self.std).view(size)


def content_hash(dataset: Dataset) -> str:
    """Hash everything in a data set that a training can see: its description and its tensors.

    Raises:
        ValueError: `load` does not return splits of tensors.
    """
    dataset.prepare()
    splits = dataset.load()
    if not isinstance(splits, dict) or sorted(splits) != sorted(_SPLITS):
        found = sorted(splits) if isinstance(splits, dict) else splits
        raise ValueError(f"dataset: `load` returned {found!r}; give the splits {listed(_SPLITS)}")
    said = (dataset.input_shape, dataset.classes, dataset.train_size, dataset.scale)
    later = (
        *_unless_default(dataset.outputs, dataset.classes),
        *_unless_default(dataset.input_dtype),
    )
    content = hashlib.sha256(repr([said, dataset.mean, dataset.std, *later]).encode())
    hashes: dict[int, str] = {}  # splits may be rows of one large file, which is then hashed once
    for name in _SPLITS:
        split = splits[name]
        tensors = (split.inputs, split.targets) if isinstance(split, Split) else (split,)
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
            raise ValueError(
                f"dataset: `load` gave {kinds} for {name}; give a Split of two tensors"
            )
        check_split(dataset, name, split)
        if id(split.inputs) not in hashes:
            hashes[id(split.inputs)] = _hash(split.inputs)
        rows = "" if split.rows is None else _hash(split.rows)
        content.update(
            f"{name} {hashes[id(split.inputs)]} {_hash(split.targets)} {rows}\n".encode()
        )
    return content.hexdigest()


_DARK = 16.0
"""Pixels from 0 to 255 exceed this value somewhere in any data set. Standardised inputs and binary
images stay below it."""


def check_split(dataset: Dataset, name: str, split: Split) -> None:
    """Refuse a split that does not fit the description of its data set.

    Raises:
        ValueError: the inputs have another shape or type, or their number differs from the number
            of targets or from `train_size`.
    """
    inputs, targets, shape = split.inputs, split.targets, tuple(dataset.input_shape)
    where = f"dataset: {name} inputs"
    count = len(inputs) if split.rows is None else len(split.rows)
    if tuple(inputs.shape[1:]) != shape:
        raise ValueError(
            f"{where} have shape {list(inputs.shape)}; input_shape={list(shape)} needs [N, "
            f"{', '.join(map(str, shape))}]"
        )
    if count != len(targets):
        raise ValueError(f"{where} are {count}, but its targets have shape {list(targets.shape)}")
    if not count or (name == "train" and count != dataset.train_size):
        said = f"train_size={dataset.train_size}" if name == "train" else "give at least one"
        raise ValueError(f"{where} are {count}; {said}")
    if inputs.requires_grad or targets.requires_grad:
        raise ValueError(f"{where} or targets require a gradient; give `tensor.detach()`")
    _check_numbers(dataset, split, where)


def _check_numbers(dataset: Dataset, split: Split, where: str) -> None:
    """Refuse inputs whose type or range shows that training would see wrong numbers."""
    inputs, kind = split.inputs, dataset.input_dtype
    if inputs.is_complex() and not kind.is_complex:
        raise ValueError(f"{where} are {inputs.dtype}; give real numbers")
    if inputs.is_floating_point() and not kind.is_floating_point:
        raise ValueError(
            f"{where} are {inputs.dtype}, and would be cut to {kind}; give whole numbers"
        )
    if inputs.dtype == torch.int64 and kind == torch.float32:
        raise ValueError(
            f"{where} are int64, and would become float32; for numbers of tokens give "
            "input_dtype=torch.int64, for other numbers float32 inputs"
        )
    pixels = dataset.scale == PIXELS and kind == torch.float32
    # There may be gigabytes of images, so their range is not computed: bright bytes among the first
    # 100 show that they are images. Inputs that stay in their file are not read for this check.
    images = inputs.dtype == torch.uint8 and bool((inputs[:100] >= _DARK).any())
    if split.rows is None and not images and (pixels or inputs.is_floating_point()):
        _check_range(inputs, where, dataset.std if pixels else None)


def _check_range(inputs: Tensor, where: str, std: Sequence[float] | None) -> None:
    """Refuse NaN and infinite inputs, and inputs that the scale of pixels would squash.

    `std` divides pixels in [0, 1]; None if the inputs are not pixels.
    """
    lowest, highest = _range(inputs)
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(
            f"{where} hold NaN or infinite numbers; fill them in, or leave these examples out"
        )
    # Without a `scale`, inputs are divided by 255, which makes numbers other than pixels nearly
    # constant. Images resized with a bicubic filter go a little beyond the range of pixels.
    beyond = lowest < -PIXELS / 4 or highest > PIXELS * 5 / 4
    if std is not None and (beyond or 0 < max(-lowest, highest) / min(std, default=1) < _DARK):
        raise ValueError(
            f"{where} are {inputs.dtype} from {lowest:.3g} to {highest:.3g}, and "
            f"scale={PIXELS:g} would divide them as pixels from 0 to 255; give their own scale, "
            "such as scale=1.0, or if they are dark pictures `mean` and `std` of their pixels "
            "in [0, 1]"
        )


def classes_lacking(dataset: Dataset, splits: Mapping[str, Split]) -> str:
    """Say which classes have no example in a split; empty if each has, or targets are no classes.

    For example `no example of class 0 in train; of class 0, 3 in val`.
    """
    lacking = []
    for name in _SPLITS if dataset.classes else ():
        targets = splits[name].targets
        if targets.dtype == torch.int64 and targets.ndim == 1:
            absent = sorted({*range(dataset.classes or 0)} - {*targets.unique().tolist()})
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            lacking += [f"of class {listed(absent[:5])}{more} in {name}"] if absent else []
    return f"no example {'; '.join(lacking)}" if lacking else ""


def _unless_default(value: object, usual: object = torch.float32) -> tuple[str, ...]:
    """The part of a hash for a field added later: empty at its default, so that old hashes stay."""
    return () if value == usual else (str(value),)


def _range(tensor: Tensor) -> tuple[float, float]:
    """The lowest and the highest value, computed without a copy; NaN if a value is NaN."""
    if tensor.is_floating_point():
        lowest, highest = tensor.aminmax()
        return float(lowest), float(highest)
    values = tensor.cpu().numpy()  # torch has no such function for uint16
    return float(values.min()), float(values.max())


def _hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten()
    kind = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    if flat.numel():
        kind.update(flat.view(torch.uint8).numpy().data)
    return kind.hexdigest()


def held_out_rows(count: int, validation: int, test: int) -> dict[str, np.ndarray]:
    """Draw the rows of each split of a small table.

    The test split takes the first rows of the drawn order, so it does not depend on the size of the
    validation split.
    """
    order = np.random.RandomState(0).permutation(count)
    held = test + validation
    return {"train": order[held:], "val": order[test:held], "test": order[:test]}


def check_held_out(name: str, count: int, validation: int, test: int) -> None:
    """Raises: ValueError: one of three splits of `count` examples would be empty."""
    check_size(f"{name}: test", test, count - 2)
    check_size(f"{name}: validation", validation, count - 1 - test)


def check_size(name: str, size: int, most: int) -> None:
    """Raises: ValueError: a split is empty, or leaves no example for the other splits."""
    if not isinstance(size, int) or not 1 <= size <= most:
        raise ValueError(f"{name}={size!r}; it takes 1 to {most} examples")


def check_seed(name: str, seed: int) -> None:
    """Raises: ValueError: numpy's generator cannot be seeded with this number."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"{name}: seed={seed}; it takes 0 to {2**32 - 1}")
