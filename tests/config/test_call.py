"""A call is checked before anything runs, and is the same for equal content."""

from typing import Literal

import pytest

from lt_sweeps.config.call import Call, digest, omitted_at


def cut(weights, *, rate: float, scope: Literal["layer", "global"] = "layer", times: int = 1):
    return weights, rate, scope, times


@omitted_at(times=1)
def cut_later(weights, *, rate: float, times: int = 1):
    return weights, rate, times


def of(**arguments) -> Call:
    return Call.of(
        {"_target_": f"{__name__}.cut", **arguments}, where="method", supplied=("weights",)
    )


def test_passes_what_the_yaml_gives_and_what_the_framework_supplies() -> None:
    assert of(rate=0.5)(weights="w", unasked=1) == ("w", 0.5, "layer", 1)


def test_an_unknown_argument_is_refused_with_those_it_takes() -> None:
    with pytest.raises(ValueError, match=r"method: .*cut` takes no \['ratte'\]; it takes "):
        of(ratte=0.5)


def test_the_nearest_argument_is_suggested() -> None:
    with pytest.raises(ValueError, match="did you mean `rate`"):
        of(ratte=0.5)


def test_a_missing_argument_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs \['rate'\]"):
        of()


@pytest.mark.parametrize(
    "wrong", [{"rate": float("nan")}, {"rate": "fast"}, {"rate": 1, "scope": "row"}, {"rate": True}]
)
def test_a_wrong_type_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="method: "):
        of(**wrong)


def test_what_the_framework_supplies_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="takes no"):
        of(rate=0.1, weights=[1])


def test_a_target_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(
        ValueError, match="`lt_sweeps.sparsity.criteria` has no function `movemnt`; did you"
    ):
        Call.of({"_target_": "lt_sweeps.sparsity.criteria.movemnt"}, where="mask_criterion")


def test_the_order_of_arguments_and_spelled_out_defaults_do_not_change_the_identity() -> None:
    assert of(rate=0.5).identity() == of(scope="layer", rate=0.5, times=1).identity()


def test_an_argument_added_later_is_left_out_at_the_value_that_changes_nothing() -> None:
    call = Call(f"{__name__}.cut_later", '{"rate": 0.5}')
    assert "times" not in call.identity()["args"]
    assert Call(call.target, '{"rate": 0.5, "times": 2}').identity()["args"]["times"] == 2


def test_a_function_from_elsewhere_counts_by_its_source() -> None:
    assert "source" in of(rate=0.5).identity()
    assert "source" not in Call("lt_sweeps.sparsity.criteria.random").identity()


def test_an_edit_beside_the_function_counts_too(tmp_path, monkeypatch) -> None:
    """What the function calls lies in its module more often than not."""
    monkeypatch.syspath_prepend(tmp_path)
    identities = []
    for number, body in enumerate(["a.abs()", "a.abs()  # the same", "a.abs() * 2"]):
        (tmp_path / f"mine{number}.py").write_text(
            f"def part(a): return {body}\ndef score(final): return part(final)\n"
        )
        identities.append(Call(f"mine{number}.score").identity()["source"])
    assert identities[0] == identities[1] != identities[2]


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
