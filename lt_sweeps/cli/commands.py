"""The verbs of the command line beside `plan`: their arguments, and the functions they call.

Each verb imports what it needs when it is called, so that a status or a report starts without
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.config.errors import unknown
from lt_sweeps.config.report_config import KEYS, layout, named_figures
from lt_sweeps.config.trust import trusted_modules
from lt_sweeps.storage.sweep_folder import SweepFolder, sweep_path

HELP = ("-h", "--help")
USAGE = {
    "plan": """\
usage: lt-sweeps plan [OVERRIDES]
Shows what a sweep would run, and runs nothing: cells, trainings that they share, files and time.
The same OVERRIDES without `plan` run it; `lt-sweeps --help` lists them.
example: lt-sweeps plan mask_criterion=large_final,random seed=range(5)""",
    "report": """\
usage: lt-sweeps report PATH|SWEEP [--check] [root=results] [out=DIR] [layout=FILE.yaml] [KEY=VALUE]
Writes the tables, CSV files, figures and the page of a sweep, from its records alone.
a KEY of conf/report/_keys.yaml: band=ci baseline=random metrics=[test_accuracy] figures=[curves]
--check writes nothing; it fails if the data behind a figure has changed
figures of your own: --config-dir DIR with figures=[curves,NAME] draws DIR/figure/NAME.yaml;
trust=MODULE draws those that the sweep asks for
example: lt-sweeps report my_sweep baseline=random band=ci""",
    "compare": """\
usage: lt-sweeps compare A B [by=KEY,KEY] [root=results] [out=DIR] [KEY=VALUE]
Subtracts B from A, level by level, with a test: sweeps or cells (runs/SIGNATURE) that differ in
one thing, or in the keys of `by`.
a KEY of conf/report/_keys.yaml: metrics=[test_accuracy] margin=2% family=line
example: lt-sweeps compare with_sgd with_adam metrics=[test_accuracy]""",
    "paper": """\
usage: lt-sweeps paper NAME [root=results] [out=DIR] [quick=true]
Draws all figures and tables of a paper on one page, from the sweeps under root; what is missing is
marked. NAME: deconstructing or continuous_sparsification; quick=true: of the quick experiments.
exit status: 0 complete, 1 something is missing
example: lt-sweeps paper deconstructing quick=true""",
    "status": """\
usage: lt-sweeps status SWEEP [--watch] [root=results]
Shows how far a sweep has come, by level and seed, what failed and why, and the number of each cell.
--watch stays and shows it again until nothing is at work
exit status: 0 complete, 1 something is missing and nothing runs, or all diverged, 3 running
example: lt-sweeps status my_sweep --watch""",
    "logs": """\
usage: lt-sweeps logs SWEEP CELL [root=results]
Prints what was logged while a cell was trained.
CELL: its number in `status`, its name there with the seed, or SIGNATURE/SEED
example: lt-sweeps logs my_sweep "random seed 0\"""",
    "resume": """\
usage: lt-sweeps resume SWEEP [root=results trust=MODULE,...] [KEY=VALUE of the launcher: time=480]
Runs or submits exactly what is missing of a sweep, as it was planned.
functions of your own run only from the modules that trust names
example: lt-sweeps resume my_sweep trust=mylab""",
    "cancel": """\
usage: lt-sweeps cancel SWEEP [root=results]
Cancels the Slurm jobs of a sweep, and no others; what is computed stays.
example: lt-sweeps cancel my_sweep""",
    "sync": """\
usage: lt-sweeps sync SWEEP [root=results tracker=wandb|tensorboard|mlflow trust=MODULE] [KEY=VALUE]
Sends what a tracker (Weights & Biases, TensorBoard, MLflow) lacks of a sweep.
a KEY of the tracker: project=lt-sweeps mode=offline; one of your own runs only with trust
example: lt-sweeps sync my_sweep tracker=wandb project=tickets""",
    "dashboard": """\
usage: lt-sweeps dashboard SWEEP [root=results project=lt-sweeps entity=TEAM] [KEY=VALUE]
Makes the workspace and the report of a sweep in Weights & Biases, with the figures of our report.
a KEY of conf/report/_keys.yaml: band=ci baseline=random
example: lt-sweeps dashboard my_sweep project=tickets""",
    "export": """\
usage: lt-sweeps export SWEEP|ROOT [root=results out=DIR effective=true trust=MODULE,...
       speed=false batch=256 n=15]
       lt-sweeps export TICKET [form=state_dict|prune|sparse|compact|semi_structured
       at=reported|end out=FILE.pt]
Writes tidy tables for other tools; or a ticket (ROOT/tickets/STAGE/SEED.safetensors) as weights,
masks or sparse tensors for torch, as a smaller dense network, or packed as 2:4: the weights whose
accuracy is reported, or those of the end. speed=true measures the smaller networks on this machine.
--config-dir DIR: the folder with a form of your own, DIR/export_form/NAME.yaml
example: lt-sweeps export my_sweep out=tables""",
    "audit": """\
usage: lt-sweeps audit SWEEP|ROOT|FILE [root=results sample=8|all repeat=0|all trust=MODULE,MODULE
       out=FILE.json]; FILE: a ticket, a .pt, .pth or .safetensors, or a folder of open_lth
Checks stored results against each other: evaluates `sample` trainings again and trains `repeat`
again; changes no file.
exit status: 0 no check failed, 1 one did
example: lt-sweeps audit my_sweep sample=all""",
    "prune-store": """\
usage: lt-sweeps prune-store SWEEP|ROOT [--yes] [root=results keep=reported|records]
Removes the tickets of finished sweeps that no sweep under the root needs: with keep=reported what
no report reads, with keep=records all. Without --yes it only says what would go, and what computing
that again would take. Records, reports and the same words stay as they are.
example: lt-sweeps prune-store results keep=reported""",
    "import": """\
usage: lt-sweeps import open_lth FOLDER [root=results name=NAME model=fc ...]
       lt-sweeps import mask FILE.safetensors [seed=0 level=1 test_accuracy=0.97 model=fc ...]
       lt-sweeps import mcgill FILE.csv [method=supermask ...], runs to `compare` ours with
Reads other people's results as a sweep of ours, which every other command takes.
--config-dir DIR: the folder with an importer of your own, DIR/importer/NAME.yaml
example: lt-sweeps import open_lth open_lth_data/lottery_1234 name=theirs""",
}


