"""For every kind of task, a stack trains and measures the same as the plain module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from fixtures.captured_step import captured
from fixtures.tiny_cell import compute_cells, settings, tiny_cell
from sklearn.metrics import f1_score, log_loss, mean_absolute_error, r2_score
from torch import Tensor, nn

from lt_sweeps.analysis.results import read_results
from lt_sweeps.config.errors import CONF
from lt_sweeps.data import Dataset, Split
from lt_sweeps.data.batches import EVALUATE_BATCH
from lt_sweeps.execution.submission import Submission
from lt_sweeps.models import FC
from lt_sweeps.models.functional import picked
from lt_sweeps.models.network import Network
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.stages.task_kind import CLASSIFICATION, TaskKind
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.training import metrics
from lt_sweeps.training.backends.backend import choose_backend
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss, measured

R, B, T, K = 3, 8, 5, 4
HERE = f"{__name__}."


def kind(option: str) -> TaskKind:
    """The kind of task that a yaml of ours describes."""
    return TaskKind.of(yaml.safe_load((CONF / "task" / f"{option}.yaml").read_text()))


class Reader(nn.Module):
    """An embedding, and a linear layer on every token together with the tokens before it."""

    def __init__(self, classes: int = K) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.mixed = nn.Linear(6, 6)
        self.output = nn.Linear(6, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).cumsum(1)
        return self.output(torch.relu(self.mixed(x)))


class Vector(nn.Sequential):
    """Two linear layers on inputs that are not images."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(nn.Linear(input_shape[0], 8), nn.ReLU(), nn.Linear(8, outputs))


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def tokens(*shape: int, most: int = 11) -> Tensor:
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(2))


def next_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets)


ROWS = numbers(R, B, 6)
PADDED = torch.where(tokens(R, B, T, most=7) > 4, -100, tokens(R, B, T, most=K))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor, Callable[..., Tensor]]] = {
    "classification": (lambda: Vector((6,), K), ROWS, tokens(R, B, most=K), F.cross_entropy),
    "regression": (lambda: Vector((6,), 2), ROWS, numbers(R, B, 2), F.mse_loss),
    "multi_label": (lambda: Vector((6,), K), ROWS, (numbers(R, B, K) > 0).double(), binary),
    "tokens": (Reader, tokens(R, B, T), PADDED, next_token),
    "language_model": (Reader, tokens(R, B, T), tokens(R, B, T, most=K), next_token),
}


@pytest.mark.parametrize("how", ["loop", "stacked", "vmap"])
@pytest.mark.parametrize("option", CASES)
def test_a_replicate_is_the_plain_module_under_the_plain_loss(option: str, how: str) -> None:
    make, x, y, loss = CASES[option]
    if how == "stacked" and make is Reader:
        how = "auto"  # an embedding has no stacked form
    modules = [make().double() for _ in range(R)]
    stack = Stack(modules[0], R, backend=how, task_loss=TaskLoss(kind(option)))
    states = [module.state_dict() for module in modules]
    stack.load({name: torch.stack([state[name] for state in states]) for name in states[0]})
    losses = stack.loss(x, y)
    plain = torch.stack([loss(m(x[r]), y[r]) for r, m in enumerate(modules)])
    plain.sum().backward()
    torch.testing.assert_close(losses, plain.detach())
    for name, grads in stack.views(stack.grads).items():
        own = torch.stack([m.get_parameter(name).grad for m in modules])  # pyright: ignore
        torch.testing.assert_close(grads, own)
    outputs = torch.stack([m(x[0]) for m in modules])
    torch.testing.assert_close(stack.logits(x[0]), outputs.detach())


