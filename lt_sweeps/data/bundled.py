"""Image data sets without a download: `digits` of scikit-learn, and random `synthetic` images."""

import gzip
import hashlib
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lt_sweeps.data.dataset import Dataset, Split, check_held_out, check_seed, held_out_rows

_DIGITS = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
CURE = "reinstall scikit-learn"


def digits(*, validation: int = 300, test: int = 360) -> Dataset:
    """1,797 handwritten digits of 8x8 pixels, bundled with scikit-learn: nothing to download."""
    check_held_out("digits", 1797, validation, test)
    return Dataset(
        input_shape=(1, 8, 8),
        classes=10,
        train_size=1797 - test - validation,
        prepare=nothing,
        load=partial(_load_digits, validation, test),
        scale=16.0,
    )


def synthetic(
    *,
    shape: Sequence[int] = (1, 8, 8),
    classes: int = 10,
    train: int = 512,
    validation: int = 128,
    test: int = 256,
    noise: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Images of random Gaussian class prototypes plus `noise` times a unit normal.

    All classes are equally frequent. Each split has its own stream of draws, so a longer train
    split leaves the other two unchanged.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"synthetic: shape={list(shape)}; it takes [channels, height, width]")
    check_seed("synthetic", seed)
    for name, size in (("train", train), ("validation", validation), ("test", test)):
        if size < 1:
            raise ValueError(f"synthetic: {name}={size}; it takes 1 or more images")
    sizes = {"train": train, "val": validation, "test": test}
    return Dataset(
        input_shape=(shape[0], shape[1], shape[2]),
        classes=classes,
        train_size=train,
        prepare=nothing,
        load=partial(_draw_synthetic, tuple(shape), classes, sizes, noise, seed),
    )


def nothing() -> None:
    """Do nothing: the `prepare` of a data set that needs no preparation."""


def _load_digits(validation: int, test: int) -> dict[str, Split]:
    # Reads the file directly, because importing scikit-learn would take a second.
    table = read_table(sklearn_folder() / "data" / "digits.csv.gz", delimiter=",")
    images, labels = table[:, :-1], table[:, -1]
    content = images.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    check_content("digits", content, _DIGITS)
    pixels = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(labels.astype(np.int64))
    rows = held_out_rows(len(labels), validation, test)
    rows["train"] = np.sort(rows["train"])
    return {name: Split(pixels[index], targets[index]) for name, index in rows.items()}


def check_content(name: str, content: bytes, sha256: str) -> None:
    """Raises: ValueError: the content of a data set has changed, so results would not compare."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{name}: scikit-learn's copy of the data is damaged or changed; {CURE}")


def sklearn_folder() -> Path:
    """The folder of scikit-learn's data sets, which may not exist."""
    package = importlib.util.find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or [""]
    return Path(folders[0], "datasets")


def read_table(path: Path, delimiter: str | None = None) -> np.ndarray:
    """Read the numbers in a gzipped file of scikit-learn."""
    try:
        with gzip.open(path) as file:
            return np.loadtxt(file, delimiter=delimiter)
    except (FileNotFoundError, EOFError, gzip.BadGzipFile, ValueError) as error:
        name = path.name.partition("_")[0].partition(".")[0]
        raise ValueError(f"{name}: `{path}` cannot be read ({error}); {CURE}") from None


def _draw_synthetic(
    shape: tuple[int, ...], classes: int, sizes: dict[str, int], noise: float, seed: int
) -> dict[str, Split]:
    prototypes = np.random.RandomState([seed, 0]).standard_normal((classes, *shape))
    splits = {}
    for stream, (name, size) in enumerate(sizes.items(), start=1):
        labels = np.arange(size) % classes
        draws = np.random.RandomState([seed, stream]).standard_normal((size, *shape))
        # Centred at gray 128, with 32 gray values per standard deviation: a byte then holds four
        # standard deviations in each direction.
        pixels = np.clip(128 + 32 * (prototypes[labels] + noise * draws), 0, 255)
        images = torch.from_numpy(pixels.round().astype(np.uint8))
        splits[name] = Split(images, torch.from_numpy(labels.astype(np.int64)))
    return splits
