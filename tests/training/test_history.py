"""The history of a training: its best evaluation, the mask at that time, and its losses."""

import json
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from lt_sweeps.config.cells import Cell
from lt_sweeps.plan.planning import Plan
from lt_sweeps.storage.store import Store
from lt_sweeps.training.evaluation import Score
from lt_sweeps.training.history import TrainingHistory


def history_of(losses: Sequence[float], *, changed_at: int = -1) -> TrainingHistory:
    """The history of one replicate, evaluated at each step; its weight is the step's number."""
    weights = torch.zeros(1, 1)
    history = TrainingHistory({"weights": weights}, 0)
    for step, loss in enumerate(losses):
        weights.fill_(step)
        history.add(step, [Score(loss, 0.5, False)], [0.0])
        if step == changed_at:
            history.mask_changed(step)
    return history


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([math.nan, 3.0, 2.0, 4.0], 2),
        ([1.0, math.nan, 2.0], 0),
        ([2.0, math.nan, 1.0], 2),
        ([math.inf, 3.0, math.nan], 1),
        ([math.nan, math.nan], 0),
        ([2.0, 1.0, 1.0], 1),
    ],
)
def test_a_loss_that_is_no_number_is_never_the_best_where_there_is_one(
    losses: Sequence[float], best: int
) -> None:
    history = history_of(losses)
    assert history.best_step == [best]
    assert history.best["weights"].item() == best


def test_a_restored_history_goes_on_with_the_best_that_is_a_number() -> None:
    saved = history_of([0.5, math.nan, 3.0], changed_at=0)
    about = {"history": '[{"step": 0, "val_loss": 0.5}, {"step": 1, "val_loss": NaN},'}
    about["history"] += ' {"step": 2, "val_loss": 3.0}]'
    restored = TrainingHistory({"weights": torch.zeros(1, 1)}, 0)
    restored.restore(0, {**about, "best_step": "2", "since": "0"})
    assert saved.best_step == restored.best_step == [2]
    for history in (saved, restored):
        history.add(3, [Score(4.0, 0.5, False)], [0.0])
        assert history.best_step == [2]


def test_the_first_training_loss_after_a_rewind_counts_the_steps_since_then(
    cell: Callable[..., Cell], run: Callable[..., tuple[Plan, Store]]
) -> None:
    made, store = run(cell(reset__to="3it", recipe__evaluate_every="1ep"))
    losses = []
    for stage in made.cells[0].trainings[1:]:
        facts = store.facts(stage.key, made.cells[0].seed)
        assert facts is not None
        first, second, *_ = facts.history
        assert first["step"] == 4  # one step after the rewind
        losses.append(first["train_loss"] / second["train_loss"])
    # Untrained on 4 classes, the loss is about log 4 in each step; it was a fourth of that.
    assert all(0.9 < part < 1.2 for part in losses)


def history(replicates: int = 1) -> tuple[TrainingHistory, torch.Tensor]:
    """A history, and the weights that its training changes."""
    weights = torch.zeros(replicates, 2)
    return TrainingHistory({"weights": weights}, 0), weights


def add(to: TrainingHistory, step: int, *losses: float) -> None:
    to.add(step, [Score(loss, 0.5, False) for loss in losses], [0.0] * len(losses))


def test_of_equal_losses_the_first_is_the_best_and_each_replicate_has_its_own() -> None:
    made, weights = history(2)
    for step, losses in ((0, (1.0, 1.0)), (2, (0.5, 1.0)), (4, (0.5, 0.9))):
        weights.fill_(step)
        add(made, step, *losses)
    assert made.best_step == [2, 4]
    assert made.best["weights"].tolist() == [[2.0, 2.0], [4.0, 4.0]]


def test_the_best_is_of_the_mask_that_the_training_ends_with() -> None:
    made, weights = history()
    add(made, 0, 0.1)
    add(made, 2, 0.2)
    made.mask_changed(2)  # after the evaluation at this step, which is of the mask before
    weights.fill_(4)
    add(made, 4, 0.9)
    assert made.best_step == [4] and made.best["weights"].tolist() == [[4.0, 4.0]]
    add(made, 6, 0.8)
    add(made, 8, 0.85)
    assert made.best_step == [6]


def test_a_history_goes_on_from_its_checkpoint() -> None:
    made, _ = history()
    add(made, 0, 0.1)
    made.mask_changed(0)
    add(made, 2, 0.5)
    again, _ = history()
    again.restore(0, {name: json.dumps(value) for name, value in made.metadata(0).items()})
    for each in (made, again):
        add(each, 4, 0.3)
        add(each, 6, 0.4)
    assert made.best_step == again.best_step == [4] and made.rows == again.rows


def test_the_training_loss_is_the_mean_of_the_steps_since_the_last_evaluation() -> None:
    made, _ = history()
    made.train_loss += 6
    assert made.mean_train_loss(3).tolist() == [2.0]
    add(made, 3, 1.0)
    made.train_loss += 6
    assert made.mean_train_loss(5).tolist() == [3.0]
