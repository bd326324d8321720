"""Call each kind of user-defined part on small inputs, for a trial.

Each function below checks what the part returns, and yields it with the name of the part. `number`
selects the inputs, as a seed would.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.config.seeds import Seed, seed_torch
from lt_sweeps.config.users_mistakes import raised_in, told_by
from lt_sweeps.data.batches import first_images
from lt_sweeps.data.image_transforms import ImageTransforms
from lt_sweeps.models.functional import picked
from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.network import Network
from lt_sweeps.models.output_layer import check_output_layer
from lt_sweeps.models.prunable import Layer
from lt_sweeps.plan.optimizer_checks import make_optimizer, tried_shapes
from lt_sweeps.plan.stages import Task
from lt_sweeps.sparsity.evidence import OF_ACTIONS, Criterion
from lt_sweeps.sparsity.schedules import targets_of
from lt_sweeps.training.task_loss import TaskLoss, measured

Results = Iterator[tuple[str, Iterable[Tensor]]]
"""What parts have returned, each with the name of its part."""

_EXAMPLES = 2
_KEYS = ("task", "model", "dataset", "mask_criterion", "reset", "freeze")  # our errors start so
_WEIGHTS = 50  # number of weights that a criterion has to score
_STEPS = 20  # number of steps at which a learning-rate schedule is tried


@dataclass(frozen=True)
class Yamls:
    """The yamls of a cell: the chosen option of each group."""

    options: Mapping[str, str | None]

    def of(self, group: str) -> str:
        return f"{group}/{self.options.get(group)}.yaml"

    @contextmanager
    def said(self, group: str, what: str) -> Iterator[None]:
        """Turn an error in the block into one line: the yaml, the action `what`, and the place."""
        try:
            yield
        except Exception as error:  # user-defined code may raise any exception
            said = " ".join(str(error).split())
            if isinstance(error, ValueError) and said.startswith(_KEYS):
                raise  # this package raised the error, and its message is complete
            reason = raised_in(error) or f"{type(error).__name__}: {said}"
            raise ValueError(f"{group}: {self.of(group)}: {what} failed: {reason}") from None


def try_training(network: Network, task: Task, yamls: Yamls, number: int) -> Results:
    """Try a forward pass of a network, the loss of its task, its gradients and every metric."""
    with yamls.said("dataset", "reading it"):
        x, y = _examples(task, number)
    task.kind.check_targets(y, str(task.call))
    inputs = f"inputs {_form(x)}"
    with yamls.said("model", "drawing its weights"):
        module = network.holding(network.draw(Seed.of(number, {})))
    init = network.init
    drawing = f"model: {network.net}" if init is None or init.ours else f"model.init: {init}"
    yield drawing, [tensor.clone() for tensor in state_of(module).values()]
    shapes = _shapes(module)
    tokens = "" if x.is_floating_point() else " (tokens, which model=transformer embeds)"
    seed_torch(number)  # for dropout, which differs from seed to seed
    with yamls.said("model", f"a forward pass of {inputs}{tokens}"):
        trained = picked(module.train()(x))  # may compute something else than in evaluation mode
        outputs = picked(module.eval()(x))
    if changed := [name for name, _ in shapes ^ _shapes(module)]:
        raise ValueError(
            f"model: {yamls.of('model')}: a forward pass creates, removes or resizes the buffer "
            f"{min(changed)}; create it in its final size when the module is built"
        )
    _check_outputs(network, task, module, outputs, x, y, yamls)
    yield f"model: {network.net}", [trained, outputs, *state_of(module).values()]
    yield from _try_task(task, module, outputs, y, yamls)


def _check_outputs(
    network: Network,
    task: Task,
    module: nn.Module,
    outputs: Tensor,
    x: Tensor,
    y: Tensor,
    yamls: Yamls,
) -> None:
    """Check the outputs of a network in evaluation mode for the examples `x` with targets `y`."""
    inputs = f"inputs {_form(x)}"
    if len(outputs) != len(x):
        raise ValueError(
            f"model: {yamls.of('model')}: {inputs} give outputs {_form(outputs)}; the first "
            "dimension must be the number of examples"
        )
    axis, classes = task.kind.class_axis, task.dataset.classes or 0
    of_classes = y.dtype == torch.int64 and outputs.dim() == y.dim() + 1
    if of_classes and axis is not None and outputs.shape[axis] < classes:
        raise ValueError(
            f"model: {yamls.of('model')}: {inputs} give outputs {_form(outputs)}; "
            f"{task.call} has {classes} classes"
        )
    if network.told_head is None:
        check_output_layer(module, outputs, network.net)


def _try_task(task: Task, module: nn.Module, outputs: Tensor, y: Tensor, yamls: Yamls) -> Results:
    """Try the loss of a task, its gradients and every metric on these outputs of a network."""
    shapes = f"outputs {_form(outputs)} and targets {_form(y)}"
    with yamls.said("task", f"task.loss of {shapes}"), _no_broadcast():
        loss = _task_loss(task).mean(outputs, y)
    with yamls.said("task", f"the gradient of task.loss of {shapes}"):
        if outputs.requires_grad and not loss.requires_grad:
            raise RuntimeError("the loss has none; compute it from the outputs, in torch")
        if loss.requires_grad:
            loss.backward()
    grads = (parameter.grad for parameter in module.parameters())
    yield f"task.loss: {task.kind.loss}", [loss, *(grad for grad in grads if grad is not None)]
    for metric in (each for each in task.kind.metrics if not each.takes_whole_split):
        measuring = yamls.said("task", f"task.metrics.{metric.name} of {shapes}")
        with measuring, torch.no_grad(), _no_broadcast():
            value = measured(metric, outputs, y)
        yield f"task.metrics.{metric.name}: {metric.call}", [value]


@functools.cache
def _task_loss(task: Task) -> TaskLoss:
    """The loss of a task, made once, because a training uses one for all its replicates."""
    return TaskLoss(task.kind)


def _shapes(module: nn.Module) -> set[tuple[str, torch.Size]]:
    """The names and shapes of the tensors that a ticket of the module holds."""
    return {(name, tensor.shape) for name, tensor in state_of(module).items()}


def try_one_example(network: Network, task: Task, yamls: Yamls, number: int) -> Results:
    """Try a forward pass of a batch of one example, in training mode."""
    with yamls.said("dataset", "reading it"):
        x, _ = _examples(task, number)
    module = network.holding(network.draw(Seed.of(number, {}))).train()
    try:
        module(x[:1])
    except Exception as error:  # from a batch norm, or a model that squeezes away the batch
        raise ValueError(
            f"recipe.batch_size: an epoch has a batch of one example, on which {network.net} "
            f"cannot train ({told_by(error)}); give a larger batch_size or, if only the last batch "
            "is that small, recipe.drop_last=true"
        ) from None
    yield from ()


def score(criterion: Criterion, yamls: Yamls, number: int) -> Results:
    """Try a criterion on some random weights."""
    draws = torch.Generator().manual_seed(number)
    evidence = {name: torch.rand(_WEIGHTS, generator=draws) for name, _ in criterion.evidence}
    with yamls.said("mask_criterion", f"scores of {_WEIGHTS} weights"):
        scores = criterion.call(**evidence)
    if not isinstance(scores, Tensor) or scores.shape != (_WEIGHTS,):
        raise ValueError(
            f"mask_criterion: {yamls.of('mask_criterion')}: for {_WEIGHTS} weights it returns "
            f"{_form(scores)}; a criterion gives each weight one number"
        )
    yield f"mask_criterion: `{criterion.call.target}`", [scores]


def act(group: str, call: Call, shape: tuple[int, ...], yamls: Yamls, number: int) -> Results:
    """Try a reset or a freeze on a layer of the given shape."""
    draws = torch.Generator().manual_seed(number)
    evidence = {n: torch.rand(shape, generator=draws) for n in call.names}
    evidence |= {n: evidence[n] < 0.5 for n in ("kept", "cut") if n in evidence}
    with yamls.said(group, f"a layer of {list(shape)}"):
        weights = call(**{n: x for n, x in evidence.items() if n in OF_ACTIONS})
    if not isinstance(weights, Tensor) or not _fits(weights, shape):
        raise ValueError(
            f"{group}: {yamls.of(group)}: for a layer of {list(shape)} it returns "
            f"{_form(weights)}; a {group} gives each weight of the layer one number"
        )
    yield f"{group}: `{call.target}`", [weights]


def group_weights(call: Call, layers: Sequence[Layer], number: int) -> Results:
    """Call a granularity's function on each layer, in another order for another number."""
    for layer in reversed(layers) if number else layers:
        yield f"mask_criterion.granularity: `{call.target}`", [torch.as_tensor(call(layer=layer))]


