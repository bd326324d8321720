"""A plan that cannot use the results of an earlier sweep says what has changed since then."""

import sys
from dataclasses import replace

from fixtures.fresh_process import afresh
from fixtures.tiny_cell import settings

from lt_sweeps.execution import computed_anew as anew
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.packing import Pack
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import stage
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.run_folder import RunFolder


def test_a_stored_training_without_weights_that_the_plan_needs_is_named(run, cell, tmp_path):
    made, store = run(cell(recipe__lr=1.0))
    best = sorted(store.root.glob("tickets/*/0@best.safetensors"))
    assert best, "the best evaluation of a training is not its last"
    assert anew.lost_snapshots(made, [Pack(made.units)], store.root) == []
    best[0].unlink()
    (said,) = anew.lost_snapshots(made, [Pack(made.missing(store))], store.root)
    assert said.startswith("1 of 3 trainings, stored without the weights of the best evaluation")
    later = plan([cell(recipe__lr=1.0, reset__to="4it", report_at="end")])
    (said,) = anew.lost_snapshots(later, [Pack(later.missing(store))], store.root)
    assert said == "1 of 3 trainings, stored without the weights `@4`"


def test_settings_code_or_the_version_that_changed_are_named(cell, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def planned(code: str = "1", **changes: object) -> Plan:
        (tmp_path / "anew_lab.py").write_text(f"def keep(final): return {code} * final.abs()\n")
        sys.modules.pop("anew_lab", None)
        afresh()
        changes["mask_criterion"] = {"_target_": "anew_lab.keep"}
        return plan([cell(seed=seed, **changes) for seed in (0, 1)])

    def why(*code: str, **changes: object) -> list[str]:
        return anew.why_anew(m := planned(*code, **changes), [Pack(m.units)], tmp_path)

    done, asked = planned(), replace(settings(tmp_path, "b"), machine=Machine(code_version="1.0"))
    Submission(done, asked).freeze([Pack(done.units)])
    for each in done.cells:
        RunFolder.of(tmp_path, each.signature, each.seed).write([], complete=True)
    lr, since = "recipe.lr 0.01 -> 0.02", "2 of 2 cells have results in b; since then"
    assert why() == why(schedule__levels=3) == []  # these results are used
    assert why(recipe__lr=0.02) == [f"{since} {lr}"]
    assert why("20") == [f"{since} anew_lab changed"]
    assert why("20", recipe__lr=0.02) == [f"{since} {lr}, anew_lab changed"]
    monkeypatch.setattr(stage, "NUMERICS", stage.NUMERICS + 1)
    monkeypatch.setattr(anew, "code_version", lambda: "2.0")
    assert why() == [f"{since} lt_sweeps 1.0 became 2.0"]
    for number in range(4):  # later sweeps that have no results
        later = planned(recipe__lr=1.0 + number)
        Submission(later, settings(tmp_path, f"later-{number}")).freeze([Pack(later.units)])
    assert why() == [f"{since} lt_sweeps 1.0 became 2.0"]
    with monkeypatch.context() as many:
        many.setattr(anew, "_PER_CELL", 1 << 20)
        assert why() == [], "nor until many cells are looked for in many sweeps"
    monkeypatch.setattr(anew, "_MOST", 5000)
    assert why() == [], "a plan does not wait until thousands of cells are read"
