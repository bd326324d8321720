"""`MaskAction`: apply a sparsifier to a stack in training, between forward pass and optimizer.

It is the base class of `FixedMask` and `LearnedMask`. A training loop calls only the methods below,
and works with either of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.ticket import State, Ticket
from lt_sweeps.training.optimizers import Optimizer, optimizer_of
from lt_sweeps.training.own_optimizer import OwnOptimizer
from lt_sweeps.training.stack import BufferLayout, Stack

_BUFFERS, _REST = "buffers/", "rest/"


class MaskAction:
    """The mask of a stack in training, and the optimizer of `weights` `[R, P]` under it."""

    def __init__(
        self, stack: Stack, units: Sequence[Unit], *, weights: Tensor, grads: Tensor
    ) -> None:
        stage = units[0].stage
        self.stack, self.units, self.recipe = stack, units, stage.training.recipe
        self.layers, self.samples = stage.network.layers, stage.sparsifier.samples
        self.optimizer = optimizer_of(self.recipe, weights, grads, stack.layout)
        # The weights and buffers that a step changes, `[R, ...]`, by their names in a checkpoint.
        buffers = {f"{_BUFFERS}{name}": buffer for name, buffer in stack.buffers.items()}
        self.trained: dict[str, Tensor] = {"weights": weights, **buffers}
        self._untrained = stage.network.untrained
        self._still: tuple[Tensor, Tensor] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds besides `trained`.

        A float mask (all 0 or 1) has a name that begins with `mask/`.
        """
        raise NotImplementedError

    @property
    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The part of `tensors` that only a further optimizer step reads."""
        return {f"optimizer/{name}": t for name, t in self.optimizer.tensors.items()}

    @property
    def runs_triton(self) -> bool:
        """Whether a step runs our Triton kernels, which round differently from torch's."""
        return self.stack.runs_triton

    def begin(self, ticket: Ticket) -> None:
        """Start from a ticket's mask; the ticket's weights are already in the stack."""
        raise NotImplementedError

    def search(self, score: Callable[[int], Sequence[float]]) -> None:
        """Let the sparsifier search for a mask if it does that: see `Sparsifier.search`."""

    def ready(self) -> None:
        """Prepare for the first step: make the decisions that a captured graph would repeat."""
        self.optimizer.ready()
        if self._untrained:
            weights = self.trained["weights"]
            still = torch.zeros_like(weights, dtype=torch.bool)
            for name in self._untrained:
                self.stack.views(still)[name].fill_(True)
            self._still = still, weights.clone()

    def at(self, step: int) -> None:
        """Set the tensors that a step reads and that a captured graph cannot compute."""

    def rewire(self, step: int) -> None:
        """Let the sparsifier change the mask; called if it `acts` at this step."""
        raise AssertionError(f"{type(self).__name__} is not rewired")

    def compute(self) -> None:
        """Compute the stack's weights for the forward pass of a training step."""

    def step(self, lr: float | Tensor) -> None:
        """Update the trained tensors, given the gradients of the stack's weights."""
        raise NotImplementedError

    def put_back(self) -> None:
        """Restore parameters that the module freezes: weight decay may have changed them.

        Optimizers other than ours may have changed them too.
        """
        if self._still is not None:
            still, values = self._still
            weights = self.trained["weights"]
            torch.where(still, values, weights, out=weights)

    def moved(self) -> Tensor:
        """The number of weights `[R]` that differ from what the mask allows, NaN included.

        It is computed without waiting for the device. If it is not 0, `check` examines the weights.
        """
        return torch.zeros(self.stack.replicates, device=self.stack.device)

    def check(self, step: int) -> None:
        """Assert the invariants of the weights, before they are evaluated or stored."""

    def deploy(self, steps: Sequence[int], keys: Sequence[int], *, hard: bool = False) -> None:
        """Compute the stack's weights for an evaluation, with a step for each replicate.

        A sampled mask is drawn with the `keys`. With `hard`, the hard mask is used instead.
        """

    def remaining(self) -> dict[str, Tensor]:
        """The number of weights `[R]` that each layer keeps."""
        raise NotImplementedError

    def ticket(self, trained: Mapping[str, Tensor], step: int) -> Ticket:
        """The stack as a ticket; `trained` are the current tensors, or copies from another step."""
        raise NotImplementedError

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state: moments under `<moment>/<parameter>`, step counts, and the rest.

        These are the tensors `[R, ...]` that the optimizer itself uses, not copies.
        """
        return moments_of(self.optimizer, self.stack.layout, rest=_REST)

    def load_moments(self, moments: State) -> None:
        """Continue with the optimizer state of a snapshot.

        Raises: ValueError: another kind of optimizer wrote the state.
        """
        own = self.moments()
        if own.keys() - moments.keys():
            raise ValueError(
                f"recipe.optimizer: {self.recipe.optimizer} cannot continue with the momentum of "
                "another optimizer, which this method keeps; give both trainings one optimizer"
            )
        for name, tensor in own.items():
            tensor.copy_(moments[name])

    def _clip(self, *named: Mapping[str, Tensor]) -> None:
        """Clip each replicate's gradients `[R, *shape]` (by name) if the recipe has clipping."""
        if (clip := self.recipe.clip) is not None:
            for row in range(self.stack.replicates):
                clip(grads={name: grad[row] for grads in named for name, grad in grads.items()})

    def _state(self, weights: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`weights` `[R, P]` and the buffers among `trained`, by their `state_dict` names."""
        buffers = {
            n.removeprefix(_BUFFERS): t for n, t in trained.items() if n.startswith(_BUFFERS)
        }
        return {**self.stack.views(weights), **buffers}

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        views = self.stack.views(flat)
        return {layer.name: views[layer.name] for layer in self.layers}


def moments_of(
    optimizer: Optimizer | OwnOptimizer, layout: BufferLayout, *, of: str = "", rest: str
) -> dict[str, Tensor]:
    """An optimizer's whole state, by the names used in tickets.

    Names of moments and of the step counts begin with `of`, all other names with `rest`.
    """
    views = {moment: layout.views(flat) for moment, flat in optimizer.moments.items()}
    named = {f"{of}{m}/{name}": v for m, by_name in views.items() for name, v in by_name.items()}
    others = {f"{rest}{name}": value for name, value in optimizer.rest.items()}
    return {**named, **others, f"{of}step": optimizer.steps}
