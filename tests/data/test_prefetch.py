"""`Prefetch`: threads fetch exactly the requested batches, or raise one error."""

import threading

import pytest
import torch
from torch import Tensor

from lt_sweeps.data import Split
from lt_sweeps.data.prefetch import Prefetch

IMAGES = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)


def rows(number: int) -> Tensor:
    return torch.tensor([3 * number, 39 - number])


def prefetch(split: Split, end: int = 10) -> Prefetch:
    return Prefetch(split, rows, end, pinned=False)


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize(
    "asked",
    [range(10), [0, 1, 0, 1, 2], [4, 5, 0, 9], [9, 12]],
    ids=["all", "again", "jump", "end"],
)
def test_each_batch_has_its_own_images_in_whatever_order_it_is_asked_for(asked):
    coming = prefetch(Split(IMAGES, torch.zeros(40)))
    for number in asked:
        assert torch.equal(coming.take(number), IMAGES[rows(number)])
    coming.close()
    assert not threads()


def test_batches_are_fetched_before_they_are_asked_for():
    numbers = []
    coming = Prefetch(
        Split(IMAGES, torch.zeros(40)), lambda n: numbers.append(n) or rows(n), 5, pinned=False
    )
    coming.take(0)
    assert numbers == [0, 1, 2, 3]
    coming.take(1)
    coming.take(2)
    assert numbers == [0, 1, 2, 3, 4], "each once, and none after the end"
    coming.close()


class Torn(Split):
    """A split that cannot be read from image 9 on."""

    def take(self, index: Tensor) -> Tensor:
        if 9 in index:
            raise OSError("Input/output error: images.npy")
        return super().take(index)


def test_an_error_of_a_thread_is_raised_when_its_batch_is_taken():
    coming = prefetch(Torn(IMAGES, torch.zeros(40)))
    for number in range(3):
        coming.take(number)
    with pytest.raises(OSError, match="^Input/output error: images.npy$"):
        coming.take(3)
    coming.close()
    assert not threads()
    assert torch.equal(coming.take(4), IMAGES[rows(4)]), "and a new start is possible"
    coming.close()
