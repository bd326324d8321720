"""`Sparsifier`: how sparsity acts inside a training; `LearnedSparsifier`: masks that are trained.

Both are frozen values, so they are part of a training's identity. A subclass changes a behaviour by
overriding a method; the defaults do nothing. Tensors are those of a layer, `[R, *shape]`, and all
replicates are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.prunable import Layer

When = Literal["before", "instead"]
"""When the mask is rewired: before the optimizer's update of a step, or instead of it."""

Update = Callable[[float | Tensor], None]
"""One step of an optimizer, at a learning rate."""


@dataclass(frozen=True)
class TrainingState:
    """The state of a training between two steps, by layer, for sparsifiers that change the mask.

    `weights`, `grads` and `mask` are `[R, *shape]`; the mask is 1.0 for kept weights. If the mask
    is rewired instead of the update, `grads` are the gradients of the step's batch, before any mask
    is applied. `moments` are the optimizer's. A weight pruned here becomes 0. A weight brought back
    starts from the value that `remembered` returned for it, or from 0.
    """

    layers: tuple[Layer, ...]
    weights: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    moments: tuple[Mapping[str, Tensor], ...]
    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class Sparsifier:
    """How sparsity acts inside a training. This base class is the fixed mask.

    A training calls, in this order:

    `search`      once, before the first step: finds a mask by trying out masks
    `acts`        before every step: says whether `rewire` is called at this step
    `rewire`      changes the mask; afterwards `remembered` says what pruned weights leave behind
    `regularise`  in every update, between the gradients and the optimizer: adds to the gradients

    Plans and records read the properties: they say what a training will do to the mask.
    """

    samples: ClassVar[int] = 1  # networks drawn for a test; their accuracies are averaged
    trains_weights: ClassVar[bool] = True  # if False, only the logits are trained

    @property
    def learns(self) -> bool:
        """Whether it trains logits from which the mask is computed (a `LearnedSparsifier`)."""
        return False

    @property
    def holds(self) -> bool:
        """Whether pruned weights stay at their pinned values."""
        return True

    @property
    def lean(self) -> bool:
        """Whether a training never holds more weights than its mask keeps."""
        return self.holds and not (self.learns or overrides(self, Sparsifier.remembered))

    @property
    def kept_at_end(self) -> int | None:
        """The total number of weights kept at the end; None if it does not prune to a number."""
        return None

    @property
    def changes_mask(self) -> bool:
        """Whether a training may end with a different mask than it started with."""
        methods = (Sparsifier.rewire, Sparsifier.search)
        return self.learns or any(overrides(self, method) for method in methods)

    @property
    def prunes(self) -> bool:
        """Whether a training counts as a pruning: it ends one level above its start."""
        return self.kept_at_end is not None

    @property
    def mask_updates(self) -> Sequence[int] | None:
        """The steps at which a whole training changes the mask; None without a timetable."""
        return None

    def search(self, state: TrainingState, score: Callable[[int], Sequence[float]]) -> None:
        """Find a mask, in place.

        `score(n)` returns each replicate's validation accuracy under the current mask, with
        batch-norm statistics estimated from n training batches.
        """

    def acts(self, step: int, recipe: Recipe) -> When | None:
        """When a step calls `rewire`: `before` the optimizer's update, `instead`, or never."""
        return None

    def rewire(self, state: TrainingState, step: int, recipe: Recipe) -> None:
        """Change the mask, in place."""

    def remembered(self, weights: Tensor, mask: Tensor) -> Tensor:
        """The values of pruned weights, added to a layer's weights just before the next `rewire`.

        Called after `rewire`, with the weights from before it, if a subclass overrides it. By
        default pruned weights leave nothing behind.
        """
        raise NotImplementedError

    def regularise(self, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> None:
        """Add the gradient of a penalty on weights to a step's gradients, by parameter name."""

    def chance(self, step: int, recipe: Recipe) -> tuple[float, float] | None:
        """(a, b) if sigmoid(a logit + b) is the probability to be kept, or the soft mask; or None.

        These are numbers, not tensors, because the figures that draw them run without torch.
        """
        return None

    def identity(self) -> dict[str, Any]:
        kind = type(self)
        return Call(f"{kind.__module__}.{kind.__qualname__}", Config(asdict(self))).identity()

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"{type(self).__name__}({arguments})"


@dataclass(frozen=True)
class Free(Sparsifier):
    """No mask at all: pruned weights start at their pinned values, and train like any other."""

    @property
    def holds(self) -> bool:
        return False


@dataclass(frozen=True)
class LearnedSparsifier(Sparsifier):
    """A sparsifier that computes the weights from raw weights and logits, which train together.

    A layer's logits may have any `shape` that fits that of its weights: one per weight, channel or
    layer. A subclass defines at least `weights`, through which gradients reach both, and `keeps`. A
    training step calls `weights` and `penalty`, then `update` and `after_step`; a test calls
    `deployed` and `hardened`.

    `temperature` is `[R, 1, ...]`. If the class overrides `sampled`, `noise` holds uniform numbers
    in [0, 1) of the weight's shape, new ones in every forward pass; otherwise its content means
    nothing.
    """

    lr = 1.0  # of the logits, as a multiple of the recipe's; a field in classes that offer it

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"method: mask_lr={self.lr}; give a positive multiple")

    @property
    def learns(self) -> bool:
        return True

    @property
    def prunes(self) -> bool:
        return True

    @property
    def decay(self) -> float:
        """Weight decay of the logits."""
        return 0.0

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """The shape of a layer's logits."""
        return layer.shape

    def temperature(self, step: int, recipe: Recipe) -> float:
        """The annealed quantity, such as beta, at a step of the recipe."""
        return 1.0

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        """The weights that a training step computes with: `[R, *shape]`."""
        raise NotImplementedError

    def penalty(self, w: Tensor, logits: Tensor, temperature: Tensor) -> Tensor | None:
        """The term that a layer adds to the loss: `[R]`."""
        return None

    def update(self, weights: Update, logits: Update, lr: float | Tensor) -> None:
        """Step the optimizers of all weights and of the logits, at the recipe's rate `lr`."""
        if self.trains_weights:
            weights(lr)
        logits(lr * self.lr)

    def after_step(self, logits: Tensor) -> None:
        """Clamp the logits to their range after an update, in place."""

    def deployed(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        """The weights that an evaluation computes with."""
        return self.weights(w, logits, temperature, noise)

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        """The hard mask: bool `[R, *shape]`."""
        raise NotImplementedError

    def sampled(self, w: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        """One draw of the mask, in classes that draw it in every step: bool `[R, *shape]`."""
        return self.keeps(w, logits)

    def value(self, w: Tensor, logits: Tensor) -> Tensor:
        """The value of each weight under the hard mask, if it is kept: `[R, *shape]`."""
        return w

    def hardened(self, w: Tensor, logits: Tensor) -> Tensor:
        """The weights under the hard mask."""
        return self.value(w, logits) * self.keeps(w, logits)

    def density(self, w: Tensor, logits: Tensor) -> Tensor:
        """Each weight's probability to be kept: `[R, *shape]` in [0, 1]."""
        return self.keeps(w, logits).to(w)


FIXED = Sparsifier()
"""The fixed mask, which is omitted from a training's key."""


def overrides(sparsifier: Sparsifier, method: Callable[..., Any]) -> bool:
    """Whether a sparsifier overrides a `method` of a base class.

    A training skips methods that are not overridden, whose defaults do nothing.
    """
    return getattr(type(sparsifier), method.__name__) is not method


def per_replicate(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `[R]` to `[R, 1, ...]`, to broadcast with a tensor `[R, *shape]`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def summed(tensor: Tensor) -> Tensor:
    """Sum over all dimensions but the replicates: `[R]`."""
    return tensor.flatten(1).sum(1)
