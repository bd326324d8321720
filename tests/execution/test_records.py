"""Records are made from stored tickets, are complete, and are never silently wrong."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from fixtures.fake_results import FakeSweep, sealed
from rich.console import Console
from torch import Tensor

from lt_sweeps.analysis.results import read_results
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.records import dense_resources, record_cell
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import Init, Train, Training
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.sparsity.sparsifiers import Sparsifier
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def folder(made: Plan, store: Store) -> Path:
    return store.root / "runs" / made.cells[0].signature / "0"


def test_a_row_per_level_measured_from_the_mask(cell: Make, run: Run) -> None:
    made, store = run(cell(schedule__levels=2))
    rows = read(folder(made, store) / "records.jsonl")
    assert [row["level"] for row in rows] == [0, 1, 2]
    assert [row["target_sparsity"] for row in rows] == [None, 0.2, 0.36]
    # 16*12 + 12*8 + 8*4 weights; what a level prunes of each layer is floored.
    assert [row["weights_remaining"] for row in rows] == [320, 154 + 77 + 26, 124 + 62 + 21]
    assert [row["sparsity"] for row in rows] == [1 - row["weights_remaining"] / 320 for row in rows]
    assert rows[1]["layers_remaining"] == {
        "hidden.0.weight": 154,
        "hidden.1.weight": 77,
        "output.weight": 26,
    }


def test_what_is_written_is_read_and_every_field_of_a_result_is_known(cell: Make, run: Run) -> None:
    made, store = run(cell())
    path = folder(made, store) / "records.jsonl"
    stored = RunFolder(path.parent).read()
    assert stored.done and not stored.faults
    assert [asdict(record) for record in stored.records] == read(path)
    unknown = {name for name, value in asdict(stored.records[1]).items() if value is None}
    # fields of learned masks, and groups that have no option in the tiny cell
    assert unknown - set(Record.option_columns({})) == {
        "hard_val_accuracy",
        "hard_test_accuracy",
        "mask_chance",
        *("metric", "lower_is_better", "metrics", "lower_metrics"),  # of another task
        "notes",  # only where there is something to say
        *("granularity", "resolution"),  # only where weights are pruned in groups
    }


def test_a_fake_record_knows_what_a_real_one_knows(cell: Make, run: Run, tmp_path: Path) -> None:
    """Tests of reports use fake records: a field that they lack would be tested nowhere."""
    made, store = run(cell())
    real = RunFolder(folder(made, store)).read().records
    fake = RunFolder(FakeSweep(tmp_path).cell("a", accuracies=[0.9, 0.8, 0.7])).read().records
    for one, other in zip(real, fake, strict=True):
        known = {name for name, value in asdict(one).items() if value is not None}
        missing = {name for name in known if getattr(other, name) is None}
        assert missing <= set(Record.option_columns({}))  # a test says which options its cells have


def test_two_sparsities_one_of_the_prunable_weights_and_one_of_all_parameters(
    cell: Make, run: Run
) -> None:
    made, store = run(cell(schedule__levels=1, model__prunable={"exclude": ["output.weight"]}))
    dense, row = read(folder(made, store) / "records.jsonl")
    # 16*12 + 12*8 prunable weights; 8*4 of the output and 12 + 8 + 4 biases beside them
    assert (dense["sparsity"], dense["sparsity_total"]) == (0, 0)
    pruned = 288 - (154 + 77)
    assert row["sparsity"] == pytest.approx(pruned / 288)
    assert row["sparsity_total"] == pytest.approx(pruned / (288 + 32 + 24))


@pytest.mark.parametrize(
    ("method", "dense"),
    [
        ("dense", True),
        ("imp", True),
        ("gmp", True),
        ("continuous_sparsification", True),
        ("l0", True),
        ("soft_threshold", True),
        ("rigl", False),
        ("at_init", False),
    ],
)
def test_dense_resources_are_those_of_every_training_that_led_to_a_ticket(
    cell: Make, method: str, dense: bool
) -> None:
    half = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
    random = {"_target_": "lt_sweeps.sparsity.criteria.random"}
    (made,) = plan(
        [
            cell(
                method={"_target_": f"lt_sweeps.plan.methods.{method}"},
                schedule=half,
                mask_criterion=random,
            )
        ]
    ).cells
    assert dense_resources(made.last) is dense


def test_fine_tuning_a_network_that_was_always_sparse_needs_none(cell: Make) -> None:
    rigl = {"_target_": "lt_sweeps.plan.methods.rigl", "finetune": {"length": "1ep"}}
    half = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
    (made,) = plan([cell(method=rigl, schedule=half)]).cells
    assert len(made.trainings) == 3 and not dense_resources(made.last)


def test_a_row_names_the_trainings_that_it_starts_from(cell: Make, run: Run) -> None:
    made, store = run(cell(schedule__levels=2))
    rows = read(folder(made, store) / "records.jsonl")
    stages = [row["stage"] for row in rows]
    assert [set(row["after"]) for row in rows] == [set(), {stages[0]}, {*stages[:2]}]


def test_report_at_end_reports_the_last_evaluation(cell: Make, run: Run) -> None:
    made, store = run(cell(report_at="end"))
    row = read(folder(made, store) / "records.jsonl")[0]
    assert row["reported_step"] == row["step"] == 12
    assert row["test_accuracy"] == row["end_test_accuracy"]


def test_a_learned_mask_is_counted_and_made_hard_at_the_evaluation_that_is_reported(
    cell: Make, swept: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"_target_": "lt_sweeps.plan.methods.learned_supermask"}
    sgd = {"recipe__optimizer": "sgd", "recipe__momentum": 0.9, "recipe__lr": 100.0}
    at_best = cell(method=method, recipe__length="20ep", **sgd)
    at_end = replace(at_best, config=Config({**at_best.config, "report_at": "end"}))
    folder = swept(at_best, at_end, computed=False)
    made, store = plan([at_best, at_end]), Store(folder.parent.parent)
    compute(made.units, made.moments, store, Machine(), reported=made.best_reported)
    assert all(record_cell(each, StoredTickets(store, thorough=True)) for each in made.cells)
    stage, seed = made.cells[0].trainings[-1], made.cells[0].seed
    rows = [
        RunFolder.of(store.root, each.signature, each.seed).read().records[-1]
        for each in made.cells
    ]
    assert rows[0].stage == rows[1].stage and rows[0].best_step != rows[0].step
    assert rows[0].sparsity != rows[1].sparsity
    dataset = stage.training.task.dataset
    split, (mean, std) = dataset.load()["val"], dataset.scaling
    inputs = split.inputs / dataset.scale
    inputs = (inputs - mean) / std if len(mean) else inputs
    for row, moment in zip(rows, ("best", "end"), strict=True):
        ticket = store.read(stage.key, seed, moment)
        chances = [torch.sigmoid(logits).double().sum() for logits in ticket.learned.values()]
        assert row.weights_remaining == sum(int(each.round()) for each in chances)
        assert row.sparsity == pytest.approx(1 - row.weights_remaining / row.weights_total)
        state = {name: tensor[0] for name, tensor in ticket.state.items()}
        for name, logits in ticket.learned.items():
            state[name] = state[name] * (logits[0] > 0)
        net = stage.network.holding(state).eval()
        with torch.no_grad():
            right = net(inputs).argmax(1) == split.targets
        assert row.hard_val_accuracy == pytest.approx(float(right.double().mean()))
    assert not any(row.notes for row in rows)
    assert audit(folder, out=tmp_path / "audit.json", console=Console(quiet=True))

    facts = store.facts(stage.key, seed)
    assert facts is not None
    older = replace(facts, best_layers_remaining={})
    monkeypatch.setattr(Store, "facts", lambda *_: older)
    for each, said in zip(made.cells, (True, False), strict=True):
        record_cell(each, StoredTickets(store, thorough=True))
        folder = RunFolder.of(store.root, each.signature, each.seed)
        assert bool(folder.read().records[-1].notes) is said  # counts are those of the end


def test_metrics_under_the_hard_mask_are_those_of_the_reported_evaluation() -> None:
    both = {"hard_val_r2": 0.1, "best_hard_val_r2": 0.4, "best_val_r2": 0.5, "end_val_r2": 0.2}
    for at, hard in (("best", 0.4), ("end", 0.1)):
        metrics = Record.metric_columns({"metrics": both}, at)["metrics"]
        assert metrics["hard_val_r2"] == hard and "best_hard_val_r2" not in metrics
    once = {"hard_val_r2": 0.1, "best_val_r2": 0.2, "end_val_r2": 0.2}  # its best is the end
    assert Record.metric_columns({"metrics": once}, "best")["metrics"]["hard_val_r2"] == 0.1


def test_done_comes_last_and_names_the_records(cell: Make, run: Run) -> None:
    made, store = run(cell())
    place = folder(made, store)
    before = (place / "records.jsonl").stat().st_mtime_ns
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    assert (place / "records.jsonl").stat().st_mtime_ns == before, "written once"


def test_changed_records_are_set_aside_and_made_again(cell: Make, run: Run, caplog) -> None:
    made, store = run(cell())
    place = folder(made, store)
    right = (place / "records.jsonl").read_bytes()
    (place / "records.jsonl").write_bytes(right.replace(b'"level": 1', b'"level": 7'))
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    assert (place / "records.jsonl").read_bytes() == right
    assert "not the records whose checksum DONE holds; set aside as" in caplog.text
    assert (place / "records.jsonl.corrupt-0").exists()


def test_records_whose_sum_of_epochs_was_rounded_differently_are_kept(
    cell: Make, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Python adds floats in another way since 3.12, and records of earlier versions show it."""
    made, store = run(cell(schedule__levels=2))
    runs = RunFolder(folder(made, store))
    *rows, last = runs.read().records
    assert last.search_epochs
    rounded = replace(last, search_epochs=math.nextafter(last.search_epochs, 0))
    runs.write([*rows, rounded], complete=True)
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    assert runs.read().records[-1] == rounded and "set aside" not in caplog.text


