"""`Paper`: the figures and tables of a paper, as a yaml of `conf/paper/` lists them.

A figure may need several experiments, and several figures may need the same experiment. For each
section of the paper, the yaml says which experiments it needs and what to draw from them.
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
    """A column of a table: one number per net, from the best line that matches `where`.

    `value` is `dense`, for the accuracy before pruning, or an endpoint that has a number per run.
    `published` has the paper's number by net, if the published curves do not contain it.
    """

    label: str
    experiment: str
    value: str
    where: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A figure or a table of a paper.

    `figures` are drawn from the records of `experiments`. If `report` is given, it replaces the
    report keys of these experiments, except `published`. A `table` has a number for each of the
    `nets`. Cells that train a net on a data set other than the one in `nets` are left out.
    """

    name: str
    shows: str
    nets: Mapping[str, str]  # net -> data set
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
        """The experiments whose records the section shows."""
        return list(dict.fromkeys([*self.experiments, *(c.experiment for c in self.table)]))


@dataclass(frozen=True)
class Paper:
    """A paper and its sections, in the order of the paper."""

    name: str
    title: str
    sections: tuple[Section, ...]


def paper_names() -> list[str]:
    """Return the names of the papers that `conf/paper/` describes."""
    return sorted(path.stem[1:] for path in FOLDER.glob("_*.yaml"))


def read_paper(name: str) -> Paper:
    """Read the paper that `conf/paper/_<name>.yaml` describes; Hydra does not offer names with `_`.

    Raises: ValueError: the yaml does not exist, or has a key that a section does not have.
    """
    if name not in paper_names():
        raise ValueError(unknown("paper", name, paper_names(), what="papers"))
    content = yaml.safe_load((FOLDER / f"_{name}.yaml").read_text("utf-8"))
    sections = tuple(
        made(Section, {"nets": content["nets"], **entry}, where="paper")
        for entry in content["sections"]
    )
    return Paper(name, content["title"], sections)
