"""Supermasks: masks on untrained weights, by pruning or by training (arXiv:1905.01067, section 5).

`supermask` prunes a dense run to get its mask (section 5.1); the others train one (section 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lt_sweeps.config.call import Call
from lt_sweeps.plan.methods.after_search import ZERO, criterion_by, logits_by, reset_by
from lt_sweeps.plan.stages import Evaluate, Init, Logits, Prune, Reset, Train, Training
from lt_sweeps.sparsity.evidence import Criterion
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import Supermask


def supermask(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    freeze: Call,
    *,
    statistics: int = 200,
) -> tuple[Evaluate, ...]:
    """Train once, prune the dense network to each sparsity, score each mask on the reset weights.

    The first result has no mask. `statistics` is the number of training batches from which
    batch-norm statistics are estimated.
    """
    if statistics < 0:
        raise ValueError(f"method: statistics={statistics}; give 0 batches or more")
    dense = Train(init, recipe)
    cuts = [Prune(dense, target, mask_criterion, origin=dense) for target in schedule]
    starts = [Reset(pruned, reset, freeze, origin=dense) for pruned in (dense, *cuts)]
    return tuple(Evaluate(start, recipe, statistics=statistics) for start in starts)


def learned_supermask(
    init: Init,
    recipe: Training,
    reset: Call,
    *,
    bias: float = 0.0,
    rescale: bool = False,
    rounding: bool = False,
    mask_lr: float = 1.0,
    randomise_signs: bool = False,
) -> Train | tuple[Evaluate]:
    """Train each weight's probability to be kept; the weights are reset once and never trained.

    Args:
        bias: the initial value of all logits; the lower it is, the sparser the mask becomes.
        rescale: divide a layer's weights by the fraction of them that is kept.
        rounding: round the probabilities instead of drawing masks from them.
        mask_lr: the learning rate of the logits as a multiple of the recipe's.
        randomise_signs: score the trained mask on weights with randomly permuted signs, as a
            control: the accuracy must fall to chance.
    """
    all_alike = logits_by("constant", value=float(bias))
    start = Logits(Reset(init, reset, ZERO, origin=init), all_alike)
    trained = Train(start, recipe, Supermask(rescale, rounding, mask_lr))
    if not randomise_signs:
        return trained
    signs = reset_by("random_signs")
    control = Reset(trained, signs, ZERO, origin=trained)
    return (Evaluate(control, recipe, trained.sparsifier),)


def learned_supermask_from(
    init: Init,
    recipe: Training,
    schedule: tuple[Target, ...],
    mask_criterion: Criterion,
    reset: Call,
    *,
    dense: Mapping[str, Any] | None = None,
    strength: float = 2.0,
    rescale: bool = False,
    rounding: bool = False,
    mask_lr: float = 1.0,
) -> Train:
    """Run `learned_supermask` from a criterion's mask at the schedule's last level.

    The reset is of all weights, because the learned mask may keep those that the criterion prunes.

    Args:
        dense: the keys of the recipe that the dense run to be pruned changes.
        strength: the initial logit of a weight that this mask keeps; pruned weights get its
            negative.
    """
    trained = Train(init, recipe.changed(dense or {}, where="method.dense"))
    cut = Prune(trained, schedule[-1], mask_criterion, origin=trained)
    kept_alone = logits_by("by_mask", strength=float(strength))
    start = Logits(Reset(trained, reset, ZERO, origin=trained), kept_alone, mask=cut)
    return Train(start, recipe, Supermask(rescale, rounding, mask_lr))


def supermask_ticket(
    init: Init,
    recipe: Training,
    reset: Call,
    freeze: Call,
    *,
    search: Mapping[str, Any] | None = None,
    bias: float = 0.0,
    rescale: bool = False,
    mask_lr: float = 1.0,
) -> tuple[Train]:
    """Train a mask, draw one binary mask from it, and train the weights under this mask.

    Args:
        search: the keys of the recipe that the training of the mask changes.
    """
    start = Logits(init, logits_by("constant", value=float(bias)))
    searching = recipe.changed(search or {}, where="method.search")
    searched = Train(start, searching, Supermask(rescale, False, mask_lr))
    drawn = criterion_by("drawn")
    cut = Prune(searched, Target.open(init.network.layers), drawn, origin=searched)
    return (Train(Reset(cut, reset, freeze, origin=searched), recipe),)
