"""A plan tries user-defined code: a mistake is one line, before anything is computed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fixtures.tiny_cell import SGD, tiny_cell
from torch import Tensor, nn

from lt_sweeps.config.errors import CONF
from lt_sweeps.data import Dataset, Split
from lt_sweeps.execution import own_code_trial, trial_processes
from lt_sweeps.execution.own_code_trial import try_out
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages.work import trainings

HERE = f"{__name__}."
FILE = Path(__file__).name


class Flat(nn.Module):
    """A linear layer on flattened images."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 12), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Any:
        return self.outer(torch.relu(self.inner(x.flatten(1))))


class Misfit(Flat):
    def forward(self, x: Tensor) -> Any:
        return self.outer(x.flatten(1))


class Pair(Flat):
    """Returns a second output in training, as networks with an auxiliary head do."""

    def forward(self, x: Tensor) -> Any:
        outputs = super().forward(x)
        return (outputs, outputs) if self.training else outputs


class Queue(Flat):
    queue: Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("queue", torch.zeros(1, 16))

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.queue = torch.cat([self.queue, x.flatten(1)])
        return super().forward(x)


class Crash(Flat):
    def forward(self, x: Tensor) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Hang(Flat):
    def forward(self, x: Tensor) -> Any:
        time.sleep(60)


class Normed(Flat):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.norm(x.flatten(1)))


class Squeezed(Flat):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.flatten(1).squeeze())


class Backwards(nn.Module):
    """A network that constructs its output layer first."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, classes), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(torch.relu(self.last(x.flatten(1))))


class Named(Flat):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


class Narrow(Flat):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[:, :2]


class Everywhere(Flat):
    """A class for each of 2 x 2 pixels: outputs are `[N, classes, 2, 2]`."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[:, :, None, None].expand(-1, -1, 2, 2)


def pixels() -> Dataset:
    def load() -> dict[str, Split]:
        labels = torch.arange(4).repeat(64, 1).view(64, 2, 2)
        return {name: Split(torch.rand(64, 16), labels) for name in ("train", "val", "test")}

    return Dataset((16,), 4, 64, lambda: None, load, scale=1.0)


def ranks() -> Dataset:
    """Four ordered classes; a network returns one number for each step from class to class."""
    return replace(
        pixels(), outputs=3, load=lambda: {n: ranked(s) for n, s in pixels().load().items()}
    )


def ranked(split: Split) -> Split:
    return Split(split.inputs, split.targets[:, 0, 0])


def ordinal(outputs: Tensor, targets: Tensor) -> Tensor:
    above = (targets[:, None] > torch.arange(3)).float()
    return nn.functional.binary_cross_entropy_with_logits(outputs, above)


