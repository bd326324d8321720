"""Try the user-defined parts of a plan on two examples, in a separate process.

A trial runs a forward pass, the loss, its gradients, every metric, criterion, reset and freeze. An
error becomes one line that names the yaml, the key and the shapes, and the file and line of the
user-defined code. A crash or a hang ends only the trial's process. Parts that have passed are
remembered under the root by their identity. Criteria, resets and freezes of this package are not
tried, and neither are its networks if they classify images of its data sets. But any network is
tried on one example if the last batch of an epoch has only one.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import digest
from lt_sweeps.config.seeds import Seed
from lt_sweeps.config.users_mistakes import raised_in, told_by
from lt_sweeps.data.batches import first_images
from lt_sweeps.execution.forking import may_fork, process_context
from lt_sweeps.models import output_layer
from lt_sweeps.models.functional import picked
from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.network import Network
from lt_sweeps.models.output_layer import check_output_layer
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Task, Training, Work
from lt_sweeps.sparsity.evidence import OF_ACTIONS, Criterion, reset
from lt_sweeps.storage.verified_files import VerifiedFiles
from lt_sweeps.training.task_loss import TaskLoss, measured

_SECONDS = 120.0  # time limit of all trials together, which includes reading the data
_EXAMPLES = 2
_KEYS = ("task", "model", "dataset", "mask_criterion", "reset", "freeze")  # our errors start so
_WEIGHTS = 50  # number of weights that a criterion has to score


@dataclass(frozen=True)
class _Yamls:
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


@dataclass(frozen=True)
class _Trial:
    """The trial of one user-defined part.

    `named` has the yamls that name the part. `run` raises a ValueError whose message says what is
    wrong. `identity` has everything that can make the trial fail; a passed trial is remembered by
    it.
    """

    named: str
    identity: list[Any]
    run: Callable[[], None]


def _train(network: Network, task: Task, yamls: _Yamls) -> None:
    """Try a forward pass of a network, the loss of its task, its gradients and every metric."""
    with yamls.said("dataset", "reading it"):
        x, y = _examples(task)
    task.kind.check_targets(y, str(task.call))
    inputs = f"inputs {_form(x)}"
    with yamls.said("model", "drawing its weights"):
        module = network.holding(network.draw(Seed.of(0, {})))
    shapes = _shapes(module)
    tokens = "" if x.is_floating_point() else " (tokens, which model=transformer embeds)"
    with yamls.said("model", f"a forward pass of {inputs}{tokens}"):
        picked(module.train()(x))  # a module may compute something else in training mode
        outputs = picked(module.eval()(x))
    if changed := [name for name, _ in shapes ^ _shapes(module)]:
        raise ValueError(
            f"model: {yamls.of('model')}: a forward pass creates, removes or resizes the buffer "
            f"{min(changed)}; create it in its final size when the module is built"
        )
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
    shapes = f"outputs {_form(outputs)} and targets {_form(y)}"
    with yamls.said("task", f"task.loss of {shapes}"), _no_broadcast():
        loss = TaskLoss(task.kind).mean(outputs, y)
    with yamls.said("task", f"the gradient of task.loss of {shapes}"):
        if outputs.requires_grad and not loss.requires_grad:
            raise RuntimeError("the loss has none; compute it from the outputs, in torch")
        if loss.requires_grad:
            loss.backward()
    for metric in (each for each in task.kind.metrics if not each.takes_whole_split):
        measuring = yamls.said("task", f"task.metrics.{metric.name} of {shapes}")
        with measuring, torch.no_grad(), _no_broadcast():
            measured(metric, outputs, y)


def _shapes(module: nn.Module) -> set[tuple[str, torch.Size]]:
    """The names and shapes of the tensors that a ticket of the module holds."""
    return {(name, tensor.shape) for name, tensor in state_of(module).items()}


def _train_on_one(network: Network, training: Training, yamls: _Yamls) -> None:
    """Try a forward pass of a batch of one example, the last batch of an epoch."""
    recipe, dataset = training.recipe, training.task.dataset
    with yamls.said("dataset", "reading it"):
        x, _ = _examples(training.task)
    module = network.holding(network.draw(Seed.of(0, {}))).train()
    try:
        module(x[:1])
    except Exception as error:  # from a batch norm, or a model that squeezes away the batch
        raise ValueError(
            f"recipe.drop_last: got false, and the last batch of an epoch has 1 of "
            f"{dataset.train_size} examples, on which {network.net} cannot train "
            f"({told_by(error)}); give true, or another batch_size than {recipe.batch_size}"
        ) from None


def _score(criterion: Criterion, yamls: _Yamls) -> None:
    """Try a criterion on some random weights."""
    draws = torch.Generator().manual_seed(0)
    evidence = {name: torch.rand(_WEIGHTS, generator=draws) for name, _ in criterion.evidence}
    with yamls.said("mask_criterion", f"scores of {_WEIGHTS} weights"):
        scores = criterion.call(**evidence)
    if not isinstance(scores, Tensor) or scores.shape != (_WEIGHTS,):
        raise ValueError(
            f"mask_criterion: {yamls.of('mask_criterion')}: for {_WEIGHTS} weights it returns "
            f"{_form(scores)}; a criterion gives each weight one number"
        )


def _act(group: str, call: Call, shape: tuple[int, ...], yamls: _Yamls) -> None:
    """Try a reset or a freeze on a layer of the given shape."""
    draws = torch.Generator().manual_seed(0)
    evidence = {n: torch.rand(shape, generator=draws) for n in call.names}
    evidence |= {n: evidence[n] < 0.5 for n in ("kept", "cut") if n in evidence}
    with yamls.said(group, f"a layer of {list(shape)}"):
        weights = call(**{n: x for n, x in evidence.items() if n in OF_ACTIONS})
    if not isinstance(weights, Tensor) or not _fits(weights.shape, shape):
        raise ValueError(
            f"{group}: {yamls.of(group)}: for a layer of {list(shape)} it returns "
            f"{_form(weights)}; a {group} gives each weight of the layer one number"
        )


@contextmanager
def _no_broadcast() -> Iterator[None]:
    """Raise an error if targets [B] are compared with outputs [B, 1]; torch only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size", UserWarning)
        yield