_TAKE_OPTIONS = ("export", "import", "report")
_CONFIG_DIR = ("--config-dir", "-cd")


class Usage(ValueError):
    """A command line that no command understands: exit status 2."""


def run_verb(verb: str, words: Sequence[str]) -> int:
    """Run a verb with its arguments; returns the exit status."""
    if set(HELP) & set(words):
        print(USAGE[verb])
        return 0
    if verb in _TAKE_OPTIONS:
        words = _with_config_dir(words)
    return VERBS[verb](list(words))


def _with_config_dir(words: Sequence[str]) -> list[str]:
    """The words with `--config-dir DIR`, which Hydra reads for a sweep, as the key `config_dir`."""
    given, rest = list(words), list[str]()
    while given:
        word = given.pop(0)
        flag, equals, folder = word.partition("=")
        if flag not in _CONFIG_DIR:
            rest.append(word)
        elif equals or given:
            rest.append(f"config_dir={folder if equals else given.pop(0)}")
        else:
            raise Usage(f"{word}: give the folder that holds your options")
    return rest


def _report(words: list[str]) -> int:
    """Reads records only."""
    checking, (name,), keys = _arguments("report", words, flag="--check")
    root, out, file = (keys.pop(key, None) for key in ("root", "out", "layout"))
    config_dir, trust = keys.pop("config_dir", None), trusted_modules(keys.pop("trust", None))
    _check_keys("report", keys, {*KEYS, "root", "out", "layout", "trust"})
    options = _values(keys)
    if "figures" in options:
        folders = [Path(config_dir)] if config_dir else []
        options["figures"] = named_figures(options["figures"], folders)
    layout(options)  # a wrong value is refused before anything is read
    from lt_sweeps.reporting.sweep_report import check, report

    sweep, folder = _folder("report", name, root), Path(out) if out else None
    if checking:
        if keys or file:
            raise Usage("report --check: takes only root and out; it checks the last report")
        return 0 if check(sweep, out=folder, trust=trust) else 1
    layout_file = Path(file) if file else None
    report(sweep, out=folder, layout_file=layout_file, trust=trust, **options)
    return 0


def _compare(words: list[str]) -> int:
    """Two sweeps or two cells that differ in one thing."""
    _, names, keys = _arguments("compare", words, count=2)
    root, out, by = (keys.pop(key, None) for key in ("root", "out", "by"))
    _check_keys("compare", keys, {*KEYS, "root", "out", "by"})
    layout(_values(keys))
    from lt_sweeps.reporting.sweep_comparison import compare_sweeps

    one, other = (_folder("compare", name, root) for name in names)
    groups = by.split(",") if by else ()
    compare_sweeps(one, other, by=groups, out=Path(out) if out else None, **_values(keys))
    return 0


def _paper(words: list[str]) -> int:
    """All sweeps of a paper's experiments."""
    _, (name,), keys = _arguments("paper", words)
    _check_keys("paper", keys, {"root", "out", "quick"})
    from lt_sweeps.config.papers import read_paper
    from lt_sweeps.reporting.paper_report import draw_paper

    out, values = keys.get("out"), _values(keys)
    folder, quick = Path(keys.get("root", "results")), values.get("quick", False)
    if not isinstance(quick, bool):
        raise Usage(f"paper: got quick={keys['quick']}; give true or false")
    return (
        0
        if draw_paper(read_paper(name), folder, out=Path(out) if out else None, quick=quick)
        else 1
    )


def _status(words: list[str]) -> int:
    """Reads files only."""
    watching, sweep, _ = _sweep("status", words, flag="--watch")
    from rich.console import Console

    from lt_sweeps.cli.status_view import show_status

    return show_status(sweep, Console(), watch=2.0 if watching else None)


