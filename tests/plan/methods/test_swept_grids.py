"""Each setting that an experiment sweeps covers too little to too much, around published values.

If a schedule gives the sparsity, the grid is compared with `conf/published/`. If a setting leads to
a sparsity only indirectly, it is followed through the whole recipe without the gradient of any
data: an idle gate, s or threshold. Data then spread the weights around that value.
"""

from __future__ import annotations

import csv
import itertools
import math
from typing import Any

import pytest
import torch
import yaml

from lt_sweeps.config.errors import CONF
from lt_sweeps.config.recipes import Recipe, recipe
from lt_sweeps.sparsity.sparsifiers import Continuous, HardConcrete
from lt_sweeps.training.optimizers import optimizer_of
from lt_sweeps.training.stack import BufferLayout

PRESETS = CONF / "experiment/continuous_sparsification"
NONE = torch.zeros(0)
CIFAR, IMAGENET, DIGITS = 45_000, 1_271_167, 1_137  # training images


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((PRESETS / f"{name}.yaml").read_text())


def variant(name: str, method: str) -> dict[str, Any]:
    return preset(name)["hydra"]["sweeper"]["variants"][method]


def recipe_of(option: str, images: int, *presets: str) -> Recipe:
    keys: dict[str, Any] = {}
    for file in ("_keys", option):
        keys |= yaml.safe_load((CONF / "recipe" / f"{file}.yaml").read_text())
    for name in presets:
        keys |= preset(name).get("recipe", {})
    return recipe(images, **{k: v for k, v in keys.items() if k not in ("defaults", "_target_")})


LAYOUT = BufferLayout({}, 0)  # which these optimizers do without


def idle_gates(lambdas: list[float], trained: Recipe, *, mask_lr: float = 1.0) -> torch.Tensor:
    """The final log alpha of gates that only the penalty moves, one for each lambda."""
    gates = HardConcrete(lmbda=1.0)
    w, alphas = torch.zeros(1, len(lambdas)), torch.zeros(1, len(lambdas), requires_grad=True)
    grads, strengths = torch.zeros_like(w), torch.tensor(lambdas)
    optimizer = optimizer_of(trained, alphas.detach(), grads, LAYOUT, weight_decay=0.0)
    for step in range(trained.length):
        penalty = gates.penalty(w, alphas, NONE).sum()
        grads.copy_(strengths * torch.autograd.grad(penalty, alphas)[0])
        optimizer.step(mask_lr * trained.lr_at(step))
        gates.after_step(alphas.detach())
    return alphas.detach()[0]


# Between these ends of an idle gate a network has kept and pruned weights: on digits and ResNet-8
# 0.4 % were pruned at -1.7, 3 % at -2.1, 26 % at -2.3, 86 % at -2.6, 96 % at -3.0, 98 % at -3.3.
SOME = (-3.3, -1.9)


@pytest.mark.parametrize(
    ("name", "images", "recipes", "between"),
    [
        ("one_shot", CIFAR, (), 5),
        ("one_shot_quick", DIGITS, ("_small", "one_shot_quick"), 1),
    ],
)
def test_l0_reaches_from_nothing_pruned_to_everything_and_has_points_between(
    name: str, images: int, recipes: tuple[str, ...], between: int
) -> None:
    asked = variant(name, "l0")
    trained = recipe_of("continuous_sparsification", images, *recipes)
    ends = idle_gates(asked["method.lmbda"], trained, mask_lr=asked.get("method.mask_lr", 1.0))
    assert (ends.diff() < 0).all(), "the values rise"
    assert ends[0] > SOME[1], "the first prunes nothing"
    assert ((ends > SOME[0]) & (ends < SOME[1])).sum() >= between
    assert name.endswith("quick") or ends[-1] < SOME[0], "the last prunes nearly everything"


