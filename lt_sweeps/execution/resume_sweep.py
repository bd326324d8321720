"""Resume a frozen sweep: compute its missing units with the launcher that it was started with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from lt_sweeps.config.errors import yaml_value
from lt_sweeps.config.spelling import listed
from lt_sweeps.config.trust import check_trusted, trusted_modules
from lt_sweeps.execution import local_launcher
from lt_sweeps.execution.patience import say
from lt_sweeps.execution.run_settings import RunSettings
from lt_sweeps.execution.slurm import slurm_launcher
from lt_sweeps.execution.slurm.resources import SlurmResources
from lt_sweeps.execution.submission import Submission
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.sweep_folder import SweepFolder


def resume(sweep: SweepFolder, words: Mapping[str, str]) -> int:
    """Compute or submit exactly the missing units; return the exit status.

    Args:
        words: settings of the Slurm launcher, which replace those that the sweep was started with;
            and `trust`, the modules that the sweep's configs may name.

    Raises: ValueError: a config names a function that is neither from this package nor trusted.
    """
    given = {
        key: value if key == "time" else yaml_value(key, value)  # yaml reads 12:00:00 as a number
        for key, value in words.items()
        if key != "trust"
    }
    trust = trusted_modules(words.get("trust"))
    for cell in sweep.manifest.cells:
        check_trusted(cell.config, where=f"resume: {sweep.path}", trust=trust)
    check_trusted(dict(sweep.manifest.reports), where=f"resume: {sweep.path}", trust=trust)
    submission, launcher = resumed(sweep), sweep.manifest.launcher
    if launcher.name == "slurm":
        profile = SlurmResources.of({**launcher.profile, **given})
        return slurm_launcher.submit_missing(submission, profile)
    if given:
        raise ValueError(
            f"resume: got {listed(given)}; a sweep on this machine takes root and trust alone"
        )
    return local_launcher.run_missing(submission)


def resumed(sweep: SweepFolder) -> Submission:
    """Return the submission of a sweep that was frozen before.

    Change to the folder that the sweep was started in, where its relative paths start. If the root
    was copied to another machine, that folder may be missing, and relative paths start in the
    current folder instead. Data or code with different content would give different stage keys, and
    `Submission` refuses those under the sweep's name.
    """
    cells, started_in = sweep.cells(), sweep.manifest.launcher.cwd
    try:
        os.chdir(started_in)
    except OSError as error:
        here = os.getcwd()
        say(
            f"resume: cannot enter {started_in}, where the sweep was started ({error.strerror}); "
            f"relative paths start in {here}"
        )
    named = {"root": sweep.root, "name": sweep.folder.name, "dry_run": False, "search": None}
    return Submission(plan(cells), replace(RunSettings.of(cells), **named))
