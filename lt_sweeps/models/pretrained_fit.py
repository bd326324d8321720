"""Which tensors of a network come from pretrained weights, and which ones the seed draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.spelling import listed
from lt_sweeps.models.module_state import state_of, tied_names
from lt_sweeps.models.pretrained import Pretrained


def drawn_names(
    module: nn.Module, weights: Pretrained | None, redraw: Sequence[str], head: str | None
) -> frozenset[str]:
    """The names of the tensors that the seed draws; without pretrained weights, all of them.

    With pretrained weights they are those that `redraw` names, and those of the head if the weights
    lack it or have it in another shape.
    """
    state = state_of(module)
    if weights is None:
        return frozenset(state)
    drawn = {name for name in state if _named(name, redraw)}
    own = {n: t for n, t in state.items() if head and n.startswith(f"{head}.")}
    absent, other = _misfits(own, weights.read())
    return frozenset(drawn | own.keys() if absent | other else drawn)


def check_fit(
    module: nn.Module, weights: Pretrained, redraw: Sequence[str], head: str | None, net: Call
) -> None:
    """Raises: ValueError: the weights are of another network, or `redraw` matches nothing."""
    state, given = state_of(module), weights.read()
    # Without this check a network could silently start from the first blocks of a deeper one. A
    # tied weight may be in the file under all of its names, and batch counters may be missing.
    unknown = given.keys() - state.keys() - tied_names(module).keys()
    surplus = sorted(name for name in unknown if not _counts(name))
    for pattern in redraw:
        if not any(_named(name, [pattern]) for name in (*state, *surplus)):
            raise ValueError(
                f"model.redraw: `{pattern}` matches no tensor; there are {listed(state)}"
            )
    drawn = drawn_names(module, weights, redraw, head)
    absent, other = (sorted(names - drawn) for names in _misfits(state, given))
    surplus = [name for name in surplus if not _named(name, redraw)]
    if misfit := absent or other or surplus:
        more = f" and {len(misfit) - 3} more" if len(misfit) > 3 else ""
        how = "has no" if absent else "has another shape of" if other else "has"
        which = f"{net} has" if absent or other else f"{net} does not have"
        raise ValueError(
            f"model.weights: `{weights.path}` {how} {', '.join(misfit[:3])}{more}, which "
            f"{which}; list in model.redraw the tensors not to take from it, or give other weights"
        )


def _misfits(state: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[set[str], set[str]]:
    """The names of a `state_dict` that the weights lack, and those of another shape."""
    # Old files lack the counters of batches, which torch added later.
    absent = {name for name in state.keys() - given.keys() if not _counts(name)}
    other = {n for n in state.keys() & given.keys() if state[n].shape != given[n].shape}
    return absent, other


def _counts(name: str) -> bool:
    """Whether a tensor is a batch norm's counter of batches."""
    return name.endswith("num_batches_tracked")


def _named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names a tensor or a module that holds it: `block.1` is not `block.10`."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)
