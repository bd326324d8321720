"""Labels of the lines and panels of a figure: the keys that differ, or those of the layout.

A *key* is a group (`mask_criterion`) or a dotted setting (`recipe.lr`). In this module one cell
represents its whole curve.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

from lt_sweeps.analysis.results import CellResults
from lt_sweeps.config.spelling import listed, nearest

T = TypeVar("T")
_KEY = re.compile(r"(^|\s)([\w@/.]+)=")
_SETTING_STARTS = re.compile(r" (?=[\w@/.]+=)")
_FUNCTION = re.compile(r"(^|\s)([\w@/.]+)\._target_=(?:\w+\.)*(\w+)")
# The order of options in a label, as in the legends of the papers; other groups follow.
FIRST = ("mask_criterion", "method", "reset", "freeze", "recipe", "schedule")
_LONG = 4  # names with this many settings are too long for a legend


def panel_label(cell: CellResults, keys: Sequence[str]) -> str:
    """The panel of a cell: `fc on digits`, then its values of the other keys that split panels."""
    words = [_word(cell, key) for key in keys if key not in ("model", "dataset")]
    if {"model", "dataset"} <= set(keys):
        words.insert(0, f"{cell.choices.get('model') or '?'} on {cell.choices.get('dataset')}")
    else:
        words[:0] = [str(cell.choices.get(k)) for k in ("model", "dataset") if k in keys]
    return ", ".join(filter(None, words))


def panels_by_metric(panels: Sequence[str], judged: Sequence[str]) -> list[str]:
    """The panels of lines, split by the metric of their tasks, because metrics share no axis."""
    kinds = group_by(zip(panels, judged, strict=True), lambda pair: pair[0])
    several = {panel for panel, pairs in kinds.items() if len({k for _, k in pairs} - {""}) > 1}
    return [
        f"{panel}, by {kind}" if panel in several and kind else panel
        for panel, kind in zip(panels, judged, strict=True)
    ]


def labels_from_keys(
    cells: Sequence[CellResults], panels: Sequence[str], lines: Sequence[str]
) -> list[str]:
    """Label each cell by the layout's `lines`, plus its signature if only the code differs.

    Raises: ValueError: two cells of one panel would share a label although their settings differ.
    """
    labels = [" ".join(filter(None, (_word(cell, key) for key in lines))) for cell in cells]
    places = list(zip(panels, labels, strict=True))
    for (panel, label), group in group_by(range(len(cells)), places.__getitem__).items():
        if differ := differences([cells[i] for i in group]):
            raise ValueError(
                f"report.lines: {len(group)} curves of `{panel}` are all called `{label}`; they "
                f"differ in {listed(differ)}; add it to `lines`, `panels` or `along`"
            )
    return _with_signatures(cells, places)


def automatic_labels(cells: Sequence[CellResults], panels: Sequence[str]) -> list[str]:
    """Label each cell by the options and settings that differ within a panel, and no others."""
    by_panel = group_by(range(len(cells)), panels.__getitem__).values()
    grouped = [[cells[i] for i in group] for group in by_panel]
    groups = dict.fromkeys(chain.from_iterable(map(_differing_options, grouped)))
    ranked = sorted(groups, key=lambda group: FIRST.index(group) if group in FIRST else len(FIRST))
    settings = dict.fromkeys(chain.from_iterable(map(_differing_settings, grouped)))
    labels = [_label(cell, ranked, list(settings)) for cell in cells]
    return _with_signatures(cells, list(zip(panels, labels, strict=True)))


def _with_signatures(cells: Sequence[CellResults], places: Sequence[tuple[str, str]]) -> list[str]:
    """The labels; those that a panel has more than once get the start of the signature."""
    counts = Counter(places)
    return [
        f"{place[1]} {cell.signature[:8]}" if counts[place] > 1 else place[1]
        for cell, place in zip(cells, places, strict=True)
    ]


def readable(names: Sequence[str]) -> list[str]:
    """Shorten names of lines: `lr=0.1` for `recipe.lr=0.1`, if no other key ends in `lr`.

    A setting that is a function is shown as the function's name: `init=glorot_normal`. Long names
    omit the `usual_settings`. Names that would become equal (`init=mine.normal`,
    `init=torch.nn.init.normal`) stay unchanged.
    """
    usual = set(usual_settings(names))
    said = dict(zip(names, _shortened([_without(name, usual) for name in names]), strict=True))
    times = Counter(said.values())
    return [said[name] if times[said[name]] == 1 else name for name in names]


def usual_settings(names: Sequence[str]) -> list[str]:
    """The settings that most lines share, if names have so many that a legend cannot show them.

    If one setting at a time is varied, each line then shows only what it varies.
    """
    settings = [_settings(name) for name in dict.fromkeys(names)]
    if max(map(len, settings), default=0) < _LONG:
        return []
    lines_with = Counter(setting.partition("=")[0] for line in settings for setting in line)
    counts = Counter(chain.from_iterable(settings))
    return [s for s, n in counts.items() if n >= 3 and 2 * n > lines_with[s.partition("=")[0]]]


def _without(name: str, usual: Collection[str]) -> str:
    """A name without its usual settings; one that consists of nothing else stays as it is."""
    return " ".join(part for part in _SETTING_STARTS.split(name) if part not in usual) or name


def _settings(name: str) -> list[str]:
    return [part for part in _SETTING_STARTS.split(name) if _KEY.match(part)]


def _shortened(names: Sequence[str]) -> list[str]:
    plain = [_FUNCTION.sub(r"\1\2=\3", name) for name in names]
    keys = {key for name in plain for _, key in _KEY.findall(name)}
    ends = Counter(key.rpartition(".")[2] for key in keys)

    def short(match: re.Match[str]) -> str:
        end = match[2].rpartition(".")[2]
        return f"{match[1]}{end if ends[end] == 1 else match[2]}="

    return [_KEY.sub(short, name) for name in plain]


def differences(cells: Sequence[CellResults]) -> list[str]:
    """The groups and settings in which these cells differ."""
    return _differing_options(cells) + _differing_settings(cells)


def check_keys(where: str, keys: Sequence[str], cells: Iterable[CellResults]) -> None:
    """Raises: ValueError: none of the cells has a group or a setting of that name."""
    known = dict.fromkeys(chain.from_iterable((*c.choices, *c.settings) for c in cells))
    for key in keys if known else ():
        if key not in known:
            groups = [name for name in known if "." not in name]
            near = nearest(key, known) or ";"
            raise ValueError(
                f"{where}: these cells have no group or setting `{key}`{near} "
                f"groups are {listed(groups)}, a setting is `recipe.lr`"
            )


def value_of(cell: CellResults, key: str) -> Any:
    """A cell's option of a group, or its value of a setting."""
    return cell.choices[key] if key in cell.choices else cell.settings.get(key)


