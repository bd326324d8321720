"""`LearnedMask`: train raw weights and logits, from which a step computes the stack's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lt_sweeps.plan.unit import Unit
from lt_sweeps.sparsity.counter_noise import Noise, StepKeys
from lt_sweeps.sparsity.sparsifiers import LearnedSparsifier, overrides
from lt_sweeps.sparsity.sparsifiers.sparsifier import per_replicate
from lt_sweeps.storage.ticket import LOGITS, Ticket
from lt_sweeps.training.mask_action import MaskAction, moments_of
from lt_sweeps.training.optimizers import optimizer_of
from lt_sweeps.training.stack import BufferLayout, Stack

_Computed = tuple[Tensor, Tensor, Tensor, Tensor | None]  # w, logits, weights, penalty


class LearnedMask(MaskAction):
    """A mask that is trained together with the weights; its ticket holds both.

    `raw` `[R, P]` are the trained weights, and `logits` `[R, L]` the logits of all layers. The
    stack's own weights are computed from the two in every forward pass.
    """

    def __init__(self, stack: Stack, units: Sequence[Unit]) -> None:
        self.raw, self.grads = torch.zeros_like(stack.weights), torch.zeros_like(stack.weights)
        super().__init__(stack, units, weights=self.raw, grads=self.grads)
        sparsifier = units[0].stage.sparsifier
        assert isinstance(sparsifier, LearnedSparsifier)
        self.sparsifier = sparsifier
        shapes = {layer.name: sparsifier.shape(layer) for layer in self.layers}
        self.layout = BufferLayout.of_shapes(shapes)
        size = (stack.replicates, self.layout.size)
        self.logits = torch.zeros(size, dtype=stack.weights.dtype, device=stack.device)
        self.trained["logits"] = self.logits
        logit_grads = torch.zeros_like(self.logits)
        self.logit_optimizer = optimizer_of(
            self.recipe, self.logits, logit_grads, self.layout, weight_decay=sparsifier.decay
        )
        logit_views = self.layout.views(logit_grads)
        self._clipped = (
            stack.views(self.grads) if sparsifier.trains_weights else {},
            {f"{LOGITS}{name}": view for name, view in logit_views.items()},
        )
        self.temperature = torch.ones(stack.replicates, device=stack.device)
        self.noise = Noise(stack.replicates, stack.layout.size, stack.device)
        self._draws = overrides(sparsifier, LearnedSparsifier.sampled)
        streams = [(unit.seed.role("noise"), "sample", unit.stage.level) for unit in units]
        self._step_keys = StepKeys(streams, stack.device)
        self._computed: list[_Computed] = []
        # A CPU rounds the ends of a vector differently from its middle, and the position of the
        # ends depends on the other replicates. So on a CPU each replicate is computed by itself.
        rows = range(stack.replicates)
        cpu = stack.device.type == "cpu"
        self._parts = [slice(r, r + 1) for r in rows] if cpu else [slice(None)]
        self._raw, self._out = self._of(self.raw), self._of(stack.weights)
        self._logits = self._of(self.logits, self.layout)
        upstream, grads = self._of(stack.grads), self._of(self.grads)
        self._grads = list(zip(upstream, grads, self._of(logit_grads, self.layout), strict=True))

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.optimizer_tensors

    @property
    def optimizer_tensors(self) -> dict[str, Tensor]:
        of_logits = self.logit_optimizer.tensors
        logits = {f"logit_optimizer/{name}": tensor for name, tensor in of_logits.items()}
        return {**super().optimizer_tensors, **logits}

    def moments(self) -> dict[str, Tensor]:
        logits = moments_of(self.logit_optimizer, self.layout, of=LOGITS, rest=LOGITS)
        return {**super().moments(), **logits}

    def begin(self, ticket: Ticket) -> None:
        assert all(bool(kept.all()) for kept in ticket.mask.values()), "a learned mask starts whole"
        self.raw.copy_(self.stack.weights)
        for name, view in self.layout.views(self.logits).items():
            view.copy_(ticket.learned[name])

    def ready(self) -> None:
        super().ready()
        self.logit_optimizer.ready()

    def at(self, step: int) -> None:
        self.temperature.fill_(self.sparsifier.temperature(step, self.recipe))
        if self._draws:
            self.noise.seed(self._step_keys.at(step))

    def compute(self) -> None:
        self.stack.weights.copy_(self.raw)
        with torch.enable_grad():
            self._computed = [self._forward(*layer) for layer in self._layers_now()]

    def step(self, lr: float | Tensor) -> None:
        # The backward pass has two parts, because a backend differentiates with respect to the flat
        # buffer that it reads, `stack.weights`, and has no access to the mask:
        #   1. The backend has written dL/dW to `stack.grads`; W are the weights it computed with.
        #   2. In `compute` each layer's W was computed from leaves w and s (raw weights, logits)
        #      under autograd. The autograd graph, kept until now, takes dL/dW (`upstream`) to w, s.
        # Parameters without logits (biases, batch norms) are their own W, so their dL/dW is copied
        # unchanged. The copy is for the whole buffer; the gradients of the layers then overwrite
        # their parts of it. A penalty is added to the loss directly, one number per replicate, so
        # it enters part 2 with a gradient of 1. If W does not depend on s, as with DNW's empty
        # logits, `materialize_grads` gives 0 instead of an error. The optimizers step only after
        # the last layer: a step writes to the buffers that w and s are views of, and the autograd
        # graphs of the other layers still read these buffers.
        self.grads.copy_(self.stack.grads)
        for layer, (upstream, grad, logit_grad) in zip(self._computed, self._grads, strict=True):
            w, logits, weights, penalty = layer
            outputs = [weights] if penalty is None else [weights, penalty]
            ahead = [upstream] if penalty is None else [upstream, torch.ones_like(penalty)]
            back = torch.autograd.grad(outputs, [w, logits], ahead, materialize_grads=True)
            grad.copy_(back[0])
            logit_grad.copy_(back[1].detach())  # in torch 2.6 materialized zeros require gradients
        self._computed = []
        self._clip(*self._clipped)
        self.sparsifier.update(self.optimizer.step, self.logit_optimizer.step, lr)
        for logits in self._logits:
            self.sparsifier.after_step(logits)

    @torch.no_grad()
    def deploy(self, steps: Sequence[int], keys: Sequence[int], *, hard: bool = False) -> None:
        # An evaluation uses the temperature of the last update, which was at the step before.
        for temperature, step in zip(self.temperature, steps, strict=True):
            temperature.fill_(self.sparsifier.temperature(max(step - 1, 0), self.recipe))
        if self._draws:
            self.noise.seed(keys)
        self.stack.weights.copy_(self.raw)
        for w, logits, out, temperature, noise in self._layers_now():
            out.copy_(
                self.sparsifier.hardened(w, logits)
                if hard
                else self.sparsifier.deployed(w, logits, temperature, noise)
            )

    def remaining(self) -> dict[str, Tensor]:
        """The number of weights `[R]` that each layer keeps, or is expected to keep, rounded."""
        kept = [
            self.sparsifier.density(w, logits).double().flatten(1).sum(1).round()
            for w, logits in zip(self._raw, self._logits, strict=True)
        ]
        count = len(self._parts)
        return {la.name: torch.cat(kept[i * count :][:count]) for i, la in enumerate(self.layers)}

    def ticket(self, trained: Mapping[str, Tensor], step: int) -> Ticket:
        state = self._state(trained["weights"], trained)
        names = [layer.name for layer in self.layers]
        kept = {name: torch.ones_like(state[name], dtype=torch.bool) for name in names}
        return Ticket(state, kept, step, learned=self.layout.views(trained["logits"]))

    def _forward(
        self, w: Tensor, logits: Tensor, out: Tensor, temperature: Tensor, noise: Tensor
    ) -> _Computed:
        w, logits = w.detach().requires_grad_(), logits.detach().requires_grad_()
        weights = self.sparsifier.weights(w, logits, temperature, noise)
        out.copy_(weights.detach())
        return w, logits, weights, self.sparsifier.penalty(w, logits, temperature)

    def _layers_now(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """For each layer: raw weights, logits, output (in `stack.weights`), temperature and noise.

        On a CPU there is such an entry for each replicate of each layer.
        """
        noise = self.noise.draw() if self._draws else self.raw
        views = zip(self._raw, self._logits, self._out, self._of(noise), strict=True)
        temperatures = [self.temperature[part] for part in self._parts] * len(self.layers)
        return [
            (w, logits, out, per_replicate(temperature, w), drawn)
            for (w, logits, out, drawn), temperature in zip(views, temperatures, strict=True)
        ]

    def _of(self, flat: Tensor, layout: BufferLayout | None = None) -> list[Tensor]:
        """Views into a flat buffer, in the order of layers, then of `_parts` (replicate slices)."""
        views = (layout or self.stack.layout).views(flat)
        return [views[layer.name][part] for layer in self.layers for part in self._parts]
