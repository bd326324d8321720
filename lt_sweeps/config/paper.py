"""`Paper`: what one command draws of a paper, from a yaml in `conf/published/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from lt_sweeps.config.errors import CONF, unknown

FOLDER = CONF / "published"


@dataclass(frozen=True)
class PaperItem:
    """A figure: the experiments whose lines it shows, the nets it has, how it is drawn."""

    experiments: tuple[str, ...]
    nets: Mapping[str, str | None]  # net -> data set; None where any will do
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableColumn:
    """A column of the table: which cells count, and the number that is published for each net."""

    experiment: str
    choose: Mapping[str, Any]
    published: Mapping[str, float]
    dense: bool = False  # the dense network, and not each run's best level


@dataclass(frozen=True)
class Paper:
    """The figures and the table of a paper, by their names in it."""

    name: str
    nets: Mapping[str, str]
    items: Mapping[str, PaperItem]
    table: Mapping[str, TableColumn]

    @classmethod
    def named(cls, name: str) -> Paper:
        """Raises: ValueError: there is no such paper."""
        names = [path.stem[1:] for path in FOLDER.glob("_*.yaml")]
        if name not in names:
            raise ValueError(unknown("paper", name, names, what="papers"))
        content = yaml.safe_load((FOLDER / f"_{name}.yaml").read_text())
        nets: dict[str, str] = content["nets"]
        items = {
            title: PaperItem(
                tuple(item["experiments"]),
                {net: nets.get(net) for net in item.get("nets", nets)},
                item.get("report", {}),
            )
            for title, item in content["items"].items()
        }
        table = {title: TableColumn(**column) for title, column in content["table"].items()}
        return cls(name, nets, items, table)
