"""Resets (mask-1 actions): what a kept weight restarts from (arXiv:1905.01067, section 4).

A reset is a function of one layer that names the evidence it needs. Each piece of evidence is a
tensor of the whole layer:
- `init`, its initial weights as the resets of earlier levels have left them
- `origin`, its weights in the dense run at time `to`; `fresh`, another draw of the initialisation
- `final`, the weights at the end of the training; `masked`, the same after a learned mask
- `kept`, the mask; `noise`, uniform in [0, 1)
It returns the layer's initial weights, including values for pruned weights: these are not trained
at this level, but the reset of the next level receives them as `init`.

A reset with an argument `to` goes back to the dense run at that time: biases, normalisation and the
step of the recipe are also those of that time. A reset without `to` leaves biases and normalisation
as trained, and the recipe starts again from its first step.
"""

from __future__ import annotations

from torch import Tensor

from lt_sweeps.config.durations import Duration
from lt_sweeps.config.identity import omitted_at

FAMILY = "resets"  # the first part of these names in stage keys; never changes


@omitted_at(restart=False)
def rewind(
    init: Tensor, *, to: Duration = "0it", momentum: bool = False, restart: bool = False
) -> Tensor:
    """The weights that the dense run had at time `to`, `0it` being its initialisation.

    `to` is in epochs (`2ep`) or steps (`500it`). The recipe continues from that time, with its
    learning rate and data order; with `restart` it begins again. With `momentum` the optimizer's
    moments are also those of that time.
    (Init: arXiv:1803.03635; later times: arXiv:1903.01611.)
    """
    return init


@omitted_at(at=None, momentum=False)
def keep(final: Tensor, *, at: Duration | None = None, momentum: bool = False) -> Tensor:
    """The trained weights; the recipe starts again from its first step (fine-tuning).

    With `at` the recipe continues from that time instead, at its learning rate; with `momentum` the
    optimizer's moments are kept too (learning-rate rewinding, arXiv:2003.02389).
    """
    return final


def learned(masked: Tensor) -> Tensor:
    """The trained weights as a learned mask has gated or shrunk them, for fine-tuning."""
    return masked


def transplant(origin: Tensor, *, to: Duration = "0it", restart: bool = False) -> Tensor:
    """The dense run's weights at time `to`, regardless of what earlier levels started from.

    `rewind` differs after levels that kept their trained weights: it goes back to the weights that
    the last of these levels started from.
    """
    return origin


def reinit(
    init: Tensor,
    origin: Tensor,
    kept: Tensor,
    noise: Tensor,
    *,
    sign: bool = False,
    rescale: bool = False,
    to: Duration = "0it",
) -> Tensor:
    """The layer's initial weights, pruned ones included, permuted at random.

    With `sign` each position keeps the sign of its initial weight. With `rescale` the weights of
    the dense run are permuted, and divided by the fraction of the layer that is kept.
    """
    base = origin if rescale else init
    return _signed(_shuffled(base, noise), base, sign) * _factor(kept, rescale)


def reshuffle(
    init: Tensor, kept: Tensor, noise: Tensor, *, sign: bool = False, to: Duration = "0it"
) -> Tensor:
    """The kept initial weights, permuted at random among themselves."""
    shuffled = init.clone()
    shuffled[kept] = _shuffled(init[kept], noise[kept])
    return _signed(shuffled, init, sign)


def constant(
    init: Tensor,
    origin: Tensor,
    kept: Tensor,
    noise: Tensor,
    *,
    sign: bool = False,
    value: float | None = None,
    rescale: bool = False,
    to: Duration = "0it",
) -> Tensor:
    """One magnitude for the layer: `value`, or the standard deviation of its initial weights.

    With `sign` each weight keeps the sign of its initial weight; otherwise the layer's signs are
    permuted at random. `rescale` acts as in `reinit`.
    """
    base = origin if rescale else init
    signs = base.sign() if sign else _shuffled(base, noise).sign()
    size = base.std(correction=0) if value is None else value
    return signs * size * _factor(kept, rescale)


@omitted_at(at=None)
def redraw(fresh: Tensor, *, to: Duration = "0it", at: Duration | None = None) -> Tensor:
    """A fresh draw of the initialisation, a different one at every level.

    With `at` the recipe continues from that time, instead of from `to`.
    The paper's `reinit` permutes the initial weights instead; a fresh draw has the same
    distribution, but other values.
    """
    return fresh


def mask_init(init: Tensor, kept: Tensor, *, to: Duration = "0it", frees: bool = True) -> Tensor:
    """Rewind, with pruned weights that start at 0 and are trained: only the start is masked.

    The next level still prunes only among the weights that the mask kept. `frees` lets the pruned
    weights train in the next training; without it this is `rewind`.
    """
    return init


def random_signs(init: Tensor, noise: Tensor) -> Tensor:
    """The initial magnitudes, with the layer's signs permuted at random."""
    return init.abs() * _shuffled(init, noise).sign()


def _shuffled(weights: Tensor, noise: Tensor) -> Tensor:
    return weights.flatten()[noise.flatten().argsort(stable=True)].view_as(weights)


def _signed(weights: Tensor, like: Tensor, sign: bool) -> Tensor:
    return weights.abs() * like.sign() if sign else weights


def _factor(kept: Tensor, rescale: bool) -> float | Tensor:
    return kept.numel() / kept.sum().clamp(min=1) if rescale else 1.0
