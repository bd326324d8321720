"""Images that are decoded once, into one numpy file with a checksum file next to it."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
from filelock import FileLock

from lt_sweeps.config.file_version import file_sha256
from lt_sweeps.data.image_files import Content, content_of, unreadable
from lt_sweeps.storage.atomic_write import write_whole


@dataclass(frozen=True)
class DecodedImages:
    """The images of a folder, `[N, channels, size, size]` bytes, in the order of `files`.

    `fingerprint` is the hash of the files' content, and part of the name of the numpy file `cache`.
    """

    root: Path
    files: tuple[str, ...]
    fingerprint: str
    cache: Path
    channels: int
    size: int

    def decode(self) -> None:
        """Decode every image into the file `cache`, unless that was done before.

        Only one process decodes, and `cache` appears only when it is complete.

        Raises:
            ValueError: a file is not an image, or has changed since its folder was listed.
        """
        if self._intact():
            return
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.cache}.lock"):
            if self._intact():
                return
            # The file is written, not mapped into memory: a full disk then raises an error, whereas
            # with a mapped file a signal would kill the process.
            part = self.cache.with_suffix(".part")
            try:
                with part.open("wb") as file:
                    checksum = self._write(file)
                self._note(checksum, part.stat())
                part.replace(self.cache)
            finally:
                part.unlink(missing_ok=True)

    def array(self) -> np.ndarray:
        """Map the decoded images from their file.

        Raises:
            ValueError: the file is missing, or differs from what was written.
        """
        if not self._intact():
            raise ValueError(
                f"image_folder: `{self.cache}` is missing or damaged; run the same command again, "
                "which decodes the images again"
            )
        return np.load(self.cache, mmap_mode="c")  # copy on write: torch refuses a read-only array

    def _write(self, file: BinaryIO) -> str:
        """Write the numpy file; returns its checksum."""
        header, shape = io.BytesIO(), (len(self.files), self.channels, self.size, self.size)
        array = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, array)
        checksum, content = hashlib.sha256(), Content()
        for block in itertools.chain([header.getvalue()], self._rows(content)):
            checksum.update(block)
            file.write(block)
        if content.hexdigest() != self.fingerprint:
            raise ValueError(
                f"image_folder: files of `{self.root}` were changed while they were read; run the "
                "same command again"
            )
        file.flush()
        os.fsync(file.fileno())
        return checksum.hexdigest()

    def _rows(self, content: Content) -> Iterator[bytes]:
        # Threads took twice as long: most of the time goes to Python code, not to decoding.
        for file in self.files:
            blob = content_of(self.root / file)
            content.add(file, blob)
            yield _pixels(self.root / file, blob, self.channels, self.size).tobytes()

    def _intact(self) -> bool:
        """Whether the file is still what was written.

        A file that fits into memory is read again and compared with its checksum. Reading a larger
        one takes minutes, so it is read only if its size or time has changed.
        """
        noted, file = self._checksum_file, self.cache
        try:
            if not (noted.is_file() and file.is_file()):
                return False
            checksum, *stamp = noted.read_text("utf-8").split()
            status = file.stat()
            unchanged = stamp == [str(status.st_size), str(status.st_mtime_ns)]
            if unchanged and not fits_in_memory(status.st_size):
                return True
            if file_sha256(file) != checksum:
                return False
        except (OSError, ValueError):
            return False
        if not unchanged:  # the file was copied and has another time, but the same content
            with suppress(OSError):
                self._note(checksum, status)
        return True

    @property
    def _checksum_file(self) -> Path:
        return self.cache.with_suffix(".sha256")

    def _note(self, checksum: str, status: os.stat_result) -> None:
        line = f"{checksum} {status.st_size} {status.st_mtime_ns}"
        write_whole(self._checksum_file, line.encode())


def fits_in_memory(size: int) -> bool:
    """Whether `size` bytes take at most a quarter of the free memory."""
    return size <= psutil.virtual_memory().available // 4


def _pixels(path: Path, blob: bytes, channels: int, size: int) -> np.ndarray:
    # Imported here, because importing it is slow and nothing else needs it.
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(blob)) as file:
            # Pillow would clip values beyond eight bits to white instead of scaling them.
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"{file.mode} pixels; it takes eight bits per channel")
            upright = ImageOps.exif_transpose(file)
            colours = upright.convert("L" if channels == 1 else "RGB")
            square = ImageOps.fit(colours, (size, size), Image.Resampling.BILINEAR)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises any: SyntaxError, struct.error, zlib.error, ...
        # Pillow names the bytes as `<_io.BytesIO object at ...>`.
        said = " ".join(str(error).split()).partition(" <_io.")[0]
        reason = said or type(error).__name__
        raise unreadable(path, reason) from None
    return np.array(square).reshape(size, size, channels).transpose(2, 0, 1)
