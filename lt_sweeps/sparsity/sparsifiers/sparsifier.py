"""`Sparsifier`: how sparsity acts inside a training; `LearnedSparsifier`: masks that are trained.

Both are values, so they are part of a training's identity. Their functions see one layer at a
time, tensors `[R, *shape]`, and never know which replicate is whose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.network import Layer


@dataclass(frozen=True)
class TrainingState:
    """A training between two steps, by layer: what a sparsifier that moves its mask may change.

    `weights` and `grads` (of the step's batch, before any mask) are `[R, *shape]`, as is `mask`,
    1.0 where a weight is kept; `moments` are the optimizer's. A weight pruned here becomes 0; one
    brought back starts from what it was if the sparsifier remembers it, else from 0.
    """

    layers: tuple[Layer, ...]
    weights: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    moments: tuple[Mapping[str, Tensor], ...]
    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class Sparsifier:
    """How sparsity acts inside a training. This base class is the fixed mask."""

    learns: ClassVar[bool] = False  # it is a `LearnedSparsifier`
    holds: ClassVar[bool] = True  # pruned weights stay where they are pinned
    moves: ClassVar[bool] = False  # `rewire` changes the mask on the way
    remembers: ClassVar[bool] = False  # it sees pruned weights as they were, to bring them back
    replaces_step: ClassVar[bool] = False  # where it does, the optimizer's step is left out
    regularises: ClassVar[bool] = False  # `regularise` changes the gradients
    searches: ClassVar[bool] = False  # `search` finds the mask, in a stage of its own
    prunes: ClassVar[bool] = False  # the training ends one level further down

    @property
    def lean(self) -> bool:
        """Whether a training never holds more weights than its mask keeps."""
        return self.holds and not (self.remembers or self.learns)

    def acts(self, step: int, recipe: Recipe) -> bool:
        """Whether `rewire` is called before the update of `step`."""
        return False

    def rewire(self, live: TrainingState, step: int, recipe: Recipe) -> None:
        """Change the mask, in place."""

    def search(self, live: TrainingState, score: Callable[[], Sequence[float]]) -> None:
        """Find a mask, in place; `score` is each replicate's accuracy under the one that is set."""

    def regularise(self, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> None:
        """Add to the gradients of a step, in place, by parameter name: a penalty on weights."""

    def identity(self) -> dict[str, Any]:
        kind = type(self)
        return Call(f"{kind.__module__}.{kind.__qualname__}", Config(asdict(self))).identity()

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"{type(self).__name__}({given})"


@dataclass(frozen=True)
class Free(Sparsifier):
    """No mask at all: pruned weights only start where they are put, and train like any other."""

    holds: ClassVar[bool] = False


@dataclass(frozen=True)
class LearnedSparsifier(Sparsifier):
    """Weights that are a function of raw weights and of logits, trained with them.

    Logits are of any `shape` that goes with the layer's, one for each weight, channel or layer. A
    subclass gives `weights`, by which gradients reach both, and `keeps`. `temperature` comes
    as `[R, 1, ...]`, `noise` as uniform numbers in [0, 1) of the weight's shape, new in every
    forward pass, where the class `draws`.
    """

    learns: ClassVar[bool] = True
    trains_weights: ClassVar[bool] = True  # else all but the logits stays as it was drawn
    draws: ClassVar[bool] = False
    samples: ClassVar[int] = 1  # networks drawn for a test, whose accuracies are averaged

    @property
    def lr_scale(self) -> float:
        """The logits' learning rate, as a multiple of the recipe's."""
        return 1.0

    @property
    def decay(self) -> float:
        """Weight decay of the logits."""
        return 0.0

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """The shape of a layer's logits."""
        return layer.shape

    def temperature(self, step: int, recipe: Recipe) -> float:
        """What is annealed, at a step of the recipe."""
        return 1.0

    def weights(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        """The weights that a training step computes with: `[R, *shape]`."""
        raise NotImplementedError

    def deployed(self, w: Tensor, logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
        """The weights that an evaluation computes with."""
        return self.weights(w, logits, temperature, noise)

    def keeps(self, w: Tensor, logits: Tensor) -> Tensor:
        """The hard mask: bool `[R, *shape]`."""
        raise NotImplementedError

    def sampled(self, w: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        """One draw of the mask: bool `[R, *shape]`."""
        return self.keeps(w, logits)

    def value(self, w: Tensor, logits: Tensor) -> Tensor:
        """What a weight is worth where a hard mask keeps it: `[R, *shape]`."""
        return w

    def hardened(self, w: Tensor, logits: Tensor) -> Tensor:
        """The weights under the hard mask."""
        return self.value(w, logits) * self.keeps(w, logits)

    def chance(self, temperature: float) -> tuple[float, float] | None:
        """(a, b) where sigmoid(a logit + b) is the chance to be kept, or the soft mask; else None.

        As numbers, because the figures that draw it know no torch.
        """
        return None

    def density(self, w: Tensor, logits: Tensor) -> Tensor:
        """Each weight's chance to be kept, `[R, *shape]` in [0, 1]."""
        return self.keeps(w, logits).to(w)

    def penalty(self, w: Tensor, logits: Tensor, temperature: Tensor) -> Tensor | None:
        """What a layer adds to the loss: `[R]`."""
        return None

    def after_step(self, logits: Tensor) -> None:
        """Keep the logits where they belong, in place."""


FIXED = Sparsifier()
"""The fixed mask, which is left out of a training's key."""


def per_replicate(values: Tensor, like: Tensor) -> Tensor:
    """`[R]` as `[R, 1, ...]`, to go with a tensor `[R, *shape]`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def summed(tensor: Tensor) -> Tensor:
    """The sum over all but the replicates: `[R]`."""
    return tensor.flatten(1).sum(1)
