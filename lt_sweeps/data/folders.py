"""A data set of one's own: a folder of class folders of images."""

import functools
import hashlib
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

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_PARTS = ("train", "val", "test")
_Where = dict[str, np.ndarray]


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

    Subfolders `train` and, beside it, `test` or `val` are used as such. A split that has no folder
    is drawn by `seed` from the images that are not test or val already: as many as given, a
    fraction of them where below 1; where nothing is given, a fifth for test and a tenth for val.
    The images are decoded once, into one file under `data_dir`, which may be larger than memory.
    The fingerprint is of file names and sizes: an edit that keeps both is not seen.

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
    where = _assign(tree, test, validation, seed)
    name = f"{tree.fingerprint[:24]}-{channels}x{size}x{size}.npy"
    cache = Path(data_dir, "image_folder", name)
    return Dataset(
        input_shape=(channels, size, size),
        classes=tree.classes,
        train_size=len(where["train"]),
        prepare=partial(_decode, tree, cache, channels, size),
        load=partial(_load, tree, cache, where),
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
    """What a folder holds, looked at again only when one of its folders has changed."""
    top = _folders(root)
    folders = [root, *(root / name for name in top)]
    if "train" in top:  # else these are the class folders, whose many files are no concern here
        folders += [folder / name for folder in folders[1:] for name in _folders(folder)]
    return _scanned(root, tuple((folder, folder.stat().st_mtime_ns) for folder in folders))


# Every cell of a sweep asks, and a million files take seconds to list.
@functools.lru_cache(maxsize=8)
def _scanned(root: Path, stamp: tuple[tuple[Path, int], ...]) -> _Tree:
    top = _folders(root)
    # A folder of images that is called `train` is a class, one of folders is a split.
    parted = "train" in top and bool(_folders(root / "train"))
    if parted and (others := sorted(set(top) - set(_PARTS))):
        raise ValueError(
            f"image_folder: `{root}` has {others} beside `train`; it takes {list(_PARTS)}, or "
            "class folders alone"
        )
    names = _folders(root / "train") if parted else top
    if len(names) < 2:
        where = root / "train" if parted else root
        raise ValueError(
            f"image_folder: `{where}` has {len(names)} class folders; it takes two or more, each "
            "with the images of one class"
        )
    found = []
    for part in top if parted else [""]:
        found += _images(root, part, names)
    listing = "\n".join(f"{file}\t{(root / file).stat().st_size}" for file, _, _ in found)
    files, labels, parts = zip(*found, strict=True)
    return _Tree(
        root=root,
        files=files,
        labels=np.array(labels, dtype=np.int64),
        parts=np.array(parts),
        classes=len(names),
        fingerprint=hashlib.sha256(listing.encode()).hexdigest(),
    )


def _folders(where: Path) -> list[str]:
    if not where.is_dir():
        raise ValueError(f"image_folder: `{where}` is no folder; `path` takes one of class folders")
    return sorted(p.name for p in where.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(root: Path, part: str, names: list[str]) -> list[tuple[str, int, str]]:
    """Each image below one part of the tree: its path within the tree, its label, the part."""
    found = []
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
        found += [(file.relative_to(root).as_posix(), label, part) for file in files]
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _assign(tree: _Tree, test: float | None, validation: float | None, seed: int) -> _Where:
    """The images of each split; a split without a folder of its own is drawn from the rest."""
    rest = np.flatnonzero(~np.isin(tree.parts, ("val", "test")))
    rest = np.random.RandomState(seed).permutation(rest)
    pool = len(rest)
    where = {}
    for part, name, size, usual in (
        ("test", "test", test, 0.2),
        ("val", "validation", validation, 0.1),
    ):
        own = np.flatnonzero(tree.parts == part)
        if len(own) and size is not None:
            raise ValueError(
                f"image_folder: {name}={size} and `{tree.root / part}` exists; it takes one of them"
            )
        if not len(own):
            count = _count(name, usual if size is None else size, pool, room=len(rest) - 1)
            own, rest = rest[:count], rest[count:]
        where[part] = own
    return {"train": np.sort(rest), **where}


def _count(name: str, size: float, pool: int, *, room: int) -> int:
    count = round(size * pool) if size < 1 else int(size)
    if not 1 <= count <= room:
        raise ValueError(
            f"image_folder: {name}={size} is {count} of {pool} images; it takes 1 to {room} of "
            "them, or a fraction below 1"
        )
    return count


def _decode(tree: _Tree, cache: Path, channels: int, size: int) -> None:
    """Write every image into one file, whole or not at all; one process does it for all."""
    if cache.exists():
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):
        if cache.exists():
            return
        # Not in memory, which may be too small for it; the rename at the end makes it whole.
        part, shape = cache.with_suffix(".part"), (len(tree.files), channels, size, size)
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        # In threads this took twice as long: opening a small image is Python, not decoding.
        for index, file in enumerate(tree.files):
            images[index] = _pixels(tree.root / file, channels, size)
        images.flush()
        part.replace(cache)


def _pixels(path: Path, channels: int, size: int) -> np.ndarray:
    # Pillow is slow to import and of use to nothing else.
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            # Pillow clips more than eight bits per pixel to white instead of scaling them.
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"{file.mode} pixels; it takes eight bits per channel")
            upright = ImageOps.exif_transpose(file)
            colours = upright.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError) as error:
        raise ValueError(f"image_folder: cannot read `{path}`: {error}") from error
    square = ImageOps.fit(colours, (size, size), Image.Resampling.BILINEAR)
    return np.array(square).reshape(size, size, channels).transpose(2, 0, 1)


def _load(tree: _Tree, cache: Path, where: _Where) -> dict[str, Split]:
    """The splits; in memory if they take up to a quarter of what is free, else in their file."""
    stored = np.load(cache, mmap_mode="c")  # torch takes no array that is read-only
    images, labels = torch.from_numpy(stored), torch.from_numpy(tree.labels)
    rows = {part: torch.from_numpy(index) for part, index in where.items()}
    if stored.nbytes > psutil.virtual_memory().available // 4:
        return {part: Split(images, labels[index], index) for part, index in rows.items()}
    return {part: Split(images[index], labels[index]) for part, index in rows.items()}
