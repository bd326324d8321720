"""Audit networks that other code has stored, without running that code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from lt_sweeps.analysis.audit_findings import FOREIGN_CHECKS, CheckVerdict, Findings
from lt_sweeps.interchange.auditing.audited_store import tensors_sha256
from lt_sweeps.interchange.auditing.other_networks import (
    OtherNetwork,
    is_open_lth,
    is_weights,
    read_networks,
)

_ACCURACY = re.compile(r"acc(uracy)?(?![a-z])")  # not `accumulation_steps`


def is_of_other_code(where: Path) -> bool:
    """Whether `where` holds other code's checkpoints or an open_lth folder, not our results."""
    if where.is_file():
        return is_weights(where)
    ours = ("manifest.json", "runs", "tickets", "sweeps")
    if any((where / name).exists() for name in ours) or where.resolve().parent.name == "runs":
        return False
    return is_open_lth(where) or (where.is_dir() and any(map(is_weights, where.rglob("*"))))


def audit_networks(where: Path) -> tuple[list[CheckVerdict], list[str]]:
    """Return the verdict on each check, and a line per network: sparsity in total and by layer.

    Raises: ValueError: `where` holds no network that can be read.
    """
    findings = Findings(FOREIGN_CHECKS)
    networks: list[str] = []
    seen: dict[tuple[str, str], Path] = {}
    before: dict[str, OtherNetwork] = {}
    first: dict[str, OtherNetwork] = {}
    for network in read_networks(where, findings):
        if not _audit_mask(network, findings):
            continue
        _audit_weights(network, findings)
        _audit_numbers(network, findings)
        _audit_nesting(network, before, findings)
        _audit_start(network, first, findings)
        _audit_seed(network, seen, findings)
        networks.append(_layers(network))
    verdicts = findings.verdicts()
    if not networks and not any(verdict.faults for verdict in verdicts):
        raise ValueError(
            f"audit: {where} holds no weights that can be read; a file has tensors by name, or "
            "weights under `state_dict`, `model_state_dict`, `model` or `net`, and masks under "
            "`mask` or `masks`"
        )
    return verdicts, networks


def _audit_mask(network: OtherNetwork, findings: Findings) -> bool:
    if network.lottery and not network.mask:
        return findings.compare("masks", network.path, "mask.pth holds no tensors by name")
    if not network.mask:
        findings.leave_out("masks", "no mask is stored; weights that are 0 count as pruned")
        return bool(network.state)
    return findings.compare("masks", network.path, next(_mask_faults(network), ""))


def _mask_faults(network: OtherNetwork) -> Iterator[str]:
    for name, mask in network.mask.items():
        weight = network.state.get(name)
        if bool(((mask != 0) & (mask != 1)).any()):
            yield f"the mask of {name} has entries other than 0 and 1"
        elif weight is None and network.state:
            yield f"there is a mask of {name}, but no weights"
        elif weight is not None and weight.shape != mask.shape:
            shapes = f"{list(mask.shape)} and {list(weight.shape)}"
            yield f"mask and weights of {name} have different shapes, {shapes}"


def _audit_weights(network: OtherNetwork, findings: Findings) -> None:
    bad = [n for n, t in network.state.items() if not bool(t.isfinite().all())]
    if network.state:
        findings.compare("finite", network.path, f"{', '.join(bad)}: not finite" if bad else "")
    held = {n: m for n, m in network.mask.items() if n in network.state}
    if network.original:
        findings.leave_out("pinned", "torch's pruning keeps what is pruned in weight_orig")
    held = {name: mask for name, mask in held.items() if name not in network.original}
    if held:
        counts = {n: int(((m == 0) & (network.state[n] != 0)).sum()) for n, m in held.items()}
        findings.compare_counts("pinned", network.path, counts, "pruned weights that are not 0")


def _audit_numbers(network: OtherNetwork, findings: Findings) -> None:
    for name, value in network.metrics.items():
        if _ACCURACY.search(name.lower()):
            most = 1 if network.lottery else 100
            fault = "" if 0 <= value <= most else f"{name} is {value}; it lies in [0, {most}]"
            findings.compare("metrics", network.path, fault)
        elif "loss" in name.lower():
            fault = "" if value >= 0 else f"{name} is {value}; a loss is a number from 0 up"
            findings.compare("metrics", network.path, fault)
    if network.target_sparsity is None or network.level is None:
        findings.leave_out("counts", "no file says which sparsity was asked for")
        return
    total = sum(mask.numel() for mask in network.mask.values())
    # open_lth rounds up, and its threshold prunes one weight more than requested.
    allowed = 2 * max(1, network.level) / max(1, total)
    asked, has = network.target_sparsity, _sparsity(network.kept)
    fault = f"sparsity {has:.4f} where {asked:.4f} was asked for"
    findings.compare("counts", network.path, "" if abs(has - asked) <= allowed else fault)


def _audit_nesting(
    network: OtherNetwork, before: dict[str, OtherNetwork], findings: Findings
) -> None:
    """Check that each level of `main` is nested in the last; branches of open_lth need not be."""
    denser = before.get(network.series)
    if network.level is None or network.branch:
        findings.leave_out("nesting", "a branch" if network.branch else "its name gives no level")
        return
    before[network.series] = network
    if denser is None:
        return
    back = {
        name: int(((mask != 0) & (denser.kept[name] == 0)).sum())
        for name, mask in network.kept.items()
        if name in denser.kept and denser.kept[name].shape == mask.shape
    }
    what = f"it keeps weights that {denser.path.parent.name} has pruned"
    findings.compare_counts("nesting", network.path, back, what)


def _audit_start(network: OtherNetwork, first: dict[str, OtherNetwork], findings: Findings) -> None:
    """Check that an open_lth level restarts from a model of level 0, pruned."""
    dense = first.setdefault(network.series, network)
    if dense is network or network.branch:
        return
    shared = network.start.keys() & dense.start.keys()
    if dense.level != 0 or not shared:
        findings.leave_out("rewound", "the start of the level, or of level 0, is not stored")
        return
    (name,) = shared
    start, origin = network.start[name], dense.start[name]
    counts: dict[str, int] = {}
    for layer in sorted(start.keys() & origin.keys()):
        moved = start[layer] != origin[layer]
        if layer in network.mask:
            moved &= network.mask[layer] != 0
        counts[layer] = int(moved.sum())
    what = f"kept weights of {name} differ from those of level 0"
    findings.compare_counts("rewound", network.path, counts, what)


def _audit_seed(
    network: OtherNetwork, seen: dict[tuple[str, str], Path], findings: Findings
) -> None:
    if not network.state:
        findings.leave_out("seeds", "only a mask is stored")
        return
    twin = seen.setdefault((network.settings, tensors_sha256(network.state)), network.path)
    same = twin != network.path
    findings.compare("seeds", network.path, f"its weights equal those of {twin}" if same else "")


def _layers(network: OtherNetwork) -> str:
    layers = ", ".join(f"{n} {_sparsity({n: kept}):.4g}" for n, kept in network.kept.items())
    return f"{network.path}: sparsity {_sparsity(network.kept):.4g} ({layers})"


def _sparsity(kept: Mapping[str, Tensor]) -> float:
    total = sum(mask.numel() for mask in kept.values())
    return 1 - sum(int((mask != 0).sum()) for mask in kept.values()) / max(1, total)
