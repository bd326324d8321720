"""`lt.open`: the tables of a sweep, its tickets as networks, and its figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fixtures.tiny_cell import compute_cells, settings, tiny_cell
from matplotlib.figure import Figure

import lt_sweeps as lt
from lt_sweeps.api.opened_sweep import Sweep, _absent, _is_value
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Swept = Callable[..., Path]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    root = tmp_path_factory.mktemp("root") / "results"
    cells = [tiny_cell(seed=seed, recipe__lr=lr) for lr in (0.01, 0.03) for seed in (0, 1)]
    made, _ = compute_cells(*cells, root=root)
    return lt.open(Submission(made, settings(root, "tiny")).freeze([]).folder)


def test_a_row_per_cell_seed_and_level_with_a_column_per_swept_key(sweep: Sweep) -> None:
    frame = sweep.frame()
    assert len(frame) == 2 * 2 * 3
    assert set(frame["recipe.lr"]) == {0.01, 0.03} and set(frame["seed"]) == {0, 1}
    assert not frame["recipe.lr"].isna().any() and "recipe.batch_size" not in frame


def test_a_ticket_is_selected_by_any_column(sweep: Sweep) -> None:
    ticket = sweep.ticket(level=2, seed=1, **{"recipe.lr": 0.03})
    assert (ticket.level, ticket.seed) == (2, "1")
    assert "level 2" in repr(ticket) and "4 cells" in repr(sweep)


def test_a_ticket_is_selected_by_no_value_and_by_a_list(sweep: Sweep) -> None:
    row = {"level": 2, "seed": 1, "recipe.lr": 0.03}
    ticket = sweep.ticket(**row, granularity=None)
    assert sweep.ticket(**{**row, "seed": "1"}).stage == ticket.stage
    with pytest.raises(ValueError, match=r"no granularity='2:4'; there are None"):
        sweep.ticket(**row, granularity="2:4")
    column = pd.Series(["[300, 100]", None], name="model.net.hidden")
    assert [*_is_value(column, [300, 100])] == [*_is_value(column, (300, 100))] == [True, False]
    assert [*_is_value(column, None)] == [False, True]


def test_a_row_says_by_what_its_task_is_judged(sweep: Sweep) -> None:
    frame = sweep.frame()
    assert set(frame["metric"]) == {"accuracy"} and not frame["lower_is_better"].any()
    assert frame["lower_is_better"].dtype == bool


def test_several_tickets_are_listed(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match=r"2 match level=2, seed=1; say which by .*recipe.lr"):
        sweep.ticket(level=2, seed=1)
    with pytest.raises(ValueError, match=r"4 match level=0; say which by seed and recipe.lr:\n"):
        sweep.ticket(level=0)  # a line's name follows from the rate
    with pytest.raises(ValueError, match=r"no level=9; there are 0, 1, 2"):
        sweep.ticket(level=9)
    with pytest.raises(ValueError, match=r"no level='1'; there are 0, 1, 2$"):
        sweep.ticket(level="1")
    with pytest.raises(ValueError, match=r"no device='cpo'; .*; did you mean `cpu`"):
        sweep.ticket(device="cpo")
    assert _absent("level", 20, pd.Series(range(14))).endswith("9, 10, 11 and 2 more")
    with pytest.raises(ValueError, match="did you mean `level`"):
        sweep.ticket(levl=1)


def test_the_module_is_the_network_of_its_row(sweep: Sweep) -> None:
    for row in sweep.frame().to_dict(orient="records"):
        lr = {"recipe.lr": row["recipe.lr"]}
        ticket = sweep.ticket(level=row["level"], seed=row["seed"], **lr)
        assert ticket.evaluate("test", at="end").accuracy == row["end_test_accuracy"]
        assert ticket.evaluate("val", at="end").accuracy == row["end_val_accuracy"]
        module = ticket.module(at="end")
        assert not module.training
        x, y = ticket.examples("test")
        found = (module(x).argmax(1) == y).float().mean().item()
        assert found == pytest.approx(row["end_test_accuracy"])
        state = module.state_dict()
        pruned = sum(int((~kept).sum()) for kept in ticket.mask.values())
        assert pruned / sum(k.numel() for k in ticket.mask.values()) == pytest.approx(
            ticket.sparsity
        )
        assert all((state[name][~kept] == 0).all() for name, kept in ticket.mask.items())


def test_a_soft_mask_is_in_the_weights_of_the_module(cell: Make, swept: Swept) -> None:
    method = {"_target_": "lt_sweeps.plan.methods.continuous_sparsification", "rounds": 1}
    sweep = lt.open(swept(cell(method=method, report_at="end")))
    for row in sweep.frame().to_dict(orient="records"):
        ticket = sweep.ticket(stage=row["stage"])
        assert ticket.evaluate("test").accuracy == row["test_accuracy"]
        x, y = ticket.examples("test")
        found = (ticket.module()(x).argmax(1) == y).float().mean().item()
        assert found == pytest.approx(row["test_accuracy"])
        kept = sum(int(kept.sum()) for kept in ticket.mask.values())
        assert kept == row["weights_remaining"]


def test_the_network_of_a_row_is_stored_after_a_sweep_that_reports_the_end(
    cell: Make, run: Callable[..., tuple[Plan, Store]], swept: Swept
) -> None:
    """Both share their trainings, and the first stored only the weights of the end."""
    changes = {"recipe__lr": 0.3, "recipe__length": "20ep"}
    ends, store = run(cell(report_at="end", **changes))
    assert ends.missing(store) == ()
    bests, early = plan([cell(**changes)]), []
    for unit in bests.units:
        facts = store.facts(unit.stage.key, unit.seed)
        assert facts is not None
        if facts.metrics["best_step"] < unit.stage.step:
            early.append(unit)
    assert early and bests.missing(store) == tuple(early)
    before = {path: path.read_bytes() for path in store.root.glob("tickets/*/*.safetensors")}
    sweep = lt.open(swept(bests.cells[0].cell))
    assert bests.missing(store, thorough=True) == bests.missing(store) == ()
    assert all(path.read_bytes() == content for path, content in before.items())
    for row in sweep.frame().to_dict(orient="records"):
        ticket = sweep.ticket(stage=row["stage"])
        assert ticket.evaluate("test").accuracy == row["test_accuracy"]


def test_what_is_done_to_a_mask_or_a_module_changes_no_ticket(sweep: Sweep) -> None:
    ticket = sweep.ticket(level=2, seed=0, **{"recipe.lr": 0.01})
    left, accuracy = ticket.record.weights_remaining, ticket.evaluate().accuracy
    for kept in ticket.mask.values():
        kept.fill_(False)
    for parameter in ticket.module().parameters():
        parameter.data.zero_()
    x, _ = ticket.examples()
    x.zero_()
    assert sum(int(kept.sum()) for kept in ticket.mask.values()) == left
    assert ticket.evaluate().accuracy == accuracy
    assert {ticket: 1}[sweep.ticket(stage=ticket.stage, seed=0)] == 1  # it can be a key


def test_training_images_are_those_that_it_was_trained_on(sweep: Sweep) -> None:
    ticket = sweep.ticket(level=2, seed=0, **{"recipe.lr": 0.01})
    x, y = ticket.examples("train")
    dataset = ticket.run.last.training.task.dataset
    given = dataset.load()["train"]
    assert len(x) == len(y) == dataset.train_size and y.equal(given.targets)
    assert x.equal(given.inputs / dataset.scale)
    with pytest.raises(ValueError, match=r"^ticket: split: got 'tests'; give train, val, test$"):
        ticket.examples("tests")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^ticket: split: got a FC; give val, test$"):
        ticket.evaluate(ticket.module())  # type: ignore[arg-type]


def test_a_cell_is_short_in_a_notebook(sweep: Sweep) -> None:
    assert len(repr(sweep.ticket(level=2, seed=0, **{"recipe.lr": 0.01}).run)) < 100


def test_the_parent_is_the_ticket_that_it_was_pruned_from(sweep: Sweep) -> None:
    ticket = sweep.ticket(level=2, seed=0, **{"recipe.lr": 0.01})
    parent = ticket.parent
    assert parent is not None and parent.level == 1
    assert [*ticket.mask] == [n for n, _ in ticket.module().named_parameters() if n in ticket.mask]
    for name, kept in ticket.mask.items():
        assert not (kept & ~parent.mask[name]).any()
    assert parent.parent is not None and parent.parent.parent is None


def test_curves_tests_and_figures(sweep: Sweep) -> None:
    assert len(sweep.curves()) == 2 * 2 * 3 * 4
    assert sweep.tests().empty
    tests = sweep.tests(baseline="recipe.lr=0.01")
    assert set(tests["line"]) == {"lr=0.03"} and list(tests["level"]) == [0, 1, 2]
    assert sweep.tests(baseline="lr=0.01").equals(tests)  # as a table calls it
    assert sweep.figure("curves").axes
    with pytest.raises(ValueError, match="did you mean `curves`"):
        sweep.figure("curvs")


def by_epochs(records: pd.DataFrame, *, metric: str) -> tuple[Figure, str]:
    sheet = Figure()
    sheet.subplots().plot(records["epochs"], records[metric], "o")
    return sheet, metric


def test_a_figure_of_ones_own_by_its_yaml_or_a_mapping_or_as_the_sweep_asks(
    sweep: Sweep, tmp_path: Path
) -> None:
    own = {"_target_": f"{__name__}.by_epochs", "metric": "val_accuracy"}
    (tmp_path / "figure").mkdir()
    (tmp_path / "figure" / "mine.yaml").write_text(yaml.safe_dump(own))
    points = {"by yaml": sweep.figure("mine", config_dir=tmp_path)}
    points["by mapping"] = sweep.figure({"name": "mine", **own})
    points["by key"] = sweep.figure("mine", figures=[{"name": "mine", **own}])
    for how, sheet in points.items():
        (line,) = sheet.axes[0].lines
        assert len(line.get_ydata()) == len(sweep.frame()), how  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"figure: no `mien`.*did you mean `mine`"):
        sweep.figure("mien", config_dir=tmp_path)
    with pytest.raises(ValueError, match="report.figures: got .* has a `_target_` and a `name`"):
        sweep.figure({"name": "mine"})
    stored = replace(sweep)
    stored.__dict__["_results"] = replace(
        sweep._results, layouts={"default": {"figures": [{"name": "mine", **own}]}}
    )
    with pytest.raises(ValueError, match="names `.*by_epochs`, which is not part"):
        stored.figure("mine")
    assert stored.figure("curves").axes
    trusting = replace(stored, trust=(__name__,))
    trusting.__dict__["_results"] = stored._results
    assert trusting.figure("mine").axes


def test_trusted_modules_are_given_as_on_the_command_line(sweep: Sweep) -> None:
    for trust in ("mylab.nets,mylab.data", ("mylab.nets", "mylab.data")):
        assert lt.open(sweep.folder, trust=trust).trust == ("mylab.nets", "mylab.data")
    for wrong in ("mylab/nets.py", ("mylab/nets.py",)):
        with pytest.raises(ValueError, match="trust: got 'mylab/nets.py'; give modules: trust="):
            lt.open(sweep.folder, trust=wrong)


def test_a_sweep_by_its_name_and_one_that_is_not_there(sweep: Sweep) -> None:
    root = sweep.folder.parent.parent
    assert lt.open("tiny", root=root).folder == sweep.folder
    with pytest.raises(ValueError, match="open: tny; did you mean `tiny`"):
        lt.open("tny", root=root)


def test_completion_offers_what_the_package_offers() -> None:
    assert dir(lt) == sorted(lt.__all__)


def test_importing_takes_no_torch() -> None:
    code = "import sys, lt_sweeps as lt; dir(lt); print({'torch', 'pandas'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_an_unknown_name_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute `?'?opne"):
        _ = lt.opne  # pyright: ignore[reportAttributeAccessIssue]
