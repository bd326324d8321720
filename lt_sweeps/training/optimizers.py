"""`Optimizer`: SGD, Adam and AdamW on one flat parameter `[R, P]`, with torch's fused kernels.

The door is `optimizer_of`: it makes a recipe's optimizer, one of these or another (`OwnOptimizer`).

Each row has its own step count. So a row does not depend on the other rows, and can be saved,
restored and stacked with others without any rounding. If all counts are equal, torch gets all rows
as one tensor, otherwise one tensor per row; the results are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lt_sweeps.config.call import Call
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.training.own_optimizer import OwnOptimizer
from lt_sweeps.training.stack import BufferLayout


class Optimizer:
    """Updates `weights` `[R, P]` in place from `grads` `[R, P]`; both must keep their addresses.

    `momentum` and `nesterov` are for sgd, `betas` and `eps` for adam and adamw; a `Recipe` refuses
    options that its optimizer would ignore. Weight decay is added to the gradient, except for
    adamw, where it is decoupled. At the start the moments and the step counts are zero.
    """

    fused = True
    rest: ClassVar[Mapping[str, Tensor]] = {}  # it has no state besides moments and step counts

    def __init__(
        self,
        weights: Tensor,
        grads: Tensor,
        *,
        optimizer: str = "sgd",
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.optimizer = optimizer
        # The arguments of torch's update functions besides the tensors and the learning rate.
        self.options: dict[str, Any] = (
            {"momentum": momentum, "nesterov": nesterov, "dampening": 0.0}
            if optimizer == "sgd"
            else {"beta1": betas[0], "beta2": betas[1], "eps": eps, "amsgrad": False}
        )
        self.options |= {"weight_decay": weight_decay, "maximize": False, "fused": True}
        names = ("exp_avg", "exp_avg_sq") if optimizer != "sgd" else ("momentum",) * bool(momentum)
        self.moments = {name: torch.zeros_like(weights) for name in names}
        self.steps = torch.zeros(len(weights), dtype=torch.float32, device=weights.device)
        self._flats = weights, grads, *self.moments.values()
        self._arrange(together=True)  # all counts are 0

    def ready(self) -> None:
        """Decide whether all rows are updated as one tensor, after step counts may have changed."""
        self._arrange(together=bool((self.steps == self.steps[0]).all()))

    def _arrange(self, *, together: bool) -> None:
        # One tensor is faster: on a GPU torch starts the kernel for R tensors in several parts, and
        # the last part occupies few cores.
        self._together = together
        self._rows = [[t.view(-1)] if together else list(t) for t in self._flats]
        self._counts = [self.steps[0]] if together else list(self.steps)

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Take one step with learning rate `lr`.

        In a CUDA graph `lr` is a tensor on the device, which every replay reads again.
        """
        weights, grads, *moments = self._rows
        if self.optimizer == "sgd":
            self.steps.add_(1)
            buffers = list[Tensor | None](moments[0] if moments else [None] * len(weights))
            sgd(weights, grads, buffers, lr=lr, **self.options)
        else:
            first, second = moments
            update = adam if self.optimizer == "adam" else adamw
            update(weights, grads, first, second, [], self._counts, lr=lr, **self.options)
            if self._together and len(self.steps) > 1:
                self.steps[1:].copy_(self.steps[0])

    def mask_(self, mask: Tensor) -> None:
        """Multiply the moments by the float `mask` `[R, P]`, so pruned weights have no momentum."""
        for moment in self.moments.values():
            moment.mul_(mask)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The moments `[R, P]` and the step counts `[R]`; not copies."""
        return {**self.moments, "step": self.steps}


def optimizer_of(
    recipe: Recipe,
    weights: Tensor,
    grads: Tensor,
    layout: BufferLayout,
    *,
    weight_decay: float | None = None,
) -> Optimizer | OwnOptimizer:
    """Make the recipe's optimizer; `weight_decay` replaces the recipe's weight decay if given."""
    if isinstance(recipe.optimizer, Call):
        return OwnOptimizer(
            recipe.optimizer, weights, grads, layout, lr=recipe.lr, weight_decay=weight_decay
        )
    return Optimizer(
        weights,
        grads,
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay if weight_decay is None else weight_decay,
        betas=recipe.betas,
        eps=recipe.eps,
    )
