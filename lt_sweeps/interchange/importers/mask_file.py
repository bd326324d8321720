"""Read a mask from any safetensors file: ours, torch's or another tool's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lt_sweeps.interchange.importers.imported_level import ImportedLevel, binary, masked
from lt_sweeps.storage.checked_read import DamagedFile
from lt_sweeps.storage.foreign_file import read_safetensors
from lt_sweeps.storage.ticket_file import LEARNED, MASK, split_by_prefix

_SUFFIX, _ORIGINAL, _WRAPPED = "_mask", "_orig", "module."


def read_mask_file(
    path: Path,
    *,
    seed: int = 0,
    level: int = 1,
    test_accuracy: float | None = None,
    test_loss: float | None = None,
    val_accuracy: float | None = None,
    val_loss: float | None = None,
) -> ImportedLevel:
    """Read the mask in a file; the arguments add its seed, level and known metrics.

    A mask is `mask/<name>` as in our tickets, `<name>_mask` as in modules that torch has pruned,
    otherwise every tensor under its own name. Weights next to the masks (`<name>` or `<name>_orig`)
    are imported too, with pruned weights set to 0. A `module.` prefix on all names is removed.

    Raises:
        ValueError: the file is not safetensors, has no mask, has a weight without its mask or a
            mask without its weight, or an argument is out of range.
    """
    for name, count in {"seed": seed, "level": level}.items():
        if count < 0:
            raise ValueError(f"import.{name}: got {count}; give a count")
    given = {
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
    }
    metrics = {name: value for name, value in given.items() if value is not None}
    for name, value in metrics.items():
        if name.endswith("accuracy") and not 0 <= value <= 1:
            raise ValueError(f"import.{name}: got {value}; give a number from 0 to 1")
    try:
        tensors = read_safetensors(path)
    except (DamagedFile, OSError) as error:
        raise ValueError(f"import: {path} is not a safetensors file: {error}") from None
    masks, state = _split(_unwrapped(tensors), path)
    kept = binary(masks, str(path))
    if state and (bare := sorted(kept.keys() - state.keys())):
        raise ValueError(f"import: {path}: the mask of {bare[0]} has no weights, others have")
    state = masked(state, kept, f"import: {path}")
    for name in second_names(kept, state):
        del kept[name], state[name]
    return ImportedLevel(
        choices={
            **dict.fromkeys(("model", "dataset"), "unknown"),
            "method": "imported",
            "mask_criterion": path.stem,
        },
        config={"imported": path.name},
        seed=seed,
        level=level,
        mask=kept,
        state=state,
        metrics=metrics,
    )


def second_names(kept: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the additional names under which a file repeats a tied weight.

    Two weights that are equal in every number are one tied weight, unless they are constant.
    """
    firsts, seconds = list[str](), list[str]()
    for name in sorted(kept.keys() & state.keys()):  # the file has no defined order
        weight, mask = state[name], kept[name]
        if (weight == weight.flatten()[:1]).all():  # also True for an empty weight
            continue
        tied = any(
            torch.equal(state[first], weight) and torch.equal(kept[first], mask) for first in firsts
        )
        (seconds if tied else firsts).append(name)
    return seconds


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors without a wrapper's prefix, if the names of all weights begin with it."""
    if not all(name.removeprefix(MASK).startswith(_WRAPPED) for name in tensors):
        return tensors
    return {name.replace(_WRAPPED, "", 1): tensor for name, tensor in tensors.items()}


def _split(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the masks and the weights, each by the weight's name."""
    groups = split_by_prefix(tensors)
    if groups[LEARNED]:
        raise ValueError(
            f"import: {path}: its mask is learned, so it has no mask of 0 and 1; give a ticket of "
            "the training under its hard mask"
        )
    if groups[MASK]:
        return groups[MASK], groups[""]
    if any(name.endswith(_SUFFIX) for name in tensors):
        masks = {n.removesuffix(_SUFFIX): t for n, t in tensors.items() if n.endswith(_SUFFIX)}
        rest = {n: t for n, t in tensors.items() if not n.endswith(_SUFFIX)}
        originals = {n.removesuffix(_ORIGINAL): n for n in rest if n.endswith(_ORIGINAL)}
        # Without its mask, a weight would count as not prunable.
        if lost := sorted(originals.keys() - masks.keys()):
            raise ValueError(f"import: {path}: {originals[lost[0]]} has no {lost[0]}{_SUFFIX}")
        if twice := sorted(originals.keys() & rest.keys()):
            raise ValueError(
                f"import: {path}: has both {twice[0]} and {originals[twice[0]]}; give one of them"
            )
        return masks, {n.removesuffix(_ORIGINAL): t for n, t in rest.items()}
    return dict(tensors), {}
