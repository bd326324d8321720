"""`Dataset` and `Split`: a data set before and after it is read."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W], uint8 or float32, and their labels [N], int64.

    Where `rows` [N] are given, `images` is the whole data set in its file, too large to be copied,
    and `rows` says which of them belong to the split.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def take(self, index: Tensor) -> Tensor:
        """Images by their numbers within the split."""
        return self.images[index if self.rows is None else self.rows[index]]


@dataclass(frozen=True)
class Dataset:
    """A data set: what is known before it is read, and how to read it.

    `prepare` downloads or decodes on first use, and raises FileNotFoundError naming what is
    missing and where to put it. `load`, called after it, returns the splits train, val and test.
    `images / scale` lies in [0, 1]. Where `mean` and `std` are given, training subtracts the one
    and divides by the other, per channel. `fingerprint` identifies content that the arguments do
    not fix.
    """

    input_shape: tuple[int, int, int]
    classes: int
    train_size: int
    prepare: Callable[[], None]
    load: Callable[[], dict[str, Split]]
    scale: float = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fingerprint: str = ""


def check_size(name: str, size: int, most: int) -> None:
    """Raises: ValueError: a split is empty, or leaves no image for the other splits."""
    if not isinstance(size, int) or not 1 <= size <= most:
        raise ValueError(f"{name}={size!r}; it takes 1 to {most} images")
