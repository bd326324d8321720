"""Learning rates over a training, compared with torch's own schedulers."""

from dataclasses import asdict, dataclass
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from lt_sweeps.config.recipes import Recipe, recipe


def made(**keys: object) -> Recipe:
    given = {"optimizer": "sgd", "lr": 0.4, "batch_size": 10, "length": "12ep", **keys}
    return recipe(100, **given)  # pyright: ignore[reportArgumentType]


def rates(of: Recipe) -> list[float]:
    return [of.lr_at(step) for step in range(of.length)]


def test_a_warm_up_rises_linearly_and_a_cosine_falls_to_0() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    warm = LinearLR(optimizer, start_factor=1 / 20, total_iters=19)  # at 0.4 in its last step
    fall = CosineAnnealingLR(optimizer, T_max=100)
    scheduler = SequentialLR(optimizer, [warm, fall], milestones=[20])
    theirs = []
    for _ in range(120):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(made(decay="cosine", warmup="2ep")) == pytest.approx(theirs)


def test_milestones_are_counted_from_the_start_of_the_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    scheduler, theirs = MultiStepLR(optimizer, milestones=[60, 90]), []
    for _ in range(120):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = rates(made(warmup="2ep", milestones=["6ep", "9ep"]))
    assert ours[20:] == pytest.approx(theirs[20:])
    assert ours[:20] == pytest.approx([0.4 * n / 20 for n in range(1, 21)])


@dataclass(frozen=True)
class Frozen(Recipe):
    def lr_at(self, step: int) -> float:
        return 1e-9


def test_a_recipe_of_another_class_is_another_recipe() -> None:
    stock = made()
    own = Frozen(**asdict(stock))
    assert own.identity() != stock.identity()
    assert own.identity()["class"]["source"]


@pytest.mark.parametrize("given", [-0.1, 1.0])
def test_smoothing_is_a_part_of_the_label(given: float) -> None:
    with pytest.raises(ValueError, match=r"recipe.label_smoothing: got .*; give a number in"):
        made(label_smoothing=given)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "optimizer=adam has betas, but no momentum"),
        ({"betas": (0.8, 0.9)}, "optimizer=sgd has momentum.* no betas"),
        ({"nesterov": True}, "recipe.nesterov: got True; give a momentum with it"),
        ({"momentum": 1.5}, r"recipe.momentum: got 1.5; give .*\[0, 1\)"),
        ({"weight_decay": -1.0}, "recipe.weight_decay: got -1.0; give 0 or more"),
        ({"optimizer": "adam", "betas": (0.9,)}, r"recipe.betas: got .*0.9.*; give two numbers"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**keys)


ADD = partial(torch.add, alpha=2)


class Odd(torch.optim.SGD):
    def __init__(self, params, lr: float, *, add=ADD) -> None:
        super().__init__(params, lr)


def test_a_default_whose_text_is_another_in_each_process_is_refused() -> None:
    """Otherwise no command would find the results of an earlier one."""
    own = made(optimizer={"_target_": f"{__name__}.Odd"}, momentum=0.0, nesterov=False)
    with pytest.raises(ValueError, match="recipe: the default functools.partial.* cannot be part"):
        own.identity()


def test_a_recipe_that_is_built_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="recipe.optimizer: got .*lion.*; give sgd, adam or adamw"):
        Recipe("lion", 0.1, batch_size=10, length=10, steps_per_epoch=5, evaluate_every=5)