@pytest.mark.parametrize("how", ["loop", "stacked", "vmap"])
@pytest.mark.parametrize(
    ("option", "smoothing"), [*((option, 0.0) for option in CASES), ("classification", 0.1)]
)
def test_a_step_of_any_task_can_be_captured(option: str, how: str, smoothing: float) -> None:
    make, x, y, _ = CASES[option]
    if how == "stacked" and make is Reader:
        how = "auto"  # an embedding has no stacked form
    loss = TaskLoss(kind(option), smoothing)
    stack = Stack(make().double(), R, backend=how, task_loss=loss)
    stack.loss(x, y)  # which looks for noise that no layer declares
    before = stack.grads.clone()

    def step() -> None:
        stack.loss(x, y)

    replay = captured(step, stack.device)
    stack.grads.zero_()
    replay()
    assert torch.equal(stack.grads, before)


def test_the_yaml_of_classification_is_what_cells_without_a_task_do() -> None:
    assert kind("classification") == TaskKind.of(None) == CLASSIFICATION
    cells = [
        tiny_cell(),
        tiny_cell(task=yaml.safe_load((CONF / "task/classification.yaml").read_text())),
    ]
    keys = [[stage.key for stage in plan([cell]).cells[0].trainings] for cell in cells]
    assert keys[0] == keys[1]


def test_metrics_are_those_of_scikit_learn() -> None:
    y, outputs = numbers(40, 3), numbers(40, 3) + 0.3 * numbers(3, 40).T
    assert metrics.r2(outputs, y).item() == pytest.approx(r2_score(y, outputs))
    assert metrics.mae(outputs, y).mean().item() == pytest.approx(mean_absolute_error(y, outputs))
    labels = (y > 0).double()
    total, count = metrics.f1(outputs, labels)
    assert (total / count).item() == pytest.approx(f1_score(labels, outputs > 0, average="micro"))
    assert (
        metrics.exact_match(outputs, labels).mean()
        == ((outputs > 0) == labels).all(1).double().mean()
    )


def tabular(*, seed: int = 0) -> Dataset:
    """A noisy linear function; the validation set is larger than an evaluation batch."""

    def load() -> dict[str, Split]:
        draws = torch.Generator().manual_seed(seed)
        sizes = {"train": 64, "val": 700, "test": 520}
        inputs = {name: torch.randn(size, 6, generator=draws) for name, size in sizes.items()}
        return {name: Split(x, x[:, :2].sum(1, keepdim=True)) for name, x in inputs.items()}

    return Dataset((6,), None, 64, lambda: None, load, scale=1.0, outputs=1)


def sentences() -> Dataset:
    def load() -> dict[str, Split]:
        runs = tokens(112, T + 1)
        parts = zip(("train", "val", "test"), runs.split([64, 16, 32]), strict=True)
        return {name: Split(part[:, :-1], part[:, 1:]) for name, part in parts}

    return Dataset((T,), 11, 64, lambda: None, load, input_dtype=torch.int64)


@dataclasses.dataclass
class Answer:
    value: Tensor
    hidden: Tensor


class Several(Vector):
    """A model that returns a dataclass of outputs."""

    def forward(self, input: Tensor) -> Any:
        hidden = self[1](self[0](input))
        return Answer(self[2](hidden), hidden)


REGRESSION = {
    "dataset": {"_target_": HERE + "tabular"},
    "task": yaml.safe_load((CONF / "task/regression.yaml").read_text()),
    "model": {"net": {"_target_": HERE + "Vector"}},
}
LANGUAGE = {
    "dataset": {"_target_": HERE + "sentences"},
    "task": yaml.safe_load((CONF / "task/language_model.yaml").read_text()),
    "model": {
        "net": {"_target_": HERE + "Reader"},
        "prunable": {"include": ["*", "embedding.weight"]},
    },
}


def own_accuracy() -> dict[str, Any]:
    """A user-defined metric with a name that every record already uses."""
    return {**REGRESSION["task"], "metrics": {"accuracy": {"_target_": HERE + "next_token"}}}


def summed() -> dict[str, Any]:
    """A loss that sums over the batch, so it depends on how an evaluation cuts its batches."""
    return {**REGRESSION["task"], "loss": {**REGRESSION["task"]["loss"], "reduction": "sum"}}


