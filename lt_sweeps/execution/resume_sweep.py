"""Resume: what is missing of a frozen sweep, by the launcher that it was started with."""

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
    """Do or submit exactly what is missing; returns the exit status.

    Args:
        words: settings of the Slurm launcher that replace those the sweep was started with, and
            `trust`, the modules that its configs may name.

    Raises: ValueError: a config names a function that is neither ours nor trusted.
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
    """A sweep that was frozen before, as it was submitted. Relative paths start where it did.

    In a root that was copied to another machine that folder may be missing. Relative paths then
    start here: data or code of other content give other keys, and are refused by the sweep's name.
    """
    cells, started_in = sweep.cells(), sweep.manifest.launcher.cwd
    try:
        os.chdir(started_in)
    except OSError as error:
        here = os.getcwd()
        say(f"resume: it was started in {started_in} ({error.strerror}); paths start in {here}")
    named = {"root": sweep.root, "name": sweep.folder.name, "dry_run": False, "search": None}
    return Submission(plan(cells), replace(RunSettings.of(cells), **named))
