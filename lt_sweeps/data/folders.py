"""`image_folder`: a data set of your own, from a folder with one folder of images per class."""

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from filelock import FileLock

from lt_sweeps.config.call import ANY, omitted_at
from lt_sweeps.data.dataset import Dataset, Split
from lt_sweeps.storage.atomic_write import passes

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

    If `path` has a folder `train`, it and the folders `test` and `val` beside it are the splits. A
    split without a folder is drawn by `seed` from the other images. `test` and `validation` say
    how many it takes, or which fraction of them where below 1; by default a fifth for test and a
    tenth for validation. The images are decoded once, into one file under `data_dir`, which may be
    larger than memory. The fingerprint is of file names and sizes: an edit that keeps both goes
    unnoticed.

    Raises:
        ValueError: there are no class folders, a class has no images, or a split does not fit.
    """
    if channels not in (1, 3):
        raise ValueError(f"image_folder: channels={channels}; it takes 1 (gray) or 3 (RGB)")
    if len(mean) != len(std) or len(mean) not in (0, channels):
        raise ValueError(
            f"image_folder: mean={list(mean)}, std={list(std)}; each takes {channels} numbers, or "
            "both none"
        )
    tree = _scan(Path(path))
    splits = _assign(tree, test, validation, seed)
    name = f"{tree.fingerprint[:24]}-{channels}x{size}x{size}.npy"
    cache = Path(data_dir, "image_folder", name)
    return Dataset(
        input_shape=(channels, size, size),
        classes=tree.classes,
        train_size=len(splits["train"]),
        prepare=partial(_decode, tree, cache, channels, size),
        load=partial(_load, tree, cache, splits),
        mean=tuple(mean),
        std=tuple(std),
        fingerprint=tree.fingerprint,
    )


@dataclass(frozen=True)
class _Tree:
    """The images of a folder in sorted order, their classes, and the subfolder each lies in."""

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    parts: np.ndarray
    classes: int
    fingerprint: str


def _scan(root: Path) -> _Tree:
    """The images below a folder, listed again only when one of its folders has changed."""
    top = _folders(root)
    folders = [root, *(root / name for name in top)]
    if "train" in top:  # else these are class folders, whose times already are in `folders`
        folders += [folder / name for folder in folders[1:] for name in _folders(folder)]
    return _scanned(root, tuple((folder, folder.stat().st_mtime_ns) for folder in folders))


# Cached, because every cell of a sweep needs it, and a million files take seconds to list.
@functools.lru_cache(maxsize=8)
def _scanned(root: Path, stamp: tuple[tuple[Path, int], ...]) -> _Tree:
    top = _folders(root)
    # A folder `train` is a split if it holds folders; if it holds images it is a class.
    parted = "train" in top and bool(_folders(root / "train"))
    if parted and (others := sorted(set(top) - set(_PARTS))):
        raise ValueError(
            f"image_folder: `{root}` has {others} beside `train`; it takes {list(_PARTS)}, or "
            "class folders alone"
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
    listing = "\n".join(f"{file}\t{(root / file).stat().st_size}" for file, _, _ in images)
    files, labels, parts = zip(*images, strict=True)
    return _Tree(
        root=root,
        files=files,
        labels=np.array(labels, dtype=np.int64),
        parts=np.array(parts),
        classes=len(names),
        fingerprint=hashlib.sha256(listing.encode()).hexdigest(),
    )


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise ValueError(f"image_folder: `{path}` is not a folder; give one with class folders")
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(root: Path, part: str, names: list[str]) -> list[tuple[str, int, str]]:
    """The images of one part of the tree, each with its path in the tree, its label, the part."""
    images = []
    if strangers := set(_folders(root / part)) - set(names):
        raise ValueError(
            f"image_folder: `{root / part}` has classes {sorted(strangers)}; `train` has {names}"
        )
    for label, name in enumerate(names):
        files = sorted(p for p in (root / part / name).rglob("*") if _is_image(p))
        if not files and part in ("", "train"):
            raise ValueError(
                f"image_folder: no images in `{root / part / name}`; it takes files that end in "
                f"{', '.join(sorted(_SUFFIXES))}"
            )
        images += [(file.relative_to(root).as_posix(), label, part) for file in files]
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _assign(tree: _Tree, test: float | None, validation: float | None, seed: int) -> _Rows:
    """The row numbers of each split; a split without a folder is drawn from the other images."""
    rest = np.flatnonzero(~np.isin(tree.parts, ("val", "test")))
    rest = np.random.RandomState(seed).permutation(rest)
    pool = len(rest)
    splits = {}
    for part, name, size, usual in (
        ("test", "test", test, 0.2),
        ("val", "validation", validation, 0.1),
    ):
        rows = np.flatnonzero(tree.parts == part)
        if len(rows) and size is not None:
            raise ValueError(
                f"image_folder: {name}={size} and `{tree.root / part}` exists; it takes one of them"
            )
        if not len(rows):
            count = _count(name, usual if size is None else size, pool, room=len(rest) - 1)
            rows, rest = rest[:count], rest[count:]
        splits[part] = rows
    return {"train": np.sort(rest), **splits}


def _count(name: str, size: float, pool: int, *, room: int) -> int:
    count = round(size * pool) if size < 1 else int(size)
    if not 1 <= count <= room:
        raise ValueError(
            f"image_folder: {name}={size} is {count} of {pool} images; it takes 1 to {room} of "
            "them, or a fraction below 1"
        )
    return count


def _decode(tree: _Tree, cache: Path, channels: int, size: int) -> None:
    """Decode every image into one file, which appears when it is complete; one process does it."""
    if cache.exists():
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):
        if cache.exists():
            return
        # Image by image, because memory may be too small, and with plain writes: a mapped file has
        # holes, and where the disk is full, writing into one kills the process (SIGBUS).
        part, shape = cache.with_suffix(".part"), (len(tree.files), channels, size, size)
        try:
            with part.open("wb") as images:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(images, header)
                # Threads took twice as long: most of the time goes to Python code, not to decoding.
                for file in tree.files:
                    images.write(_pixels(tree.root / file, channels, size).tobytes())
                images.flush()
                os.fsync(images.fileno())
            part.replace(cache)  # it has its name only when it is complete
        except OSError:
            part.unlink(missing_ok=True)
            raise


def _pixels(path: Path, channels: int, size: int) -> np.ndarray:
    # Imported here, because it is slow to import and nothing else needs it.
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            # Pillow would clip values beyond eight bits to white instead of scaling them.
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"{file.mode} pixels; it takes eight bits per channel")
            upright = ImageOps.exif_transpose(file)
            colours = upright.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError) as error:
        if passes(error):
            raise
        raise ValueError(f"image_folder: cannot read `{path}`: {error}") from error
    square = ImageOps.fit(colours, (size, size), Image.Resampling.BILINEAR)
    return np.array(square).reshape(size, size, channels).transpose(2, 0, 1)


def _load(tree: _Tree, cache: Path, splits: _Rows) -> dict[str, Split]:
    """The splits: in memory if they take at most a quarter of what is free, else in their file."""
    stored = np.load(cache, mmap_mode="c")  # copy on write: torch refuses a read-only array
    images, labels = torch.from_numpy(stored), torch.from_numpy(tree.labels)
    rows = {part: torch.from_numpy(index) for part, index in splits.items()}
    if stored.nbytes > psutil.virtual_memory().available // 4:
        return {part: Split(images, labels[index], index) for part, index in rows.items()}
    return {part: Split(images[index], labels[index]) for part, index in rows.items()}