def padded() -> dict[str, Any]:
    """Tokens that the loss ignores as padding, but the accuracy counts."""
    task = yaml.safe_load((CONF / "task/tokens.yaml").read_text())
    return {**task, "loss": {**task["loss"], "ignore": 0}}


def trained(
    tmp_path: Path, **changes: Any
) -> tuple[list[dict[str, Any]], list[Ticket], list[Network]]:
    """The results, tickets and networks of a sweep of two levels."""
    made, store = compute_cells(tiny_cell(**changes), tiny_cell(seed=1, **changes), root=tmp_path)
    names = [(unit.stage, unit.seed) for unit in made.units]
    facts = [store.facts(stage.key, seed) for stage, seed in names]
    tickets = [store.read(stage.key, seed) for stage, seed in names]
    return [dict(f.metrics) for f in facts if f], tickets, [stage.network for stage, _ in names]


def test_a_regression_says_what_its_stored_network_scores(tmp_path: Path) -> None:
    results, tickets, networks = trained(tmp_path, **REGRESSION)
    assert len(results) == 6
    split = tabular().load()["test"]
    for result, ticket, network in zip(results, tickets, networks, strict=True):
        assert result["end_test_accuracy"] is None
        assert (result["metric"], result["lower_is_better"]) == ("r2", False)
        outputs = network.holding({n: t[0] for n, t in ticket.state.items()})(split.inputs).detach()
        scored = result["metrics"]
        assert scored["end_test_r2"] == pytest.approx(r2_score(split.targets, outputs), abs=1e-5)
        assert scored["end_test_mse"] == pytest.approx(result["end_test_loss"], rel=1e-5)
        assert {f"{w}_{s}_mae" for w in ("best", "end") for s in ("val", "test")} <= scored.keys()
        for name, mask in ticket.mask.items():
            assert not ticket.state[name][~mask].any(), "a pruned weight moved"


def test_a_language_model_trains_on_tokens_and_prunes_its_embedding(tmp_path: Path) -> None:
    results, tickets, networks = trained(tmp_path, **LANGUAGE)
    split = sentences().load()["test"]
    for result, ticket, network in zip(results, tickets, networks, strict=True):
        outputs = network.holding({n: t[0] for n, t in ticket.state.items()})(split.inputs).detach()
        loss = next_token(outputs, split.targets)
        assert result["end_test_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert result["metrics"]["end_test_perplexity"] == pytest.approx(
            loss.exp().item(), rel=1e-5
        )
        assert result["lower_is_better"] is True
        assert not ticket.state["embedding.weight"][~ticket.mask["embedding.weight"]].any()
    assert not tickets[-1].mask["embedding.weight"].all()


def test_a_model_of_several_outputs_trains_as_the_one_that_counts(tmp_path: Path) -> None:
    several = {**REGRESSION, "model": {"net": {"_target_": HERE + "Several"}}}
    named = {**several, "task": {**REGRESSION["task"], "output": "value"}}
    one, _, _ = trained(tmp_path / "one", **REGRESSION)
    of_several, _, _ = trained(tmp_path / "several", **named)
    assert of_several == one
    with pytest.raises(ValueError, match=r"task.output: not given, .* value, hidden; give the one"):
        trained(tmp_path / "none", **several)


@pytest.mark.parametrize(
    ("outputs", "output"),
    [
        ({"logits": 1, "hidden": 0}, "logits"),
        ((0, 1), 1),
        (Answer(torch.ones(1), torch.zeros(1)), "value"),
    ],
)
def test_the_output_that_counts(outputs: Any, output: str | int) -> None:
    if isinstance(outputs, dict):
        outputs = {name: torch.tensor([value]) for name, value in outputs.items()}
    if isinstance(outputs, tuple):
        outputs = tuple(torch.tensor([value]) for value in outputs)
    assert picked(outputs, output).item() == 1
    with pytest.raises(ValueError, match="task.output: got 'other'; the model returns"):
        picked(outputs, "other")


