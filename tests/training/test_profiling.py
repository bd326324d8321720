"""`profile=true` accounts for all time and changes no result; without it nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.tiny_cell import CONV
from fixtures.training_loops import loop_of

from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.plan.planning import plan
from lt_sweeps.plan.unit import Unit
from lt_sweeps.reporting.profile_tables import profile_table
from lt_sweeps.storage.checked_read import read_json
from lt_sweeps.storage.pack_profile import PARTS, PackProfile, profile_path, read_profiles
from lt_sweeps.storage.store import Store
from lt_sweeps.training import own_kernels
from lt_sweeps.training.profiling import Profile
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]


def dense(cell: Cell) -> Unit:
    return plan([cell]).units[0]


def patched(loop: TrainingLoop) -> list[str]:
    """The methods of a loop that profiling has replaced."""
    parts = (loop, loop.batches, loop.masking, loop.masking.optimizer, loop.scorer, loop.files)
    owners = (*parts, loop.files._writing, loop.stack._backend)
    return [
        name
        for owner in owners
        for name, value in vars(owner).items()
        if callable(value) and callable(getattr(type(owner), name, None))
    ]


def test_without_a_profile_a_step_calls_nothing_that_measures(cell: Make, tmp_path: Path) -> None:
    loop, _ = loop_of(dense(cell()), Store(tmp_path))
    assert not patched(loop)
    Profile().attach(loop)
    assert {"take", "step", "validate", "loss"} <= {*patched(loop)}


@pytest.mark.parametrize("net", ["fc", "conv"])
def test_a_profile_changes_no_byte_and_its_parts_are_all_of_the_time(
    cell: Make, tmp_path: Path, net: str
) -> None:
    given = {} if net == "fc" else {"model": CONV, "dataset__shape": [1, 8, 8]}
    unit = dense(cell(**given, schedule__levels=1))
    plain, _ = loop_of(unit, Store(tmp_path / "plain"))
    plain.run()
    loop, _ = loop_of(unit, Store(tmp_path / "profiled"))
    profile, path = Profile(tmp_path / "trace.json"), profile_path(tmp_path / "pack.log")
    profile.attach(loop)
    loop.run()
    grad = torch.autograd.grad
    assert grad is not None and not hasattr(grad, "__wrapped__")
    profile.write(path, stack_size=1, device="cpu")
    stored = [
        loop.files.store.path(unit.stage.key, unit.seed).read_bytes() for loop in (plain, loop)
    ]
    assert stored[0] == stored[1]
    found = read_json(path, PackProfile)
    assert found.steps == unit.stage.length == 12 and {*found.seconds} == {*PARTS}
    assert all(found.seconds[part] > 0 for part in PARTS)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("mm" in event.get("name", "") for event in events)
    table = profile_table([*read_profiles(tmp_path)])
    assert table is not None and table.row_count == len(PARTS) + 1


def test_the_forward_pass_of_the_chain_for_gpus_counts_as_forward(
    interpreted_kernels: None, cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_kernels, "run_on", lambda weights: True)
    loop, _ = loop_of(dense(cell()), Store(tmp_path))
    assert loop.stack.runs_triton
    profile = Profile()
    profile.attach(loop)
    loop.run(1)
    assert profile.seconds["forward"] > 0 and profile.seconds["backward"] > 0


def test_the_parts_add_up_to_what_a_clock_says(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(
        "lt_sweeps.training.profiling.time.perf_counter", lambda: float(next(ticks))
    )
    profile = Profile()
    loop, _ = loop_of(dense(cell()), Store(tmp_path))
    profile.attach(loop)
    loop.run()
    profile.write(tmp_path / "pack.profile.json", stack_size=1, device="cpu")
    assert sum(profile.seconds.values()) == next(ticks) - 1


@pytest.mark.parametrize(("given", "kind"), [(False, ""), (True, "time"), ("trace", "trace")])
def test_a_profile_is_a_setting_of_the_machine(cell: Make, given: object, kind: str) -> None:
    cells = [cell(profile=given, **MACHINE)]
    assert RunSettings.of(cells).machine.profile == kind
    assert plan(cells).units == plan([cell()]).units


def test_another_word_is_refused(cell: Make) -> None:
    with pytest.raises(ValueError, match=r"^profile: got 'all'; give true, false or trace$"):
        RunSettings.of([cell(profile="all", **MACHINE)])


MACHINE = {
    "root": "results",
    "device": "cpu",
    "workers": "auto",
    "stack_size": "auto",
    "backend": "auto",
    "checkpoint_every": 60,
    "name": None,
    "dry_run": False,
    "tracker": {},
}
