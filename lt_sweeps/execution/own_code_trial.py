"""Try the user-defined parts of a plan on two examples, in separate processes.

A trial runs a forward pass, the loss, its gradients, every metric, criterion, reset, freeze and
every other function of a user's (`tried_parts.py`). An error becomes one line that names the yaml,
the key and the shapes, and the file and line of the user-defined code. A crash or a hang ends only
the trial's process. A part that remembers an earlier call is refused (`trial_processes.py`). Parts
that have passed are remembered under the root by their identity. Parts of this package are not
tried, and neither are its networks if they classify images of its data sets. But any network is
tried on one example if a batch of a training has only one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import digest
from lt_sweeps.execution import trial_processes, tried_parts
from lt_sweeps.execution.trial_processes import Trial, first_failure
from lt_sweeps.execution.tried_parts import Results, Yamls
from lt_sweeps.models import output_layer
from lt_sweeps.models.network import Network
from lt_sweeps.plan.cell_plan import Planned
from lt_sweeps.plan.planning import Plan
from lt_sweeps.plan.stages import Task, Work
from lt_sweeps.sparsity.evidence import Criterion, reset
from lt_sweeps.storage.verified_files import VerifiedFiles

_CALLS = 8  # calls of a function with other inputs; it may count its calls
_OF_TORCH = ("torch.", "torchvision.")


def try_out(plan: Plan, root: Path) -> None:
    """Try the user-defined parts of a plan's cells that have not passed before.

    Raises: ValueError: a part fails; the message is one line about the first failure.
    """
    firsts: dict[str, Planned] = {}
    for planned in plan.cells:
        firsts.setdefault(planned.signature, planned)  # seeds of one cell differ in nothing else
    trials = _by_name(trial for planned in firsts.values() for trial in _networks(planned))
    functions = _by_name(trial for planned in firsts.values() for trial in _functions(planned))
    if functions:
        trials |= _by_name([_together([*functions.values()])])
    if not trials:
        return
    passed = VerifiedFiles(root, by=f"trial {_asked()} of torch {torch.__version__}")
    new = {name: trial for name, trial in trials.items() if not passed.has(name, "passed")}
    if new and (line := first_failure([*new.values()])):
        raise ValueError(line)
    for name in new:
        passed.note(name, "passed")
    passed.save()


def _asked() -> str:
    """A digest of the code of the trials; if it changes, all parts are tried again."""
    files = (__file__, tried_parts.__file__, trial_processes.__file__, output_layer.__file__)
    return digest([Path(file).read_text("utf-8") for file in files])


def _by_name(trials: Iterable[Trial]) -> dict[str, Trial]:
    """The trials by the name under which they are remembered; the first of each name."""
    named: dict[str, Trial] = {}
    for trial in trials:
        named.setdefault(f"trial/{digest(trial.identity)}", trial)
    return named


def _networks(planned: Planned) -> Iterator[Trial]:
    """A trial of each network of a cell on each task."""
    yamls, seen = Yamls(planned.labels), set[tuple[Network, Task, bool]]()
    named = f"{yamls.of('model')} on {yamls.of('dataset')}"
    for stage in planned.trainings:
        network, task, one = stage.network, stage.training.task, stage.has_batch_of_one
        if (network, task, one) in seen:
            continue
        seen.add((network, task, one))
        identity = [network.identity(), task.identity(), network.output, network.told_head]
        if not _go_together(network, task):
            yield Trial(named, identity, partial(tried_parts.try_training, network, task, yamls))
        if one:
            run = partial(tried_parts.try_one_example, network, task, yamls)
            yield Trial(named, ["one", *identity], run)


def _go_together(network: Network, task: Task) -> bool:
    """Whether a network and its task are both from this package and classify images.

    All networks of this package can do that, so such a pair is not tried.
    """
    calls = [network.net, task.call, *([network.init] if network.init else [])]
    images = len(network.input_shape) == 3
    return images and task.kind.is_default and all(call.ours for call in calls)


def _together(trials: Sequence[Trial]) -> Trial:
    """One trial of all functions of a plan, because two settings may share what one remembers."""

    def run(number: int) -> Results:
        for trial in reversed(trials) if number else trials:
            yield from trial.run(number)

    named = ", ".join(dict.fromkeys(trial.named for trial in trials))
    return Trial(named, [trial.identity for trial in trials], run, _CALLS)


def _functions(planned: Planned) -> Iterator[Trial]:
    """A trial of each user-defined function of a cell, other than those of its networks."""
    yamls, config, layers = Yamls(planned.labels), planned.cell.config, planned.last.network.layers
    sizes = [[layer.name, *layer.shape] for layer in layers]
    if planned.labels.get("mask_criterion"):
        criterion = Criterion.of(config["mask_criterion"])
        named = yamls.of("mask_criterion")
        if not criterion.call.ours:
            identity = [criterion.call.identity(), list(criterion.evidence)]
            yield Trial(named, identity, partial(tried_parts.score, criterion, yamls))
        groups = None if criterion.granularity is None else criterion.granularity.function
        if groups is not None and not groups.ours:
            run = partial(tried_parts.group_weights, groups, layers)
            yield Trial(named, [groups.identity(), sizes], run)
    # For each number of dimensions, only the smallest layer is tried.
    shapes = {len(la.shape): la.shape for la in sorted(layers, key=lambda la: -la.size)}.values()
    for group in ("reset", "freeze"):
        if planned.labels.get(group):
            call = reset(config[group], group)
            for shape in () if call.ours else shapes:
                run = partial(tried_parts.act, group, call, shape, yamls)
                yield Trial(yamls.of(group), [group, call.identity(), list(shape)], run)
    if planned.labels.get("schedule"):
        call = Call.of(config["schedule"], where="schedule", supplied=("layers",))
        if not call.ours:
            run = partial(tried_parts.count_kept, call, layers)
            yield Trial(yamls.of("schedule"), [call.identity(), sizes], run)
    for stage in {stage.training: stage for stage in planned.trainings}.values():
        yield from _of_recipe(stage, yamls.of("recipe"))


def _of_recipe(stage: Work, named: str) -> Iterator[Trial]:
    """A trial of each user-defined function of a recipe."""
    recipe = stage.training.recipe
    shape = stage.training.task.dataset.input_shape
    if isinstance(recipe.augment, tuple) and any(map(_is_users, recipe.augment)):
        identity = ["augment", *(call.identity() for call in recipe.augment), list(shape)]
        yield Trial(named, identity, partial(tried_parts.augment, recipe.augment, shape))
    if isinstance(recipe.decay, Call) and not recipe.decay.ours:
        length = [recipe.length, recipe.warmup, recipe.steps_per_epoch]
        identity = ["decay", recipe.decay.identity(), *length]
        yield Trial(named, identity, partial(tried_parts.set_rates, recipe))
    own = [call for call in (recipe.clip, recipe.optimizer) if isinstance(call, Call)]
    if not any(map(_is_users, own)):
        return
    module = stage.network.module()
    shapes = {name: tuple(each.shape) for name, each in module.named_parameters()}
    sizes = sorted([name, *shape] for name, shape in shapes.items())
    if recipe.clip is not None and _is_users(recipe.clip):
        identity = ["clip", recipe.clip.identity(), sizes]
        yield Trial(named, identity, partial(tried_parts.clip, recipe.clip, shapes))
    if isinstance(recipe.optimizer, Call) and _is_users(recipe.optimizer):
        identity = ["optimizer", recipe.optimizer.identity(), sizes]
        run = partial(tried_parts.optimize, recipe.optimizer, shapes, recipe.lr)
        yield Trial(named, identity, run)


def _is_users(call: Call) -> bool:
    return not (call.ours or call.target.startswith(_OF_TORCH))