def _logs(words: list[str]) -> int:
    _, sweep, (cell,) = _sweep("logs", words, count=2)
    from lt_sweeps.cli.status_view import read_logs

    for text in read_logs(sweep, cell):
        print(text)
    return 0


def _resume(words: list[str]) -> int:
    """The keys are the launcher's."""
    _, (name,), keys = _arguments("resume", words)
    folder = _folder("resume", name, keys.pop("root", None))
    from lt_sweeps.execution.resume_sweep import resume

    return resume(SweepFolder(folder.absolute()), keys)


def _cancel(words: list[str]) -> int:
    """The sweep's jobs, and no others."""
    _, sweep, _ = _sweep("cancel", words)
    from lt_sweeps.execution.slurm.squeue import cancel

    cancelled = cancel(sweep)
    then = "`resume` submits what is missing" if cancelled else "none of its jobs is in the queue"
    print(f"cancelled {cancelled} jobs; {then}")
    return 0


def _sync(words: list[str]) -> int:
    """The keys are the tracker's."""
    _, (name,), keys = _arguments("sync", words)
    folder = _folder("sync", name, keys.pop("root", None))
    from lt_sweeps.tracking.mirror import sync

    return sync(folder, **keys)


def _dashboard(words: list[str]) -> int:
    """The sweep's workspace and report in W&B."""
    _, (name,), keys = _arguments("dashboard", words)
    folder = _folder("dashboard", name, keys.pop("root", None))
    from lt_sweeps.tracking.wandb_dashboard import dashboard

    dashboard(folder, **keys)
    return 0


def _export(words: list[str]) -> int:
    """Tables, or a ticket for other code."""
    _, (name,), keys = _arguments("export", words)
    root = keys.pop("root", None)
    from lt_sweeps.interchange.export_results import export

    path = Path(name) if Path(name).is_file() else _folder("export", name, root)
    known = {*signature(export).parameters, "root"} - {"where", "keys"}
    own = {key: value for key, value in keys.items() if key not in known}
    if not path.is_file():
        _check_keys("export", keys, known)
    export(path, **{**keys, **_values(own)})  # pyright: ignore[reportArgumentType]
    return 0


def _audit(words: list[str]) -> int:
    """Reads files only, and runs none of their code."""
    _, (name,), keys = _arguments("audit", words)
    root = keys.pop("root", None)
    from lt_sweeps.interchange.audit_results import audit

    _check_keys("audit", keys, {*signature(audit).parameters, "root"} - {"where", "console"})
    path = Path(name) if Path(name).exists() else _folder("audit", name, root)
    return 0 if audit(path, **keys) else 1  # pyright: ignore[reportArgumentType]


def _prune_store(words: list[str]) -> int:
    """Removes files only with --yes."""
    apply, (name,), keys = _arguments("prune-store", words, flag="--yes")
    _check_keys("prune-store", keys, ["root", "keep"])
    from lt_sweeps.execution.prune_store import drop_unneeded

    folder = _folder("prune-store", name, keys.get("root"))
    for line in drop_unneeded(folder, keep=keys.get("keep"), apply=apply):
        print(line)
    return 0


def _import(words: list[str]) -> int:
    """Other people's results, as a sweep of ours."""
    _, (kind, path), keys = _arguments("import", words, count=2)
    from lt_sweeps.interchange.import_results import import_

    print(import_(kind, Path(path), root=Path(keys.pop("root", "results")), **keys))
    return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {
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


def _arguments(
    verb: str, words: list[str], *, count: int = 1, flag: str | None = None
) -> tuple[bool, list[str], dict[str, str]]:
    """Whether the flag is there, the names without a key, and the values by key."""
    flags = [word for word in words if word.startswith("-") and word != flag]
    if flags:
        allowed = [*([flag] if flag else []), "--help"]
        raise Usage(f"{verb}: " + unknown("flag", flags[0], allowed, what="flags"))
    names = [word for word in words if "=" not in word and word != flag]
    if len(names) != count:
        needed = {1: "sweeps given; name one", 2: "given; name two"}[count]
        raise Usage(f"{verb}: {len(names)} {needed}. {USAGE[verb].splitlines()[0]}")
    return flag in words, names, dict(word.split("=", 1) for word in words if "=" in word)


def _sweep(
    verb: str, words: list[str], *, count: int = 1, flag: str | None = None
) -> tuple[bool, SweepFolder, list[str]]:
    """The arguments of a verb that has no key but the root; the first name is a sweep."""
    flagged, (name, *others), keys = _arguments(verb, words, count=count, flag=flag)
    _check_keys(verb, keys, ["root"])
    return flagged, SweepFolder(_folder(verb, name, keys.get("root"))), others


def _check_keys(verb: str, keys: Iterable[str], allowed: Collection[str]) -> None:
    for key in keys:
        if key not in allowed:
            raise Usage(unknown(verb, key, allowed, what="keys"))


def _values(keys: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in keys.items():
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise Usage(f"{key}: got {value}; close the brackets and quotes of a value") from None
    return values


def _folder(verb: str, name: str, root: str | None) -> Path:
    return sweep_path(name, Path(root or "results"), where=verb)
