"""Tab completion of verbs and their arguments. The scripts of three shells are in this folder.

Each script runs `COMMAND -sc query=SHELL`, with the line up to the cursor in COMP_LINE, and reads
one completion per line. It completes `lt-sweeps` and `python -m lt_sweeps`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from lt_sweeps.cli.arguments import REPORT_WORDS, VERB_WORDS, without_config_dir
from lt_sweeps.config.errors import CONF, options
from lt_sweeps.config.keys import GROUPS, KEEPS, PRECISIONS
from lt_sweeps.config.option_files import option_names
from lt_sweeps.config.papers import paper_names
from lt_sweeps.config.report_config import FIGURES, ROLES
from lt_sweeps.storage.sweep_folder import SweepFolder

SETTINGS: Mapping[str, Sequence[str]] = {
    **{f"report.{key}": values for key, values in REPORT_WORDS.items()},
    "keep": KEEPS,
    "precision": PRECISIONS,
    "device": ("auto", "cpu", "cuda"),
    "profile": ("true", "false", "trace"),
}
"""Values of config keys that are known without torch. Hydra completes the options of groups."""

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The script that a shell runs at its start to enable completion."""
    return "\n" + Path(__file__).with_name(f"completion.{shell}").read_text("utf-8")


def typed(line: str) -> tuple[list[str], str]:
    """The complete words of a line after the command, and the incomplete word at its end."""
    line = re.sub(r"^\s*(\S*python\S*\s+-m\s+)?\S+", "", line, count=1)
    for closed in (line, line + '"', line + "'", line.rstrip("\\")):
        try:
            words = shlex.split(closed)
            break
        except ValueError:  # an open quotation
            continue
    else:
        words = line.split()
    at_new_word = not line or (line[-1].isspace() and not line.endswith("\\ ") and closed == line)
    return (words, "") if at_new_word or not words else (words[:-1], words[-1])


def after_verb(verb: str, given: Sequence[str], last: str) -> Iterator[str]:
    """Yield the completions of `last` after a verb and the words `given`."""
    config_dir, given = _own_options(given)
    keys = dict(word.split("=", 1) for word in given if "=" in word)
    words = _words(verb, keys, config_dir)
    if "=" in last:
        yield from with_values(last, words)
        return
    named = [word for word in given if "=" not in word and not word.startswith("-")]
    proposals = [
        *_names(verb, named, keys, config_dir),
        *(w if w[0] == "-" else f"{w}=" for w in words),
    ]
    yield from (name for name in [*proposals, "--help"] if name.startswith(last))


def settings(given: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """`SETTINGS`, with the figures of the user's folder that the words name."""
    config_dir, _ = _own_options(given)
    return {**SETTINGS, "report.figures": (*FIGURES, *option_names("figure", config_dir))}


def _own_options(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder of the user's options, if the words name an existing one, and the other words."""
    folder, others = without_config_dir(given)
    return (folder if folder and Path(folder).is_dir() else None), others


def with_values(last: str, words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Complete the last value of `figures=[curves,ov` with each known value."""
    key, _, value = last.partition("=")
    part = re.split(r"[\[,]", value)[-1]
    for name in words.get(key, ()):
        if name.startswith(part):
            yield f"{last[: len(last) - len(part)]}{name}"


def _words(
    verb: str, keys: Mapping[str, str], config_dir: str | None
) -> Mapping[str, Sequence[str]]:
    """The keys of a verb, including those of the launcher, the tracker or an imported cell."""
    words = dict(VERB_WORDS[verb])
    if verb == "report":
        words |= {"figures": (*FIGURES, *option_names("figure", config_dir))}
    elif verb == "compare":
        words = {key: values for key, values in words.items() if key not in ROLES}
    elif verb == "export":
        words |= {"form": tuple(option_names("export_form", config_dir))}
    elif verb == "resume":
        words |= dict.fromkeys(_keys_of("hydra/launcher/slurm"), ())
    elif verb == "sync":
        tracker = keys.get("tracker", "wandb")
        if tracker in options("tracker"):
            words |= dict.fromkeys(_keys_of(f"tracker/{tracker}"), ())
        words |= {"tracker": tuple(sorted(options("tracker") - {"none"}))}
        words |= {"mode": ("online", "offline")} if "mode" in words else {}
    elif verb == "import":
        words |= {group: tuple(sorted(options(group))) for group in GROUPS}
    return words


def _keys_of(option: str) -> list[str]:
    return [
        key for key in yaml.safe_load((CONF / f"{option}.yaml").read_text("utf-8")) if key[0] != "_"
    ]


def _names(
    verb: str, named: Sequence[str], keys: Mapping[str, str], config_dir: str | None
) -> Iterable[str]:
    """The names that a verb accepts: sweeps, cells of a sweep, papers, or kinds of results."""
    if verb == "import":
        return () if named else tuple(option_names("importer", config_dir))
    if verb == "paper":
        return () if named else paper_names()
    root = Path(keys.get("root", "results"))
    if verb == "logs" and named:
        from lt_sweeps.cli.status_view import cell_names

        sweep = SweepFolder(root / "sweeps" / named[0])
        return cell_names(sweep) if len(named) == 1 and sweep.exists else ()
    if len(named) >= (2 if verb == "compare" else 1):
        return ()
    return sorted(path.name for path in root.glob("sweeps/*/"))
