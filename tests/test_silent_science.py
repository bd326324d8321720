"""Each test plants a fault that other frameworks of this field had without noticing it.

The faults are known from reading open_lth, ShrinkBench, SynFlow, SparseML, RigL, TurboPrune and
others. Most are planted in the tests of the code that prevents them, as the table below says. The
others are planted here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from fixtures.training_loops import last, loop_of
from torch import Tensor, nn

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.fc import FC
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.storage.store import Store
from lt_sweeps.training.optimizers import Optimizer

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

TESTS = Path(__file__).parent
HERE = Path(__file__).name


class Fault(NamedTuple):
    """A fault, the tests that plant it, and its effect."""

    number: int
    fault: str
    tests: tuple[str, ...]
    answer: str


FAULTS = (
    Fault(
        1,
        "a pruned weight returns, by momentum, weight decay or gradient",
        (
            f"{HERE}::test_a_step_that_moves_pruned_weights_stops_the_training",
            "training/test_training_loop.py::test_a_pruned_weight_never_moves_nor_gathers_momentum",
            "training/test_training_loop.py::"
            "test_in_every_file_the_pruned_weights_are_where_they_were_pinned",
        ),
        "stopped at the next evaluation",
    ),
    Fault(
        2,
        "a mask grows from one level to the next",
        ("sparsity/test_pruning.py::test_masks_only_shrink",),
        "cannot be: only weights that are left are scored",
    ),
    Fault(
        3,
        "equal scores fall together, or one weight too many is pruned",
        (
            "sparsity/test_pruning.py::test_exactly_the_count_is_kept_whatever_the_ties",
            "sparsity/test_pruning.py::test_scores_that_are_all_equal_are_said_and_cut_exactly",
            "sparsity/test_criteria.py::"
            "test_ties_of_ranks_are_broken_at_random_as_by_numpys_lexsort",
            "plan/methods/test_dnw.py::test_counts_are_exact_whatever_the_ties",
            f"{HERE}::test_equal_weights_are_chosen_among_at_random",
        ),
        "the count is exact, the choice is drawn; scores that are all equal are said",
    ),
    Fault(
        4,
        "a fraction of other weights than the reader thinks",
        (
            "execution/test_records.py::"
            "test_two_sparsities_one_of_the_prunable_weights_and_one_of_all_parameters",
        ),
        "both are measured and named",
    ),
    Fault(
        5,
        "a percentage, or a density, is taken for a sparsity",
        (
            "sparsity/test_schedules.py::test_a_percentage_is_answered_with_the_fraction",
            "sparsity/test_schedules.py::test_a_sparsity_outside_its_range_is_refused",
        ),
        "refused, with the fraction that was meant",
    ),
    Fault(
        6,
        "a mask that wraps the forward pass is lost in DataParallel",
        (f"{HERE}::test_a_wrapped_model_keeps_its_mask",),
        "cannot be: the mask acts on the weights",
    ),
    Fault(
        7,
        "rewinding leaves out learning rate, buffers, data order or momentum",
        (
            "training/test_training_loop.py::test_an_all_kept_ticket_rewound_with_its_momentum_"
            "continues_the_dense_run_bit_for_bit",
            "training/test_training_loop.py::"
            "test_a_rewound_level_starts_at_the_weights_and_step_of_the_dense_run",
        ),
        "the dense run goes on bit for bit",
    ),
    Fault(
        8,
        "batch-norm statistics move while a network is scored or evaluated",
        (
            f"{HERE}::test_a_gradient_for_a_score_leaves_the_ticket_as_it_was",
            "training/test_training_loop.py::test_evaluating_leaves_batch_norm_statistics_alone",
        ),
        "they stay",
    ),
    Fault(
        9,
        "an accuracy is the mean over batches and not over examples",
        ("training/test_training_loop.py::test_a_constant_predictor_scores_its_class_frequency",),
        "exact for every size of batch",
    ),
    Fault(
        10,
        "a network is chosen by its test accuracy, or tested on what it was trained on",
        (
            "training/test_training_loop.py::"
            "test_the_reported_test_accuracy_is_the_one_at_the_lowest_validation_loss",
            "execution/test_submission.py::test_a_split_taken_from_another_is_refused",
            "execution/test_submission.py::test_a_few_images_that_splits_share_are_counted_aloud",
            "training/test_rehearsal.py::"
            "test_a_model_that_would_give_wrong_numbers_is_refused_by_name",
        ),
        "chosen by validation; shared images are counted or refused",
    ),
    Fault(
        11,
        "a slip of sign freezes all negative weights",
        (f"{HERE}::test_kept_weights_of_both_signs_move_in_one_step",),
        "they move",
    ),
    Fault(
        12,
        "a control does what its treatment does",
        (
            "sparsity/test_freezes.py::test_every_arm_differs_from_every_other",
            "sparsity/test_resets.py::"
            "test_every_reset_differs_from_rewind_and_leaves_biases_initial",
            "sparsity/test_pruning.py::test_random_differs_between_seeds_and_from_magnitude",
            "training/test_training_loop.py::"
            "test_a_treatment_differs_from_its_control_when_they_could_share_a_pack",
            "plan/methods/test_ticket_transfer.py::"
            "test_a_random_mask_has_as_many_weights_in_each_layer_in_other_places",
            "analysis/test_alarms.py::test_a_control_that_is_its_treatment_is_named",
            "interchange/test_audit_results.py::test_arms_with_equal_results_are_named",
        ),
        "every arm differs from every other; arms that are equal are named",
    ),
    Fault(
        13,
        "a resumed training ends elsewhere",
        (
            "training/test_training_loop.py::"
            "test_interrupted_and_resumed_equals_uninterrupted_byte_for_byte",
            "execution/test_local_launcher.py::"
            "test_killed_and_started_again_it_ends_with_the_same_bytes",
        ),
        "equal bytes, records included",
    ),
    Fault(
        14,
        "a cell counts as done before its results are written",
        (
            "execution/test_records.py::test_done_comes_last_and_names_the_records",
            "execution/test_records.py::test_changed_records_are_set_aside_and_made_again",
        ),
        "DONE comes last, with a checksum",
    ),
    Fault(
        15,
        "a file is half written, or two processes write it",
        (
            "storage/test_store.py::test_nothing_but_whole_files_is_left_behind",
            "storage/test_store.py::test_the_first_writer_wins",
            "execution/test_submission.py::test_two_processes_on_one_root_double_nothing",
        ),
        "whole or absent, computed once",
    ),
    Fault(
        16,
        "the status is 0 though something failed",
        (
            "execution/test_local_launcher.py::"
            "test_a_crash_fails_its_pack_and_the_packs_that_need_it_and_no_others",
            "execution/test_local_launcher.py::"
            "test_a_sweep_in_which_every_replicate_diverged_fails_each_time",
        ),
        "1, and a line that says why",
    ),
    Fault(
        17,
        "a layer is emptied, or a network collapses or diverges, in silence",
        (
            "execution/test_records.py::test_an_emptied_network_is_a_result_that_says_so",
            "sparsity/test_schedules.py::test_an_emptied_layer_is_named",
            "execution/test_records.py::"
            "test_a_ticket_pruned_by_diverged_weights_counts_as_diverged",
        ),
        "flagged in the row, or refused when the plan is made",
    ),
    Fault(
        18,
        "a config does not compose, or a command of the documents does not run",
        (
            "test_conf.py::test_an_option_trains_two_steps",
            "test_readme.py::test_a_command_plans",
            "test_readme.py::test_the_commands_about_results_run",
        ),
        "CI runs them all",
    ),
    Fault(
        19,
        "a new option renames old results",
        (
            "plan/test_stages.py::test_keys_are_pinned",
            "config/test_call.py::"
            "test_an_argument_added_later_is_left_out_at_the_value_that_changes_nothing",
        ),
        "keys are pinned",
    ),
    Fault(
        20,
        "biases, normalisation or an excluded layer are pruned too",
        ("models/test_network.py::test_biases_and_normalisation_are_never_prunable",),
        "chosen by the kind of module, and listed in the plan",
    ),
    Fault(
        21,
        "the number of workers, the device or a global generator changes a number",
        (
            "training/test_training_loop.py::"
            "test_a_replicate_in_a_stack_equals_the_same_seed_alone",
            "training/test_stack.py::test_noise_that_no_layer_declares_is_refused",
            "training/test_rehearsal.py::"
            "test_a_model_that_would_give_wrong_numbers_is_refused_by_name",
            "sparsity/test_pruning.py::"
            "test_scores_that_do_not_say_which_weights_stay_are_refused_by_name",
            "sparsity/test_pruning.py::test_a_reset_that_draws_by_itself_is_refused_by_name",
            "execution/test_trial_processes.py::"
            "test_a_part_that_remembers_an_earlier_call_is_refused_by_name",
        ),
        "draws depend on the seed alone; what draws otherwise is refused by name",
    ),
    Fault(
        22,
        "the metadata says another sparsity than the tensors have",
        (
            "execution/test_records.py::test_a_row_per_level_measured_from_the_mask",
            "execution/test_records.py::test_a_sparsity_that_differs_from_its_target_is_an_error",
            "sparsity/test_pruning.py::test_a_schedule_that_keeps_more_than_is_left_is_refused",
            "plan/test_ticket_checks.py::"
            "test_an_edited_ticket_with_new_checksums_is_computed_again",
            "interchange/test_audit_results.py::test_a_planted_fault_fails_its_check_and_no_other",
        ),
        "measured from the mask; a target that is missed is an error; an edited ticket is not used",
    ),
    Fault(
        23,
        "a weight of exactly 0 is taken for a pruned one",
        (
            "sparsity/test_freezes.py::"
            "test_variant_2_starts_kept_weights_from_zero_too_and_its_zeros_accumulate",
        ),
        "the mask is a tensor of its own",
    ),
    Fault(
        24,
        "a queued job reads today's config or code",
        (
            "execution/test_submission.py::test_a_pack_is_worked_on_from_the_manifest_alone",
            "slurm/test_slurm_sweeps.py::"
            "test_edits_while_jobs_are_queued_change_nothing_in_the_jobs",
            "slurm/test_slurm_sweeps.py::test_data_that_are_edited_while_jobs_queue_are_named",
            "execution/test_loaded_code.py::"
            "test_an_edit_of_the_package_changes_nothing_in_a_sweep_that_runs",
        ),
        "a job reads the frozen manifest and runs the frozen copy of the code",
    ),
)


def test_the_table_is_whole() -> None:
    assert [fault.number for fault in FAULTS] == list(range(1, 25))
    assert all(fault.tests for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.number))
def test_a_test_that_plants_the_fault_is_there(fault: Fault) -> None:
    for name in fault.tests:
        path, _, function = name.partition("::")
        module = ast.parse((TESTS / path).read_text())
        assert function in {n.name for n in module.body if isinstance(n, ast.FunctionDef)}, name


def test_a_step_that_moves_pruned_weights_stops_the_training(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, rows = Optimizer.step, []

    def leaky(optimizer: Optimizer, lr: float | Tensor) -> None:
        step(optimizer, lr)
        rows.append([row.add_(0.01) for row in optimizer._rows[0]])

    monkeypatch.setattr(Optimizer, "step", leaky)
    with pytest.raises(AssertionError, match="pruned weights moved by step"):
        run(cell())
    assert rows


def wrapped(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.DataParallel(FC(input_shape, classes, hidden=[12, 8]))


def test_a_wrapped_model_keeps_its_mask(cell: Make, run: Run) -> None:
    made, store = run(cell(model={"net": {"_target_": f"{__name__}.wrapped"}}))
    end = ticket(made.cells[0].last, Seed.of(0), store)
    for name, kept in end.mask.items():
        assert name.startswith("module.") and not kept.all()
        assert not end.state[name][~kept].any() and end.state[name][kept].all()


def test_a_gradient_for_a_score_leaves_the_ticket_as_it_was(cell: Make, run: Run) -> None:
    snip = {"_target_": "lt_sweeps.sparsity.criteria.snip", "examples": 8}
    at_init = {"_target_": "lt_sweeps.plan.methods.at_init"}
    one = cell(method=at_init, mask_criterion=snip, model=CONV, recipe=SGD)
    start = plan([one]).cells[0].last.start
    _, store = run(one)
    pruned, drawn = ticket(start, Seed.of(0), store), start.network.draw(Seed.of(0))
    buffers = [name for name in drawn if "running" in name or "num_batches" in name]
    assert buffers and all(torch.equal(pruned.state[n][0], drawn[n]) for n in buffers)


def test_kept_weights_of_both_signs_move_in_one_step(cell: Make, run: Run) -> None:
    _, store = run(cell())
    loop, masking = loop_of(last(cell()), store)
    before = loop.stack.weights.clone()
    loop.update()(loop.step)
    moved = loop.stack.weights != before
    for name, mask in masking._by_layer(masking.mask).items():
        was, now = (loop.stack.views(tensor)[name] for tensor in (before, moved.float()))
        for sign in (-1, 1):
            kept = (mask != 0) & (was.sign() == sign)
            assert bool(now[kept].any()), f"{name}: no weight of sign {sign} moves"


@pytest.mark.parametrize("method", ["dnw", "amc"])
def test_equal_weights_are_chosen_among_at_random(cell: Make, run: Run, method: str) -> None:
    """In a layer whose weights all have one magnitude, both halves keep about equally many."""
    options = {"episodes": 2, "warmup": 1} if method == "amc" else {}
    made, store = run(
        cell(
            method={
                "_target_": f"lt_sweeps.plan.methods.{method}",
                "finetune": {"length": "1ep"},
                **options,
            },
            schedule={
                "_target_": "lt_sweeps.sparsity.schedules.one_shot",
                "sparsity": 0.5,
                "scope": "global" if method == "amc" else "layer",
            },
            model={
                "net": {"_target_": "lt_sweeps.models.FC", "hidden": [40, 8]},
                "init": {"_target_": "lt_sweeps.models.initializers.signed_constant"},
            },
            recipe__lr=1e-30,
        )
    )
    mask = ticket(made.cells[0].last, Seed.of(0), store).mask["hidden.0.weight"].flatten()
    first, second = (float(half.float().mean()) for half in mask.chunk(2))
    assert abs(first - second) < 0.2
