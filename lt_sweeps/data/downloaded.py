"""Data sets that torchvision downloads on first use."""

import hashlib
import http.client
import io
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from lt_sweeps.config.identity import ANY, omitted_at
from lt_sweeps.data.dataset import Dataset, Split, check_size
from lt_sweeps.storage.atomic_write import passes

_log = logging.getLogger(__name__)

# Published checksums (md5) of the files that torchvision unpacks; torchvision itself lists only the
# checksums of the archives. The files of both data sets have equal names and sizes, so only these
# checksums tell them apart.
_IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_IDX_MD5 = {
    "MNIST": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "FashionMNIST": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
# The folder and the files of each data set that torchvision reads. torchvision lists them too, but
# importing it takes as long as planning a sweep.
_CIFAR_FILES = {
    "CIFAR10": (
        "cifar-10-batches-py",
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "CIFAR100": ("cifar-100-python", ("train", "test", "meta")),
}
# The shape of an image, the number of classes, the number of images of train and val together.
_IDX, _CIFAR10, _CIFAR100 = (
    ((1, 28, 28), 10, 60_000),
    ((3, 32, 32), 10, 50_000),
    ((3, 32, 32), 100, 50_000),
)
# A download that receives no data for this long has failed.
_PATIENCE_SECONDS = 10.0


@omitted_at(data_dir=ANY)
def mnist(*, data_dir: str = "data", validation: int = 5000) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28 pixels."""
    return _downloaded("mnist", "MNIST", _IDX, data_dir, validation)


@omitted_at(data_dir=ANY)
def fashion_mnist(*, data_dir: str = "data", validation: int = 5000) -> Dataset:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 pixels."""
    return _downloaded("fashion_mnist", "FashionMNIST", _IDX, data_dir, validation)


@omitted_at(data_dir=ANY)
def cifar10(
    *,
    data_dir: str = "data",
    validation: int = 5000,
    stratified: bool = False,
    normalize: bool = False,
) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images in colour, 32x32 pixels, ten classes.

    arXiv 1905.01067 draws the validation images from all classes together and does not normalize;
    arXiv 1912.04427 draws equally many from each class (`stratified`) and normalizes.
    """
    statistics = ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)) if normalize else ((), ())
    return _downloaded("cifar10", "CIFAR10", _CIFAR10, data_dir, validation, stratified, statistics)


@omitted_at(data_dir=ANY)
def cifar100(
    *,
    data_dir: str = "data",
    validation: int = 5000,
    stratified: bool = False,
    normalize: bool = False,
) -> Dataset:
    """CIFAR-100: 50,000 training and 10,000 test images in colour, 32x32 pixels, 100 classes."""
    statistics = ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)) if normalize else ((), ())
    return _downloaded(
        "cifar100", "CIFAR100", _CIFAR100, data_dir, validation, stratified, statistics
    )


def _downloaded(
    name: str,
    kind: str,
    form: tuple[tuple[int, int, int], int, int],
    data_dir: str,
    validation: int,
    stratified: bool = False,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Dataset:
    """The data set that torchvision calls `kind`; `form` is its image shape, classes and images."""
    shape, classes, images = form
    check_size(f"{name}: validation", validation, images - 1)
    if stratified and validation % classes:
        raise ValueError(
            f"{name}: validation={validation}; with stratified=true give a multiple of {classes}"
        )
    files = _Files(name, kind, data_dir)
    draw = partial(_held_out_per_class if stratified else _held_out, validation)
    return Dataset(
        input_shape=shape,
        classes=classes,
        train_size=images - validation,
        prepare=files.download,
        load=partial(files.load, draw),
        lacks=files.lacks,
        mean=tuple(value / 255 for value in statistics[0]),
        std=tuple(value / 255 for value in statistics[1]),
    )


def _held_out(count: int, labels: np.ndarray) -> np.ndarray:
    """Draw `count` validation indices as in arXiv 1905.01067, the same for every seed of a run."""
    return np.random.RandomState(0).choice(len(labels), count, replace=False)


def _held_out_per_class(count: int, labels: np.ndarray) -> np.ndarray:
    """Draw `count` validation indices, equally many from each class."""
    rng = np.random.RandomState(0)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    per_class = count // len(members)
    return np.concatenate([rng.choice(index, per_class, replace=False) for index in members])


@dataclass(frozen=True)
class _Files:
    """The files of a data set below `data_dir`; torchvision calls it `kind`, our yaml `name`."""

    name: str
    kind: str
    data_dir: str

    def download(self) -> None:
        """Download missing files; one process downloads, and the others wait for it."""
        with suppress(FileNotFoundError, ValueError):
            return self._check()
        reason = "the download left them incomplete; delete them and try again"
        try:
            Path(self.data_dir).mkdir(parents=True, exist_ok=True)
            with FileLock(Path(self.data_dir, f".{self.name}.lock")):
                if not self._are_there():
                    _log.info("%s: downloading into %s", self.name, self.data_dir)
                    with _short_and_silent():
                        self._source(self.data_dir, download=True)
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            if passes(error):  # the disk is full: the caller waits for space
                raise
            reason = f"the download failed ({' '.join(str(error).split()) or type(error).__name__})"
        return self._check(reason)

    def lacks(self) -> str:
        """Say that files are missing, and whether `data_dir` is writable; "" if all files exist."""
        if self._are_there():
            return ""
        absent = f"{self.name} is not in data_dir={self.data_dir}"
        folder = Path(self.data_dir).absolute()
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            return f"{absent}, which is not writable"
        return f"{absent}; it is downloaded before anything runs"

    def load(self, held_out: Callable[[np.ndarray], np.ndarray]) -> dict[str, Split]:
        """Read the splits; `held_out` draws the validation images' indices from the labels."""
        self._check()
        if self.kind in _IDX_MD5:
            pool, test = self._read_idx()
        else:
            data_sets = (self._source(self.data_dir, train=train) for train in (True, False))
            pool, test = map(_tensors, data_sets)
        val_rows = held_out(pool.targets.numpy())
        train_rows = np.setdiff1d(np.arange(len(pool.targets)), val_rows)
        train, val = (
            Split(pool.inputs[index], pool.targets[index]) for index in (train_rows, val_rows)
        )
        return {"train": train, "val": val, "test": test}

    def _read_idx(self) -> Iterator[Split]:
        """Yield the training images and the test images, from files that have been checked.

        torchvision could read them too, but importing it takes longer than a short training.
        """
        files = iter(self._published())
        for images, labels in zip(files, files, strict=True):
            # A header of 4 bytes, then 4 bytes for each dimension: 3 of images, 1 of labels.
            pixels = np.fromfile(images, np.uint8, offset=16).reshape(-1, 1, *_IDX[0][1:])
            targets = np.fromfile(labels, np.uint8, offset=8).astype(np.int64)
            yield Split(torch.from_numpy(pixels), torch.from_numpy(targets))

    @property
    def _source(self) -> Any:
        # Imported here, because the import takes seconds and planning a sweep does not need it.
        from torchvision import datasets

        return getattr(datasets, self.kind)

    def _paths(self) -> list[Path]:
        """The paths of the data set's files."""
        if self.kind in _IDX_MD5:
            folder = Path(self.data_dir, self.kind, "raw")
            return [folder / f"{name}-ubyte" for name in _IDX_FILES]
        folder, names = _CIFAR_FILES[self.kind]
        return [Path(self.data_dir, folder, name) for name in names]

    def _published(self) -> dict[Path, str]:
        """The paths of the data set's files, each with its published checksum."""
        if self.kind in _IDX_MD5:
            known = _IDX_MD5[self.kind]
        else:
            source = self._source
            listed = (*source.train_list, *source.test_list)
            known = (*(md5 for _, md5 in listed), source.meta["md5"])
        return dict(zip(self._paths(), known, strict=True))

    def _are_there(self) -> bool:
        return all(path.is_file() for path in self._paths())

    def _check(self, reason: str = "nothing was downloaded") -> None:
        """Check that every file exists and is the published one.

        Raises:
            FileNotFoundError: files are missing; the message ends with `reason`.
            ValueError: a file differs from the published one.
        """
        files = self._published()
        if missing := [path for path in files if not path.is_file()]:
            listed = ", ".join(f"`{path}`" for path in missing)
            raise FileNotFoundError(
                f"{self.name}: missing {listed}; place the files there or set `data_dir` to a "
                f"folder that has them: {reason}"
            )
        for path, published in files.items():
            if (found := _md5(path)) != published:
                kinds = [kind for kind, known in _IDX_MD5.items() if found in known]
                fault = f"it belongs to {kinds[0]}" if kinds else f"md5 {found}, not {published}"
                raise ValueError(
                    f"{self.name}: `{path}` is not the published file ({fault}); delete it, and it "
                    "is downloaded again"
                )


def _tensors(data: Any) -> Split:
    labels = torch.as_tensor(data.targets, dtype=torch.int64)
    return Split(torch.as_tensor(data.data).permute(0, 3, 1, 2).contiguous(), labels)


def _md5(path: Path) -> str:
    content = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except OSError as error:
        if passes(error):
            raise
        raise ValueError(f"`{path}` cannot be read: {error}") from None
    return content.hexdigest()


@contextmanager
def _short_and_silent() -> Iterator[None]:
    """Set a network timeout, and keep torchvision's progress bars out of the logs."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_SECONDS)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
