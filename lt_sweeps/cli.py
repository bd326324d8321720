"""The command line: a verb and what it is for, or the words of a sweep, which Hydra composes."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import cast

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lt_sweeps import __version__
from lt_sweeps.cells import from_config
from lt_sweeps.complaints import CONF, complaint, options, unknown
from lt_sweeps.launchers.hydra import register
from lt_sweeps.layout import KEYS

HELP = ("-h", "--help")
# Hydra's flags, and whether a value follows.
FLAGS = {
    **dict.fromkeys(HELP, False),
    **dict.fromkeys(("--hydra-help", "--version", "--resolve"), False),
    **dict.fromkeys(("-r", "--run", "-m", "--multirun", "-sc", "--shell-completion"), False),
    **dict.fromkeys(("-c", "--cfg", "-p", "--package", "-i", "--info"), True),
    **dict.fromkeys(("-cp", "--config-path", "-cn", "--config-name"), True),
    **dict.fromkeys(("-cd", "--config-dir"), True),
}
# With one of these Hydra does something else than run.
SHOW = {*HELP, "--hydra-help", "-sc", "--shell-completion", "-c", "--cfg", "-i", "--info"}
REPORT = """\
usage: lt-sweeps report PATH|SWEEP [--check] [root=results] [out=DIR] [layout=FILE.yaml] [KEY=VALUE]
a KEY of conf/report_keys.yaml: band=ci baseline=random metrics=[test_accuracy] figures=[curves]
--check writes nothing, and fails when what is behind a figure has changed"""
SYNC = "usage: lt-sweeps sync SWEEP [root=results mode=online project=lt-sweeps entity=TEAM ...]"
DASHBOARD = """\
usage: lt-sweeps dashboard SWEEP [root=results project=lt-sweeps entity=TEAM save=true] [KEY=VALUE]
a KEY of conf/report_keys.yaml: band=ci baseline=random"""
EXPORT = (
    "usage: lt-sweeps export SWEEP|ROOT [root=results out=DIR effective=true]\n"
    "       lt-sweeps export TICKET.safetensors [form=state_dict|prune|sparse out=FILE.pt]"
)
IMPORT = (
    "usage: lt-sweeps import open_lth FOLDER [root=results name=NAME model=fc ...]\n"
    "       lt-sweeps import mask FILE.safetensors [seed=0 level=1 test_accuracy=0.97 model=fc ...]"
)


class Usage(ValueError):
    """A command line that is not one of ours: exit status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status, which is 0 only for success."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _answered(lambda: _command(words))


def _answered(run: Callable[[], int]) -> int:
    """Run, and turn what goes wrong into one line and a status; a bug keeps its traceback."""
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted; the same words continue from here", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        line = complaint(error)
        if line is None:
            traceback.print_exc()
        else:
            print(f"error: {line}", file=sys.stderr)
        return 2 if isinstance(error, Usage) else 1


def _command(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"lt-sweeps {__version__}")
        return 0
    first = words[0] if words else ""
    if first in VERBS:
        return VERBS[first](words[1:])
    if first and "=" not in first and first[0] not in "-~":
        raise Usage(unknown("command", first, VERBS, what="commands"))
    return _compose(words)


def _plan(words: list[str]) -> int:
    return _compose(words, dry_run=True)


def _report(words: list[str]) -> int:
    """`report PATH|SWEEP [key=value ...]`: reads records only, and needs no torch."""
    if (asked := _asked("report", words, REPORT)) is None:
        return 0
    from lt_sweeps.report import report

    where, given = asked
    out, file = (given.pop(key, None) for key in ("out", "layout"))
    _check_keys("report", given, {*KEYS, "out", "layout"})
    report(
        where,
        out=Path(out) if out else None,
        layout_file=Path(file) if file else None,
        **{key: yaml.safe_load(value) for key, value in given.items()},
    )
    return 0


def _sync(words: list[str]) -> int:
    """`sync SWEEP [key=value ...]`: the keys are the tracker's."""
    if (asked := _asked("sync", words, SYNC)) is None:
        return 0
    from lt_sweeps.sync import sync

    where, given = asked
    return sync(where, **given)


def _dashboard(words: list[str]) -> int:
    """`dashboard SWEEP [key=value ...]`: the sweep's workspace and report in W&B."""
    if (asked := _asked("dashboard", words, DASHBOARD)) is None:
        return 0
    from lt_sweeps.dashboard import dashboard

    where, given = asked
    dashboard(where, **given)  # pyright: ignore[reportArgumentType]
    return 0


def _export(words: list[str]) -> int:
    """`export SWEEP|TICKET [key=value ...]`: tables, or a ticket for other code."""
    if (asked := _asked("export", words, EXPORT, files=True)) is None:
        return 0
    from lt_sweeps.export import export

    where, given = asked
    _check_keys("export", given, signature(export).parameters)
    export(where, **given)  # pyright: ignore[reportArgumentType]
    return 0


