"""Read a file of weights that other code wrote, without running any of that code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lt_sweeps.storage.checked_read import DamagedFile, read_file
from lt_sweeps.storage.store import tensors_in


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file, by name.

    Raises: DamagedFile, OSError: the file cannot be read.
    """
    content = read_file(path)
    try:
        return tensors_in(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedFile(path, " ".join(str(error).split())) from None


def read_pickle(path: Path) -> Any:
    """Read a file that torch wrote: tensors, and containers and numbers next to them.

    Torch's own error message is not passed on, because it advises to load the file in a way that
    runs its code.

    Raises: DamagedFile, OSError: the file cannot be read, or only by running code that it names.
    """
    content = read_file(path)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a pickle parser may raise anything for other bytes
        raise DamagedFile(path, "cannot be read as a file that holds only tensors") from None
