"""`rehearse`: run the first steps of a training twice before they count, and check the model.

A result must depend only on its seed, and a prediction only on its own example. A user-defined
model, augmentation, optimizer or sparsifier that violates this trains like any other, and the
results do not show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lt_sweeps.config.seeds import global_draws
from lt_sweeps.config.spelling import listed
from lt_sweeps.models.functional import picked
from lt_sweeps.models.module_state import state_of
from lt_sweeps.sparsity.sparsifiers import FIXED
from lt_sweeps.training.backends.stack_views import owner_of
from lt_sweeps.training.cuda_graph import give_back_memory
from lt_sweeps.training.training_loop import TrainingLoop

_LOSS = "the loss"
_STEPS = 2
_IMAGES = 8


def rehearse(loop: TrainingLoop) -> None:
    """Check a training that has just been started, and restore its state.

    Later trainings of a network run the same code as its first one. So they are checked only if
    their sparsifier is not the fixed mask, and then only their first steps are.

    Raises:
        ValueError: the first steps do not depend only on the seed, a prunable weight gets no
            gradient or would not act as 0 when pruned, the model counts its calls or is different
            when built again, or an evaluation depends on which images are evaluated together.
    """
    stage = loop.stage
    first = stage.depth == 1
    if not stage.length or not (first or stage.sparsifier != FIXED):
        return
    tensors = _tensors(loop)
    before = _copies(tensors)
    # A GPU may add in another order, and Adam takes a full step even if a gradient is nearly 0. So
    # on a GPU only the losses are compared. Only they are copied, because two more copies of the
    # training's state might not fit into memory.
    names = [*tensors] if loop.device.type == "cpu" else [_LOSS]
    ends = []
    for number in (1, 2):
        with global_draws(number):
            _train(loop, before, resumed=number == 2)
        ends.append(_copies({name: tensors[name] for name in names}))
    if changed := [name for name in names if _differ(loop, *(end[name] for end in ends))]:
        raise ValueError(
            f"model: {stage.network.net}: the first {_STEPS} steps of its training, run twice, "
            f"give two values of {changed[0]}; its forward pass, or a function that its training "
            "calls (optimizer, loss, augmentation), draws random numbers that do not come from the "
            "seed, counts its calls, or keeps something else that no checkpoint holds"
        )
    if first:
        inputs, targets = (part[:_IMAGES].cpu() for part in next(loop.batches.evaluation("val")))
        module, again = _built(loop, 1), _built(loop, 2)
        pair = torch.cat([inputs, inputs])[:2]  # a batch norm needs at least two examples
        _check_gradients(loop, module, inputs, targets)
        _check_built_again(loop, module, again, pair)
        _check_calls(loop, module, pair)
        _check_kept(loop, module, again, pair)
        _check_zeros(loop, module, pair)
        _check_one_image_at_a_time(loop)
    _put_back(loop, before)
    if loop.device.type == "cuda":
        give_back_memory()  # a graph cannot use cached memory: it has a memory pool of its own


def _train(loop: TrainingLoop, before: dict[str, Tensor], *, resumed: bool) -> None:
    """Take the first steps; if `resumed`, with a new optimizer in each, as after a checkpoint."""
    _put_back(loop, before)
    update = loop.update(eager=True)
    for step in range(loop.step, min(loop.step + _STEPS, loop.end)):
        if resumed:
            update = loop.update(eager=True)
        update(step)


def _tensors(loop: TrainingLoop) -> dict[str, Tensor]:
    """All tensors that a step changes, by name."""
    return {
        _LOSS: loop.history.train_loss,
        "the stack": loop.stack.weights,
        **loop.masking.trained,
        **loop.masking.tensors,
    }


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _put_back(loop: TrainingLoop, before: dict[str, Tensor]) -> None:
    for name, tensor in _tensors(loop).items():
        tensor.copy_(before[name])
    loop.history.mask_changed(-1)


def _differ(loop: TrainingLoop, first: Tensor, second: Tensor) -> bool:
    """Whether a tensor differs between the two runs: on a CPU in any bit, otherwise by rounding."""
    if loop.device.type == "cpu":
        return not torch.equal(first.nan_to_num(), second.nan_to_num())
    rounding = loop.stack.arithmetic.rounding
    return not torch.allclose(first, second, rtol=rounding, equal_nan=True)


def _built(loop: TrainingLoop, number: int) -> nn.Module:
    """Build the first replicate as a plain module, with torch's generators seeded by `number`."""
    state = {name: tensor[0].cpu() for name, tensor in loop.stack.state().items()}
    with global_draws(number):
        return loop.stage.network.holding(state)


