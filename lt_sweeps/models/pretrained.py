"""`Pretrained`: weights that a network starts from, from a file or from a library's own folder.

Nothing is downloaded: a compute node has no internet access, and a result must not depend on what a
server holds today. Stage keys contain the hash of the weights, not the name of the file.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt_sweeps.config.spelling import nearest
from lt_sweeps.config.user_code import files_named
from lt_sweeps.storage.checked_read import DamagedFile
from lt_sweeps.storage.foreign_file import read_pickle, read_safetensors
from lt_sweeps.storage.ticket_file import LEARNED, MASK, OPTIMIZER

_WHERE = "model.weights"
_WITHIN = ("state_dict", "model", "model_state_dict")  # where checkpoints keep their weights
FORMS = "a file, torchvision:NAME or timm:NAME"


@dataclass(frozen=True)
class Pretrained:
    """A file of weights, as it was when the plan was made.

    `said` is the value in the config: a path (to a `state_dict`, or to a ticket of ours),
    `torchvision:` with the name of weights or of an architecture, or `timm:` with that of a model.
    """

    said: str
    path: Path
    sha256: str

    @classmethod
    def of(cls, said: str) -> Pretrained:
        """Find the file. Raises: ValueError: the file or the weights do not exist."""
        library, _, name = said.partition(":")
        places = {"torchvision": _torchvision, "timm": _timm}
        path = places[library](name) if library in places else Path(said)
        if not path.is_file():
            raise ValueError(f"{_WHERE}: `{path}` is not a file; give {FORMS}")
        return cls(said, path, files_named({_WHERE: str(path)})[_WHERE])

    def read(self) -> dict[str, Tensor]:
        """Read the tensors by name; floats become float32.

        Raises: ValueError: the file cannot be read, or has changed since the plan was made.
        """
        _check(self.path, self.sha256)
        return dict(_read(self.path, self.sha256))


def _check(path: Path, sha256: str) -> None:
    """Raises: ValueError: the file has changed."""
    if files_named({_WHERE: str(path)}).get(_WHERE) != sha256:
        raise ValueError(f"{_WHERE}: `{path}` has changed since the plan was made")


@functools.lru_cache(maxsize=2)
def _read(path: Path, sha256: str) -> Mapping[str, Tensor]:
    """Read the tensors once for all seeds, which start from the same weights."""
    try:
        pickled = path.suffix != ".safetensors"
        content = read_pickle(path) if pickled else read_safetensors(path)
    except (DamagedFile, OSError) as error:
        raise ValueError(f"{_WHERE}: {error}") from None
    _check(path, sha256)  # again, because the file may have changed just before it was read
    while isinstance(content, Mapping) and (inner := [n for n in _WITHIN if n in content]):
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise ValueError(f"{_WHERE}: `{path}` holds a {type(content).__name__}, not a `state_dict`")
    ours = (MASK, OPTIMIZER, LEARNED)  # name prefixes of a ticket's other tensors
    named = {str(n).removeprefix("module."): t for n, t in content.items()}
    if any(name.startswith(LEARNED) for name in named):
        raise ValueError(
            f"{_WHERE}: `{path}` is a ticket whose mask is learned, and its weights without that "
            "mask are another network; give a ticket of the training under its hard mask"
        )
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in named.items()
        if isinstance(tensor, Tensor) and not name.startswith(ours)
    }


def _torchvision(name: str) -> Path:
    """The path where torch keeps the named weights, or the default ones of an architecture."""
    from torchvision import models

    try:
        weights: Any = (
            models.get_weight(name) if "." in name else models.get_model_weights(name)["DEFAULT"]
        )
    except (ValueError, AttributeError, KeyError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{_WHERE}: torchvision has no weights {name!r} ({said}); give the name of a model, "
            "such as resnet18, or of its weights, such as ResNet18_Weights.IMAGENET1K_V1"
        ) from None
    path = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    if not path.is_file():
        raise ValueError(
            f"{_WHERE}: {name} is not on this machine; download {weights.url} to `{path}` "
            "(TORCH_HOME is the folder around it)"
        )
    return path


def _timm(name: str) -> Path:
    """The path where Hugging Face keeps the weights of a timm model."""
    try:
        import timm  # pyright: ignore[reportMissingImports]
        from huggingface_hub import (  # pyright: ignore[reportMissingImports]
            try_to_load_from_cache,
        )
    except ImportError:
        raise ValueError(f"{_WHERE}: timm is not installed; pip install timm") from None
    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # timm has no such architecture
        found = None
    if found is None or not found.hf_hub_id:
        near = nearest(name, timm.list_pretrained())
        raise ValueError(f"{_WHERE}: timm has no weights {name!r}{near}")
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(found.hf_hub_id, file)
        if isinstance(path, str | os.PathLike):
            return Path(path)
    raise ValueError(
        f"{_WHERE}: {name} is not on this machine; `hf download {found.hf_hub_id}` puts it into "
        "Hugging Face's cache (HF_HOME)"
    )