def test_a_further_metric_changes_no_result_of_a_classification(tmp_path: Path) -> None:
    config = yaml.safe_load((CONF / "task/classification.yaml").read_text())
    config["metrics"]["top2"] = {"_target_": "lt_sweeps.training.metrics.top_k", "k": 2}
    usual, _, _ = trained(tmp_path / "usual")
    more, _, _ = trained(tmp_path / "more", task=config)
    for before, after in zip(usual, more, strict=True):
        others, lower = after.pop("metrics"), after.pop("lower_metrics")
        assert lower == []
        assert after == before
        assert others["end_test_top2"] >= after["end_test_accuracy"]


FLIP = "torchvision.transforms.v2.functional.horizontal_flip_image"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe__label_smoothing": 0.1}, "recipe.label_smoothing: got 0.1, and task.loss"),
        ({"recipe__augment": "crop_flip"}, "recipe.augment: got crop_flip, which is for images"),
        ({"recipe__augment": [{"_target_": FLIP}]}, r"got horizontal_flip_image\(\), which is for"),
        ({"task": {"loss": {"_target_": "torch.nn.functional.mse_los"}}}, "task.metrics: got None"),
        ({"task": {"metrics": {3: {}}}}, r"task.metrics: got {3: {}}; give `NAME: {_target_"),
        ({"task": {"metrics": {"r2": 1}}}, "task.metrics: got {'r2': 1}; give `NAME"),
        ({"task": own_accuracy()}, "task.metrics: `accuracy` cannot name"),
        ({"task": {"los": 1}}, "task: no key `los`; .*did you mean `loss`"),
        ({"task": summed()}, "task.loss.reduction: got sum, .* the size of its batches"),
        ({"task": padded()}, "are ignored: loss 0, metrics.token_accuracy -100; give all"),
    ],
)
def test_combinations_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan([tiny_cell(**{**REGRESSION, **changes})])


def test_grasp_divides_only_logits_by_its_temperature() -> None:
    grasp = yaml.safe_load((CONF / "mask_criterion/grasp.yaml").read_text())
    grasp["examples"] = 32
    at_init = {"method": {"_target_": "lt_sweeps.plan.methods.at_init"}, "mask_criterion": grasp}
    with pytest.raises(ValueError, match="mask_criterion.temperature: got 200, which divides"):
        plan([tiny_cell(**REGRESSION, **at_init)])
    at_init["mask_criterion"] = {**grasp, "temperature": 1.0}
    plan([tiny_cell(**REGRESSION, **at_init)])
    synflow = yaml.safe_load((CONF / "mask_criterion/synflow.yaml").read_text())
    with pytest.raises(ValueError, match="mask_criterion: flow is measured on an input of ones"):
        plan([tiny_cell(**LANGUAGE, method=at_init["method"], mask_criterion=synflow)])


def test_targets_of_another_shape_than_outputs_are_not_broadcast() -> None:
    stack = Stack(Vector((6,), 1).double(), 1, task_loss=TaskLoss(kind("regression")))
    with pytest.raises(ValueError, match=r"one shape, got \[8, 1\] and \[8\]"):
        stack.loss(numbers(1, B, 6), numbers(1, B))


def test_a_search_is_rewarded_by_the_main_metric_even_if_lower_is_better(tmp_path: Path) -> None:
    amc = yaml.safe_load((CONF / "method/amc.yaml").read_text())
    small = {"episodes": 4, "warmup": 2}
    task = {**REGRESSION["task"], "metric": "mse"}
    results, _, _ = trained(tmp_path, **{**REGRESSION, "task": task, "method": {**amc, **small}})
    assert {result["metric"] for result in results} == {"mse"}


def test_a_learned_mask_is_measured_hard_by_the_metrics_too(tmp_path: Path) -> None:
    config = yaml.safe_load((CONF / "method/continuous_sparsification.yaml").read_text())
    results, _, _ = trained(tmp_path, **REGRESSION, method={**config, "rounds": 1})
    hard = [result for result in results if "hard_test_accuracy" in result]
    assert hard and all(result["hard_test_accuracy"] is None for result in hard)
    assert all({"hard_val_r2", "hard_test_mae"} <= result["metrics"].keys() for result in hard)


