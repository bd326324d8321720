"""Plan a stored cell and seed again from its config.yaml alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.file_version import version
from lt_sweeps.config.trust import check_trusted
from lt_sweeps.plan.cell_plan import Planned, planned_cell
from lt_sweeps.plan.stages import Work
from lt_sweeps.storage.run_folder import RunFolder, is_run

CURE = "run the sweep again, which recomputes it"
"""How to repair a damaged ticket."""


class Imported(ValueError):
    """The result was made by other code, so its network is unknown."""


def planned_run(root: Path, signature: str, seed: str, trust: tuple[str, ...]) -> Planned:
    """Return the plan of one cell and seed.

    Args:
        trust: modules whose functions may be called, in addition to our own.

    Raises:
        FileNotFoundError: the cell has no folder.
        Imported: other code made the cell, so it has no plan.
        ValueError: the config names functions of a module that is not trusted.
    """
    folder = RunFolder.of(root, signature, seed)
    return _planned(folder, version(folder.config), trust)


@functools.cache  # a notebook may stay open while the file is written again
def _planned(folder: RunFolder, seen: str | None, trust: tuple[str, ...]) -> Planned:
    stored, path = folder.read_config(), folder.config
    if "method" not in stored["config"]:
        raise Imported(f"{path}: an imported result, whose network is not known")
    check_trusted(stored["config"], where=str(path), trust=trust)
    return planned_cell(Cell(Config(stored["config"]), stored["choices"], ()))


def planned_works(root: Path, cell: str, trust: tuple[str, ...]) -> Mapping[str, Work]:
    """Return the trainings of a cell by stage key; an imported cell has none.

    Raises: ValueError: as `planned_run`.
    """
    paths = sorted(root.glob(f"runs/{cell}/*/config.yaml"))
    for folder in filter(is_run, (path.parent for path in paths)):
        with suppress(Imported):
            planned = planned_run(root, cell, folder.name, trust)
            return {stage.key: stage for stage in planned.trainings}
    return {}
