"""Mask criteria: a score per weight; the highest scores stay (arXiv:1905.01067, section 3 and S2).

A criterion is an elementwise function whose parameters name the evidence that it needs:
- `init` and `final`, the two snapshots that it compares; the config sets their moments
- `noise`, uniform in [0, 1); `grad`, a gradient of the loss; `logits`, those of a learned mask
- the other names that `evidence.py` lists
Each tensor is a vector of the weights that compete: the remaining weights of one layer, or of all
layers, by the schedule's scope. Equal scores are ordered at random, from the seed. A criterion
marked by `whole_mask` returns bools, which are the mask itself; the schedule's target is ignored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lt_sweeps.sparsity.evidence import whole_mask
from lt_sweeps.sparsity.top_k import increasing

FAMILY = "criteria"  # the first part of these names in stage keys; never changes


def large_final(final: Tensor) -> Tensor:
    """|w_f|: magnitude pruning, the criterion of the lottery ticket hypothesis."""
    return final.abs()


def small_final(final: Tensor) -> Tensor:
    return -final.abs()


def large_init(init: Tensor) -> Tensor:
    return init.abs()


def small_init(init: Tensor) -> Tensor:
    return -init.abs()


def large_init_large_final(init: Tensor, final: Tensor, noise: Tensor) -> Tensor:
    """min(rank |w_i|, rank |w_f|): large both before and after; equal weights are ranked at random.

    Ranks replace the paper's min(alpha |w_f|, |w_i|), where alpha aligns the percentiles.
    """
    return _lower_rank(init.abs(), final.abs(), noise)


def small_init_small_final(init: Tensor, final: Tensor, noise: Tensor) -> Tensor:
    """The rank form of -max(alpha |w_f|, |w_i|): small both before and after."""
    return _lower_rank(-init.abs(), -final.abs(), noise)


def magnitude_increase(init: Tensor, final: Tensor) -> Tensor:
    """|w_f| - |w_i|, signed."""
    return final.abs() - init.abs()


def movement(init: Tensor, final: Tensor) -> Tensor:
    """|w_f - w_i|."""
    return (final - init).abs()


def random(noise: Tensor) -> Tensor:
    return noise


def snip(init: Tensor, grad: Tensor, *, examples: int = 128) -> Tensor:
    """|g w_i|: how much the loss would change without the weight (arXiv:1810.02340).

    g is the gradient, at the moment of `grad`, of the mean loss on the first `examples` training
    images.
    """
    return (init * grad).abs()


def grad(grad: Tensor, *, examples: int = 128) -> Tensor:
    """|g|, with the gradient g as in `snip`."""
    return grad.abs()


def grasp(
    init: Tensor, hessian_grad: Tensor, *, examples: int = 128, temperature: float = 200.0
) -> Tensor:
    """w_i (Hg): keeps the weights whose removal would reduce the gradient norm most.

    g and H are the gradient and the Hessian of the loss as in `snip`, with the network's outputs
    divided by `temperature`. (arXiv:2002.07376, whose score is minus this one: it removes the
    weights with the highest scores.)
    """
    return init * hessian_grad


def synflow(flow: Tensor, *, rounds: int = 100) -> Tensor:
    """|w dR/dw|, where R is the summed output for an input of ones, with weights |w|.

    The density falls by equal factors in `rounds` rounds; each round scores the weights that are
    left (arXiv:2006.05467).
    """
    return flow


@whole_mask
def learned(logits: Tensor) -> Tensor:
    """Keep exactly the weights whose logit is above 0; the schedule's target is ignored."""
    return logits > 0


@whole_mask
def slim(channel: Tensor, *, percent: float) -> Tensor:
    """Keep the weights of channels whose share is above `percent` (arXiv:1708.06519).

    A channel's share is the fraction of channels with a smaller batch-norm scale.
    """
    return channel > percent


@whole_mask
def hard(keeps: Tensor) -> Tensor:
    """Keep exactly the weights of the hard mask that a sparsifier has learned."""
    return keeps


@whole_mask
def sampled(sampled: Tensor) -> Tensor:
    """Keep exactly the weights of one draw of a learned mask."""
    return sampled


def large_logit(logits: Tensor, final: Tensor) -> Tensor:
    """The logit of a learned mask: the weights with the highest chance to be kept stay.

    Equal logits are common; they are ordered by |w_f|.
    """
    order = final.abs().argsort(stable=True)
    order = order[logits[order].argsort(stable=True)]
    first, second = logits[order], final.abs()[order]
    rises = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    ranks = torch.zeros(len(order), dtype=torch.float64, device=logits.device)
    ranks[order[1:]] = rises.double().cumsum(0)
    return ranks


@whole_mask
def drawn(logits: Tensor, noise: Tensor) -> Tensor:
    """One draw of a learned mask: each weight stays with probability sigmoid(logit)."""
    return noise < torch.sigmoid(logits)


def large_final_same_sign(init: Tensor, final: Tensor) -> Tensor:
    """|w_f| if the sign stayed, otherwise 0. If too few stayed, random others are kept too."""
    return final.abs() * _same_sign(init, final)


def large_final_diff_sign(init: Tensor, final: Tensor) -> Tensor:
    """|w_f| if the sign flipped, otherwise 0. Few flip, so most kept weights are random ones."""
    return final.abs() * _diff_sign(init, final)


def magnitude_increase_same_sign(init: Tensor, final: Tensor) -> Tensor:
    """|w_f| - |w_i| if the sign stayed, otherwise 0, which outranks the weights that shrank."""
    return magnitude_increase(init, final) * _same_sign(init, final)


def magnitude_increase_diff_sign(init: Tensor, final: Tensor) -> Tensor:
    """|w_f| - |w_i| if the sign flipped, otherwise 0."""
    return magnitude_increase(init, final) * _diff_sign(init, final)


@whole_mask
def large_final_same_sign_single(init: Tensor, final: Tensor) -> Tensor:
    """Keep exactly the weights whose sign stayed; the schedule's target is ignored."""
    return _same_sign(init, final)


@whole_mask
def large_final_diff_sign_single(init: Tensor, final: Tensor) -> Tensor:
    """Keep exactly the weights whose sign flipped; the schedule's target is ignored."""
    return _diff_sign(init, final)


def _same_sign(init: Tensor, final: Tensor) -> Tensor:
    return init.sign() == final.sign()


def _diff_sign(init: Tensor, final: Tensor) -> Tensor:
    return init.sign() != final.sign()


def _lower_rank(first: Tensor, second: Tensor, noise: Tensor) -> Tensor:
    """The lower of each weight's two ranks, one by each score."""
    order = increasing(noise)
    return torch.minimum(_rank(first, order), _rank(second, order))


def _rank(score: Tensor, order: Tensor) -> Tensor:
    """Position of each weight in increasing order of score: [0, n), exact in float64.

    Equal scores are ordered as in `order`, by the noise. If they were ordered by their position in
    the tensor, a layer whose weights all have one magnitude (`reset=constant`) would lose its first
    rows entirely, and whole units with them.
    """
    order = order.index_select(0, increasing(score.index_select(0, order)))
    ranks = torch.empty(len(score), dtype=torch.float64, device=score.device)
    return ranks.scatter_(0, order, torch.arange(len(score), device=score.device).double())
