"""STR: soft threshold reparameterization (arXiv:2002.03231)."""

from __future__ import annotations

from lt_sweeps.plan.methods.after_search import (
    HARD,
    LEARNED,
    Protocol,
    finetuned,
    logits_by,
    refuse_ticket,
)
from lt_sweeps.plan.stages import Changes, Init, Logits, Prune, Train, Training, Work
from lt_sweeps.sparsity.schedules import Target
from lt_sweeps.sparsity.sparsifiers import SoftThreshold


def soft_threshold(
    init: Init,
    recipe: Training,
    *,
    s_init: float = -100.0,
    threshold_decay: float = 5e-4,
    same_decay: bool = True,
    mask_lr: float = 1.0,
    protocol: Protocol = "prune",
    finetune: Changes | None = "same",
) -> tuple[Train, Work]:
    """Train weights and a threshold per layer, then fine-tune the weights that are not 0.

    Args:
        s_init: the initial value of every s; weight decay alone raises s until it prunes.
        threshold_decay: the weight decay of s.
        same_decay: use this weight decay for the weights too while the thresholds are trained, as
            in the released code (main.py, `get_optimizer`); otherwise use the recipe's.
        finetune: the keys of the recipe that fine-tuning changes; null only scores.
    """
    refuse_ticket(protocol, "str", because="its thresholds make every weight smaller")
    if same_decay and not isinstance(own := recipe.recipe.optimizer, str):
        raise ValueError(
            "method: same_decay=true sets the weight decay only of sgd, adam and adamw; "
            f"for {own.target} give method.same_decay=false, and recipe.optimizer.weight_decay"
        )
    start = logits_by("constant", value=float(s_init), grain="layer")
    shrinking = SoftThreshold(threshold_decay, mask_lr)
    decay = {"weight_decay": threshold_decay} if same_decay else "same"
    searching = recipe.changed(decay, where="method.threshold_decay")
    search = Train(Logits(init, start), searching, shrinking)
    cut = Prune(search, Target.open(init.network.layers), HARD, origin=search)
    return Train(init, recipe), finetuned(cut, recipe, finetune, start=LEARNED)