def _called(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of the module, with the same random draws in every call."""
    with torch.no_grad(), global_draws(3):
        return picked(module(inputs))


def _equal(module: nn.Module, again: nn.Module, inputs: Tensor) -> bool:
    """Whether two modules with the same weights have the same outputs in evaluation mode."""
    outputs, others = (_called(built.eval(), inputs) for built in (module, again))
    return torch.allclose(outputs, others, rtol=1e-3, atol=1e-5, equal_nan=True)


def _check_built_again(
    loop: TrainingLoop, module: nn.Module, again: nn.Module, inputs: Tensor
) -> None:
    """Refuse a model that draws values at its construction that are not in its tickets."""
    if not _equal(module, again, inputs):
        raise ValueError(
            f"model: {loop.stage.network.net}, built twice with the same weights, gives two "
            "outputs for one input; register everything else that it draws when it is built, such "
            "as a wiring, as a buffer (register_buffer)"
        )


def _check_calls(loop: TrainingLoop, module: nn.Module, inputs: Tensor) -> None:
    """Refuse a model that computes with a count of its calls, or writes to its weights.

    Only whole-number attributes are examined, and one pruned weight of each layer.
    """
    network, numbers = loop.stage.network, []
    pruned = _pruned(loop, module)
    for _ in range(2):
        _called(module.train(), inputs)
        numbers.append(_whole_numbers(module))
    counts = [name for name, number in numbers[1].items() if number != numbers[0].get(name)]
    if counts and _depends(loop, counts, inputs):
        raise ValueError(
            f"model: {network.net}: it computes with `{counts[0]}`, which counts the calls; no "
            "checkpoint holds it, so a resumed training would restart the count; make it a buffer "
            "(register_buffer)"
        )
    if moved := [name for name, weight in pruned.items() if weight != 0]:
        raise ValueError(
            f"model: {network.net}: its forward pass writes to {moved[0]}, so a pruned weight "
            "would not stay 0; compute with other values instead (torch.nn.utils.parametrize)"
        )


def _check_kept(loop: TrainingLoop, module: nn.Module, again: nn.Module, inputs: Tensor) -> None:
    """Refuse a model whose evaluations use values of its training that no ticket holds."""
    for _ in range(_STEPS):
        _called(module.train(), inputs)
    again.load_state_dict(state_of(module), strict=False)  # what a ticket holds
    if not _equal(module, again, inputs):
        raise ValueError(
            f"model: {loop.stage.network.net}: after a training its outputs differ from those of a "
            "model with the same weights and buffers; register what a training changes, such as "
            "running statistics, as a persistent buffer (register_buffer)"
        )


def _pruned(loop: TrainingLoop, module: nn.Module) -> dict[str, Tensor]:
    """Set the first weight of each layer to 0, and return views of these weights by layer name.

    Only one weight per layer, because a model may invert a layer's matrix, and with many zeros it
    may be singular.
    """
    # Selected by an index, because `flatten` copies a weight in another memory layout
    # (channels_last).
    pruned = {
        layer.name: module.get_parameter(layer.name).detach()[(0,) * len(layer.shape)]
        for layer in loop.stage.network.layers
    }
    for weight in pruned.values():
        weight.zero_()
    return pruned


class _Weights(TorchFunctionMode):
    """A context that records the weights that convolutions and linear layers compute with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, named = getattr(func, "__name__", ""), kwargs or {}
        if name == "linear" or name.startswith("conv"):
            self.seen.append(named["weight"] if "weight" in named else args[1])
        return func(*args, **named)


def _check_zeros(loop: TrainingLoop, module: nn.Module, inputs: Tensor) -> None:
    """Refuse a model that computes with another number than 0 in the place of a pruned weight."""
    network = loop.stage.network
    _pruned(loop, module)
    with torch.enable_grad(), global_draws(3), _Weights() as used:
        module.train()(inputs)
    firsts = [(w.numel(), w.flatten()[0]) for w in used.seen if w.requires_grad]
    moved = [
        layer.name
        for layer in network.layers
        for count, first in firsts
        if count == layer.size and first != 0 and _moves_with(first, module, layer.name)
    ]
    if moved:
        raise ValueError(
            f"model: {network.net}: its forward pass changes a pruned weight of {listed(moved)} "
            "from 0 to another number, as weight standardisation does; leave these layers dense "
            "(model.prunable.exclude)"
        )


def _moves_with(number: Tensor, module: nn.Module, name: str) -> bool:
    """Whether a number is computed from a layer's first weight, or from several of its weights.

    A number that depends on a single other weight only means that the weights were moved, for
    example flipped.
    """
    parameter = module.get_parameter(name)
    (grad,) = torch.autograd.grad(number, parameter, retain_graph=True, allow_unused=True)
    return grad is not None and bool(grad.flatten()[0] != 0 or grad.count_nonzero() > 1)


def _depends(loop: TrainingLoop, counts: Sequence[str], inputs: Tensor) -> bool:
    """Whether results of a call depend on these counts; a model may also count only for a log."""
    results = []
    for count in (1, 10**6):  # an early count, and a late one that is a multiple of usual intervals
        module = _built(loop, 1).train()
        for name in counts:
            setattr(*owner_of(module, name), count)
        try:
            results.append([_called(module, inputs), *module.state_dict().values()])
        except Exception:  # the model may raise anything for a count that it never had
            return True
    pairs = zip(*results, strict=True)
    return not all(torch.equal(early.nan_to_num(), late.nan_to_num()) for early, late in pairs)


def _whole_numbers(module: nn.Module) -> dict[str, int]:
    """The int attributes of a module and its submodules, by name."""
    return {
        f"{owner}.{leaf}".lstrip("."): value
        for owner, part in module.named_modules()
        for leaf, value in vars(part).items()
        if type(value) is int
    }


def _check_gradients(
    loop: TrainingLoop, module: nn.Module, inputs: Tensor, targets: Tensor
) -> None:
    """Refuse a model whose loss does not depend on some of its prunable weights."""
    network = loop.stage.network
    parameters = dict(module.named_parameters())
    names = [layer.name for layer in network.layers]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        loss = loop.stack.task_loss.mean(picked(module.eval()(inputs)), targets)
        grads = (
            torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
            if loss.requires_grad
            else [None] * len(names)
        )
    if lost := [name for name, grad in zip(names, grads, strict=True) if grad is None]:
        raise ValueError(
            f"model: {network.net}: no gradient reaches {listed(lost)} in evaluation mode; the "
            "forward pass detaches them or does not use them, and they would still count as "
            f"weights; leave them out: model.prunable.exclude=[{','.join(lost)}]"
        )


def _check_one_image_at_a_time(loop: TrainingLoop) -> None:
    """Refuse a model whose output for an example depends on the other examples of a batch."""
    inputs = next(loop.batches.evaluation("val"))[0][:_IMAGES]
    outputs = loop.stack.logits(inputs)
    if outputs.shape[1:2] != inputs.shape[:1]:
        raise ValueError(
            f"model: {loop.stage.network.net}: its output for {len(inputs)} examples has shape "
            f"{list(outputs.shape[1:])}; the first dimension must be the number of examples"
        )
    rounding = loop.stack.arithmetic.rounding
    # The last image too: a recurrent layer over the wrong dimension sees only the images before.
    for one in (slice(1), slice(len(inputs) - 1, None)):
        together, alone = outputs[:, one].flatten(1), loop.stack.logits(inputs[one]).flatten(1)
        size = together.abs().amax(1, keepdim=True)
        # Outputs that are not finite pass: the training diverges, and its records will show that.
        if bool(((together - alone).abs() > rounding * size + 1e-6).any()):
            raise ValueError(
                f"model: {loop.stage.network.net}: in evaluation mode its output for an image "
                "depends on the other images of the batch, so a test accuracy would depend on the "
                "batch size; in torch a recurrent or attention layer takes the batch as its first "
                "dimension only with batch_first=True"
            )
