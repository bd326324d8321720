"""The weights and masks that figures read from tickets equal what the framework wrote."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from lt_sweeps.analysis.curve import curves
from lt_sweeps.analysis.results import read_results
from lt_sweeps.analysis.stored_weights import (
    learned_masks,
    masks,
    point_near,
    points_near,
    prunings,
)
from lt_sweeps.analysis.sweep_analysis import analyses
from lt_sweeps.reporting.figures.layer_survival import layer_figures
from lt_sweeps.reporting.figures.mask_overlap import _chance_sentence, chance_overlap, jaccard
from lt_sweeps.reporting.figures.style import wrapped_title
from lt_sweeps.reporting.figures.weight_plane import _draw, plane_figures
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.sparsity.sparsifiers.hard_concrete import open_chance as chance_of_gate


@pytest.fixture
def root(cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path) -> Path:
    """A tiny sweep of two criteria and two seeds."""
    kinds = ("lt_sweeps.sparsity.criteria.large_final", "lt_sweeps.sparsity.criteria.random")
    run(*(cell(mask_criterion={"_target_": kind}, seed=seed) for kind in kinds for seed in (0, 1)))
    return tmp_path / "results"


def curve(root: Path, number: int = 0):
    return curves(read_results(root, metrics=["test_accuracy"]).cells, metric="test_accuracy")[
        number
    ]


def test_masks_hold_what_the_records_count(root: Path) -> None:
    one = curve(root)
    last = one.points[-1]
    found = masks(root, one, last)
    assert set(found) == {"0", "1"}
    for kept in found.values():
        left = sum(int(mask.sum()) for mask in kept.values())
        assert left == round(last.percent / 100 * sum(mask.size for mask in kept.values()))


def test_a_pruning_keeps_the_weights_that_its_criterion_says(root: Path) -> None:
    cells = read_results(root, metrics=["test_accuracy"]).cells
    drawn = curves(cells, metric="test_accuracy")
    kinds = [each.settings["mask_criterion._target_"].rpartition(".")[2] for each in drawn]
    one = drawn[kinds.index("large_final")]
    for each in prunings(root, one, one.points[-1], "0"):
        kept, size = each.kept.astype(bool), np.abs(each.final.astype(float))
        assert size[kept].min() >= size[~kept].max()


def test_a_pruning_is_of_the_weights_that_the_mask_was_chosen_from(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Not those of the previous result: its ticket was trained apart from the search."""
    method = {
        "_target_": "lt_sweeps.plan.methods.imp_continued",
        "protocol": "ticket",
        "to": "0it",
        "restart": False,
    }
    run(cell(method=method))
    one = curve(tmp_path / "results")
    last = one.points[-1]
    assert last.level == 2
    layers = list(prunings(tmp_path / "results", one, last, "0"))
    for layer in layers:
        kept, size = layer.kept.astype(bool), np.abs(layer.final.astype(float))
        assert size[kept].min() >= size[~kept].max()
    assert layers


def test_a_mask_that_was_learned_has_no_weights_before_its_pruning(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    """The dense network is the result before it in the table, but the mask was not cut from it."""
    method = {
        "_target_": "lt_sweeps.plan.methods.continuous_sparsification",
        "rounds": 2,
        "protocol": "ticket",
        "restart": True,
        "s0": 0.0,
    }
    run(cell(method=method, recipe__length="2ep"))
    one = curve(tmp_path / "results")
    for point in one.points:
        assert not list(prunings(tmp_path / "results", one, point, "0"))


def test_a_point_is_looked_at_only_near_the_sparsity_asked_for(root: Path) -> None:
    one = curve(root)
    near = point_near(one, 0.36)
    assert near is not None and near.level == 2
    assert point_near(one, 0.95) is None
    assert points_near([one], [0.36, 0.37, 0.95]) == [(one, near)]


def test_a_ticket_that_is_not_there_is_left_out_and_a_changed_one_is_an_error(root: Path) -> None:
    one = curve(root)
    last = one.points[-1]
    (stage,) = last.stages
    (root / "tickets" / stage / "1.safetensors").unlink()
    assert set(masks(root, one, last)) == {"0"}
    path = root / "tickets" / stage / "0.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="tensors do not match their checksum; `resume`"):
        masks(root, one, last)


def test_overlap_is_that_of_the_sets_and_chance_that_of_their_densities() -> None:
    one = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([1, 1], bool)}
    other = {"a": np.array([1, 0, 1, 0], bool), "b": np.array([1, 0], bool)}
    assert jaccard(one, other) == pytest.approx(2 / 5)
    # a: 4 · ¼ both, 4 · ¾ either; b: 2 · ½ both, 2 either
    assert chance_overlap(one, other) == pytest.approx(2 / 5)


