"""Tab completion: what a verb can be followed by, and the scripts that ask for it in three shells.

Each script asks `COMMAND -sc query=SHELL`, with the line up to the cursor in COMP_LINE, and reads
one proposal a line. It answers for `lt-sweeps` and for `python -m lt_sweeps`.
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
from lt_sweeps.config.report_config import FIGURES
from lt_sweeps.storage.sweep_folder import SweepFolder

SETTINGS: Mapping[str, Sequence[str]] = {
    **{f"report.{key}": values for key, values in REPORT_WORDS.items()},
    "keep": KEEPS,
    "precision": PRECISIONS,
    "device": ("auto", "cpu", "cuda"),
    "profile": ("true", "false", "trace"),
}
"""The values of keys of the config that are known without torch; Hydra knows those of groups."""


def typed(line: str) -> tuple[list[str], str]:
    """The words behind the command of a line, and the part of a word at its end."""
    line = re.sub(r"^\s*(\S*python\S*\s+-m\s+)?\S+", "", line, count=1)
    for closed in (line, line + '"', line + "'", line.rstrip("\\")):
        try:
            words = shlex.split(closed)
            break
        except ValueError:  # a quotation that goes on
            continue
    else:
        words = line.split()
    between = not line or (line[-1].isspace() and not line.endswith("\\ ") and closed == line)
    return (words, "") if between or not words else (words[:-1], words[-1])


def after_verb(verb: str, given: Sequence[str], last: str) -> Iterator[str]:
    """What can stand in the place of `last`, behind a verb and the words that were given."""
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
    """`SETTINGS`, with the figures of a person's folder that the words name."""
    config_dir, _ = _own_options(given)
    return {**SETTINGS, "report.figures": (*FIGURES, *option_names("figure", config_dir))}


def _own_options(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder of a person's options, if the words name one that is there, and other words."""
    folder, others = without_config_dir(given)
    return (folder if folder and Path(folder).is_dir() else None), others


def with_values(last: str, words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """`figures=[curves,ov` with each known value in the place of its last one."""
    key, _, value = last.partition("=")
    part = re.split(r"[\[,]", value)[-1]
    for name in words.get(key, ()):
        if name.startswith(part):
            yield f"{last[: len(last) - len(part)]}{name}"


def _words(
    verb: str, keys: Mapping[str, str], config_dir: str | None
) -> Mapping[str, Sequence[str]]:
    """The keys of a verb, with those of the launcher, of the tracker or of an imported cell."""
    words = dict(VERB_WORDS[verb])
    if verb == "report":
        words |= {"figures": (*FIGURES, *option_names("figure", config_dir))}
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
    """What a verb is about: sweeps, the cells of one, papers, or kinds of results."""
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


SCRIPTS = {
    "bash": r"""
_lt_sweeps() {
    local line=${COMP_LINE:0:COMP_POINT} command=("$1") word found=() one
    COMPREPLY=()
    if [[ ${1##*/} == python* ]]; then
        [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == lt_sweeps && COMP_CWORD -gt 2 ]] || return
        command+=(-m lt_sweeps)
    fi
    mapfile -t found < <(COMP_LINE=$line "${command[@]/#\~/$HOME}" -sc query=bash 2>/dev/null)
    word=${COMP_WORDS[COMP_CWORD]}
    for one in "${found[@]}"; do
        # Bash has split the word at its "=", and keeps what stands before it.
        [[ ${line##*[[:space:]]} == *=* && $COMP_WORDBREAKS == *=* ]] && one=${one#*=}
        [[ $one == *' '* && $word != [\"\']* ]] && printf -v one %q "$one"
        COMPREPLY+=("$one")
    done
    [[ ${#COMPREPLY[@]} -ne 1 || $COMPREPLY == *[=.] ]] && compopt -o nospace
}
complete -o bashdefault -o default -F _lt_sweeps lt-sweeps python python3
""",
    "zsh": r"""
autoload -Uz compinit && (( $+functions[compdef] )) || compinit
_lt_sweeps() {
    local -a command found ends
    command=($words[1])
    if [[ ${words[1]:t} == python* ]]; then
        if [[ $words[2] != -m || $words[3] != lt_sweeps ]] || (( CURRENT < 4 )); then
            (( $+functions[_python] )) && _python || _default
            return
        fi
        command+=(-m lt_sweeps)
    fi
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    found=(${(f)"$(COMP_LINE=$line $command -sc query=zsh 2>/dev/null)"})
    ends=(${(M)found:#*[=.]})
    found=(${found:#*[=.]})
    (( $#found + $#ends )) || { compset -P '*='; _files; return }
    compadd -S '' -a ends
    compadd -a found
}
compdef _lt_sweeps lt-sweeps python python3
""",
    "fish": r"""
function __lt_sweeps
    set -l words (commandline -opc)
    set -l command $words[1]
    string match -q '*python*' $command; and set command $words[1..3]
    set -l found (COMP_LINE=(commandline -cp) $command -sc query=fish 2>/dev/null)
    set -l key (string match -r '^.*=' -- (commandline -ct); or echo)
    set -l file (string replace -r '^.*=' '' -- (commandline -ct))
    test -z "$found"; and set found $key(__fish_complete_path $file)
    string join \n -- $found
end
function __lt_sweeps_module
    set -l words (commandline -opc)
    test (count $words) -ge 3; and test "$words[2] $words[3]" = '-m lt_sweeps'
end
complete -c lt-sweeps -f -a '(__lt_sweeps)'
complete -c python -n __lt_sweeps_module -f -a '(__lt_sweeps)'
complete -c python3 -n __lt_sweeps_module -f -a '(__lt_sweeps)'
""",
}
