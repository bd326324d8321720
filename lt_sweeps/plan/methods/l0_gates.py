"""L0 regularisation by hard concrete gates (arXiv:1712.01312), as used in arXiv:1912.04427."""

from __future__ import annotations

import math
from typing import Literal

from lt_sweeps.plan.methods.after_search import (
    HARD,
    KEEP,
    LEARNED,
    Protocol,
    criterion_by,
    finetuned,
    logits_by,
    refuse_ticket,
)
from lt_sweeps.plan.stages import Changes, Evaluate, Init, Logits, Prune, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import HardConcrete

SAMPLED = criterion_by("sampled")


def l0(
    init: Init,
    recipe: Training,
    *,
    lmbda: float = 1e-6,
    l2: float = 0.0,
    droprate: float = 0.5,
    grain: Literal["weight", "channel"] = "weight",
    mask_lr: float = 1.0,
    mask: Literal["gate", "binary", "sample", "none"] = "gate",
    protocol: Protocol = "prune",
    finetune: Changes | None = "same",
) -> tuple[Train, Work]:
    """Train with gates that are drawn at every step, fix a mask, fine-tune the kept weights.

    Args:
        lmbda: the penalty is this times the expected number of weights that are not 0.
        l2: a weight decay scaled by a weight's probability to be kept, in addition to the recipe's.
        droprate: the drop rate of the gates at the start.
        grain: whether each `weight` has a gate, or each `channel` (a row of a convolution's weight,
            which is an output feature map, or an input if it is transposed; an input of a linear
            layer).
        mask: the mask for fine-tuning. `gate` keeps the weights whose gate at test time is not 0,
            multiplied by the gate; `binary` keeps the same weights unchanged; `sample` draws one
            mask; `none` keeps drawing, which failed for the authors of arXiv:1912.04427.
        finetune: the keys of the recipe that fine-tuning changes; null only scores.
    """
    refuse_ticket(protocol, "l0", because="its gates are drawn again in every step")
    if not 0 < droprate < 1:
        raise ValueError(f"method: droprate={droprate}; give a number between 0 and 1")
    mean = math.log((1 - droprate) / droprate)
    initial = logits_by("normal", mean=mean, std=0.01, grain=grain)
    gates = HardConcrete(lmbda, l2, grain, mask_lr)
    dense, search = Train(init, recipe), Train(Logits(init, initial), recipe, gates)
    if mask == "none":
        start = Logits(search, logits_by("carried"))
        if finetune is None:
            return dense, Evaluate(start, recipe, gates)
        return dense, Train(start, recipe.changed(finetune, where="method.finetune"), gates)
    criterion = SAMPLED if mask == "sample" else HARD
    cut = Prune(search, Target.open(init.network.layers), criterion, origin=search)
    start = LEARNED if mask == "gate" else KEEP
    return dense, finetuned(cut, recipe, finetune, start=start)