def test_damaged_records_name_the_command_that_writes_them_again(
    cell: Make, swept: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of a report used to name no command to type."""
    sweep = swept(cell(tracker={}))
    root = sweep.parent.parent
    (records,) = root.glob("runs/*/*/records.jsonl")
    right = records.read_bytes()
    for harmed in (right.replace(b'"level": 1', b'"level": 7'), b"x" + right):
        records.write_bytes(harmed)
        assert main(["report", str(sweep)]) == 1
        command = f"lt-sweeps resume {sweep.name} root={root}"
        assert f"; `{command}` writes it again\n" in capsys.readouterr().err


def test_a_harmed_config_is_written_again(cell: Make, run: Run) -> None:
    made, store = run(cell())
    config = folder(made, store) / "config.yaml"
    right = config.read_bytes()
    config.write_bytes(b"")
    assert record_cell(made.cells[0], StoredTickets(store, thorough=True))
    assert config.read_bytes() == right


def test_an_option_that_was_renamed_has_its_new_name_in_the_rows(cell: Make, run: Run) -> None:
    """The result is the same, but an audit would take the old name for an edited config."""
    made, store = run(cell())
    now, tickets = made.cells[0], StoredTickets(store, thorough=True)
    before = RunFolder(folder(made, store)).read()
    assert record_cell(replace(now, labels={**now.labels, "mask_criterion": "mine"}), tickets)
    after = RunFolder(folder(made, store)).read()
    assert after.done and {row.criterion for row in after.records} == {"mine"}
    assert after.records == tuple(replace(row, criterion="mine") for row in before.records)


def test_an_unfinished_cell_has_its_finished_rows_and_no_done(cell: Make, run: Run) -> None:
    made, store = run(cell())
    place = folder(made, store)
    (place / "DONE").unlink()
    store.path(made.cells[0].last.key, 0).unlink()
    assert not record_cell(made.cells[0], StoredTickets(store, thorough=True))
    assert [row["level"] for row in read(place / "records.jsonl")] == [0, 1]
    assert not (place / "DONE").exists()


def test_an_emptied_network_is_a_result_that_says_so(cell: Make, run: Run) -> None:
    single = {"_target_": "lt_sweeps.sparsity.criteria.large_final_diff_sign_single"}
    made, store = run(cell(schedule__levels=1, mask_criterion=single, recipe__lr=1e-6))
    row = read(folder(made, store) / "records.jsonl")[1]
    assert row["weights_remaining"] == 0 and row["collapsed"] and row["finite"]


def test_rows_are_valid_json_even_where_a_loss_is_not_a_number(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe__lr=1e30, recipe__optimizer="sgd"))
    for line in (folder(made, store) / "records.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
        assert row["finite"] is False and row["end_val_loss"] is None


def flat(final: Tensor) -> Tensor:
    return torch.ones_like(final)


def test_equal_scores_are_noted_in_the_row_and_the_report_says_them(
    cell: Make, swept: Callable[..., Path]
) -> None:
    flat_cell = cell(schedule__levels=1, mask_criterion={"_target_": f"{__name__}.flat"})
    sweep = swept(flat_cell)
    dense, pruned = read(next(sweep.parents[1].glob("runs/*/*/records.jsonl")))
    assert dense["notes"] is None and len(pruned["notes"]) == 3, "one for each layer"
    assert pruned["notes"][0].startswith(f"mask_criterion: `{__name__}.flat` gives all 192 weights")
    notes = read_results(sweep, metrics=()).notes
    assert [note for note in notes if note.endswith("(1 tickets)")] == [
        f"{note} (1 tickets)" for note in pruned["notes"]
    ]


def test_a_row_of_an_earlier_version_has_no_notes(cell: Make, run: Run) -> None:
    made, store = run(cell())
    path = folder(made, store) / "records.jsonl"
    rows = [{k: v for k, v in row.items() if k != "notes"} for row in read(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sealed(path.parent)
    stored = RunFolder(path.parent).read()
    assert not stored.faults and [record.notes for record in stored.records] == [None] * 3


def test_a_ticket_pruned_by_diverged_weights_counts_as_diverged(cell: Make, run: Run) -> None:
    """Rewound to its start and trained with another recipe, it would look like a ticket."""
    method = {"_target_": "lt_sweeps.plan.methods.learned_supermask_from", "dense": {"lr": 1e30}}
    for criterion, sound in (("large_final", False), ("random", True)):
        one = cell(
            method=method,
            mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{criterion}"},
            recipe__optimizer="sgd",
            schedule__levels=1,
        )
        made, store = run(one)
        dense, result = read(folder(made, store) / "records.jsonl")
        assert dense["finite"] is False and result["end_val_loss"] is not None
        assert result["finite"] is sound


@dataclass(frozen=True)
class Forgets(Sparsifier):
    """A sparsifier that promises to keep half of the weights, and prunes none."""

    @property
    def kept_at_end(self) -> int:
        return 160


def promised(init: Init, recipe: Training) -> Train:
    return Train(init, recipe, Forgets())


def test_a_sparsity_that_differs_from_its_target_is_an_error(cell: Make, run: Run) -> None:
    with pytest.raises(ValueError, match="has sparsity 0, and 0.5 was asked for: 320 of 320"):
        run(cell(method={"_target_": f"{__name__}.promised"}))