def try_out(plan: Plan, root: Path) -> None:
    """Try the user-defined parts of a plan's cells that have not passed before.

    Raises: ValueError: a part fails; the message is one line about the first failure.
    """
    trials: dict[str, _Trial] = {}
    for trial in _trials(plan):
        trials.setdefault(f"trial/{digest(trial.identity)}", trial)
    if not trials:
        return
    passed = VerifiedFiles(root, by=f"trial {_asked()} of torch {torch.__version__}")
    new = {name: trial for name, trial in trials.items() if not passed.has(name, "passed")}
    if not new:
        return
    if line := _in_a_process_of_its_own([*new.values()]):
        raise ValueError(line)
    for name in new:
        passed.note(name, "passed")
    passed.save()


def _asked() -> str:
    """A digest of the code of the trials; if it changes, all parts are tried again."""
    files = (__file__, output_layer.__file__)
    return digest([Path(file).read_text("utf-8") for file in files])


def _trials(plan: Plan) -> Iterator[_Trial]:
    """A trial of each network on each task, and each user-defined criterion, reset and freeze."""
    firsts: dict[str, Planned] = {}
    for planned in plan.cells:
        firsts.setdefault(planned.signature, planned)  # seeds of one cell differ in nothing else
    seen = set[tuple[Network, Task, Training | None]]()
    for planned in firsts.values():
        yamls, config = _Yamls(planned.labels), planned.cell.config
        for stage in planned.trainings:
            network, task = stage.network, stage.training.task
            ends_with_one = stage.training if _ends_with_one(stage) else None
            if (network, task, ends_with_one) in seen:
                continue
            seen.add((network, task, ends_with_one))
            named = f"{yamls.of('model')} on {yamls.of('dataset')}"
            identity = [network.identity(), task.identity(), network.output, network.told_head]
            if not _go_together(network, task):
                yield _Trial(named, identity, partial(_train, network, task, yamls))
            if ends_with_one is not None:
                identity = ["one", *identity, ends_with_one.recipe.batch_size]
                yield _Trial(named, identity, partial(_train_on_one, network, ends_with_one, yamls))
        if planned.labels.get("mask_criterion"):
            criterion = Criterion.of(config["mask_criterion"])
            if not criterion.call.ours:
                identity = [criterion.call.identity(), list(criterion.evidence)]
                run = partial(_score, criterion, yamls)
                yield _Trial(yamls.of("mask_criterion"), identity, run)
        # For each number of dimensions, only the smallest layer is tried.
        layers = sorted(planned.last.network.layers, key=lambda layer: -layer.size)
        shapes = {len(layer.shape): layer.shape for layer in layers}.values()
        for group in ("reset", "freeze"):
            if planned.labels.get(group):
                call = reset(config[group], group)
                for shape in () if call.ours else shapes:
                    identity = [group, call.identity(), list(shape)]
                    run = partial(_act, group, call, shape, yamls)
                    yield _Trial(yamls.of(group), identity, run)


