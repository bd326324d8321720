"""`image_folder`: your own data set, a folder that holds one folder of images per class."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lt_sweeps.config.file_version import is_settled, version_of
from lt_sweeps.config.identity import ANY, omitted_at
from lt_sweeps.config.spelling import listed
from lt_sweeps.data.dataset import Dataset, Split, check_seed
from lt_sweeps.data.decoded_images import DecodedImages, fits_in_memory
from lt_sweeps.data.image_files import files_below, fingerprint_of, unreadable

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_PARTS = ("train", "val", "test")
_Rows = dict[str, np.ndarray]


@omitted_at(path=ANY, data_dir=ANY)
def image_folder(
    path: str,
    *,
    data_dir: str = "data",
    size: int = 32,
    channels: int = 3,
    validation: float | None = None,
    test: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int = 0,
) -> Dataset:
    """Images in one folder per class, each cropped centrally to a square of `size` pixels.

    If `path` has a folder `train`, then `train`, `test` and `val` are the splits. A `val` without a
    `test` is the test set, because ImageNet is usually laid out like that, unless the argument
    `test` is given. A split without a folder is drawn with `seed` from the other images. The
    arguments `test` and `validation` are its number of images (an int), or its fraction of these
    images (a float below 1); by default a fifth for test and a tenth for validation. The images are
    decoded once, into one file under `data_dir`, which may be larger than memory.

    The fingerprint is a hash of the names and contents of all files. It is noted under `data_dir`,
    and the files are read again only if the size or a time of one of them has changed.

    Raises:
        ValueError: there are no class folders, a class has no images, or a split does not fit.
    """
    check_seed("image_folder", seed)
    if size < 1:
        raise ValueError(f"image_folder: size={size}; it takes 1 pixel or more")
    if channels not in (1, 3):
        raise ValueError(f"image_folder: channels={channels}; it takes 1 (gray) or 3 (RGB)")
    if len(mean) != len(std) or len(mean) not in (0, channels):
        raise ValueError(
            f"image_folder: mean={list(mean)}, std={list(std)}; each takes {channels} numbers, or "
            "both none"
        )
    tree = _scan(Path(path), Path(data_dir, "image_folder"))
    parts = tree.parts
    if val_is_test := test is None and "test" not in parts and "val" in parts:
        parts = np.where(parts == "val", "test", parts)
    splits = _assign(tree, parts, test, validation, seed)
    name = f"{tree.fingerprint[:24]}-{channels}x{size}x{size}.npy"
    cache = Path(data_dir, "image_folder", name)
    images = DecodedImages(tree.root, tree.files, tree.fingerprint, cache, channels, size)
    return Dataset(
        input_shape=(channels, size, size),
        classes=tree.classes,
        train_size=len(splits["train"]),
        prepare=images.decode,
        load=partial(_load, images, tree.labels, splits),
        mean=tuple(mean),
        std=tuple(std),
        fingerprint=tree.fingerprint + "-val-is-test" * val_is_test,
    )


@dataclass(frozen=True)
class _Tree:
    """The images of a folder in sorted order, with their classes and their splits ("parts").

    `parts` holds `train`, `val` or `test` for each image, or "" without a folder `train`.
    """

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    parts: np.ndarray
    classes: int
    fingerprint: str


def _scan(root: Path, known: Path) -> _Tree:
    """List the images below a folder; they are listed again only if one of its folders changed."""
    top = _folders(root)
    folders = [root, *(root / name for name in top)]
    if "train" in top:  # otherwise `top` are the class folders, which are in `folders` already
        folders += [folder / name for folder in folders[1:] for name in _folders(folder)]
    versions = [version_of(folder.stat()) for folder in folders]
    scanned = _scanned if all(map(is_settled, versions)) else _scanned.__wrapped__
    return scanned(root, known, tuple(zip(folders, versions, strict=True)))


# Cached, because every cell of a sweep needs it, and listing a million files takes seconds.
@functools.lru_cache(maxsize=8)
def _scanned(root: Path, known: Path, versions: tuple[tuple[Path, str], ...]) -> _Tree:
    top = _folders(root)
    # A folder `train` is a split if it holds folders; if it holds images it is a class.
    parted = "train" in top and bool(_folders(root / "train"))
    if parted and (extra := sorted(set(top) - set(_PARTS))):
        raise ValueError(
            f"image_folder: `{root}` has {listed(extra)} beside `train`; it takes "
            f"{listed(_PARTS)}, or class folders alone"
        )
    names = _folders(root / "train") if parted else top
    if len(names) < 2:
        above = root / "train" if parted else root
        raise ValueError(
            f"image_folder: `{above}` has {len(names)} class folders; it takes two or more, "
            "each with the images of one class"
        )
    images = []
    for part in top if parted else [""]:
        images += _images(root, part, names)
    files, labels, parts = zip(*images, strict=True)
    return _Tree(
        root=root,
        files=files,
        labels=np.array(labels, dtype=np.int64),
        parts=np.array(parts),
        classes=len(names),
        fingerprint=fingerprint_of(root, files, known),
    )


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise ValueError(
            f"image_folder: `{path}` is not a folder; dataset.path=DIR names one with class "
            "folders, or with the folders train and val (and test), which have class folders"
        )
    try:
        return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise unreadable(path, error) from None


def _images(root: Path, part: str, names: list[str]) -> list[tuple[str, int, str]]:
    """List the images of one part of the tree: each one's path below `root`, label and part."""
    images = []
    if unknown := set(_folders(root / part)) - set(names):
        raise ValueError(
            f"image_folder: `{root / part}` has classes {listed(sorted(unknown))}; "
            f"`train` has {listed(names)}"
        )
    for label, name in enumerate(names):
        files = sorted(path for path in files_below(root / part / name) if _is_image(path))
        if not files and part in ("", "train"):
            raise ValueError(
                f"image_folder: no images in `{root / part / name}`; it takes files that end in "
                f"{', '.join(sorted(_SUFFIXES))}"
            )
        images += [(file.relative_to(root).as_posix(), label, part) for file in files]
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _assign(
    tree: _Tree, parts: np.ndarray, test: float | None, validation: float | None, seed: int
) -> _Rows:
    """Return the row numbers of each split; draw a split without a folder from other images."""
    unassigned = np.flatnonzero(~np.isin(parts, ("val", "test")))
    unassigned = np.random.RandomState(seed).permutation(unassigned)
    pool = len(unassigned)
    splits = {}
    for part, name, size, usual in (
        ("test", "test", test, 0.2),
        ("val", "validation", validation, 0.1),
    ):
        rows = np.flatnonzero(parts == part)
        if len(rows) and size is not None:
            raise ValueError(
                f"image_folder: {name}={size} and `{tree.root / part}` exists; use one of them"
            )
        if not len(rows):
            count = _count(name, usual if size is None else size, pool, room=len(unassigned) - 1)
            rows, unassigned = unassigned[:count], unassigned[count:]
        splits[part] = rows
    return {"train": np.sort(unassigned), **splits}


def _count(name: str, size: float, pool: int, *, room: int) -> int:
    if isinstance(size, float) and size >= 1:  # next to 0.99, 1.0 reads as all images
        raise ValueError(
            f"image_folder: {name}={size}; give a number of images without a decimal point, such "
            "as 50, or a fraction below 1"
        )
    count = size if isinstance(size, int) else round(size * pool)
    if not 1 <= count <= room:
        raise ValueError(
            f"image_folder: {name}={size} is {count} of {pool} images; it takes 1 to {room} of "
            "them, or a fraction below 1"
        )
    return count


def _load(decoded: DecodedImages, classes: np.ndarray, splits: _Rows) -> dict[str, Split]:
    """Load the splits into memory if a quarter of the free memory suffices, otherwise map them."""
    stored = decoded.array()
    images, labels = torch.from_numpy(stored), torch.from_numpy(classes)
    rows = {part: torch.from_numpy(index) for part, index in splits.items()}
    if not fits_in_memory(stored.nbytes):
        return {part: Split(images, labels[index], index) for part, index in rows.items()}
    return {part: Split(images[index], labels[index]) for part, index in rows.items()}
