"""Resets (mask-1 actions): what a kept weight restarts from (arXiv:1905.01067, section 4).

A reset is a function of one layer's weights that names the evidence it needs, tensors of the whole
layer: `init` (its initial weights as the resets before have left them, the pruned ones included),
`origin` (those of the dense run), `final` (where the training ended), `masked` (what a learned mask
made of those), `kept` (the mask), `noise` (uniform in [0, 1)), `fresh` (another draw of the
initialisation). It returns the layer's initial
weights, pruned ones included, from which the next level's reset goes on; the mask lies over them.

A reset that has `to` begins with the dense run at that time, and puts biases, normalisation and the
step back to it; one that has not leaves them as trained and starts the recipe anew.
"""

from __future__ import annotations

from torch import Tensor

from lt_sweeps.config.call import omitted_at

FAMILY = "resets"  # the first part of these names in stage keys, for ever


@omitted_at(restart=False)
def rewind(
    init: Tensor, *, to: str = "0it", momentum: bool = False, restart: bool = False
) -> Tensor:
    """The weights that the dense run had at time `to`, `0it` being its initialisation.

    `to` is in epochs (`2ep`) or steps (`500it`); the recipe continues from there, learning rate and
    data order included, or with `restart` begins anew. With `momentum` the optimizer's moments are
    taken from there as well.
    (Init: arXiv:1803.03635; later times: arXiv:1903.01611.)
    """
    return init


@omitted_at(at=None, momentum=False)
def keep(final: Tensor, *, at: str | None = None, momentum: bool = False) -> Tensor:
    """The trained weights: the recipe starts anew from where the network is (fine-tuning).

    With `at` it goes on from that time of it instead, learning rate and data order included; with
    `momentum` the optimizer's moments are kept too (learning-rate rewinding, arXiv:2003.02389).
    """
    return final


def learned(masked: Tensor) -> Tensor:
    """The trained weights as a learned mask left them (gated, shrunk): its fine-tuning."""
    return masked


def transplant(origin: Tensor, *, to: str = "0it", restart: bool = False) -> Tensor:
    """The dense run's weights at time `to`, as in `rewind`, whatever the levels in between did.

    After levels that kept their weights, `rewind` would go back to what they began with.
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
    to: str = "0it",
) -> Tensor:
    """The layer's initial weights in another order, pruned ones among them.

    With `sign` each position keeps the sign of its initial weight. With `rescale` they are those of
    the dense run, over the fraction of the layer that is kept.
    """
    base = origin if rescale else init
    return _signed(_shuffled(base, noise), base, sign) * _factor(kept, rescale)


def reshuffle(
    init: Tensor, kept: Tensor, noise: Tensor, *, sign: bool = False, to: str = "0it"
) -> Tensor:
    """The kept initial weights in another order, among themselves."""
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
    to: str = "0it",
) -> Tensor:
    """One magnitude for the layer: `value`, or the standard deviation of its initial weights.

    With `sign` each weight keeps the sign of its initial weight, else the layer's signs are put in
    another order. With `rescale` as in `reinit`.
    """
    base = origin if rescale else init
    signs = base.sign() if sign else _shuffled(base, noise).sign()
    size = base.std(correction=0) if value is None else value
    return signs * size * _factor(kept, rescale)


@omitted_at(at=None)
def redraw(fresh: Tensor, *, to: str = "0it", at: str | None = None) -> Tensor:
    """A fresh draw of the initialisation, another one at every level.

    With `at` the recipe goes on from that time of it, instead of from `to`.
    The paper's `reinit` is a permutation, which has the same distribution and not the same values.
    """
    return fresh


def mask_init(init: Tensor, kept: Tensor, *, to: str = "0it", frees: bool = True) -> Tensor:
    """Rewind, with the pruned weights at 0 and trained like the others: a mask on the start alone.

    The next level still prunes among the weights that the mask kept. (`frees` says that the
    training after it holds no mask; without it this is `rewind`.)
    """
    return init


def random_signs(init: Tensor, noise: Tensor) -> Tensor:
    """The weights' magnitudes, and their signs in another order."""
    return init.abs() * _shuffled(init, noise).sign()


def _shuffled(weights: Tensor, noise: Tensor) -> Tensor:
    return weights.flatten()[noise.flatten().argsort(stable=True)].view_as(weights)


def _signed(weights: Tensor, like: Tensor, sign: bool) -> Tensor:
    return weights.abs() * like.sign() if sign else weights


def _factor(kept: Tensor, rescale: bool) -> float | Tensor:
    return kept.numel() / kept.sum().clamp(min=1) if rescale else 1.0
