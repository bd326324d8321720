"""The command line: a verb and its arguments, or the overrides of a multirun for Hydra."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache, partial
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lt_sweeps import __version__
from lt_sweeps.cli.arguments import CONFIG_DIR, USAGE, Usage
from lt_sweeps.cli.commands import HELP, VERBS, run_verb
from lt_sweeps.cli.completion import SHELLS, after_verb, script, settings, typed, with_values
from lt_sweeps.config.cells import from_config
from lt_sweeps.config.errors import CONF, complaint, options
from lt_sweeps.config.keys import GROUPS, MACHINE_KEYS
from lt_sweeps.config.option_files import check_own_options
from lt_sweeps.config.spelling import unknown
from lt_sweeps.execution.hydra_plugins import is_held, register, searches
from lt_sweeps.execution.search_sweep import search_reported
from lt_sweeps.storage.atomic_write import passes

_INTERRUPTED = 130
# Words that people type before overrides by habit. Overrides alone start a sweep.
_NEEDLESS_VERBS = ("run", "train", "sweep", "start", "launch", "fit", "multirun", "experiment")
PLANNING = "planning the sweep ..."
# The flags of Hydra, and whether a value follows them.
_ALONE = "--hydra-help --version --resolve -r --run -m --multirun -sc --shell-completion"
_WITH_VALUE = "-c --cfg -p --package -i --info -cp --config-path -cn --config-name -cd --config-dir"
FLAGS = dict.fromkeys((*HELP, *_ALONE.split()), False) | dict.fromkeys(_WITH_VALUE.split(), True)
_VALUES = {
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(
        ("-i", "--info"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    ),
}
# With one of these flags, Hydra prints something and runs nothing.
SHOW = {*HELP, "--hydra-help", "-sc", "--shell-completion", "-c", "--cfg", "-i", "--info"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit status, which is 0 only for success."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _exit_status(lambda: _command(words))


def _exit_status(run: Callable[[], int]) -> int:
    """Call `run`; turn a user's mistake into one line and an exit status. Bugs show a traceback."""
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe: `lt-sweeps --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except SystemExit as stop:
        if isinstance(stop.code, str):  # as Python does
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        line = complaint(error)
        if line is None and passes(error):
            line = f"disk: {error}; make room, and the same command continues"
        if line is None:
            traceback.print_exc()
        else:
            print(f"error: {line}", file=sys.stderr)
        return 2 if isinstance(error, Usage) else 1


def _command(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"lt-sweeps {__version__}")
        return 0
    if set(words) & {"-sc", "--shell-completion"}:
        return _complete(words)
    _check_spaces(words)
    at = _verb_at(words)
    verb, others = (words[at], words[:at] + words[at + 1 :]) if at is not None else ("", words)
    if verb in VERBS:
        return run_verb(verb, others)
    if verb == "plan":
        return _compose(others, dry_run=True)
    if words and at == 0:
        if verb in _NEEDLESS_VERBS:
            raise Usage(f"command: {verb}; a sweep starts without: lt-sweeps {shlex.join(others)}")
        known = ["plan", *VERBS, "--help", "--version"]
        raise Usage(unknown("command", verb, known, what="commands"))
    return _compose(words)


def _check_spaces(words: list[str]) -> None:
    """Raises: Usage: a space next to `=` or in a list of values has split an override."""
    for number, word in enumerate(words):
        key, _, value = word.partition("=")
        joined = word
        for other in words[number + 1 :]:
            if not _continues(joined, other):
                break
            joined += other
        if joined != word:
            whole = shlex.quote(joined)
            raise Usage(f"{key}: got {value!r} and a space, which ends the value; write {whole}")


def _continues(word: str, other: str) -> bool:
    """Whether `other` looks like the continuation of `word`."""
    if "=" not in word or "=" in other:
        return "=" not in word and other.startswith("=")
    return not other.startswith("-") and (word.endswith((",", "=")) or other.startswith(","))


def _complete(words: list[str]) -> int:
    """Print the completion script of a shell, or the completions of `COMP_LINE`, never an error."""
    asked, _, shell = next((word for word in words if "=" in word), "").partition("=")
    if shell not in SHELLS or asked not in ("install", "query"):
        raise Usage(f"-sc: got {words[-1]}; give install=SHELL for one of {', '.join(SHELLS)}")
    if asked == "install":
        print(script(shell))
        return 0
    given, last = typed(os.environ.get("COMP_LINE", ""))
    at = _verb_at(given)
    with suppress(Exception), redirect_stderr(io.StringIO()):
        if at is not None and given[at] in VERBS:
            completions = list(after_verb(given[at], given[:at] + given[at + 1 :], last))
        elif last.startswith("-"):
            completions = [flag for flag in FLAGS if flag.startswith(last)]
        else:
            verbs = () if at is not None else ("plan", *VERBS)
            completions = [verb for verb in verbs if verb.startswith(last)]
            completions += _proposals([word for n, word in enumerate(given) if n != at], last)
        print("".join(f"{word}\n" for word in dict.fromkeys(completions)), end="")
    return 0


def _proposals(given: list[str], last: str) -> list[str]:
    """Hydra's completions of an override; the last value of `key=a,b` is completed like `key=b`."""
    flags, overrides = _split(given)
    key, _, value = last.partition("=")
    head, comma, part = value.rpartition(",")
    alone = [word.partition(",")[0] for word in overrides if "(" not in word]
    os.environ["COMP_LINE"] = " ".join(["lt-sweeps", *alone, f"{key}={part}" if comma else last])
    with redirect_stdout(io.StringIO()) as shown, suppress(Exception):
        _compose(["-sc", "query=bash", *flags])
    # Hydra does not search the subfolders of a group: experiment=deconstructing/criteria
    nested = [name for name in sorted(options(key.lstrip("+"))) if "/" in name and part in name]
    completions = [*shown.getvalue().split(), *(f"{key}={name}" for name in nested)]
    if comma:
        completions = [f"{key}={head},{word.partition('=')[2]}" for word in completions]
    return [*with_values(last, settings(given)), *completions]


def _verb_at(words: list[str]) -> int | None:
    """The position of the verb: of the first word that is no flag, flag's value or override.

    A word that is not a known verb, such as a mistyped one, counts only if it is the first word.
    """
    value = False
    for number, word in enumerate(words):
        if value or word.startswith(("-", "~")) or "=" in word:
            value = not value and word in _WITH_VALUE.split()
        elif number == 0 or word == "plan" or word in VERBS:
            return number
        else:
            return None
    return None


def _compose(words: list[str], *, dry_run: bool = False) -> int:
    """Let Hydra compose the overrides; our launcher, or `_job`, then runs the cells."""
    flags, overrides = _split(words)
    if dry_run and set(HELP) & set(flags):
        print(USAGE["plan"])
        return 0
    if set(HELP) & set(flags):  # so that the help lists a user's own options too
        overrides = [word for word in overrides if word.startswith("hydra.searchpath=")]
    elif dry_run:
        overrides.append("dry_run=true")
    # If an override is wrong, Hydra may not read `hydra.mode`, and would run a single cell.
    if not SHOW & set(flags) and "hydra.mode=RUN" not in overrides:
        flags = [flag for flag in flags if flag not in ("-r", "--run", "-m", "--multirun")] + ["-m"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
    ours = not SHOW & set(flags) and "-m" in flags
    ours = ours and not any(word.startswith("hydra/sweeper=") for word in overrides)
    register(overrides if ours else ())
    passed = [word for word in overrides if not (ours and is_held(word))]
    argv, sys.argv = sys.argv, [sys.argv[0], *flags, *passed]
    shown = io.StringIO() if set(HELP) & set(flags) else sys.stdout
    if not SHOW & set(flags):
        print(PLANNING, flush=True)  # composing cells and importing torch takes seconds
    try:
        with warnings.catch_warnings(), redirect_stdout(shown), search_reported():
            warnings.filterwarnings("error", message=".*is\nnot available|.*is not available")
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            # Hydra 1.4 warns of each callback that a program does not list, including a user's own.
            warnings.filterwarnings("ignore", message=r"hydra\.utils\.instantiate.* resolved")
            _hydra()()
    finally:  # also if Hydra exits, as it does after its help
        sys.argv = argv
        if isinstance(shown, io.StringIO) and (text := shown.getvalue()):
            print("\n".join(_help(text)))
    return 0


def _help(text: str) -> Iterator[str]:
    """Hydra's help without fragments (`_keys`) and with the comments on the keys in config.yaml."""
    keys = re.findall(
        r"^(\w+):[^#\n]*# (.+)$", (CONF / "config.yaml").read_text("utf-8"), re.MULTILINE
    )
    for line in text.replace("{keys}", "\n".join(f"{k:<17} {v}" for k, v in keys)).splitlines():
        if (group := re.fullmatch(r"([\w/@]+): ?(.*)", line)) is None:
            yield line
        elif names := [name for name in group[2].split(", ") if name and name[0] != "_"]:
            yield f"{group[1]}: {', '.join(names)}"


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Separate flags (with their values) from overrides, as Hydra 1.3 requires."""
    flags, overrides, remaining = [], [], iter(words)
    for word in remaining:
        name, equal, value = word.partition("=")
        if not word.startswith("-"):
            overrides.append(_override(word))
        elif name not in FLAGS:
            key = name.lstrip("-")
            if key.partition(".")[0] in (*GROUPS, *MACHINE_KEYS):
                raise Usage(f"{word}: a key has no dashes; write {key}={value or 'VALUE'}")
            raise Usage(unknown("flag", name, [f for f in FLAGS if f[1] == "-"], what="flags"))
        elif not FLAGS[name]:
            if equal:
                raise Usage(f"{name}: got {value!r}; it takes no value")
            flags.append(name)
        else:
            given = value if equal else next(remaining, "")
            if name in ("-cn", "--config-name") and given.startswith("experiment/"):
                raise Usage(f"{name}: got {given}; write {given.replace('/', '=', 1)}")
            if not given or given not in _VALUES.get(name, (given,)):
                allowed = " or ".join(_VALUES.get(name, ("VALUE",)))
                raise Usage(f"{name}: got {given or 'no value'}; write {name} {allowed}")
            if name in CONFIG_DIR:
                check_own_options(given)
            flags += [name, given]
    return flags, overrides


def _override(word: str) -> str:
    key, _, value = word.partition("=")
    if not key.strip("+~"):
        raise Usage(f"{word}: the name of a key is missing; write KEY=VALUE")
    if word.startswith("~") and key[1:] in (*GROUPS, *MACHINE_KEYS):
        raise ValueError(
            f"{key}: cannot be removed, since every sweep has one; set {key[1:]}=VALUE"
        )
    if not word.startswith("~") and not value:
        raise Usage(f"{key}: no value given; write {key}=VALUE")
    group = key.lstrip("+~").partition("@")[0]
    if value and group and (CONF / group).is_dir():
        _check_option(key, value, options(group))
    # People write the plus by habit; Hydra refuses it, because every config has this group.
    return word[1:] if key == "+experiment" else word


def _check_option(key: str, value: str, allowed: set[str]) -> None:
    """Raises: ValueError: the group has no options, or Hydra does not read the value as a name."""
    if key == "report":
        raise ValueError(f"{key}: got {value}; it has keys and no options: {key}.KEY=VALUE")
    if value[0] == "[" and {*(names := value.strip("[]").replace(" ", "").split(","))} <= allowed:
        raise ValueError(f"{key}: got {value}; to try each, write {key}={','.join(names)}")
    if not _names(value):
        raise ValueError(unknown(key, value, allowed, what="options"))


def _names(value: str) -> bool:
    """Whether Hydra reads the value as a name; for other values its error omits the group."""
    if value[0] in "[{":
        return False
    try:
        float(value)
    except ValueError:
        return value.lower() not in ("null", "true", "false")
    return False


def _hydra() -> Callable[[], None]:
    # Hydra 1.3 warns without `version_base`, Hydra 1.4 warns with it.
    old = tuple(map(int, hydra.__version__.split(".")[:2])) < (1, 4)
    version = {"version_base": "1.3"} if old else {}
    _check_texts_alone()
    return hydra.main(config_path=str(CONF), config_name="config", **version)(_job)


@cache
def _check_texts_alone() -> None:
    """Let Python 3.14 check the help of only those arguments whose help is a text.

    Hydra 1.3 gives `--shell-completion` an object as help, which Python 3.14 refuses.
    """
    if sys.version_info >= (3, 14):
        check = argparse.ArgumentParser._check_help

        def check_text(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
            if isinstance(action.help, str):
                check(parser, action)

        argparse.ArgumentParser._check_help = check_text


def _job(config: DictConfig) -> float | None:
    """Run a single job (`hydra.mode=RUN`, or a launcher that is not ours) and return its objective.

    A failed job of a multirun raises an error, so that the launcher continues with the other jobs.
    """
    from lt_sweeps.execution import local_launcher
    from lt_sweeps.execution.search_trial import by_seed, objective_of

    composed = cast(DictConfig, HydraConfig.get())
    cells, single = by_seed(from_config(config, composed)), composed.mode is not RunMode.MULTIRUN
    # Other launchers start each job separately, and a report may name lines of all jobs.
    launch = local_launcher.launch if single else partial(local_launcher.launch, whole=False)
    status = _exit_status(lambda: launch(cells))
    if status and (single or status == _INTERRUPTED):
        sys.exit(status)
    no_result = single or config.dry_run
    return None if no_result else objective_of(cells, searched=searches(composed))