def test_a_grid_of_powers_of_ten_would_have_no_point_between() -> None:
    trained = recipe_of("continuous_sparsification", CIFAR)
    ends = idle_gates([1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3], trained)
    assert not ((ends > SOME[0]) & (ends < SOME[1])).any()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((n, "continuous_sparsification") for n in ("one_shot", "tickets", "iterative")),
        ("imagenet", "continuous_sparsification"),
        ("hyperparameters", "s0"),
    ],
)
def test_s0_has_values_at_which_an_idle_weight_ends_pruned_and_kept(name: str, method: str) -> None:
    """The penalty of 1e-8 alone moves s by less than the smallest step between values of s0."""
    values = variant(name, method)["method.s0"]
    trained = recipe_of("continuous_sparsification", CIFAR)
    soft, drift = Continuous(scaled_from=0.0), 0.0
    for epoch in range(trained.length // trained.steps_per_epoch):
        step = epoch * trained.steps_per_epoch
        at = torch.tensor([[soft.temperature(step, trained)]])
        s = torch.zeros(1, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(soft.penalty(NONE, s, at).sum(), s)
        drift += trained.steps_per_epoch * trained.lr_at(step) * float(slope) / (1 - 0.9)
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    assert drift < min(steps)
    assert min(values) < -drift and max(values) > drift


def idle_threshold(start: float, decay: float, trained: Recipe, part: float = 1.0) -> float:
    """An STR threshold that only decay has raised, after a part of the recipe's total rate."""
    rates = sum(map(trained.lr_at, range(trained.length))) / (1 - trained.momentum)
    return 1 / (1 + math.exp(-start * math.exp(-decay * rates * part)))


def test_thresholds_on_cifar_reach_from_next_to_nothing_to_early_and_high() -> None:
    """A threshold of 0.01 begins to cut weights of ResNet-20, most of which are below 0.1."""
    asked, trained = variant("pruners", "str"), recipe_of("continuous_sparsification", CIFAR)
    decays, start = asked["method.threshold_decay"], asked["method.s_init"]
    assert idle_threshold(start, decays[0], trained) < 0.01
    assert idle_threshold(start, decays[-1], trained, part=0.1) > 0.01


def test_thresholds_on_imagenet_start_before_and_after_those_of_the_published_run() -> None:
    """The published run reaches 90.23 % with a decay of 2.2518e-5 (resnet50-str.yaml)."""
    asked, trained = variant("imagenet", "str"), recipe_of("imagenet_nvidia", IMAGENET)
    decays, start = asked["method.threshold_decay"], asked["method.s_init"]
    assert decays[0] < 2.251757813e-5 < decays[-1] and 2.251757813e-5 in decays
    half = [idle_threshold(start, decay, trained, part=0.5) for decay in decays]
    assert half[0] < 1e-4 and half[-1] > 0.1


def test_slimming_removes_less_and_more_than_the_published_part_of_channels() -> None:
    """arXiv:1708.06519 removes 0.4 of ResNet-164's channels and 0.7 of VGG-19's."""
    for name in ("one_shot", "pruners"):
        percents = variant(name, "slimming")["method.percent"]
        assert min(percents) < 0.4 and max(percents) > 0.7


def grid(name: str, method: str) -> list[float]:
    """The sparsities of a variant of an experiment."""
    asked = variant(name, method)
    schedule = preset(name).get("schedule", {}) | {
        key.removeprefix("schedule."): value
        for key, value in asked.items()
        if key.startswith("schedule.")
    }
    if "levels" in schedule:
        rate = schedule.get("conv", 0.2)
        return [0.0, *(1 - (1 - rate) ** n for n in range(1, schedule["levels"] + 1))]
    listed = schedule["sparsity"]
    return listed if isinstance(listed, list) else [listed]


PUBLISHED = [
    *(("one_shot", "continuous_sparsification_response", m, m) for m in ("magnitude", "gmp")),
    *(("imagenet", "resnet50_imagenet", m, m) for m in ("gmp", "dnw", "rigl")),
    ("imagenet", "resnet50_imagenet", "renda", "iterative"),
    *(
        ("iterative", "resnet20_rewinding", f"renda {mode}", where)
        for mode, where in (
            ("finetune", "renda"),
            ("lr_rewind", "renda"),
            ("weight_rewind", "weight_rewind"),
        )
    ),
]


@pytest.mark.parametrize(("name", "file", "line", "where"), PUBLISHED)
def test_a_grid_of_sparsities_brackets_what_was_published(
    name: str, file: str, line: str, where: str
) -> None:
    text = (CONF / "published" / f"{file}.csv").read_text().splitlines()
    rows = list(csv.DictReader(row for row in text if not row.startswith("#")))
    rows = [row for row in rows if row["line"].startswith(line)]
    points = [float(row.get("sparsity") or row["value"]) for row in rows]
    values = grid(name, where)
    assert points and min(values) <= min(points) and max(points) <= max(values)
    if "sparsity" not in rows[0]:  # an endpoint lies where the curve falls, between two points
        assert min(values) < min(points) and max(points) < max(values)


def test_sparsity_on_imagenet_counts_the_weights_that_the_published_points_count() -> None:
    """Also the last layer, a twelfth of all weights: RigL, STR, DNW and GMP prune it too."""
    asked = preset("imagenet")
    assert asked["model"] == {"prunable": {"exclude": []}}
    assert "last layer" in asked["report"]["title"]


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in PRESETS.glob("[!_]*.yaml") if "_quick" not in p.stem)
)
def test_accuracy_is_read_at_the_end_as_the_sources_of_the_comparison_read_it(name: str) -> None:
    asked = preset(name)
    shared = "/experiment/continuous_sparsification/_shared" in asked["defaults"]
    base = preset("_shared") if shared else {}
    assert (base | asked)["report_at"] == "end"


def test_the_released_script_is_run_as_released() -> None:
    command = (CONF.parent / "launch/continuous_sparsification_released.sh").read_text()
    for words in ("report_at=end", "round_reset=paper,released", "rounds=3", "to=2ep"):
        assert words in command
    method = yaml.safe_load((CONF / "method/continuous_sparsification.yaml").read_text())
    assert method["keep_momentum"] is True
