"""`Prefetch`: fetch batches of images that do not fit on the device while the device computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from lt_sweeps.data.dataset import Split

_THREADS = 2
_AHEAD = 4  # batches that are being fetched or are ready; each takes main memory


class Prefetch:
    """Numbered batches of a split, which are taken in order while threads fetch the next ones.

    The threads only copy images: `rows` is called in the thread that calls `take`, so the images of
    a batch do not depend on the threads. A jump to another number (a resumed training, a rehearsal)
    only wastes the batches that were already fetched.

    Args:
        rows: returns the numbers of a batch's images within the split.
        end: the number of batches.
        pinned: whether to put batches into pinned memory, from which a GPU copies asynchronously.
    """

    def __init__(
        self, split: Split, rows: Callable[[int], Tensor], end: int, *, pinned: bool
    ) -> None:
        self._split, self._rows, self._end, self._pinned = split, rows, end, pinned
        self._threads: ThreadPoolExecutor | None = None
        self._fetches: dict[int, Future[Tensor]] = {}

    def take(self, number: int) -> Tensor:
        """Return the images of a batch, and start fetching the next ones.

        Raises:
            Exception: the error that the thread raised while it fetched this batch.
        """
        self._threads = self._threads or ThreadPoolExecutor(_THREADS, "prefetch")
        numbers = range(number, max(number + 1, min(number + _AHEAD, self._end)))
        for old in set(self._fetches) - set(numbers):
            self._fetches.pop(old).cancel()
        for new in numbers:
            if new not in self._fetches:
                self._fetches[new] = self._threads.submit(self._fetch, self._rows(new))
        return self._fetches.pop(number).result()

    def close(self) -> None:
        """End the threads; a later `take` starts new ones."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        self._fetches.clear()

    def _fetch(self, rows: Tensor) -> Tensor:
        images = self._split.take(rows)
        # Torch frees a batch's pinned memory only after the copies from it have ended.
        return images.pin_memory() if self._pinned else images