def test_the_backend_suits_the_loss() -> None:
    known, cpu = TaskLoss(kind("regression")), torch.device("cpu")
    assert choose_backend(FC((1, 4, 4), 1), cpu) == "chain"
    assert choose_backend(FC((1, 4, 4), 1), cpu, known) == "loop"
    with pytest.raises(ValueError, match="`chain` has only the cross entropy"):
        Stack(FC((1, 4, 4), 1), 1, backend="chain", task_loss=known)
    assert choose_backend(FC((1, 4, 4), 1), torch.device("cuda"), known) == "stacked"


def root_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean().sqrt()


def test_a_metric_that_is_one_number_is_that_of_the_whole_split(tmp_path: Path) -> None:
    """Here the split has several batches, the last of them smaller."""
    task = {
        "loss": {"_target_": "torch.nn.functional.mse_loss"},
        "metrics": {"rms": {"_target_": f"{HERE}root_mean_square", "better": "lower"}},
    }
    data = {"_target_": f"{HERE}sums", "examples": EVALUATE_BATCH + 70}
    own = {"net": {"_target_": f"{HERE}Vector"}}
    made, store = compute_cells(tiny_cell(task=task, dataset=data, model=own), root=tmp_path)
    for unit in made.units:
        facts = store.facts(unit.stage.key, unit.seed)
        if facts is not None and facts.metrics:
            mean = facts.metrics["end_test_loss"]
            assert facts.metrics["metrics"]["end_test_rms"] == pytest.approx(mean**0.5, rel=1e-6)


def of_scikit_learn(outputs: Tensor, targets: Tensor) -> float:
    """Returns a Python number, not a tensor; fails if a batch lacks a class."""
    return log_loss(targets.numpy(), outputs.double().softmax(1).numpy())


@metrics.whole_split
def of_a_split(outputs: Tensor, targets: Tensor) -> float:
    return of_scikit_learn(outputs, targets)


