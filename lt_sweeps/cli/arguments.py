"""The arguments of each verb of the command line: help text, keys, flags and their parsing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lt_sweeps.config.keys import GROUPS, KEEPS
from lt_sweeps.config.option_files import check_own_options, option_names
from lt_sweeps.config.quantities import names_of
from lt_sweeps.config.report_config import BANDS, FIGURES, KEYS
from lt_sweeps.config.spelling import unknown
from lt_sweeps.storage.sweep_folder import sweep_path

USAGE = {
    "plan": """\
usage: lt-sweeps plan [OVERRIDES]
Shows what a sweep would run, and runs nothing: cells, shared trainings, files and time.
The same OVERRIDES without `plan` run the sweep; `lt-sweeps --help` lists them.
example: lt-sweeps plan mask_criterion=large_final,random 'seed=range(5)'""",
    "report": """\
usage: lt-sweeps report PATH|SWEEP [--check] [root=results] [out=DIR] [layout=FILE.yaml] [KEY=VALUE]
Writes the tables, CSV files, figures and the page of a sweep or a whole root; trains nothing.
KEY: one of conf/report/_keys.yaml: band=ci baseline=random metrics=[test_accuracy] figures=[curves]
--check writes nothing; exit status 1 if the data behind a figure or table have changed
--config-dir DIR: the folder with your own figures; figures=[curves,NAME] draws DIR/figure/NAME.yaml
trust=MODULE allows your own figures that the config of the sweep names
example: lt-sweeps report my_sweep baseline=random band=ci""",
    "compare": """\
usage: lt-sweeps compare A B [by=KEY,KEY] [root=results] [out=DIR] [KEY=VALUE]
Subtracts B from A, level by level, and tests the differences. A and B are sweeps or cells
(runs/SIGNATURE) that differ in one option or key, or in those that `by` names.
KEY: one of conf/report/_keys.yaml: metrics=[test_accuracy] margin=2% family=line, but none that
gives lines a role (baseline, tested, pairs, control, highlight): B is the baseline of A
example: lt-sweeps compare with_sgd with_adam metrics=[test_accuracy]""",
    "paper": """\
usage: lt-sweeps paper NAME [root=results] [out=DIR] [quick=true]
Draws all figures and tables of a paper on one page, from the sweeps under root; missing parts are
marked. NAME: deconstructing or continuous_sparsification; quick=true: from the quick experiments.
exit status: 0 complete, 1 something is missing
example: lt-sweeps paper deconstructing quick=true""",
    "status": """\
usage: lt-sweeps status SWEEP [--watch] [root=results]
Shows the progress of a sweep by level and seed, its failures, and the number of each cell.
--watch repeats this until nothing is running
exit status: 0 complete, 1 something is missing and nothing runs, or all diverged, 3 running
example: lt-sweeps status my_sweep --watch""",
    "logs": """\