def count_kept(call: Call, layers: Sequence[Layer], number: int) -> Results:
    """Call a schedule, which has no other inputs than the layers."""
    counts = [torch.tensor(target.keep) for target in targets_of(call, layers)]
    yield f"schedule: `{call.target}`", counts


def set_rates(recipe: Recipe, number: int) -> Results:
    """Call a learning-rate schedule at some steps, in another order for another number."""
    assert isinstance(recipe.decay, Call)
    steps = range(0, recipe.length, max(1, recipe.length // _STEPS))
    rates = {step: recipe.lr_at(step) for step in (reversed(steps) if number else steps)}
    yield f"recipe.decay: `{recipe.decay.target}`", [torch.tensor([rates[step] for step in steps])]


def augment(calls: tuple[Call, ...], shape: tuple[int, ...], number: int) -> Results:
    """Transform two random images."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(number))
    changed = _transforms(calls)(images, [2 * number, 2 * number + 1], 1.0)
    yield f"recipe.augment: {', '.join(f'`{call.target}`' for call in calls)}", [changed]


@functools.cache
def _transforms(calls: tuple[Call, ...]) -> ImageTransforms:
    """The transforms, made once, because a training uses them for all its replicates."""
    return ImageTransforms(calls)


def clip(call: Call, shapes: Mapping[str, tuple[int, ...]], number: int) -> Results:
    """Clip random gradients."""
    grads = dict(zip(shapes, _drawn(shapes, number), strict=True))
    call(grads=grads)
    yield f"recipe.clip: `{call.target}`", grads.values()


def optimize(call: Call, shapes: Mapping[str, tuple[int, ...]], lr: float, number: int) -> Results:
    """Take two steps of an optimizer on random weights."""
    parameters = _drawn(shapes, number)
    optimizer = make_optimizer(call, parameters, lr)
    for step in (1, 2):
        for parameter, grad in zip(parameters, _drawn(shapes, number + step), strict=True):
            parameter.grad = grad
        optimizer.step()
    yield f"recipe.optimizer: `{call.target}`", parameters


def _drawn(shapes: Mapping[str, tuple[int, ...]], number: int) -> list[Tensor]:
    """A random tensor for each shape."""
    draws = torch.Generator().manual_seed(number)
    return [torch.randn(shape, generator=draws) for shape in tried_shapes(shapes).values()]


@contextmanager
def _no_broadcast() -> Iterator[None]:
    """Raise an error if targets [B] are compared with outputs [B, 1]; torch only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size", UserWarning)
        yield


def _examples(task: Task, number: int) -> tuple[Tensor, Tensor]:
    """Two examples of the training set, and other ones for another number.

    They are drawn for our own data sets of images, which may need a download.
    """
    dataset = task.dataset
    if task.call.ours and dataset.classes and dataset.input_dtype == torch.float32:
        draws = torch.Generator().manual_seed(number)
        inputs = torch.rand(_EXAMPLES, *dataset.input_shape, generator=draws)
        return inputs, torch.tensor([number, 1]) % dataset.classes
    inputs, targets = _read(task)
    some = slice(-_EXAMPLES, None) if number else slice(_EXAMPLES)
    return inputs[some].clone(), targets[some].clone()


@functools.cache
def _read(task: Task) -> tuple[Tensor, Tensor]:
    """A few examples of the training set, read once per process."""
    task.dataset.prepare()
    return first_images(task.dataset, Seed.of(0, {}), 2 * _EXAMPLES)


def _fits(given: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor can be broadcast to the shape of a layer."""
    try:
        given.expand(shape)  # `torch.broadcast_shapes` imports sympy, which takes two seconds
    except RuntimeError:
        return False
    return True


def _form(value: object) -> str:
    """The shape and dtype of a tensor in words; for any other value, its type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
