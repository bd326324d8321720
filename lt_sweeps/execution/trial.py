"""The trial of a plan: what is a user's own is run on two examples, in a process of its own.

A forward pass, the loss, its gradients, every metric, criterion, reset and freeze. What is wrong is
one line that names the yaml, the key and the shapes, and the user's own file and line. A crash or a
hang ends the trial's process alone. What has passed is remembered under the root by its identity,
and what comes with this package is not tried, where it classifies images.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from lt_sweeps.config.call import Call, digest
from lt_sweeps.config.seeds import Seed
from lt_sweeps.config.user_code import raised_in
from lt_sweeps.data.batches import first_images
from lt_sweeps.execution.forking import may_fork, process_context
from lt_sweeps.models.functional import picked
from lt_sweeps.models.network import Network
from lt_sweeps.plan.planning import Plan, Planned
from lt_sweeps.plan.stages import Task
from lt_sweeps.sparsity.evidence import OF_ACTIONS, Criterion, reset
from lt_sweeps.storage.verified_files import VerifiedFiles
from lt_sweeps.training.task_loss import TaskLoss, measured

_SECONDS = 120.0  # a forward pass of two examples, and reading the data
_EXAMPLES = 2
_KEYS = ("task", "model", "dataset", "mask_criterion", "reset", "freeze")  # lines begin with one
_WEIGHTS = 50  # that a criterion is asked to score


@dataclass(frozen=True)
class Action:
    """A reset or a freeze, by its group, and the shape of a layer that it will be asked for."""

    group: str
    call: Call
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """A network on a task, a criterion, a reset or a freeze, with the yamls of all by group."""

    tried: tuple[Network, Task] | Criterion | Action
    yamls: tuple[tuple[str, str | None], ...]

    @cached_property
    def is_ours(self) -> bool:
        """Whether all of it comes with this package, and is known to go together: classes of
        images, which all of our networks take.
        """
        if isinstance(self.tried, Criterion | Action):
            return self.tried.call.ours
        network, task = self.tried
        calls = [network.net, task.call, *([network.init] if network.init else [])]
        images = len(network.input_shape) == 3
        return images and task.kind.is_default and all(call.ours for call in calls)

    @cached_property
    def name(self) -> str:
        """What it is remembered by: everything that could make it fail."""
        if isinstance(self.tried, Criterion):
            return digest([self.tried.call.identity(), list(self.tried.evidence)])
        if isinstance(self.tried, Action):
            return digest([self.tried.group, self.tried.call.identity(), list(self.tried.shape)])
        network, task = self.tried
        return digest([network.identity(), task.identity(), network.output])

    def yaml(self, group: str) -> str:
        return f"{group}/{dict(self.yamls).get(group)}.yaml"

    def run(self) -> None:
        """Raises: ValueError: the line that says what is wrong."""
        if isinstance(self.tried, Criterion):
            self._score(self.tried)
        elif isinstance(self.tried, Action):
            self._act(self.tried)
        else:
            self._train(*self.tried)

    def _train(self, network: Network, task: Task) -> None:
        with self._said("dataset", "reading it"):
            x, y = _examples(task)
        task.kind.check_targets(y, str(task.call))
        inputs = f"inputs {_form(x)}"
        with self._said("model", "drawing its weights"):
            module = network.holding(network.draw(Seed.of(0, {})))
        with self._said("model", f"a forward pass of {inputs}"):
            module.train()(x)  # one in training mode may be another one than in evaluation
            outputs = picked(module.eval()(x))
        if len(outputs) != len(x):
            raise ValueError(
                f"model: {self.yaml('model')}: {inputs} give outputs {_form(outputs)}; an output "
                "starts with the number of examples"
            )
        shapes = f"outputs {_form(outputs)} and targets {_form(y)}"
        with self._said("task", f"task.loss of {shapes}"), _no_broadcast():
            loss = TaskLoss(task.kind).mean(outputs, y)
        with self._said("task", f"the gradient of task.loss of {shapes}"):
            if loss.requires_grad:
                loss.backward()
        for metric in task.kind.metrics:
            said = self._said("task", f"task.metrics.{metric.name} of {shapes}")
            with said, torch.no_grad(), _no_broadcast():
                measured(metric, outputs, y)

    def _score(self, criterion: Criterion) -> None:
        draws = torch.Generator().manual_seed(0)
        evidence = {name: torch.rand(_WEIGHTS, generator=draws) for name, _ in criterion.evidence}
        with self._said("mask_criterion", f"scores of {_WEIGHTS} weights"):
            scores = criterion.call(**evidence)
        if not isinstance(scores, Tensor) or scores.shape != (_WEIGHTS,):
            raise ValueError(
                f"mask_criterion: {self.yaml('mask_criterion')}: of {_WEIGHTS} weights it returns "
                f"{_form(scores)}; a criterion gives each weight one number"
            )

    def _act(self, action: Action) -> None:
        shape, draws = action.shape, torch.Generator().manual_seed(0)
        evidence = {n: torch.rand(shape, generator=draws) for n in action.call.names}
        evidence |= {n: evidence[n] < 0.5 for n in ("kept", "cut") if n in evidence}
        with self._said(action.group, f"a layer of {list(shape)}"):
            weights = action.call(**{n: x for n, x in evidence.items() if n in OF_ACTIONS})
        if not isinstance(weights, Tensor) or not _fits(weights.shape, shape):
            raise ValueError(
                f"{action.group}: {self.yaml(action.group)}: of a layer of {list(shape)} it "
                f"returns {_form(weights)}; a {action.group} gives each weight of the layer one "
                "number"
            )

    @contextmanager
    def _said(self, group: str, what: str) -> Iterator[None]:
        """An error within is one line: the yaml, what was done, and where in whose code."""
        try:
            yield
        except Exception as error:  # it is a user's code: anything may come of it
            said = " ".join(str(error).split())
            if isinstance(error, ValueError) and said.startswith(_KEYS):
                raise  # a line of ours
            reason = raised_in(error) or f"{type(error).__name__}: {said}"
            raise ValueError(f"{group}: {self.yaml(group)}: {what} failed: {reason}") from None


@contextmanager
def _no_broadcast() -> Iterator[None]:
    """Refuse what torch only warns of: targets [B] that are compared with outputs [B, 1]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size", UserWarning)
        yield


