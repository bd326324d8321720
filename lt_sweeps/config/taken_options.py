"""Find the keys that a cell does not accept, and refuse a key that no cell accepts.

A method accepts the groups that are parameters of its function, and an option accepts the keys in
its yaml. A key that only some cells of a multirun accept is set for those cells, and the plan names
the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lt_sweeps.config.call import Call
from lt_sweeps.config.keys import GROUPS, SUPPLIED

if TYPE_CHECKING:
    from lt_sweeps.config.cells import Cell
from lt_sweeps.config.spelling import nearest

_ALWAYS = ("model", "dataset", "method", "recipe")
_WITHOUT_TARGET = {
    "model": "; hint: net: {_target_: ...}",
    "recipe": "; hint: defaults: [_keys, _self_]",
}


def check_targets(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> None:
    """Raises: ValueError: the yaml of an option names no function, or one that does not exist."""
    _check_target("method", config, choices)  # first: it says which groups are used
    for group in groups_taken(config["method"]):
        _check_target(group, config, choices)


def _check_target(group: str, config: Mapping[str, Any], choices: Mapping[str, str | None]) -> None:
    option, given = choices.get(group), config.get(group)
    if option is None:
        return
    key = "model.net" if group == "model" else group
    given = given.get("net") if group == "model" and isinstance(given, Mapping) else given
    target = given.get("_target_") if isinstance(given, Mapping) else None
    if given is not None and not isinstance(given, Mapping):
        choose = f"; `defaults` choose an option: override /{group}: {given}"
        raise ValueError(
            f"{key}: got {given!r}; give a `_target_` and its arguments"
            f"{choose if isinstance(given, str) and key == group else ''}"
        )
    if not isinstance(target, str):
        raise ValueError(
            f"{key}: {group}/{option}.yaml has no `_target_`, the path of a function"
            f"{_WITHOUT_TARGET.get(group, '')}"
        )
    try:
        _ = Call(target).names
    except ValueError as error:
        raise ValueError(f"{key}._target_: {group}/{option}.yaml: {error}") from None


def groups_taken(method: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the groups that a method uses.

    If a method searches by another method, both must accept a group.
    """
    names = set(Call(method["_target_"]).names)
    search = method.get("search")
    if isinstance(search, Mapping) and "_target_" in search:
        names &= set(Call(search["_target_"]).names)
    return tuple(group for group in GROUPS if group in _ALWAYS or group in names)


def group_of(key: str) -> str | None:
    """Return the group that a key chooses an option of or is in; None for any other key."""
    first = key.partition(".")[0]
    return first if first in GROUPS else None


def has_key(config: Any, key: str) -> bool:
    """Whether a config has a dotted key."""
    for name in key.split("."):
        if not isinstance(config, Mapping) or name not in config:
            return False
        config = config[name]
    return True


def untaken(keys: Iterable[str], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that the config's options lack, or that its method does not accept."""
    ours = [key for key in keys if group_of(key)]
    ignored = set(SUPPLIED) - set(groups_taken(config["method"])) if ours else ()
    return tuple(key for key in ours if group_of(key) in ignored or not has_key(config, key))


def refuse_untaken(cells: Sequence[Cell]) -> None:
    """Raises: ValueError: no cell accepts one of the keys; the message lists the accepted keys."""
    for key in dict.fromkeys(key for cell in cells for key in cell.untaken):
        if all(key in cell.untaken for cell in cells):
            reasons = dict.fromkeys(_reason(key, cell) for cell in cells)
            raise ValueError(f"{key}: {'; '.join(reasons)}")


def not_taken(key: str, cell: Cell) -> str:
    """Say which option ignores a key: `gmp takes no mask_criterion`."""
    group = group_of(key)
    ignored = group not in groups_taken(cell.config["method"])
    return f"{cell.choices.get('method' if ignored else str(group))} takes no {key}"


def _reason(key: str, cell: Cell) -> str:
    group, taken = group_of(key), groups_taken(cell.config["method"])
    if group not in taken:
        return f"{cell.choices.get('method')} takes no {group}; it takes {', '.join(taken)}"
    name, names = key.partition(".")[2], list(_names(cell.config, key))
    near = nearest(name, names) or ";"
    known, option = ", ".join(names), cell.choices.get(group)
    takes = f"it takes {known}" if known else "it has no keys"
    return f"{option} takes no {name}{near} {takes}{_unlisted(key, cell, option)}"


def _unlisted(key: str, cell: Cell, option: str | None) -> str:
    """Return a hint if a key's function has an argument that the option's yaml does not list."""
    config: Any = cell.config
    *above, name = key.split(".")
    for part in above:
        config = config.get(part) if isinstance(config, Mapping) else None
    target = config.get("_target_") if isinstance(config, Mapping) else None
    if not isinstance(target, str) or name not in Call(target).names or name in SUPPLIED:
        return ""
    return f"; hint: `{target}` has `{name}`, so list it in {above[0]}/{option}.yaml"


def _names(config: Any, key: str) -> Iterator[str]:
    """Yield the keys that could replace a key that a config lacks, as a user would type them."""
    above: list[str] = []
    for name in key.split(".")[:-1]:
        if not isinstance(config.get(name), Mapping):
            break
        config = config[name]
        above.append(name)
    yield from sorted(".".join([*above[1:], name]) for name in config if name[0] != "_")