usage: lt-sweeps logs SWEEP CELL [root=results]
Prints what was logged while a cell was trained.
CELL: its number in `status`, its name there with the seed, or SIGNATURE/SEED
example: lt-sweeps logs my_sweep "random seed 0\"""",
    "resume": """\
usage: lt-sweeps resume SWEEP [root=results trust=MODULE,...] [KEY=VALUE of the launcher: time=480]
Runs or submits exactly the missing trainings of a sweep, as they were planned.
trust=MODULE: the modules whose functions may run, if the sweep uses your own
example: lt-sweeps resume my_sweep trust=mylab""",
    "cancel": """\
usage: lt-sweeps cancel SWEEP [root=results]
Cancels the Slurm jobs of a sweep, and no other jobs; all stored results stay.
example: lt-sweeps cancel my_sweep""",
    "sync": """\
usage: lt-sweeps sync SWEEP [root=results tracker=wandb|tensorboard|mlflow trust=MODULE] [KEY=VALUE]
Sends the rows of a sweep that a tracker (Weights & Biases, TensorBoard, MLflow) does not have yet.
KEY: one of the tracker: project=lt-sweeps mode=offline; your own tracker needs trust=MODULE
example: lt-sweeps sync my_sweep tracker=wandb project=tickets""",
    "dashboard": """\
usage: lt-sweeps dashboard SWEEP [root=results project=lt-sweeps entity=TEAM] [KEY=VALUE]
Makes the workspace and the report of a sweep in Weights & Biases, with the figures of our report.
KEY: one of conf/report/_keys.yaml: band=ci baseline=random
example: lt-sweeps dashboard my_sweep project=tickets""",
    "export": """\
usage: lt-sweeps export SWEEP|ROOT [root=results out=DIR effective=true trust=MODULE,...
       speed=false batch=256 n=15]
       lt-sweeps export TICKET [form=state_dict|prune|sparse|compact|semi_structured
       at=reported|end out=FILE.pt]
Writes tidy tables of a sweep, for other tools. Or it writes one ticket, which is the file
ROOT/tickets/STAGE/SEED.safetensors: as weights, masks or sparse tensors for torch, as a smaller
dense network, or packed as 2:4.
at=reported: the weights whose accuracy is reported; at=end: the weights at the end of training
speed=true measures the speed of the smaller networks on this machine
--config-dir DIR: the folder with your own form, DIR/export_form/NAME.yaml
example: lt-sweeps export my_sweep out=tables""",
    "audit": """\
usage: lt-sweeps audit SWEEP|ROOT|FILE [root=results sample=8|all repeat=0|all trust=MODULE,MODULE
       out=FILE.json]; FILE: a ticket, a .pt, .pth or .safetensors, or a folder of open_lth
Checks stored results against each other: evaluates `sample` trainings again and trains `repeat`
again; changes no file.
exit status: 0 every check passed, 1 a check failed
example: lt-sweeps audit my_sweep sample=all""",
    "prune-store": """\
usage: lt-sweeps prune-store SWEEP|ROOT [--yes] [root=results keep=reported|records]
Removes the tickets of finished sweeps that no sweep under the root needs: with keep=reported those
that no report reads, with keep=records all. Without --yes it only prints which tickets it would
remove, and the time to compute them again. Records and reports stay as they are.
example: lt-sweeps prune-store results keep=reported""",
    "import": """\
usage: lt-sweeps import KIND PATH [root=results name=NAME model=fc ...]
KIND PATH: open_lth FOLDER
           mask FILE.safetensors [seed=0 level=1 test_accuracy=0.97 ...]
           mcgill FILE.csv [method=supermask ...]  (a published reproduction, to `compare` with)
Imports other people's results as a sweep of ours, which every other command accepts.
--config-dir DIR: the folder with your own importer, DIR/importer/NAME.yaml
example: lt-sweeps import open_lth open_lth_data/lottery_1234 name=theirs""",
}

_BOOLEAN = ("true", "false")
REPORT_WORDS: dict[str, Sequence[str]] = {
    **dict.fromkeys(KEYS, ()),
    "figures": FIGURES,
    "metrics": names_of(()),
    "band": tuple(BANDS),
    "x": ("remaining", "sparsity", "level"),
    "family": ("line", "panel", "figure"),
    "select": ("validation", "test"),
    "lines": GROUPS,
    "panels": GROUPS,
}


def _any_value(words: str) -> dict[str, Sequence[str]]:
    """Keys that accept any value, and flags, which accept none."""
    return dict.fromkeys(words.split(), ())