def is_within(key: str, keys: Iterable[str]) -> bool:
    """Whether a setting is one of the keys or belongs to a group that is one of them."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def group_by(things: Iterable[T], key: Callable[[T], Hashable]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def _word(cell: CellResults, key: str) -> str:
    if key in cell.choices:
        return cell.choices[key] or ""
    return f"{key}={_text(cell.settings[key])}" if key in cell.settings else ""


def _label(cell: CellResults, options: Sequence[str], settings: Sequence[str]) -> str:
    words = [option for group in options if (option := cell.choices.get(group))]
    words += [f"{k}={_text(cell.settings[k])}" for k in settings if k in cell.settings]
    lone = (cell.choices.get("mask_criterion"), cell.choices.get("method"))
    return " ".join(words) or next(filter(None, lone), cell.signature[:8])


def _text(value: Any) -> str:
    """A value as text for a label: a string that looks like a number or a list gets quotes."""
    if not isinstance(value, str):
        return json.dumps(value, default=str).replace(" ", "")
    with suppress(ValueError):  # raised for a text that does not look like anything else
        json.loads(value)
        return json.dumps(value)
    return value


def _differing_options(cells: Sequence[CellResults]) -> list[str]:
    """The groups with several options.

    An option None (a method that does not accept the group) counts as a difference only between
    cells of one method, because otherwise the method's name already tells the cells apart.
    """

    def differs(group: str) -> bool:
        by_method = group_by(cells, lambda cell: cell.choices.get("method")).values()
        within = any(len({c.choices.get(group) for c in same}) > 1 for same in by_method)
        return within or len({cell.choices.get(group) for cell in cells} - {None}) > 1

    groups = dict.fromkeys(chain.from_iterable(cell.choices for cell in cells))
    return [group for group in groups if differs(group)]


def _differing_settings(cells: Sequence[CellResults]) -> list[str]:
    """The settings that differ between cells with the same option of the setting's group."""

    def unexplained(key: str) -> bool:
        values = group_by(cells, lambda cell: cell.choices.get(key.split(".")[0]))
        return any(len({repr(c.settings.get(key)) for c in same}) > 1 for same in values.values())

    keys = dict.fromkeys(chain.from_iterable(cell.settings for cell in cells))
    return [key for key in keys if unexplained(key)]
