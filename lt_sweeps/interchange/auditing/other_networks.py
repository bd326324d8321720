"""Read networks that other code has stored, for an audit: checkpoints and open_lth folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lt_sweeps.analysis.audit_findings import Findings
from lt_sweeps.analysis.audited_files import without_path
from lt_sweeps.interchange.importers.mask_file import second_names
from lt_sweeps.interchange.importers.open_lth_folder import (
    logged,
    lotteries,
    pruning_fraction,
    settings_of,
    stored_models,
)
from lt_sweeps.storage.checked_read import DamagedFile
from lt_sweeps.storage.foreign_file import read_pickle, read_safetensors
from lt_sweeps.storage.ticket_file import MASK, split_by_prefix

SUFFIXES = (".pt", ".pth", ".safetensors")
_LEVEL = re.compile(r"(?:level|lvl|round)[_-]?(\d+)", re.IGNORECASE)
_SEED = re.compile(r"(?:seed|replicate|run)[_-]?(\d+)", re.IGNORECASE)
_INSIDE = ("state_dict", "model_state_dict", "model", "net")
_MASKS = ("mask", "masks")


@dataclass(frozen=True)
class OtherNetwork:
    """A network in a file of other code.

    `series` is equal for all levels of one experiment, and `settings` for all seeds of one level.
    `original` names the weights that are stored unmasked, as `<name>_orig` by torch's pruning.
    `start` maps a file name to the weights that the training began with. `lottery` says whether
    open_lth stored the network, `branch` whether it belongs to an open_lth branch, not to `main`.
    """

    path: Path
    series: str
    settings: str
    level: int | None
    mask: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    original: frozenset[str] = frozenset()
    start: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    target_sparsity: float | None = None
    lottery: bool = False
    branch: bool = False

    @cached_property
    def kept(self) -> Mapping[str, Tensor]:
        """The mask or, without one, the nonzero weights; a tied weight appears once."""
        weights = {name: t for name, t in self.state.items() if t.dim() > 1}
        kept = self.mask or {name: tensor != 0 for name, tensor in weights.items()}
        again = second_names(kept, self.state)
        return {name: mask for name, mask in kept.items() if name not in again}


def is_open_lth(where: Path) -> bool:
    return where.is_dir() and bool(lotteries(where))


def read_networks(where: Path, findings: Findings) -> Iterator[OtherNetwork]:
    """Yield every network below `where`, levels in order; an unreadable file is a fault."""
    if is_open_lth(where):
        for lottery in lotteries(where):
            for replicate in sorted(lottery.glob("replicate_*")):
                yield from _open_lth(replicate, findings)
        return
    paths = [where] if where.is_file() else sorted(p for p in where.rglob("*") if is_weights(p))
    for path in paths:
        content = _loaded(path, findings)
        if content is not None:
            yield _checkpoint(path, where, content)


def is_weights(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".")


def _loaded(path: Path, findings: Findings) -> Mapping[str, Any] | None:
    """Read a file's content by name; None if it cannot be read."""
    content, fault = None, ""
    try:
        read = read_safetensors if path.suffix == ".safetensors" else read_pickle
        content = read(path)
    except (DamagedFile, OSError) as error:
        fault = without_path(path, error)
    if not fault and not isinstance(content, Mapping):
        fault = f"it holds a {type(content).__name__}, not tensors by name"
    if not findings.compare("files", path, fault) or content is None:
        return None
    return content


def _checkpoint(path: Path, where: Path, content: Mapping[str, Any]) -> OtherNetwork:
    """Return the network in one file; level and seed are taken from the path, if it names them."""
    inner = next((content[n] for n in _INSIDE if isinstance(content.get(n), Mapping)), content)
    metrics = {n: float(v) for n, v in content.items() if isinstance(v, (int, float))}
    tensors = _tensors(inner, prefix="")
    groups = split_by_prefix(tensors)
    nested = next((content[n] for n in _MASKS if isinstance(content.get(n), Mapping)), {})
    masks, state = groups[MASK] | _tensors(nested, prefix=""), dict(groups[""])
    masked = [n.removesuffix("_mask") for n in state if n.endswith("_mask")]
    original = frozenset(name for name in masked if f"{name}_orig" in state)
    state |= {name: state.pop(f"{name}_orig") for name in original}
    for name in masked:
        mask, weight = state[f"{name}_mask"], state.get(name)
        if weight is not None and (name in original or mask.shape == weight.shape):
            masks[name] = state.pop(f"{name}_mask")
    text = str(path.relative_to(where)) if path != where else path.name
    level = _LEVEL.search(text)
    series = _LEVEL.sub("level", text)
    return OtherNetwork(
        path,
        series,
        _SEED.sub("seed", text),
        int(level[1]) if level else None,
        masks,
        state,
        original,
        metrics=metrics,
    )


def _open_lth(replicate: Path, findings: Findings) -> Iterator[OtherNetwork]:
    """Yield the levels of a replicate and of its branches, each from the densest on."""
    try:
        fraction = pruning_fraction(settings_of(replicate), replicate)
    except (OSError, ValueError):
        fraction = None
    folders = [
        f for f in replicate.glob("level_*/*") if f.is_dir() and f.parent.name[6:].isdecimal()
    ]
    for folder in sorted(folders, key=lambda path: (path.name, int(path.parent.name[6:]))):
        level, branch = int(folder.parent.name[6:]), folder.name != "main"
        if not (folder / "mask.pth").exists():
            findings.leave_out("files", "levels that are not trained, without mask.pth")
            continue
        masks = _loaded(folder / "mask.pth", findings)
        models = stored_models(folder)
        ends = dict.fromkeys((*models[:1], *models[-1:]))  # first and last may be the same file
        loaded = [(path, _loaded(path, findings)) for path in ends]
        metrics = _logged(folder / "logger", findings)
        states = [(path.name, _tensors(content)) for path, content in loaded if content is not None]
        if masks is None or len(states) < len(loaded):
            continue
        yield OtherNetwork(
            folder,
            f"{replicate}/{folder.name}",
            f"{replicate.parent}/{level}/{folder.name}",
            level,
            _tensors(masks),
            states[-1][1] if states else {},
            start=dict(states[:-1]),
            metrics=metrics,
            target_sparsity=None if fraction is None or branch else 1 - (1 - fraction) ** level,
            lottery=True,
            branch=branch,
        )


def _tensors(content: Mapping[str, Any], *, prefix: str = "module.") -> dict[str, Tensor]:
    """Return the tensors that have numbers, dense, under their names without a prefix."""
    named = {str(n).removeprefix(prefix): t for n, t in content.items()}
    tensors = {n: t for n, t in named.items() if isinstance(t, Tensor) and not t.is_meta}
    return {n: t.dequantize() if t.is_quantized else t.to_dense() for n, t in tensors.items()}


def _logged(path: Path, findings: Findings) -> dict[str, float]:
    """Return the last value of each quantity in an open_lth logger."""
    steps, fault = dict[int, dict[str, float]](), ""
    try:
        steps = logged(path)
    except FileNotFoundError:
        findings.leave_out("metrics", "levels without a logger")
        return {}
    except (OSError, ValueError) as error:
        fault = without_path(path, error)
    findings.compare("files", path, fault)
    return {name: value for step in sorted(steps) for name, value in steps[step].items()}