# The keys and flags of each verb, with their known values. The shell completes file names.
VERB_WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "report": _any_value("root out layout trust --check --config-dir") | REPORT_WORDS,
    "compare": _any_value("root out") | {"by": GROUPS} | REPORT_WORDS,
    "paper": _any_value("root out") | {"quick": _BOOLEAN},
    "status": _any_value("root --watch"),
    "logs": _any_value("root"),
    "resume": _any_value("root trust"),
    "cancel": _any_value("root"),
    "sync": _any_value("root tracker trust"),
    "dashboard": _any_value("root project entity") | REPORT_WORDS,
    "export": {
        **_any_value("root out batch n trust --config-dir"),
        "form": tuple(option_names("export_form")),
        "at": ("reported", "end"),
        "effective": _BOOLEAN,
        "speed": _BOOLEAN,
    },
    "audit": _any_value("root trust out") | {"sample": ("all",), "repeat": ("all",)},
    "prune-store": _any_value("root --yes") | {"keep": KEEPS[1:]},
    "import": _any_value("root name seed level test_accuracy --config-dir"),
}
_TWO_NAMES = ("compare", "logs", "import")
_MORE_KEYS = ("resume", "sync", "dashboard", "export", "import")  # checked by what they call
CONFIG_DIR = ("--config-dir", "-cd")


class Usage(ValueError):
    """A malformed command line; the exit status is 2."""


@dataclass(frozen=True)
class Arguments:
    """The words after a verb: names, values by key, and flags without a value."""

    verb: str
    names: Sequence[str]
    keys: Mapping[str, str]
    flags: Sequence[str]
    root: Path
    config_dir: str | None

    @classmethod
    def of(cls, verb: str, words: Sequence[str]) -> Arguments:
        """Raises: Usage: a flag, a key or the number of names is not what the verb accepts."""
        config_dir, verb_arguments = without_config_dir(words)
        allowed_words = VERB_WORDS[verb]
        flags = [word for word in verb_arguments if word.startswith("-")]
        flags += [*CONFIG_DIR[:1]] * (config_dir is not None)
        if wrong := [flag for flag in flags if flag not in allowed_words]:
            allowed = [*(word for word in allowed_words if word.startswith("-")), "--help"]
            raise Usage(f"{verb}: " + unknown("flag", wrong[0], allowed, what="flags"))
        pairs = [word.split("=", 1) for word in verb_arguments if "=" in word]
        if empty := [key for key, value in pairs if not value]:
            raise Usage(f"{verb}: {empty[0]}: no value given; write {empty[0]}=VALUE")
        arguments = cls(
            verb,
            [word for word in verb_arguments if "=" not in word and word not in flags],
            {key: value for key, value in pairs if key != "root"},
            flags,
            Path(dict(pairs).get("root", "results")),
            config_dir,
        )
        if config_dir is not None:
            check_own_options(config_dir)
        if len(arguments.names) != (2 if verb in _TWO_NAMES else 1):
            given = " ".join(arguments.names) or "no name"
            form = re.match(r"usage: (.*?) ?[\[\n]", USAGE[verb])
            assert form is not None
            raise Usage(
                f"{verb}: got {given}; write {form[1]}; lt-sweeps {verb} --help explains it"
            )
        if verb not in _MORE_KEYS:
            arguments.check_keys()
        return arguments

    @property
    def folder(self) -> Path:
        """The folder of the sweep that is named first.

        Raises: ValueError: there is no such sweep.
        """
        return self.folder_of(self.names[0])

    def folder_of(self, name: str) -> Path:
        """The folder of a sweep or a cell.

        Raises: ValueError: there is no such sweep or cell.
        """
        return sweep_path(name, self.root, where=self.verb)

    def path(self, key: str) -> Path | None:
        """The value of a key as a path; None if it was not given."""
        return Path(self.keys[key]) if self.keys.get(key) else None

    def check_keys(self) -> None:
        """Raises: Usage: the verb has no such key."""
        allowed = [word for word in VERB_WORDS[self.verb] if not word.startswith("-")]
        for key in self.keys:
            if key not in allowed:
                raise Usage(unknown(self.verb, key, allowed, what="keys"))


def without_config_dir(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the folder that `--config-dir` names, or None, and the remaining words.

    Raises: Usage: no folder follows the flag.
    """
    folder, others, remaining = None, list[str](), iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag not in CONFIG_DIR:
            others.append(word)
        elif not (folder := value if equals else next(remaining, "")):
            raise Usage(f"{flag}: got no value; give the folder that holds your options")
    return folder, others
