"""A stored config may run our functions, and others only from modules that the user names."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.tiny_cell import TINY

from lt_sweeps.config.trust import check_trusted, trusted_modules


def test_options_of_ours_are_trusted_however_deep_they_stand() -> None:
    check_trusted(TINY, where="config")
    check_trusted({"tracker": {"_target_": None}}, where="config")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "torch.hub.load",
        "lt_sweeps.storage.atomic_write.write_whole",
        "lt_sweeps.execution.slurm.squeue._answer",
        "lt_sweeps.config.call.importlib.import_module",
        "lt_sweeps.x.os.system",
        "lt_sweeps.sparsity.criteria.os.system",
        "lt_sweeps.sparsity.criteria",
        "lt_sweeps.__main__.main",
        "mylab.nets.Net",
        "mylabs.nets.Net",
        "",
        ["os.system"],
        {"_target_": "os.system"},
        3,
    ],
)
def test_any_other_function_is_refused(target: object) -> None:
    for config in ({"dataset": {"_target_": target}}, {"a": [{"b": [{"_target_": target}]}]}):
        with pytest.raises(ValueError, match="there: names .*, which is not part of lt_sweeps"):
            check_trusted(config, where="there", trust=("mylab.net", "mylab.nets.N"))


@pytest.mark.parametrize("given", [3, [3], "x y"])
def test_a_value_of_trust_that_is_not_a_list_of_modules_is_refused(given: Any) -> None:
    with pytest.raises(
        ValueError, match="^trust: got .*; give modules: trust=mylab,theirlab.nets$"
    ):
        trusted_modules(given)


def test_a_module_that_is_named_is_trusted_with_all_below_it() -> None:
    for trust in ("mylab", "other,mylab.nets"):
        config = {"model": {"net": {"_target_": "mylab.nets.Net"}}}
        check_trusted(config, where="there", trust=trusted_modules(trust))


def test_the_hint_names_all_modules_that_are_not_trusted() -> None:
    config = {"model": {"net": {"_target_": "nets.Net"}}, "recipe": {"_target_": "mylab.x.Lion"}}
    with pytest.raises(ValueError, match=r"names `nets.Net`.*hint: trust=nets,mylab.x if you know"):
        check_trusted(config, where="there")
    with pytest.raises(ValueError, match=r"names `mylab.x.Lion`.*hint: trust=mylab.x if you know"):
        check_trusted(config, where="there", trust=("nets",))


@pytest.mark.parametrize("words", ["my lab", "mylab.", "../mylab", "*"])
def test_a_word_that_is_not_a_module_cannot_be_trusted(words: str) -> None:
    with pytest.raises(ValueError, match="trust: got .*; give modules"):
        trusted_modules(words)
