"""Resets (mask-1 actions): what a kept weight restarts from (arXiv:1905.01067, section 4).

A reset is a function of one layer's weights that names the evidence it needs: `origin` (the dense
run at time `to`), `init` (what the training that just ended had started from), `final` (where it
ended). A reset that has `to` also puts biases, normalisation and the step back to the dense run at
that time; one that has not leaves them as trained and starts the recipe anew.
"""

from __future__ import annotations

from torch import Tensor


def rewind(origin: Tensor, *, to: str = "0it", momentum: bool = False) -> Tensor:
    """The weights that the dense run had at time `to`, `0it` being its initialisation.

    `to` is in epochs (`2ep`) or steps (`500it`); the recipe continues from there, learning rate and
    data order included. With `momentum` the optimizer's moments are taken from there as well.
    (Init: arXiv:1803.03635; later times: arXiv:1903.01611.)
    """
    return origin


def keep(final: Tensor) -> Tensor:
    """The trained weights: the recipe starts anew from where the network is (fine-tuning)."""
    return final
