"""`Paper`: the figures and tables of a paper, as a yaml of `conf/paper/` lists them.

A picture may need several experiments, and an experiment may serve several pictures. The yaml says
for each section of the paper which experiments it needs and what is drawn of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from lt_sweeps.config.call import made
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.spelling import unknown

FOLDER = CONF / "paper"


@dataclass(frozen=True)
class TableColumn:
    """A column of a table: one number per net, of the best line that `where` allows.

    `value` is `dense`, for the accuracy before pruning, or an endpoint that has a number per run.
    `published` is the paper's number by net, where the published curves do not hold it.
    """

    label: str
    experiment: str
    value: str
    where: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A figure or a table of a paper.

    `figures` are drawn of the records of `experiments`; `report` lays them out in another way than
    these experiments do themselves. A `table` has a number for each of the `nets`. Cells of a net
    on another data set than `nets` says are left out.
    """

    name: str
    shows: str
    nets: Mapping[str, str]  # the data set of each
    experiments: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    report: Mapping[str, Any] = field(default_factory=dict)
    table: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        where = f"paper: section {self.name!r}"
        if bool(self.figures) == bool(self.table):
            raise ValueError(f"{where}: give `figures` or a `table`, and not both")
        columns = [made(TableColumn, entry, where=f"{where}, table") for entry in self.table]
        object.__setattr__(self, "table", columns)

    @property
    def needed(self) -> Sequence[str]:
        """The experiments whose records it shows."""
        return list(dict.fromkeys([*self.experiments, *(c.experiment for c in self.table)]))


@dataclass(frozen=True)
class Paper:
    """A paper and its sections, in its order."""

    name: str
    title: str
    sections: tuple[Section, ...]


def paper_names() -> list[str]:
    """The papers that `conf/paper/` describes."""
    return sorted(path.stem[1:] for path in FOLDER.glob("_*.yaml"))


def read_paper(name: str) -> Paper:
    """The paper that `conf/paper/_<name>.yaml` describes; the `_` keeps Hydra from offering it.

    Raises: ValueError: there is no such yaml, or it has a key that no section takes.
    """
    if name not in paper_names():
        raise ValueError(unknown("paper", name, paper_names(), what="papers"))
    content = yaml.safe_load((FOLDER / f"_{name}.yaml").read_text("utf-8"))
    sections = tuple(
        made(Section, {"nets": content["nets"], **entry}, where="paper")
        for entry in content["sections"]
    )
    return Paper(name, content["title"], sections)
