"""Reads the file of weights that other code wrote; none of its code runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lt_sweeps.storage.checked_read import DamagedFile, read_file
from lt_sweeps.storage.store import tensors_in


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Raises: DamagedFile, OSError: it cannot be read.
    """
    content = read_file(path)
    try:
        return tensors_in(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedFile(path, " ".join(str(error).split())) from None


def read_pickle(path: Path) -> Any:
    """What a file of torch holds: tensors, and containers and numbers beside them.

    Torch's own message is not passed on: it advises to load the file in the way that runs its code.

    Raises: DamagedFile, OSError: it cannot be read, or only by running code that it names.
    """
    content = read_file(path)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a parser of pickles raises anything for other bytes
        raise DamagedFile(path, "cannot be read as a file of tensors and nothing else") from None