def _import(words: list[str]) -> int:
    """`import KIND PATH [key=value ...]`: what others have computed, as a sweep of ours."""
    if set(HELP) & set(words):
        print(IMPORT)
        return 0
    what = [word for word in words if "=" not in word]
    if len(what) != 2:
        raise Usage(f"import: {len(what)} words given; a kind and a path are two. {IMPORT}")
    from lt_sweeps.importing import import_

    given = dict(word.split("=", 1) for word in words if "=" in word)
    root = Path(given.pop("root", "results"))
    print(import_(what[0], Path(what[1]), root=root, **given))
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "plan": _plan,
    "report": _report,
    "sync": _sync,
    "dashboard": _dashboard,
    "export": _export,
    "import": _import,
}


def _check_keys(verb: str, given: Iterable[str], parameters: Iterable[str]) -> None:
    allowed = {*parameters, "root"} - {"where", "console"}
    for key in given:
        if key not in allowed:
            raise Usage(unknown(verb, key, allowed, what="keys"))


def _asked(
    verb: str, words: list[str], usage: str, *, files: bool = False
) -> tuple[Path, dict[str, str]] | None:
    """The sweep that a verb is for and the keys it is given; None where only help is asked for.

    `files`: whether it may be for a file instead.
    """
    if set(HELP) & set(words):
        print(usage)
        return None
    where = [word for word in words if "=" not in word]
    if len(where) != 1:
        raise Usage(f"{verb}: {len(where)} sweeps given; name one. {usage}")
    given = dict(word.split("=", 1) for word in words if "=" in word)
    root = Path(given.pop("root", "results"))
    if files and Path(where[0]).is_file():
        return Path(where[0]), given
    return _sweep(verb, where[0], root), given


def _sweep(verb: str, name: str, root: Path) -> Path:
    if Path(name).is_dir():
        return Path(name)
    sweeps = root / "sweeps"
    if (sweeps / name).is_dir():
        return sweeps / name
    names = [folder.name for folder in sweeps.iterdir()] if sweeps.is_dir() else []
    raise ValueError(unknown(verb, name, names, what=f"sweeps in {root}"))


def _compose(words: list[str], *, dry_run: bool = False) -> int:
    """Let Hydra compose the words; our launcher, or `_job`, runs what comes of it."""
    flags, overrides = _split(words)
    if set(HELP) & set(flags):  # options of a person's own folder are listed too
        overrides = [word for word in overrides if word.startswith("hydra.searchpath=")]
    elif dry_run:
        overrides.append("dry_run=true")
    # Hydra falls back to a single run where it cannot read the mode for a mistake in the words.
    if not SHOW & set(flags) and "hydra.mode=RUN" not in overrides:
        flags = [flag for flag in flags if flag not in ("-r", "--run", "-m", "--multirun")] + ["-m"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # mistakes reach us as exceptions
    register()
    before, sys.argv = sys.argv, [sys.argv[0], *flags, *overrides]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*is\nnot available|.*is not available")
            _hydra()()
    finally:
        sys.argv = before
    return 0


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Flags (with their values) and overrides; Hydra 1.3 wants them apart."""
    flags, overrides, rest = [], [], iter(words)
    for word in rest:
        name = word.split("=", 1)[0]
        if not word.startswith("-"):
            overrides.append(_override(word))
        elif name not in FLAGS:
            raise Usage(unknown("flag", name, [f for f in FLAGS if f[1] == "-"], what="flags"))
        else:
            flags.append(word)
            if FLAGS[name] and name == word:
                flags += [value for value in [next(rest, None)] if value is not None]
    return flags, overrides


def _override(word: str) -> str:
    key, _, value = word.partition("=")
    if not word.startswith("~") and not value:
        raise Usage(f"{key}: no value given; write {key}=VALUE")
    if key and (CONF / key).is_dir() and not _names(value):
        raise ValueError(unknown(key, value, options(key), what="options"))
    # Every config has the group, so Hydra takes no plus; people write one by habit.
    return word[1:] if key == "+experiment" else word


def _names(value: str) -> bool:
    """Whether Hydra reads it as a name; for a number it would not say of which group."""
    try:
        float(value)
    except ValueError:
        return value.lower() not in ("null", "true", "false")
    return False


def _hydra() -> Callable[[], None]:
    # Hydra 1.3 warns where it is missing, 1.4 where it is given.
    old = tuple(map(int, hydra.__version__.split(".")[:2])) < (1, 4)
    version = {"version_base": "1.3"} if old else {}
    return hydra.main(config_path=str(CONF), config_name="config", **version)(_job)


def _job(config: DictConfig) -> None:
    """One job by itself: `hydra.mode=RUN`, or a launcher that is not ours."""
    from lt_sweeps.launchers import local

    status = _answered(
        lambda: local.launch([from_config(config, cast(DictConfig, HydraConfig.get()))])
    )
    if status:
        sys.exit(status)
