"""The verbs of the command line except `plan`, and the functions that they call.

Each verb imports its modules when it is called, so that a status or a report starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lt_sweeps.cli.arguments import USAGE, VERB_WORDS, Arguments, Usage
from lt_sweeps.config.errors import yaml_value
from lt_sweeps.config.report_config import layout, named_figures
from lt_sweeps.config.trust import trusted_modules
from lt_sweeps.storage.sweep_folder import SweepFolder

HELP = ("-h", "--help")


def run_verb(verb: str, words: Sequence[str]) -> int:
    """Run a verb with its arguments and return the exit status."""
    if set(HELP) & set(words):
        print(USAGE[verb])
        return 0
    return VERBS[verb](Arguments.of(verb, words))


def _report(given: Arguments) -> int:
    """Write or check a report, from records alone."""
    options = _values(given, "out", "layout", "trust")
    trust = trusted_modules(given.keys.get("trust"))
    if "figures" in options:
        folders = [Path(given.config_dir)] if given.config_dir else []
        options["figures"] = named_figures(options["figures"], folders)
    layout(options)  # refuses a wrong value before anything is read
    from lt_sweeps.reporting.sweep_report import check, report

    out, layout_file = given.path("out"), given.path("layout")
    if "--check" in given.flags:
        if options or layout_file:
            raise Usage("report --check: takes only root, out and trust; it checks the last report")
        return 0 if check(given.folder, out=out, trust=trust) else 1
    report(given.folder, out=out, layout_file=layout_file, trust=trust, **options)
    return 0


def _compare(given: Arguments) -> int:
    """Compare two sweeps or two cells that differ in one thing, or in the keys of `by`."""
    options = _values(given, "out", "by")
    layout(options)
    from lt_sweeps.reporting.sweep_comparison import compare_sweeps

    one, other = map(given.folder_of, given.names)
    if one.resolve() == other.resolve():
        raise ValueError(f"compare: {given.names[1]} is given twice; give two sweeps")
    by = tuple(filter(None, given.keys.get("by", "").split(",")))
    compare_sweeps(one, other, by=by, out=given.path("out"), **options)
    return 0


def _paper(given: Arguments) -> int:
    """Draw the page of a paper from all sweeps of its experiments."""
    from lt_sweeps.config.papers import read_paper
    from lt_sweeps.reporting.paper_report import draw_paper

    quick = _values(given).get("quick", False)
    if not isinstance(quick, bool):
        raise Usage(f"paper: got quick={given.keys['quick']}; give true or false")
    paper = read_paper(given.names[0])
    return 0 if draw_paper(paper, given.root, out=given.path("out"), quick=quick) else 1


def _status(given: Arguments) -> int:
    """Show the status of a sweep, from files alone."""
    from rich.console import Console

    from lt_sweeps.cli.status_view import show_status

    watch = 2.0 if "--watch" in given.flags else None
    return show_status(SweepFolder(given.folder), Console(), watch=watch)


def _logs(given: Arguments) -> int:
    from lt_sweeps.cli.status_view import read_logs

    for text in read_logs(SweepFolder(given.folder), given.names[1]):
        print(text)
    return 0


def _resume(given: Arguments) -> int:
    """Resume a sweep; the keys are those of its launcher."""
    from lt_sweeps.execution.resume_sweep import resume

    launcher = SweepFolder(given.folder).manifest.launcher
    # A local sweep keeps its relative path if it resumes in the folder where it was started. Jobs
    # of a cluster may start in another folder.
    stays = launcher.name == "local" and Path(launcher.cwd) == Path.cwd()
    return resume(SweepFolder(given.folder if stays else given.folder.absolute()), given.keys)


def _cancel(given: Arguments) -> int:
    """Cancel the Slurm jobs of a sweep, and no other jobs."""
    from lt_sweeps.execution.slurm.squeue import cancel

    cancelled = cancel(SweepFolder(given.folder))
    then = "`resume` submits what is missing" if cancelled else "none of its jobs is in the queue"
    print(f"cancelled {cancelled} jobs; {then}")
    return 0


def _sync(given: Arguments) -> int:
    """Send a sweep to a tracker; the keys are those of the tracker."""
    from lt_sweeps.tracking.mirror import sync

    return sync(given.folder, **given.keys)


def _dashboard(given: Arguments) -> int:
    """Create the workspace and the report of a sweep in W&B."""
    from lt_sweeps.tracking.wandb_dashboard import dashboard

    dashboard(given.folder, **given.keys)
    return 0


def _export(given: Arguments) -> int:
    """Export tables, or a ticket for other code in a form that may have its own keys."""
    path = Path(given.names[0])
    is_absent_ticket = path.parent.parent.name == "tickets" and not path.exists()
    if path.is_file() or is_absent_ticket:
        _refuse(given, ("effective", "speed"), f"is for tables; {path} is a file")
        from lt_sweeps.interchange.exported_ticket import export_ticket

        own: dict[str, Any] = {**given.keys, **_values(given, *VERB_WORDS["export"])}
        export_ticket(path, config_dir=given.config_dir, **own)
        return 0
    given.check_keys()
    a_ticket = "a ticket is ROOT/tickets/STAGE/SEED.safetensors, in Python `ticket.path`"
    _refuse(given, ("form", "at"), f"is for a ticket; {given.folder} is a folder; {a_ticket}")
    from lt_sweeps.interchange.exported_tables import export_tables

    keys: dict[str, Any] = {**given.keys}
    export_tables(given.folder, **keys)
    return 0


def _refuse(given: Arguments, keys: Sequence[str], reason: str) -> None:
    """Raises: ValueError: one of these keys was given, for the reason in the message."""
    for key in keys:
        if key in given.keys:
            raise ValueError(f"{given.verb}: {key}={given.keys[key]} {reason}")


def _audit(given: Arguments) -> int:
    """Check stored results. User-defined code runs only from the modules in `trust`."""
    path = Path(given.names[0])
    from lt_sweeps.interchange.audit_results import audit

    keys: dict[str, Any] = {**given.keys}
    passed = audit(path if path.exists() else given.folder, **keys)
    return 0 if passed else 1


def _prune_store(given: Arguments) -> int:
    """List the tickets that no sweep needs; with --yes, remove them."""
    from lt_sweeps.execution.prune_store import drop_unneeded

    keep, apply = given.keys.get("keep"), "--yes" in given.flags
    for line in drop_unneeded(given.folder, keep=keep, apply=apply):
        print(line)
    return 0


def _import(given: Arguments) -> int:
    """Read other people's results as a sweep."""
    from lt_sweeps.interchange.import_results import import_

    kind, path = given.names
    print(import_(kind, Path(path), root=given.root, config_dir=given.config_dir, **given.keys))
    return 0


VERBS: Mapping[str, Callable[[Arguments], int]] = {
    "report": _report,
    "compare": _compare,
    "paper": _paper,
    "status": _status,
    "resume": _resume,
    "cancel": _cancel,
    "logs": _logs,
    "sync": _sync,
    "dashboard": _dashboard,
    "export": _export,
    "audit": _audit,
    "prune-store": _prune_store,
    "import": _import,
}


def _values(given: Arguments, *excluded: str) -> dict[str, Any]:
    """Parse the values of all keys as yaml, except the keys in `excluded`."""
    return {k: yaml_value(k, text) for k, text in given.keys.items() if k not in excluded}