def _go_together(network: Network, task: Task) -> bool:
    """Whether a network and its task are both from this package and classify images.

    All networks of this package can do that, so such a pair is not tried.
    """
    calls = [network.net, task.call, *([network.init] if network.init else [])]
    images = len(network.input_shape) == 3
    return images and task.kind.is_default and all(call.ours for call in calls)


def _ends_with_one(stage: Work) -> bool:
    """Whether a training has a whole epoch that ends with a batch of one example."""
    recipe, count = stage.training.recipe, stage.training.task.dataset.train_size
    alone = not recipe.drop_last and count % recipe.batch_size == 1
    return alone and stage.length >= recipe.steps_per_epoch


def _in_a_process_of_its_own(trials: Sequence[_Trial]) -> str:
    """Run the trials in a separate process; return the first failure, or an empty str.

    If the process cannot be a fork, the trials run in this process instead.
    """
    context = process_context()
    if context.get_start_method() != "fork":  # a new process would need seconds for its imports
        return _first_failure(trials)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, trials), daemon=True)
    with may_fork():
        process.start()
    theirs.close()
    yamls = ", ".join(dict.fromkeys(trial.named for trial in trials))
    try:
        if not ours.poll(_SECONDS):
            return f"{yamls}: a trial on two examples is not done after {_SECONDS:.0f} seconds"
        return ours.recv()
    except EOFError:
        process.join(5)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{yamls}: a trial on two examples ended its process with {how}"
    finally:
        process.kill()
        process.join()


def _answer(answer: Connection, trials: Sequence[_Trial]) -> None:
    torch.set_num_threads(1)  # a fork does not have its parent's other threads
    answer.send(_first_failure(trials))


def _first_failure(trials: Sequence[_Trial]) -> str:
    for trial in trials:
        try:
            with torch.random.fork_rng(devices=[]):
                trial.run()
        except ValueError as error:
            return str(error)
    return ""


def _examples(task: Task) -> tuple[Tensor, Tensor]:
    """Two examples of the training set; zeros for our own data sets, which may need a download."""
    dataset = task.dataset
    if task.call.ours and dataset.classes and dataset.input_dtype == torch.float32:
        classes = torch.zeros(_EXAMPLES, dtype=torch.int64)
        return torch.zeros(_EXAMPLES, *dataset.input_shape), classes
    dataset.prepare()
    return first_images(dataset, Seed.of(0, {}), _EXAMPLES)


def _fits(given: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the `given` shape can be broadcast to the shape of a layer."""
    try:
        return torch.broadcast_shapes(tuple(given), shape) == shape
    except RuntimeError:
        return False


def _form(value: object) -> str:
    """The shape and dtype of a tensor in words; for any other value, its type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
