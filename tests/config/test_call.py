"""A `Call` is checked before anything runs, and calls with equal content are equal."""

import re
from collections.abc import Sequence
from typing import Literal

import pytest

from lt_sweeps.config.call import Call, Config
from lt_sweeps.config.durations import Duration
from lt_sweeps.config.identity import digest, omitted_at


def cut(
    weights,
    *,
    rate: float,
    scope: Literal["layer", "global"] = "layer",
    times: int | None = 1,
    at: Sequence[Duration] = (),
):
    return weights, rate, scope, times


@omitted_at(times=1)
def cut_later(weights, *, rate: float, times: int = 1):
    return weights, rate, times


def of(**arguments) -> Call:
    return Call.of(
        {"_target_": f"{__name__}.cut", **arguments}, where="method", supplied=("weights",)
    )


def test_a_call_gets_the_arguments_of_the_yaml_and_those_of_the_framework() -> None:
    assert of(rate=0.5)(weights="w", unasked=1) == ("w", 0.5, "layer", 1)


def test_an_unknown_argument_is_refused_with_those_it_takes() -> None:
    with pytest.raises(ValueError, match=r"method: .*cut` takes no ratte; it takes "):
        of(ratte=0.5)


def test_the_nearest_argument_is_suggested() -> None:
    with pytest.raises(ValueError, match="did you mean `rate`"):
        of(ratte=0.5)


def test_a_missing_argument_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method: `.*cut` needs a value for rate"):
        of()


def typing_error(recipes):
    return recipes


def test_the_nearest_name_that_the_framework_passes_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"value for recipes; did you mean `recipe`"):
        Call.of({"_target_": f"{__name__}.typing_error"}, where="method", supplied=("recipe",))


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ({"rate": float("nan")}, "method.rate: got nan; give a number"),
        ({"rate": "fast"}, "method.rate: got 'fast'; give a number"),
        ({"rate": True}, "method.rate: got True; give a number"),
        ({"rate": 1, "scope": "row"}, "method.scope: got 'row'; give one of layer, global"),
        ({"rate": 1, "at": [5]}, "method.at: got [5]; give a list of: a duration with its unit, "),
        ({"rate": 1, "times": 1.5}, "method.times: got 1.5; give a whole number or null"),
    ],
)
def test_a_wrong_type_is_answered_with_what_is_allowed(wrong: dict, answer: str) -> None:
    with pytest.raises(ValueError, match=re.escape(answer)):
        of(**wrong)


def test_a_config_is_a_value_that_tells_1_from_true() -> None:
    one, same, other = Config(a=1, b=[2]), Config(b=[2], a=1), Config(a=True, b=[2])
    assert one == same and hash(one) == hash(same) and one != other


def test_an_argument_that_the_framework_supplies_cannot_be_set() -> None:
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
    call = Call(f"{__name__}.cut_later", Config(rate=0.5))
    assert "times" not in call.identity()["args"]
    assert Call(call.target, Config(rate=0.5, times=2)).identity()["args"]["times"] == 2


def test_a_function_from_elsewhere_counts_by_its_source() -> None:
    assert "source" in of(rate=0.5).identity()
    assert "source" not in Call("lt_sweeps.sparsity.criteria.random").identity()


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