def test_chance_depends_on_both_densities_and_is_what_independent_masks_have() -> None:
    """From the first density alone it would be 1/3, from the second 1/7."""
    rng = np.random.default_rng(0)
    one, other = ({"a": rng.random(100_000) < density} for density in (1 / 2, 1 / 4))
    assert chance_overlap(one, other) == pytest.approx(1 / 5, abs=0.005)
    assert jaccard(one, other) == pytest.approx(1 / 5, abs=0.005)


def test_a_learned_masks_chances_are_the_sigmoid_of_its_logits(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    method = {"_target_": "lt_sweeps.plan.methods.learned_supermask", "bias": -1.0}
    made, store = run(cell(method=method))
    one = curve(tmp_path / "results")
    (mask,) = learned_masks(tmp_path / "results", one, one.points[-1]).values()
    stage = made.cells[0].trainings[-1]
    logits = store.read(stage.key, made.cells[0].seed).learned
    expected = torch.cat([logits[name].flatten() for name in sorted(logits)]).double().sigmoid()
    assert mask.chances == pytest.approx(expected.numpy())
    # It is drawn anew in each pass; its ticket keeps every weight, which is no mask of 50 %.
    assert not masks(tmp_path / "results", one, one.points[-1])


def test_an_annealed_mask_is_the_sigmoid_at_the_temperature_of_its_end(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    kind = "lt_sweeps.plan.methods.continuous_sparsification"
    made, store = run(cell(method={"_target_": kind, "final_beta": 50.0, "finetune": "same"}))
    root = tmp_path / "results"
    (mask,) = learned_masks(root, one := curve(root), one.points[-1]).values()
    (search,) = (each for each in made.cells[0].trainings if each.has_logits)
    assert (mask.stage, mask.slope) == (search.key, 50)
    logits = store.read(search.key, made.cells[0].seed).learned
    expected = (50 * torch.cat([logits[name].flatten() for name in sorted(logits)])).sigmoid()
    assert mask.chances == pytest.approx(expected.double().numpy(), abs=1e-6)
    report(
        root, out=tmp_path / "out", console=Console(file=io.StringIO()), figures=["probabilities"]
    )
    data = pd.read_csv(tmp_path / "out" / "probabilities.csv")
    assert data["part"].sum() == pytest.approx(1)
    says = (tmp_path / "out" / "probabilities.txt").read_text()
    assert "soft mask sigmoid(βs) at the last β (50)" in says and "over seeds (n = 1)" in says


def test_a_gates_chance_is_that_of_not_being_zero(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    made, store = run(cell(method={"_target_": "lt_sweeps.plan.methods.l0", "finetune": "same"}))
    root = tmp_path / "results"
    (mask,) = learned_masks(root, one := curve(root), one.points[-1]).values()
    (search,) = (each for each in made.cells[0].trainings if each.has_logits)
    logits = store.read(search.key, made.cells[0].seed).learned
    flat = torch.cat([logits[name].flatten() for name in sorted(logits)])
    assert mask.chances == pytest.approx(chance_of_gate(flat).numpy(), abs=1e-6)


def test_every_figure_of_tickets_is_drawn_from_a_real_sweep(root: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), record=True, width=160)
    wanted = ["overlap", "plane", "signs", "layers"]
    report(root, out=tmp_path / "out", console=console, figures=wanted, masks_at=[0.36])
    assert "not drawn" not in console.export_text()
    signs = pd.read_csv(tmp_path / "out" / "signs.csv")
    assert len(signs) == 4 and (signs["kept"] > 0).all()
    plane = pd.read_csv(tmp_path / "out" / "plane.csv")
    assert (plane["kept"] <= plane["weights"]).all() and plane["seeds"].unique() == [2]


def test_figures_of_masks_say_which_line_has_which_sparsity(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    rates = (0.2, 0.22)
    run(*(cell(schedule__hidden=rate, seed=seed) for rate in rates for seed in (0, 1)))
    named = ["overlap", "layers", "signs", "plane"]
    wanted: dict[str, Any] = {"figures": named, "masks_at": [0.36], "lines": ["schedule.hidden"]}
    folder = report(tmp_path / "results", console=Console(file=io.StringIO()), **wanted)
    for name in named:
        caption = (folder / f"{name}.txt").read_text().partition("\n")[0]
        assert "left: hidden=0.2 64.7%, hidden=0.22 61.9%." in caption, name
    data = pd.read_csv(folder / "overlap.csv")
    own = data[data["line"] == data["other"]].set_index("line")["chance"]
    named = ", ".join(f"hidden={rate} {100 * own[f'hidden={rate}']:.0f}%" for rate in rates)
    said = (folder / "overlap.txt").read_text()
    assert own.nunique() == 2 and f"Chance on the diagonal in {data['panel'][0]}: {named}." in said


def test_a_caption_has_the_chance_levels_of_at_most_four_lines() -> None:
    for names, chances, said in (
        ("ab", (0.2, 0.3), " Chance on the diagonal in p: a 20%, b 30%."),
        ("ab", (0.2, 0.201), ""),
        ("abcde", (0.2, 0.3, 0.3, 0.3, 0.3), " Chance on the diagonal in p: see the CSV."),
    ):
        rows = [{"panel": "p", "line": a, "other": b} for a in names for b in names]
        chance = dict(zip(names, chances, strict=True))
        data = pd.DataFrame([{**row, "chance": chance[row["line"]]} for row in rows])
        assert _chance_sentence(data) == said


def test_a_title_breaks_before_a_percentage_and_not_within_it(root: Path) -> None:
    """In `resnet20 on cifar10, 54.3% left`, `54.3%` and `left` were on two lines."""
    results = read_results(root, metrics=["test_accuracy"])
    (one,) = analyses(results, {"masks_at": [0.3]}).values()
    (figure,) = plane_figures(one)
    panel = "resnet20 on cifar10, 54.3% left"
    sheet = _draw(pd.concat([figure.data, figure.data.assign(panel=panel)]))
    assert any("54.3% left" in axes.get_title() for axes in sheet.axes)
    assert all("54.3% left" in wrapped_title(panel, width) for width in range(12, 40))


def test_titles_of_planes_stay_in_their_column(root: Path) -> None:
    results = read_results(root, metrics=["test_accuracy"])
    (one,) = analyses(results, {}).values()
    labels = {curve.name: f"{curve.name} {'with a long label ' * 3}" for curve in one.curves}
    (one,) = analyses(results, {"labels": labels, "masks_at": [0.3]}).values()
    (figure,) = plane_figures(one)
    sheet = figure.draw()
    sheet.canvas.draw()
    left, right = (axes.title.get_window_extent() for axes in sheet.axes[:2])
    assert left.x0 >= 0 and left.x1 < right.x0


def test_a_figure_that_cannot_be_drawn_says_why(root: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), record=True, width=160)
    asked = {"figures": ["probabilities", "plane"], "masks_at": [0.99]}
    report(root, out=tmp_path / "out", console=console, **asked)
    text = console.export_text()
    assert "probabilities: not drawn, because no ticket in the store has a learned mask" in text
    assert "plane: not drawn" in text


def test_networks_of_other_widths_are_reported_side_by_side(
    cell: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Their masks have no weight in common, so no overlap between the two is drawn."""
    nets = [{"_target_": "lt_sweeps.models.FC", "hidden": hidden} for hidden in ([6], [8, 6])]
    seeds = ((0, 1), (0, 1, 2))
    run(*(cell(model__net=net, seed=s) for net, own in zip(nets, seeds, strict=True) for s in own))
    named = ["overlap", "layers", "signs", "plane"]
    wanted: dict[str, Any] = {"figures": named, "masks_at": [0.36]}
    folder = report(tmp_path / "results", console=Console(file=io.StringIO()), **wanted)
    overlap = pd.read_csv(folder / "overlap.csv")
    assert (overlap["line"] == overlap["other"]).all() and overlap["line"].nunique() == 2
    assert "Blank: networks with different layers" in (folder / "overlap.txt").read_text()
    assert all("n = 2 to 3" in (folder / f"{name}.txt").read_text() for name in ("signs", "plane"))
    (one,) = analyses(read_results(tmp_path / "results", metrics=[]), wanted).values()
    (figure,) = layer_figures(one)
    ticks = [text.get_text() for text in figure.draw().axes[0].get_xticklabels()]
    assert [sorted(tick.split()) for tick in ticks] == [
        ["hidden.0"],
        ["hidden.1", "output"],
        ["output"],
    ]
