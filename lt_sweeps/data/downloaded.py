"""Data sets that torchvision downloads on first use."""

import http.client
import io
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from lt_sweeps.config.call import ANY, omitted_at
from lt_sweeps.data.dataset import Dataset, Split, check_size
from lt_sweeps.storage.atomic_write import passes

_log = logging.getLogger(__name__)

_IDX_BYTES = {
    "train-images-idx3-ubyte": 16 + 60_000 * 784,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 784,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
# The shape of an image, classes, images to train and validate on.
_IDX, _CIFAR10, _CIFAR100 = (
    ((1, 28, 28), 10, 60_000),
    ((3, 32, 32), 10, 50_000),
    ((3, 32, 32), 100, 50_000),
)
# A download that receives nothing for this long has failed.
_PATIENCE_SECONDS = 10.0


@omitted_at(data_dir=ANY)
def mnist(*, data_dir: str = "data", validation: int = 5000) -> Dataset:
    """MNIST: 60,000 and 10,000 handwritten digits of 28x28 pixels."""
    return _downloaded("mnist", "MNIST", _IDX, data_dir, validation)


@omitted_at(data_dir=ANY)
def fashion_mnist(*, data_dir: str = "data", validation: int = 5000) -> Dataset:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes of 28x28 pixels."""
    return _downloaded("fashion_mnist", "FashionMNIST", _IDX, data_dir, validation)


@omitted_at(data_dir=ANY)
def cifar10(
    *,
    data_dir: str = "data",
    validation: int = 5000,
    stratified: bool = False,
    normalize: bool = False,
) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 colour pictures of 32x32 pixels in ten classes.

    arXiv 1905.01067 draws the validation images from all of them and does not normalize; arXiv
    1912.04427 draws equally many from each class (`stratified`) and normalizes.
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
    """CIFAR-100: 50,000 and 10,000 colour pictures of 32x32 pixels in a hundred classes."""
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
    """The data set that torchvision calls `kind`: shape of an image, classes and images `form`."""
    shape, classes, images = form
    check_size(f"{name}: validation", validation, images - 1)
    if stratified and validation % classes:
        raise ValueError(
            f"{name}: validation={validation} and stratified; it takes a multiple of {classes}"
        )
    draw = partial(_held_out_per_class if stratified else _held_out, validation)
    return Dataset(
        input_shape=shape,
        classes=classes,
        train_size=images - validation,
        prepare=partial(_download, name, kind, data_dir),
        load=partial(_load_torchvision, kind, data_dir, draw),
        mean=tuple(value / 255 for value in statistics[0]),
        std=tuple(value / 255 for value in statistics[1]),
    )


def _held_out(count: int, labels: np.ndarray) -> np.ndarray:
    """Validation indices as arXiv 1905.01067 draws them, the same for every seed."""
    return np.random.RandomState(0).choice(len(labels), count, replace=False)


def _held_out_per_class(count: int, labels: np.ndarray) -> np.ndarray:
    """Validation indices, as many of one class as of any other."""
    rng = np.random.RandomState(0)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    per_class = count // len(members)
    return np.concatenate([rng.choice(index, per_class, replace=False) for index in members])


def _load_torchvision(
    kind: str, data_dir: str, held_out: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Split]:
    source = _source(kind)
    rest, test = (_tensors(source(data_dir, train=train)) for train in (True, False))
    held = held_out(rest.labels.numpy())
    kept = np.setdiff1d(np.arange(len(rest.labels)), held)
    train, val = (Split(rest.images[index], rest.labels[index]) for index in (kept, held))
    return {"train": train, "val": val, "test": test}


def _tensors(data: Any) -> Split:
    labels = torch.as_tensor(data.targets, dtype=torch.int64)
    images = torch.as_tensor(data.data)
    if images.ndim == 3:
        return Split(images.unsqueeze(1), labels)
    return Split(images.permute(0, 3, 1, 2).contiguous(), labels)


def _source(kind: str) -> Any:
    # Imported here, because it takes a second and planning a sweep does not need it.
    from torchvision import datasets

    return getattr(datasets, kind)


def _missing(kind: str, data_dir: str) -> list[Path]:
    """The files of a torchvision data set that are absent or incomplete."""
    source = _source(kind)
    if not kind.startswith("CIFAR"):
        raw = Path(data_dir, kind, "raw")
        sizes = {raw / name: size for name, size in _IDX_BYTES.items()}
        return [p for p, size in sizes.items() if not p.is_file() or p.stat().st_size != size]
    from torchvision.datasets.utils import check_integrity

    folder = Path(data_dir, source.base_folder)
    listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    return [folder / name for name, md5 in listed if not check_integrity(folder / name, md5)]


def _download(name: str, kind: str, data_dir: str) -> None:
    """Download the files that are missing; other processes wait for the one that downloads."""
    if not _missing(kind, data_dir):
        return
    reason = "the download left them incomplete; delete them and try again"
    try:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(data_dir, f".{name}.lock")):
            if _missing(kind, data_dir):
                _log.info("%s: downloading into %s", name, data_dir)
                with _short_and_silent():
                    _source(kind)(data_dir, download=True)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        if passes(error):  # the disk is full: that is waited for
            raise
        reason = f"the download failed ({' '.join(str(error).split()) or type(error).__name__})"
    if missing := _missing(kind, data_dir):
        files = ", ".join(f"`{path}`" for path in missing)
        raise FileNotFoundError(
            f"{name}: missing {files}; place the files there or set `data_dir` to a folder that "
            f"has them: {reason}"
        )


@contextmanager
def _short_and_silent() -> Iterator[None]:
    """Set a timeout for the network, and keep the progress bars of torchvision out of logs."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_SECONDS)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
