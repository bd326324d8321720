"""A silent change of results is the worst fault: every change of a result must raise a version."""

import json
from pathlib import Path

import pytest
from fixtures.numerics import COMMAND, METHODS, RECORDED, cases, differences, record

from lt_sweeps.config.errors import CONF
from lt_sweeps.config.recipes import Recipe
from lt_sweeps.plan.stages import stage as stages

CASES = cases()


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(RECORDED.read_text())


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_that_were_recorded(name: str, recorded: dict) -> None:
    changed = differences(CASES[name](), recorded["results"].get(name, {}))
    assert not changed, (
        f"results changed: raise NUMERICS in {stages.__file__} and record again with `{COMMAND}`"
    )


def test_the_record_is_of_this_version_and_of_nothing_that_is_gone(recorded: dict) -> None:
    assert recorded["numerics"] == stages.NUMERICS, f"record again with `{COMMAND}`"
    assert recorded["results"].keys() == CASES.keys(), f"record again with `{COMMAND}`"


def test_every_method_is_recorded() -> None:
    text = "".join(path.read_text() for path in (CONF / "method").glob("*.yaml"))
    assert {f"_target_: lt_sweeps.plan.methods.{name}\n" in text for name in METHODS} == {True}
    assert text.count("_target_:") == len(METHODS)


def test_a_learning_rate_that_is_one_percent_off_is_a_change(monkeypatch, recorded: dict) -> None:
    lr_at = Recipe.lr_at
    monkeypatch.setattr(Recipe, "lr_at", lambda self, step: 1.01 * lr_at(self, step))
    for name in ("method imp", "recipe adam"):
        assert differences(CASES[name](), recorded["results"][name])


def test_other_results_of_the_same_version_are_not_recorded(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "numerics.json"
    record(path, {"a": lambda: {"sum": [1.0, 0.5]}})
    record(path, {"a": lambda: {"sum": [1.0, 0.50001]}, "b": lambda: {"sum": [2.0]}})
    before = path.read_text()
    with pytest.raises(ValueError, match="numerics: a has other results than version .*; raise"):
        record(path, {"a": lambda: {"sum": [1.0, 0.51]}})
    assert path.read_text() == before
    monkeypatch.setattr(stages, "NUMERICS", stages.NUMERICS + 1)
    record(path, {"a": lambda: {"sum": [1.0, 0.51]}})
    assert json.loads(path.read_text())["numerics"] == stages.NUMERICS


@pytest.mark.parametrize("ours", [{}, {"sum": [1.0]}, {"sum": [1.0, 0.6]}, {"other": [1.0, 0.5]}])
def test_a_missing_or_changed_result_is_a_difference(ours: dict) -> None:
    assert differences(ours, {"sum": [1.0, 0.5]})
    assert not differences({"sum": [1.0, 0.5]}, {"sum": [1.0, 0.5]})
