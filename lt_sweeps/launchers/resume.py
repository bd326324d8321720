"""Resume: what is missing of a frozen sweep, by the launcher that it was started with."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from lt_sweeps.launchers import local, slurm
from lt_sweeps.manifest import Sweep


def resume(sweep: Sweep, words: Mapping[str, str]) -> int:
    """Do or submit exactly what is missing; returns the exit status.

    Args:
        words: keys of the launcher that are other than before.
    """
    given = {key: yaml.safe_load(value) for key, value in words.items()}
    launcher = sweep.manifest["launcher"]["name"]
    if launcher == "slurm":
        return slurm.resume(sweep, given)
    if given:
        raise ValueError(f"resume: a local sweep takes no {[*given]}")
    return local.resume(sweep)
