"""The verbs of the command line beside `plan`: what they are given, and the function that does it.

Each imports what it needs when it is called: a status or a report starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.config.errors import unknown
from lt_sweeps.config.report_config import KEYS

HELP = ("-h", "--help")
USAGE = {
    "report": """\
usage: lt-sweeps report PATH|SWEEP [--check] [root=results] [out=DIR] [layout=FILE.yaml] [KEY=VALUE]
a KEY of conf/report_keys.yaml: band=ci baseline=random metrics=[test_accuracy] figures=[curves]
--check writes nothing, and fails when what is behind a figure has changed""",
    "compare": """\
usage: lt-sweeps compare A B [by=KEY,KEY] [root=results] [out=DIR] [KEY=VALUE]
A minus B, level by level: sweeps or cells (runs/SIGNATURE) that differ in one thing, or in what
`by` names; a KEY of conf/report_keys.yaml: metrics=[test_accuracy] margin=2% family=line""",
    "status": """\
usage: lt-sweeps status SWEEP [--watch] [root=results]
exit status: 0 complete, 1 something is missing and nobody is at it, 3 at work""",
    "logs": "usage: lt-sweeps logs SWEEP CELL [root=results]; the cell as `status` numbers it",
    "resume": (
        "usage: lt-sweeps resume SWEEP [root=results] [KEY=VALUE of hydra.launcher, as time=480]"
    ),
    "cancel": "usage: lt-sweeps cancel SWEEP [root=results]",
    "sync": "usage: lt-sweeps sync SWEEP [root=results mode=online project=lt-sweeps entity=TEAM]",
    "dashboard": """\
usage: lt-sweeps dashboard SWEEP [root=results project=lt-sweeps entity=TEAM save=true] [KEY=VALUE]
a KEY of conf/report_keys.yaml: band=ci baseline=random; save=false asks no server""",
    "export": """\
usage: lt-sweeps export SWEEP|ROOT [root=results out=DIR effective=true]
       lt-sweeps export TICKET.safetensors [form=state_dict|prune|sparse out=FILE.pt]""",
    "import": """\
usage: lt-sweeps import open_lth FOLDER [root=results name=NAME model=fc ...]
       lt-sweeps import mask FILE.safetensors [seed=0 level=1 test_accuracy=0.97 model=fc ...]""",
}


class Usage(ValueError):
    """A command line that is not one of ours: exit status 2."""


def run(verb: str, words: Sequence[str]) -> int:
    """Do what a verb's words ask for; returns the exit status."""
    if set(HELP) & set(words):
        print(USAGE[verb])
        return 0
    return VERBS[verb](list(words))


def _report(words: list[str]) -> int:
    """Reads records only."""
    checking, (where,), given = _taken("report", words, flag="--check")
    root, out, file = (given.pop(key, None) for key in ("root", "out", "layout"))
    _check_keys("report", given, {*KEYS, "root", "out", "layout"})
    from lt_sweeps.reporting.sweep_report import check, report

    sweep, folder = _sweep("report", where, root), Path(out) if out else None
    if checking:
        if given or file:
            raise Usage("report --check: takes root and out alone; it draws what was drawn before")
        return 0 if check(sweep, out=folder) else 1
    report(sweep, out=folder, layout_file=Path(file) if file else None, **_values(given))
    return 0


def _compare(words: list[str]) -> int:
    """Two sweeps or two cells that differ in one thing."""
    _, where, given = _taken("compare", words, count=2)
    root, out, by = (given.pop(key, None) for key in ("root", "out", "by"))
    _check_keys("compare", given, {*KEYS, "root", "out", "by"})
    from lt_sweeps.reporting.sweep_comparison import compare_sweeps

    compare_sweeps(
        *(_sweep("compare", each, root) for each in where),
        by=by.split(",") if by else (),
        out=Path(out) if out else None,
        **_values(given),
    )
    return 0


def _status(words: list[str]) -> int:
    """Reads files only."""
    watching, (where,), given = _taken("status", words, flag="--watch")
    sweep = _alone("status", where, given)
    from rich.console import Console

    from lt_sweeps.cli.status_view import status
    from lt_sweeps.storage.sweep_folder import SweepFolder

    return status(SweepFolder(sweep), Console(), watch=2.0 if watching else None)