def half(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.full((len(targets),), 0.5)


def slope() -> Dataset:
    def load() -> dict[str, Split]:
        draws = torch.Generator().manual_seed(0)
        sizes = {"train": 64, "val": 8, "test": 8}
        inputs = {name: torch.randn(size, 16, generator=draws) for name, size in sizes.items()}
        return {name: Split(x, x.sum(1)) for name, x in inputs.items()}

    return Dataset((16,), None, 64, lambda: None, load, scale=1.0, outputs=1)


def lost(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.view(7)).abs()


def spread(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


def constant(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.tensor(0.5)


def strange(final: Tensor) -> Tensor:
    return final[:3]


def short(init: Tensor) -> Tensor:
    return init[:, :3]


def broken(final: Tensor, kept: Tensor) -> Tensor:
    return final.view(7) * kept


def nothing(final: Tensor) -> Tensor:
    return torch.zeros(())


def halved(init: Tensor, kept: Tensor, *, to: str = "0it") -> Tensor:
    return torch.where(kept, init / 2, init)


def model(net: type[nn.Module]) -> dict[str, Any]:
    return {"model": {"net": {"_target_": HERE + net.__name__}}}


def task(option: str, **changes: Any) -> dict[str, Any]:
    return {"task": yaml.safe_load((CONF / "task" / f"{option}.yaml").read_text()) | changes}


SLOPE = {"dataset": {"_target_": HERE + "slope"}, **model(Flat)}
LINES = [
    (
        model(Misfit),
        rf"model: model/model.yaml: .* inputs \[2, 1, 4, 4\] float32 .*{FILE}:\d+: Runt",
    ),
    (
        {"dataset": {"_target_": "lt_sweeps.data.text"}, **task("language_model")},
        r"inputs \[2, 64\] int64 \(tokens, which model=transformer embeds\) failed: RuntimeError",
    ),
    (model(Named), r"task.output: not given, and the model returns logits; give"),
    (model(Pair), r"task.output: not given, and the model returns 2 outputs"),
    (model(Queue), r"model/model.yaml: a forward pass .* resizes the buffer queue; create it in"),
    (model(Narrow), r"model/model.yaml: .* give outputs \[2, 2\] float32; .* has \d+ classes"),
    (
        task("classification", loss={"_target_": HERE + "constant"}),
        r"task: .*: the gradient of task.loss of .* failed: RuntimeError: the loss has none;",
    ),
    (SLOPE, r"classification takes .* `slope\(\)` are float32 \[N\]; choose task=regression"),
    (
        {**SLOPE, **task("regression")},
        r"of one shape, got \[2, 1\] and \[2\]; give the data set targets of \[1\] for each",
    ),
    (task("regression"), r"of one shape, got .*; whole numbers are classes .* task=classification"),
    (
        {**SLOPE, **task("regression", loss={"_target_": HERE + "lost"})},
        rf"task: .*: task.loss of outputs \[2, 1\] float32 and targets \[2\] .*{FILE}:\d+: Runtime",
    ),
    (
        {**SLOPE, **task("regression", loss={"_target_": HERE + "spread"})},
        rf"task: .*: task.loss of .* failed: .*{FILE}:\d+: UserWarning: Using a target size",
    ),
    (
        {"mask_criterion": {"_target_": HERE + "strange"}},
        r"mask_criterion/mask_criterion.yaml: for 50 weights it returns \[3\] float32",
    ),
    (
        {"reset": {"_target_": HERE + "short"}},
        r"reset: reset/reset.yaml: for a layer of \[4, 8\] it returns \[4, 3\] float32; a reset",
    ),
    (
        {"freeze": {"_target_": HERE + "broken"}},
        rf"freeze: freeze/freeze.yaml: a layer of \[4, 8\] failed: .*{FILE}:\d+: RuntimeError",
    ),
]


@pytest.mark.parametrize(("changes", "line"), LINES)
def test_a_mistake_is_one_line_with_yaml_shapes_and_the_users_line(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=line) as raised:
        try_out(plan([tiny_cell(**changes)]), tmp_path)
    assert "\n" not in str(raised.value)


def test_a_crash_and_a_hang_end_their_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="model/model.yaml on .* ended its process with SIGKILL"):
        try_out(plan([tiny_cell(**model(Crash))]), tmp_path)
    monkeypatch.setattr(trial_processes, "_SECONDS", 0.5)
    with pytest.raises(ValueError, match="a trial on two examples is not done after 0 seconds"):
        try_out(plan([tiny_cell(**model(Hang))]), tmp_path)


def test_a_reset_and_a_freeze_of_a_users_that_work_pass(tmp_path: Path) -> None:
    try_out(
        plan(
            [tiny_cell(reset={"_target_": HERE + "halved"}, freeze={"_target_": HERE + "nothing"})]
        ),
        tmp_path,
    )


OWN_METRIC = {"metrics": {"own": {"_target_": HERE + "half"}}, "metric": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"_target_": HERE + "pixels"}, **model(Everywhere)}
        | task("classification", **OWN_METRIC),
        {"dataset": {"_target_": HERE + "ranks"}, **model(Flat)}
        | task("classification", loss={"_target_": HERE + "ordinal"}, **OWN_METRIC),
    ],
)
def test_outputs_with_another_place_for_classes_than_the_last_axis_pass(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    try_out(plan([tiny_cell(**changes)]), tmp_path)


def test_a_last_batch_of_one_example_is_refused_when_the_plan_is_made(tmp_path: Path) -> None:
    def made(train: int, length: str = "1ep", kind: type[nn.Module] = Normed) -> Plan:
        recipe = {**SGD, "length": length, "evaluate_every": length, "drop_last": False}
        return plan([tiny_cell(**model(kind), recipe=recipe, dataset__train=train)])

    with pytest.raises(ValueError, match="recipe.batch_size: an epoch has a batch of one example"):
        try_out(made(65), tmp_path)
    with pytest.raises(ValueError, match=rf"batch_size: .*Squeezed.* train \(\S*{FILE}:\d+: Index"):
        try_out(made(65, kind=Squeezed), tmp_path)
    try_out(made(66), tmp_path)
    try_out(made(65, "4it"), tmp_path)  # it ends before that batch
    try_out(made(65, kind=Flat), tmp_path)


def test_a_model_that_passed_before_gets_the_checks_that_were_added_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(**more: Any) -> Plan:
        return plan([tiny_cell(model={**model(Backwards)["model"], **more})])

    try_out(made(head="last"), tmp_path)  # the last one, so the key is that of no name
    trainings.cache_clear()  # of equal keys; the next command is a process of its own
    with pytest.raises(ValueError, match="name the right one"):
        try_out(made(), tmp_path)
    try_out(made(head="first"), tmp_path)
    refusal = ValueError("model: a check of a later version")

    def refuse(trials: object) -> str:
        return str(refusal)

    monkeypatch.setattr(own_code_trial, "first_failure", refuse)
    try_out(made(head="first"), tmp_path)
    monkeypatch.setattr(own_code_trial.output_layer, "__file__", __file__)
    with pytest.raises(ValueError, match="a check of a later version"):
        try_out(made(head="first"), tmp_path)


def test_code_that_passed_before_and_our_own_code_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def count(trials: list[object]) -> str:
        tried.append(len(trials))
        return ""

    own = plan([tiny_cell(**model(Named), **task("classification", output="logits"))])
    try_out(own, tmp_path)  # in a process of its own
    monkeypatch.setattr(own_code_trial, "first_failure", count)
    try_out(own, tmp_path)
    try_out(plan([tiny_cell(), tiny_cell(seed=1)]), tmp_path)
    assert tried == []
    try_out(plan([tiny_cell(**model(Flat)), tiny_cell(seed=1, **model(Flat))]), tmp_path)
    assert tried == [1]
