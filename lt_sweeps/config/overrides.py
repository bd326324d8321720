"""Parse the overrides of a command line as Hydra does, into `Axis`: a key with its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from omegaconf import OmegaConf


@dataclass(frozen=True)
class Axis:
    """One key of a multirun, with an override for each of its values: `("seed=0", "seed=1")`."""

    key: str
    words: tuple[str, ...]
    values: tuple[Any, ...] | None  # None if only Hydra can apply the overrides
    is_choice: bool = False  # the values are options of a group

    def overlaps(self, other: Axis) -> bool:
        """Whether one key is inside the other: `model.net` and `model.net.hidden`.

        The choice `method=l0` and the value `method.lmbda=1` do not overlap: whatever their order,
        Hydra loads the chosen options before it sets values.
        """
        if self.is_choice or other.is_choice:
            return False
        one, two = sorted((f"{self.key}.", f"{other.key}."), key=len)
        return self is not other and two.startswith(one)


def key_of(word: str) -> str:
    """Return the key that an override sets, without its plus or tilde."""
    return word.split("=", 1)[0].lstrip("+~")


def values_under(key: str, words: Sequence[str]) -> Mapping[str, Any]:
    """Return the values that overrides give to keys inside `key`, nested as in the config."""
    inside = [word for word in words if word[0] != "~" and key_of(word).startswith(f"{key}.")]
    values = OmegaConf.create({key: {}})
    for override in OverridesParser.create().parse_overrides(inside):
        if not override.is_sweep_override():
            OmegaConf.update(values, key_of(override.get_key_element()), override.value())
    nested = OmegaConf.to_container(values)
    assert isinstance(nested, dict)
    return nested[key]


def is_group(key: str, groups: Collection[str]) -> bool:
    """Whether a key chooses an option of a group."""
    return key in groups or "/" in key or "@" in key


def axes_of(words: Sequence[str], loader: ConfigLoader, groups: Collection[str]) -> list[Axis]:
    """Return the overrides by key; if a key is given twice, the last one wins, as in Hydra.

    Raises: ValueError: an override has no values, one value twice, or a continuous range.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    return list({word.get_key_element(): _axis(word, groups) for word in parsed}.values())


def _axis(override: Override, groups: Collection[str]) -> Axis:
    element = override.get_key_element()
    key = key_of(element)
    changes = override.type is OverrideType.CHANGE
    if not override.is_sweep_override():
        assert override.input_line is not None
        is_choice = changes and is_group(key, groups) and isinstance(override.value(), str)
        return Axis(key, (override.input_line,), None, is_choice)
    words = tuple(f"{element}={value}" for value in _values(override, key))
    values = tuple(word.value() for word in OverridesParser.create().parse_overrides([*words]))
    numbers: dict[float, Any] = {}
    for value in values:  # a stage key may tell 1 from 1.0, and would compute the same twice
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if numbers.setdefault(value, value) is not value:
            raise ValueError(
                f"{key}: {numbers[value]} and {value} are the same number; give each value once"
            )
    if is_group(key, groups):
        is_choice = changes and all(isinstance(value, str) for value in values)
        return Axis(key, words, None, is_choice)
    settable = changes and "[" not in key
    return Axis(key, words, values if settable and all(map(_simple, values)) else None)


def _simple(value: Any) -> bool:
    """Whether a value can be set directly: not a reference, not missing, not a mapping to merge."""
    return not isinstance(value, dict) and "${" not in str(value) and "???" not in str(value)


def _values(override: Override, key: str) -> list[str]:
    if not override.is_discrete_sweep():
        raise ValueError(
            f"{key}: got {override.get_value_string()}, a continuous range; "
            "list the values as a,b,c or range(n)"
        )
    values = list(override.sweep_string_iterator())
    if isinstance(override.value(), Glob):  # a fragment such as `_keys` is not an option
        values = [value for value in values if value[0] != "_"]
    if not values:
        raise ValueError(f"{key}: {override.get_value_string()} is empty; give at least one value")
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        noun = "seed" if key == "seed" else "value"
        raise ValueError(f"{key}: {twice[0]} given twice; give each {noun} once")
    return values