def _logs(words: list[str]) -> int:
    _, (where, cell), given = _taken("logs", words, count=2)
    sweep = _alone("logs", where, given)
    from lt_sweeps.cli.status_view import logs
    from lt_sweeps.storage.sweep_folder import SweepFolder

    for text in logs(SweepFolder(sweep), cell):
        print(text)
    return 0


def _resume(words: list[str]) -> int:
    """The keys are the launcher's."""
    _, (where,), given = _taken("resume", words)
    sweep = _sweep("resume", where, given.pop("root", None))
    from lt_sweeps.execution.resume_sweep import resume
    from lt_sweeps.storage.sweep_folder import SweepFolder

    return resume(SweepFolder(sweep.absolute()), given)


def _cancel(words: list[str]) -> int:
    """The sweep's jobs, and no others."""
    _, (where,), given = _taken("cancel", words)
    sweep = _alone("cancel", where, given)
    from lt_sweeps.execution.slurm.squeue import cancel
    from lt_sweeps.storage.sweep_folder import SweepFolder

    print(f"cancelled {cancel(SweepFolder(sweep))} jobs; `resume` submits what is missing")
    return 0


def _sync(words: list[str]) -> int:
    """The keys are the tracker's."""
    _, (where,), given = _taken("sync", words)
    sweep = _sweep("sync", where, given.pop("root", None))
    from lt_sweeps.tracking.mirror import sync

    return sync(sweep, **given)


def _dashboard(words: list[str]) -> int:
    """The sweep's workspace and report in W&B."""
    _, (where,), given = _taken("dashboard", words)
    sweep = _sweep("dashboard", where, given.pop("root", None))
    from lt_sweeps.tracking.wandb_dashboard import dashboard

    dashboard(sweep, **given)  # pyright: ignore[reportArgumentType]
    return 0


def _export(words: list[str]) -> int:
    """Tables, or a ticket for other code."""
    _, (where,), given = _taken("export", words)
    root = given.pop("root", None)
    from lt_sweeps.interchange.export_results import export

    _check_keys("export", given, {*signature(export).parameters, "root"} - {"where", "console"})
    found = Path(where) if Path(where).is_file() else _sweep("export", where, root)
    export(found, **given)  # pyright: ignore[reportArgumentType]
    return 0


def _import(words: list[str]) -> int:
    """What others have computed, as a sweep of ours."""
    _, (kind, path), given = _taken("import", words, count=2)
    from lt_sweeps.interchange.import_results import import_

    root = Path(given.pop("root", "results"))
    print(import_(kind, Path(path), root=root, **given))
    return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "report": _report,
    "compare": _compare,
    "status": _status,
    "resume": _resume,
    "cancel": _cancel,
    "logs": _logs,
    "sync": _sync,
    "dashboard": _dashboard,
    "export": _export,
    "import": _import,
}


def _taken(
    verb: str, words: list[str], *, count: int = 1, flag: str | None = None
) -> tuple[bool, list[str], dict[str, str]]:
    """Whether the flag is there, what the verb is for, and the keys that it is given."""
    where = [word for word in words if "=" not in word and word != flag]
    if len(where) != count:
        needed = {1: "sweeps given; name one", 2: "given; name two"}[count]
        raise Usage(f"{verb}: {len(where)} {needed}. {USAGE[verb].splitlines()[0]}")
    return flag in words, where, dict(word.split("=", 1) for word in words if "=" in word)


def _alone(verb: str, where: str, given: dict[str, str]) -> Path:
    """The sweep of a verb that takes nothing but the root."""
    _check_keys(verb, given, ["root"])
    return _sweep(verb, where, given.get("root"))


def _check_keys(verb: str, given: Mapping[str, str], allowed: Collection[str]) -> None:
    for key in given:
        if key not in allowed:
            raise Usage(unknown(verb, key, allowed, what="keys"))


def _values(given: Mapping[str, str]) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, value in given.items()}


def _sweep(verb: str, name: str, root: str | None) -> Path:
    """A folder given by its path, a sweep by its name, or a cell by its signature."""
    if Path(name).is_dir():
        return Path(name)
    where = Path(root or "results")
    for folder in (where / "sweeps" / name, where / "runs" / name):
        if folder.is_dir():
            return folder
    sweeps = where / "sweeps"
    names = [folder.name for folder in sweeps.iterdir()] if sweeps.is_dir() else []
    raise ValueError(unknown(verb, name, names, what=f"sweeps in {where}"))
