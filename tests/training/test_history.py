"""The history of a training: which evaluation is the best, and of which mask."""

from __future__ import annotations

import json
import math

import torch

from lt_sweeps.training.evaluation import Score
from lt_sweeps.training.history import TrainingHistory


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


def test_a_loss_that_is_no_number_is_the_best_only_where_it_is_the_first() -> None:
    made, _ = history(2)
    add(made, 0, math.nan, 1.0)
    add(made, 2, 1.0, math.nan)
    assert made.best_step == [0, 0]


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
