"""What a data set is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W], uint8 or float32, and their labels [N], int64.

    Where `rows` [N] are given, `images` are a file's content, of which these are the split's: too
    many to be copied out of it.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def take(self, index: Tensor) -> Tensor:
        """Images by their numbers within the split."""
        return self.images[index if self.rows is None else self.rows[index]]


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read, and how to read it.

    `prepare` downloads or decodes on first use, and raises FileNotFoundError naming what is
    missing and where it may be placed. `load`, after it, returns the splits train, val and test.
    `images / scale` lies in [0, 1]; where `mean` and `std` are given, training then subtracts and
    divides by them per channel. `fingerprint` identifies content that the arguments do not fix.
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


def check_size(name: str, given: int, most: int) -> None:
    """Refuse a split that is empty or leaves nothing over."""
    if not isinstance(given, int) or not 1 <= given <= most:
        raise ValueError(f"{name}={given!r}; it takes 1 to {most} images")