def try_out(plan: Plan, root: Path) -> None:
    """Try what a plan's cells bring of their own and what was not tried before.

    Raises: ValueError: one line for the first thing that is wrong.
    """
    trials = [trial for trial in _trials(plan) if not trial.is_ours]
    if not trials:
        return
    passed = VerifiedFiles(root, by=f"trial of torch {torch.__version__}")
    new = [trial for trial in trials if not passed.has(f"trial/{trial.name}", "passed")]
    if not new:
        return
    if line := _in_a_process_of_its_own(new):
        raise ValueError(line)
    for trial in new:
        passed.note(f"trial/{trial.name}", "passed")
    passed.save()


def _trials(plan: Plan) -> list[Trial]:
    """Each network on each task, each criterion, each reset and each freeze, once."""
    trials: dict[object, Trial] = {}
    firsts: dict[str, Planned] = {}
    for planned in plan.cells:
        firsts.setdefault(planned.signature, planned)  # its other seeds differ in nothing else
    for planned in firsts.values():
        yamls = tuple(planned.labels.items())
        for stage in planned.trainings:
            pair = stage.network, stage.training.task
            trials.setdefault(pair, Trial(pair, yamls))
        if planned.labels.get("mask_criterion"):
            criterion = Criterion.of(planned.cell.config["mask_criterion"])
            trials.setdefault(criterion, Trial(criterion, yamls))
        for group in ("reset", "freeze"):
            if planned.labels.get(group):
                call = reset(planned.cell.config[group], group)
                # The smallest layer of each number of dimensions stands for all of them.
                layers = sorted(planned.last.network.layers, key=lambda layer: -layer.size)
                for shape in {len(layer.shape): layer.shape for layer in layers}.values():
                    action = Action(group, call, shape)
                    trials.setdefault(action, Trial(action, yamls))
    return list(trials.values())


def _in_a_process_of_its_own(trials: Sequence[Trial]) -> str:
    """The line of the first trial that fails; nothing if all pass."""
    context = process_context()
    if context.get_start_method() != "fork":  # it would import everything anew, for seconds
        return _first_failure(trials)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, trials), daemon=True)
    with may_fork():
        process.start()
    theirs.close()
    yamls = ", ".join(dict.fromkeys(_named(trial) for trial in trials))
    try:
        if not ours.poll(_SECONDS):
            return f"{yamls}: two examples take more than {_SECONDS:.0f} seconds, or for ever"
        return ours.recv()
    except EOFError:
        process.join(5)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{yamls}: a trial on two examples ended its process with {how}"
    finally:
        process.kill()
        process.join()


def _named(trial: Trial) -> str:
    if isinstance(trial.tried, Criterion):
        return trial.yaml("mask_criterion")
    if isinstance(trial.tried, Action):
        return trial.yaml(trial.tried.group)
    return f"{trial.yaml('model')} on {trial.yaml('dataset')}"


def _answer(answer: Connection, trials: Sequence[Trial]) -> None:
    torch.set_num_threads(1)  # the threads of the process that this is a fork of are not here
    answer.send(_first_failure(trials))


def _first_failure(trials: Sequence[Trial]) -> str:
    for trial in trials:
        try:
            with torch.random.fork_rng(devices=[]):
                trial.run()
        except ValueError as error:
            return str(error)
    return ""


def _examples(task: Task) -> tuple[Tensor, Tensor]:
    """Two examples of the training set; made up where they would have to be downloaded."""
    dataset = task.dataset
    if task.call.ours and dataset.classes and dataset.input_dtype == torch.float32:
        classes = torch.zeros(_EXAMPLES, dtype=torch.int64)
        return torch.zeros(_EXAMPLES, *dataset.input_shape), classes
    dataset.prepare()
    return first_images(dataset, Seed.of(0, {}), _EXAMPLES)


def _fits(given: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Whether numbers of one shape can be laid on a layer: one number may stand for several."""
    try:
        return torch.broadcast_shapes(tuple(given), shape) == shape
    except RuntimeError:
        return False


def _form(value: object) -> str:
    """The shape and the type of a tensor; the type of anything else."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
