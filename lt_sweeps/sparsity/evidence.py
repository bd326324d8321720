"""Evidence: the tensors that criteria, resets and freezes request by their parameters' names.

Most evidence is a snapshot of the weights at a moment of a training; the rest is computed from such
a snapshot, or drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.config.spelling import listed, nearest
from lt_sweeps.sparsity.granularity import WHERE, Granularity

_CRITERION = {  # what criteria may name, with the moment that holds if the yaml sets none
    "init": "start",
    "final": "end",
    "best": "best",
    "origin": "origin",
    "grad": "start",
    "hessian_grad": "start",
    "flow": "start",
    "logits": "end",
    "keeps": "end",
    "sampled": "end",
    "channel": "end",
    "noise": None,
}
UNTRAINED = ("init", "grad", "hessian_grad", "flow")  # available before a network is trained
ON_DATA = ("grad", "hessian_grad")  # computed from training images
LEARNED = ("logits", "keeps", "sampled")  # available only after a mask was trained
# The evidence that resets and freezes may name.
OF_ACTIONS = ("origin", "init", "final", "masked", "kept", "cut", "noise", "fresh")
_LOGITS = ("kept", "logits", "noise")


def whole_mask(criterion: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a criterion that returns the mask itself (bools); the schedule's target is ignored."""
    criterion.whole_mask = True  # type: ignore[attr-defined]
    return criterion


def is_whole_mask(criterion: Call) -> bool:
    return getattr(criterion.function, "whole_mask", False)


@dataclass(frozen=True)
class Criterion:
    """A mask criterion, with the moment of each piece of evidence (None for noise, which is drawn).

    `granularity` says which weights are kept or pruned together; None means single weights.
    """

    call: Call
    evidence: tuple[tuple[str, str | None], ...]
    granularity: Granularity | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Criterion:
        """The criterion that a yaml describes: `_target_`, moments, arguments, `granularity`."""
        where = "mask_criterion"
        target = str(config.get("_target_"))
        names = _evidence(Call(target), where, tuple(_CRITERION), timed=True)
        evidence = {name: config.get(name, _CRITERION.get(name)) for name in names}
        evidence.update({n: n.removeprefix("at_") for n in names if n.startswith("at_")})
        for name, moment in evidence.items():
            if (name == "noise") != (moment is None):
                needed = "null, as noise has no moment" if name == "noise" else "a moment"
                raise ValueError(f"{where}.{name}: got {moment!r}; give {needed}")
        rest = {k: v for k, v in config.items() if k not in (*names, "granularity")}
        call = Call.of(rest, where=where, supplied=names)
        granularity = Granularity.of(config.get("granularity", "weight"))
        if granularity is not None and is_whole_mask(call):
            raise ValueError(
                f"{WHERE}: got {str(granularity)!r}; `{call.target}` returns the mask itself, "
                "which no granularity applies to"
            )
        return cls(call, tuple(evidence.items()), granularity)


def reset(config: Mapping[str, Any], where: str = "reset") -> Call:
    """The reset or freeze that a yaml describes; `where` says which of the two it is."""
    return _call(config, where, OF_ACTIONS)


def logits(target: str, **arguments: Any) -> Call:
    """The initial logits of a learned mask: a function of `mask_logits` and its arguments."""
    return _call({"_target_": target, **arguments}, "method", _LOGITS)


def _call(config: Mapping[str, Any], where: str, allowed: tuple[str, ...]) -> Call:
    names = _evidence(Call(str(config.get("_target_"))), where, allowed)
    return Call.of(config, where=where, supplied=names)


def _evidence(
    call: Call, where: str, allowed: tuple[str, ...], *, timed: bool = False
) -> tuple[str, ...]:
    """The names of a function's tensor parameters; `timed` also allows names such as `at_500it`.

    A parameter without an annotation is a tensor if it has no default or the name of evidence.
    """
    names = tuple(
        name
        for name, parameter in inspect.signature(call.function).parameters.items()
        if "Tensor" in str(parameter.annotation)
        or (
            parameter.annotation is parameter.empty
            and (parameter.default is parameter.empty or name in allowed)
        )
    )
    unknown = [n for n in names if n not in allowed and not (timed and n.startswith("at_"))]
    if unknown:
        near = nearest(unknown[0], allowed) or ";"
        raise ValueError(
            f"{where}: `{call.target}` asks for evidence that it cannot have: "
            f"{listed(unknown)}{near} it can have {listed(allowed)}; give any other argument its "
            "type, such as `rate: float`"
        )
    return names