def sorted_classes() -> Dataset:
    """Four classes; evaluation splits are sorted by class, so that a batch has one or two."""

    def split(size: int) -> Split:
        return Split(numbers(size, 6, dtype=torch.float32), torch.arange(size) * 4 // size)

    def load() -> dict[str, Split]:
        return {"train": split(64), "val": split(2400), "test": split(2401)}

    return Dataset((6,), 4, 64, lambda: None, load, scale=1.0)


def test_a_metric_of_scikit_learn_is_that_of_the_whole_split(tmp_path: Path) -> None:
    metric = {"loss_again": {"_target_": f"{HERE}of_a_split", "better": "lower"}}
    classification = yaml.safe_load((CONF / "task/classification.yaml").read_text())
    task = {**classification, "metrics": {**classification["metrics"], **metric}}
    cell = {"dataset": {"_target_": f"{HERE}sorted_classes"}, "model": REGRESSION["model"]}
    results, _, _ = trained(tmp_path / "marked", **cell, task=task)
    for result in results:
        scored = result["metrics"]["end_test_loss_again"]
        assert scored == pytest.approx(result["end_test_loss"], rel=1e-6)
    metric["loss_again"]["_target_"] = f"{HERE}of_scikit_learn"
    with pytest.raises(ValueError, match="task.metrics.loss_again: .* failed: .*`whole_split` of"):
        trained(tmp_path / "plain", **cell, task=task)


def sums(*, examples: int) -> Dataset:
    def split(count: int) -> Split:
        x = numbers(count, 6, dtype=torch.float32)
        return Split(x, x.sum(1, keepdim=True))

    def load() -> dict[str, Split]:
        return {"train": split(64), "val": split(examples), "test": split(examples)}

    return Dataset((6,), None, 64, lambda: None, load, outputs=1, scale=1.0)


def alike() -> Dataset:
    """All targets of its validation and test splits are equal, so they have no variance."""
    made = sums(examples=32)

    def load() -> dict[str, Split]:
        splits = made.load()
        rest = {n: Split(splits[n].inputs, torch.ones(32, 1)) for n in ("val", "test")}
        return {**splits, **rest}

    return dataclasses.replace(made, load=load)


def test_a_metric_that_is_no_number_is_said_in_the_row(tmp_path: Path) -> None:
    task = yaml.safe_load((CONF / "task/regression.yaml").read_text())
    model = {"net": {"_target_": f"{HERE}Vector"}}
    dataset = {"_target_": f"{HERE}alike"}
    made, store = compute_cells(
        tiny_cell(model=model, dataset=dataset, task=task, schedule__levels=1), root=tmp_path
    )
    (cell,) = made.cells
    for row in RunFolder.of(store.root, cell.signature, cell.seed).read().records:
        assert row.finite and row.metrics is not None and row.metrics["val_r2"] is None
        assert row.notes is not None and row.notes[0].startswith("val_r2, test_r2: not a number")
    with pytest.raises(ValueError, match="records.jsonl:1: val_r2, test_r2: not a number, though"):
        read_results(store.root, metrics=["test_r2"])
    with pytest.raises(ValueError, match=r"^task.metrics.r2: all targets of the val split .*=null"):
        Submission(made, settings(tmp_path)).check_splits(made.units)
    without = {**task, "metrics": {**task["metrics"], "r2": None}}
    TaskKind.of(without).check_variance(torch.ones(3, 1), "mine")


def labelled(*, split: str, label: int) -> Dataset:
    """Four classes, and one label outside them in one split."""

    def load() -> dict[str, Split]:
        made = {}
        for name in ("train", "val", "test"):
            labels = tokens(64, most=4)
            labels[0] = label if name == split else 0
            made[name] = Split(numbers(64, 6, dtype=torch.float32), labels)
        return made

    return Dataset((6,), 4, 64, lambda: None, load, scale=1.0)


NLL: dict[str, Any] = {"_target_": "torch.nn.CrossEntropyLoss", "ignore_index": -1}
OTHER_TASKS = {  # whose loss or main metric is not that of a classification
    "nll": {"loss": NLL, "metrics": {"accuracy": {"_target_": f"{metrics.__name__}.accuracy"}}},
    "top_2": {
        "loss": {"_target_": "torch.nn.functional.cross_entropy"},
        "metrics": {"top_2": {"_target_": f"{metrics.__name__}.top_k", "k": 2}},
    },
}


@pytest.mark.parametrize(
    ("split", "label", "task"),
    [
        *[("val", -100, None), ("test", 4, None), ("train", -1, None)],
        *[("test", -1, "nll"), ("val", -100, "top_2"), ("train", 4, "top_2")],
    ],
)
def test_a_class_that_is_none_is_refused_in_every_split(
    tmp_path: Path, split: str, label: int, task: str | None
) -> None:
    """Torch's losses ignore -100, or a given label, but an accuracy counts it as wrong."""
    dataset = {"_target_": f"{HERE}labelled", "split": split, "label": label}
    other = {"task": OTHER_TASKS[task]} if task else {}
    cell = tiny_cell(model={"net": {"_target_": f"{HERE}Vector"}}, dataset=dataset, **other)
    low, high = min(label, 0), max(label, 3)
    with pytest.raises(ValueError, match=f"go from {low} to {high}; its 4 classes are 0 to 3"):
        compute_cells(cell, root=tmp_path)


def test_a_token_that_is_none_is_refused_and_one_that_does_not_count_is_not() -> None:
    tokens, data = torch.tensor([[1, -100], [3, 2]]), "mine"
    kind("tokens").check_targets(tokens, data, 4)
    kind("tokens").check_targets(tokens.clamp(max=-100), data, 4)  # no label counts
    own = {**OTHER_TASKS["top_2"], "metrics": {"own": {"_target_": f"{HERE}root_mean_square"}}}
    TaskKind.of(own).check_targets(tokens[0], data, 4)  # a metric of one's own may leave it out
    with pytest.raises(ValueError, match="targets of `mine` go from 1 to 3; its 3 classes are 0"):
        kind("tokens").check_targets(tokens, data, 3)


def test_a_label_of_minus_1_is_refused() -> None:
    """Its loss falls without a bound, so the lowest loss would count as the best."""
    labels = torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    kind("multi_label").check_targets(labels, "mine")
    with pytest.raises(ValueError, match="targets of `mine` are not all 0 to 1; each is 1 for"):
        kind("multi_label").check_targets(2 * labels - 1, "mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_targets_of_other_types_need_a_user_defined_loss(value: float) -> None:
    """One NaN makes each loss of its split NaN, and the first evaluation would be the best."""
    targets = torch.tensor([[0.0], [value]])
    with pytest.raises(ValueError, match="task: targets of `mine` hold NaN .* your own loss"):
        kind("regression").check_targets(targets, "mine")
    own = {**REGRESSION["task"], "loss": {"_target_": f"{HERE}squares"}}
    TaskKind.of(own).check_targets(targets, "mine")


@pytest.mark.parametrize(
    ("targets", "advice"),
    [
        (torch.eye(4).long(), r"if they are one-hot, give `targets.argmax\(1\)`"),
        (torch.eye(4), r"if they are one-hot, give `targets.argmax\(1\)`"),
        (torch.tensor([[1, 1, 0]]), "choose task=multi_label, with float32 targets"),
        (torch.tensor([[3], [1]]), r"give `targets\[:, 0\]`"),
        (torch.tensor([[3, 1]]), "choose task=tokens, or language_model"),
        (torch.tensor([[0.5, 2.0]]), "choose task=regression, or multi_label"),
        (torch.tensor([0.0, 1.0]), "choose task=regression"),
    ],
)
def test_targets_that_are_no_class_numbers_get_the_advice_that_suits_them(
    targets: Tensor, advice: str
) -> None:
    with pytest.raises(ValueError, match=f"; {advice}[^,]*$"):
        CLASSIFICATION.check_targets(targets, "mine", 4)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_class_numbers_of_another_type_are_refused(kind: torch.dtype) -> None:
    with pytest.raises(ValueError, match="of `mine` are torch.*; give int64"):
        CLASSIFICATION.check_targets(torch.zeros(3, dtype=kind), "mine", 4)


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()


@pytest.mark.parametrize(
    "target", ["torch.nn.MSELoss", "torch.nn.functional.kl_div", f"{HERE}squares"]
)
def test_no_loss_and_no_metric_compares_each_example_with_all(target: str) -> None:
    """[B, 1] minus [B] is [B, B], whose mean looks like any other number."""
    outputs, targets = numbers(B, 1), numbers(B)
    own = TaskKind.of({"loss": {"_target_": target}, "metrics": {"own": {"_target_": target}}})
    with pytest.raises(ValueError, match="task.loss: `.*"):
        TaskLoss(own).mean(outputs, targets)
    with pytest.raises(ValueError, match="task.metrics.own: `.*"):
        measured(own.main_metric, outputs, targets)


def spoiling(outputs: Tensor, targets: Tensor) -> Tensor:
    targets.numpy()[...] = 1.0  # which torch does not notice
    return outputs.neg_().flatten(1).mean(1)


def test_a_loss_and_a_metric_change_nothing_that_the_others_are_measured_on() -> None:
    """They get the data set's own targets, and the outputs that all metrics share."""
    given, target = (numbers(B, 2), -numbers(B, 2)), {"_target_": f"{HERE}spoiling"}
    own = TaskKind.of({"loss": target, "metrics": {"own": target}})
    measured(own.main_metric, *given)
    TaskLoss(own).total(*given)
    assert torch.equal(given[0], numbers(B, 2)) and torch.equal(given[1], -numbers(B, 2))


def test_a_target_that_a_training_leaves_out_counts_for_nothing_in_an_evaluation() -> None:
    outputs, targets = numbers(B, K, T), PADDED[0]
    total, count = TaskLoss().total(outputs, targets)
    assert 0 < count < targets.numel()
    assert total / count == pytest.approx(float(TaskLoss().mean(outputs, targets)))
