"""Mistakes of a newcomer: each is one line and exit status 1 or 2, and nothing starts."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.errors import complaint, yaml_value
from lt_sweeps.execution.submission import Submission

WRONG = {
    # types, ranges and spellings
    "recipe.length=10": "recipe.length: got 10; give a duration with its unit, such as 10ep or",
    "reset.to=5": "reset.to: got 5; give a duration with its unit, such as 10ep or 500it",
    "method=imp_continued method.to=5": "method.to: got 5; give a duration with its unit",
    "recipe.lr=abc": "recipe.lr: got 'abc'; give a number",
    "recipe.lr=nan": "recipe.lr: got nan; give a finite number",
    "recipe.batch_size=0": "recipe.batch_size: got 0; give 1 to 1137 images",
    "recipe.milestones=5ep": "recipe.milestones: got '5ep'; give a list of: a duration",
    "seed=-1": "seed: got -1; give a whole number from 0 up",
    "seed=0-4": "seed: got '0-4'; give a whole number from 0 up; several are seed=0,1,2",
    "seed={a:1}": "seed: got {'a': 1}; give a whole number",
    "budget.gpu_hours=nan": "budget.gpu_hours: got nan; give hours, or null for no limit",
    "workers=two": "workers: got 'two'; give `auto` or a whole number",
    "device=gpu": "device: got 'gpu', which this machine lacks",
    "dataset=synthetic model=recurrent backend=chain": "backend: `chain` has only flatten, linear ",
    "model=fc,resnet20 backend=chain": "backend: `chain` has only *; `loop` can compute ResNet",
    "model=recurrent backend=vmap": "backend: `vmap` has no rule for LSTM; `loop` can compute it",
    "dataset=diabetes recipe.batch_size=32 backend=chain": "backend: `chain` has only the cross ",
    "model=resnet20 precision=bf16 backend=vmap": "backend: `vmap` has no rule for BatchNorm2d in ",
    "precision=fp16": "precision: got 'fp16'; did you mean `bf16`? give one of float32, tf32",
    "schedule.sparsity=0.9": "schedule: got levels=12 and sparsity=0.9; *: schedule.levels=null ",
    "schedule=one_shot schedule.sparsity=90": "schedule: sparsity 90 lies outside [0, 1); did you",
    "model.net.hidden=[0]": "model: FC(hidden=[0]) has no weights in",
    "model.net.hidden=[a]": "model.net.hidden: got ['a']; give a list of: a whole number",
    # a group
    "model=fc.yaml": "model: got fc.yaml; write model=fc",
    "recipe=digits,./digits": "recipe: got ./digits; write recipe=digits",
    "experiment=deconstructing//mask_1_quick.yaml": "experiment: got *; write experiment=decon",
    "hydra/launcher=local.yaml": "hydra/launcher: got local.yaml; write hydra/launcher=local",
    "model=[1,2]": "model: [1,2]; options: ",
    "model={a:1}": "model: {a:1}; options: ",
    "model=null": "model: null; options: ",
    "recipe@=3": "recipe@: 3; options: ",
    "report=3": "report: got 3; it has keys and no options: report.KEY=VALUE",
    "report=first": "report: got first; it has keys and no options: report.KEY=VALUE",
    "model=[fc,conv2]": "model: got [fc,conv2]; to try each, write model=fc,conv2",
    "model=FC": "model: FC; did you mean `fc`?",
    "model.net=3": "model.net: got 3; give a `_target_` and its arguments",
    "model.kinds={foo:conv}": "model.kinds.foo: unknown key; model.kinds has no keys; to add one, ",
    "seeds={int:3}": "seeds.int: unknown key; did you mean `seeds.init`?",
    "experiment=deconstructing": "experiment: deconstructing; options: deconstructing/bimodal",
    "experiment=deconstructing/figure_3": "experiment: deconstructing/figure_3; options: ",
    "--config-dir=taken recipe=digits": "*taken/recipe/digits.yaml: lt_sweeps has *",
    "hydra.searchpath=[file://taken] schedule=global": "*taken/recipe/digits.yaml: lt_sweeps has*",
    "--config-dir=own experiment=noslash": "experiment/noslash: a group begins with a slash: ",
    "--config-dir=own experiment=nopackage": "experiment/nopackage: begin the file with `# @",
    "--config-dir=own experiment=nothing": "experiment: begin your yaml with `# @package",
    "--config-dir=own mask_criterion=room": "mask_criterion._target_: mask_criterion/room.yaml: *"
    "`lt_sweeps.sparsity.criteria` is a module; give a function in it",
    "--config-dir=own mask_criterion=star": "mask_criterion._target_: *: `os.path.join` takes ",
    "--config-dir=own experiment=value": "reset: got 'keep'; *override /reset: keep",
    "--config-dir=own recipe=nokeys": "recipe: recipe/nokeys.yaml has no `_target_`, *; hint: ",
    "--config-dir=own tracker=event": "tracker: `threading.Event` lacks every, per_minute, linger,",
    "--config-dir=own hydra/launcher=bare": "hydra: the yaml of hydra/launcher or hydra/sweeper ",
    "--config-name experiment/a/b": "--config-name: got experiment/a/b; write experiment=a/b",
    # one value or several, a key without a value, and a plus or tilde too many
    "seed=[0,1]": "seed: got [0, 1]; give a whole number from 0 up; several are seed=0,1,2",
    "seeds=5": "seeds: got 5; give a role its own seed, such as seeds.init=7 ",
    "recipe.lr=[0.1,0.2]": "recipe.lr: got [0.1, 0.2]; *to try each, write 0.1,0.2 without",
    "model.net.hidden=64": "model.net.hidden: got 64; *did you mean [64]?",
    "tracker.project=x": "tracker.project: unknown key; tracker has no keys; tracker=wandb has it",
    "hydra.launcher.partition=x": "hydra.launcher.partition: *; hydra/launcher=slurm has it",
    "method.rewind=2ep": "method.rewind: imp takes no rewind; it has no keys",
    "method=magnitude method.to=2ep": "method.to: got 2ep; with its other keys as they are, ",
    "method=imp_continued method.to=1it": "method.to: got 1it; with its other keys as they are, ",
    "hydra/launcher=slurm method=magnitude method.restart=true": "method.restart: got True; ",
    "partition=gpu": "partition: unknown key; did you mean `hydra.launcher.partition`? keys: ",
    "+recpie=3": "recpie: unknown key; did you mean `recipe`? keys: ",
    "+recipe.lr=3": "+recipe.lr: this key exists already; write recipe.lr=VALUE without a plus",
    "~foo": "~foo: no such key",
    "--config-dir=. model=latin": "*model/latin.yaml: invalid start byte at byte 0; save it as",
    "experiment=criteria": "experiment: criteria; did you mean `deconstructing/criteria`?",
    # no key, no value, a tilde
    "=3": "=3: the name of a key is missing; write KEY=VALUE",
    "+": "+: the name of a key is missing; write KEY=VALUE",
    "~": "~: the name of a key is missing; write KEY=VALUE",
    "name=": "name: no value given; write name=VALUE",
    "name= x": "name: got '' and a space, which ends the value; write name=x",
    "name =x": "name: got '' and a space, which ends the value; write name=x",
    "name = x": "name: got '' and a space, which ends the value; write name=x",
    "seed=0,": "seed=0,: a comma has no value on one side",
    "'seed=0 name=x'": "seed=0 name=x: several overrides in one; give each by itself",
    "--recipe.lr=3": "--recipe.lr=3: a key has no dashes; write recipe.lr=3",
    "name=é": "name=é: not of the form key=value",
    "name=../x": "name: '../x' cannot name a folder",
    f"name={'x' * 300}": f"name: '{'x' * 80}' cannot name a folder",
    "data_dir=~/data": "data_dir: got ~/data; write data_dir=$HOME/..., since no shell replaces ~",
    "hydra.mode=FOO": "Error merging override hydra.mode=FOO: Invalid value 'FOO', expected one of",
    # flags
    "--config-dir": "--config-dir: got no value; write --config-dir VALUE",
    "--cfg": "--cfg: got no value; write --cfg job or hydra or all",
    "--cfg foo": "--cfg: got foo; write --cfg job or hydra or all",
    "--info=x": "--info: got x; write --info all or config or defaults",
    "--multirun=3": "--multirun: got '3'; it takes no value",
    "--config-dir afile": "--config-dir: got afile; give a folder that holds ",
    "--config-path afile": "--config-path: no such config; looked in ",
    "schedule=one_shot schedule.sparsity=90%": "schedule.sparsity: got '90%'; give a number; did",
    # files and folders
    "root=/proc/nope": "root: /proc/nope cannot be written: ",
    "root=afile": "root: afile cannot be written: Not a directory",
    "hydra/launcher=slurm root=afile": "root: *afile cannot be written: Not a directory",
    "dataset=image_folder": "dataset.path: no value given; write dataset.path=VALUE",
    "dataset=image_folder dataset.path=afile": "image_folder: `afile` is not a folder; ",
    "dataset=image_folder dataset.path=afolder": "image_folder: `afolder` has 0 class folders",
}
WRONG_OF_A_VERB = {
    "foo": "command: foo; commands: --help, --version, audit, cancel",
    "help": "command: help; did you mean `--help`?",
    "run": "command: run; a sweep starts without: lt-sweeps \n",
    "train seed=0 'name=a b'": "command: train; a sweep starts without: lt-sweeps seed=0 'name=*'",
    "report": "report: got no name; write lt-sweeps report PATH|SWEEP; ",
    "report afile": "report: afile; sweeps in results: none",
    "report afolder --config-dir=afile": "--config-dir: got afile; give a folder that holds ",
    "report first root=afolder": "report: first; sweeps in afolder: none\n",
    "report first root=nowhere": "report: first; sweeps in nowhere: none, because there is no ",
    "report afolder layout=nowhere.yaml": "layout: nowhere.yaml: No such file or directory; give ",
    "report afolder layout=afolder": "layout: afolder: Is a directory; give a yaml with keys ",
    "report afolder layout=bad.yaml": 'while parsing a flow sequence in "bad.yaml", line 1',
    "report afolder alpha=[": "alpha: got [; close the brackets and quotes of a value",
    "report afolder metrics=": "report: metrics: no value given; write metrics=VALUE",
    "export afolder out=": "export: out: no value given; write out=VALUE",
    "report afolder ylim=3": "report.ylim: got 3; give [lower, upper] in the records' unit",
    "report afolder figures=curves,x": "report.figures: got 'curves,x'; did you mean `curves`?",
    "compare afolder": "compare: got afolder; write lt-sweeps compare A B; ",
    "compare afolder afolder": "compare: afolder is given twice; give two sweeps",
    "paper deconstructing quick=maybe": "paper: got quick=maybe; give true or false",
    "status afile": "status: afile; sweeps in results: none",
    "status afolder": "afolder/manifest.json: missing; a sweep's folder holds it",
    "logs afolder 0": "afolder/manifest.json: missing; a sweep's folder holds it",
    "logs afolder -1": "logs: flag: -1; flags: --help",
    "resume nowhere": "resume: nowhere; sweeps in results: none",
    "sync nowhere": "sync: nowhere; sweeps in results: none",
    "export afile": "export: afile is not a ticket",
    "export afolder at=end": "export: at=end is for a ticket; afolder is a folder",
    "export nowhere.safetensors": "export: nowhere.safetensors; sweeps in results: none",
    "audit afile": "audit: *afile* ",
    "audit afolder sample=-1": "audit: sample=-1; give a number of trainings, or all",
    "prune-store afolder keep=x": "keep: got 'x'; give one of",
    "import foo bar": "import: foo; options: ",
    "import mask afile": "import: afile ",
    "import open_lth nowhere": "import: nowhere does not exist",
    "import mcgill afolder": "import: afolder is not ",
}


OWN = {
    "experiment/noslash.yaml": "# @package _global_\ndefaults: [override reset: keep]\n",
    "experiment/nopackage.yaml": "defaults: [override /reset: keep]\n",
    "experiment/nothing.yaml": "model: fc\n",
    "mask_criterion/room.yaml": "_target_: lt_sweeps.sparsity.criteria\n",
    "mask_criterion/star.yaml": "_target_: os.path.join\n",
    "experiment/value.yaml": "# @package _global_\nreset: keep\n",
    "recipe/nokeys.yaml": "optimizer: sgd\n",
    "tracker/event.yaml": "_target_: threading.Event\n",
    "hydra/launcher/bare.yaml": "partition: a\n",
}


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that answers a mistake."""
    status, err = main(words), capsys.readouterr().err
    assert status in (1, 2)
    assert err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("hello")
    (tmp_path / "bad.yaml").write_text("x: [1")
    (tmp_path / "afolder").mkdir()
    (tmp_path / "taken" / "recipe").mkdir(parents=True)
    (tmp_path / "taken" / "recipe" / "digits.yaml").write_text("defaults: [_keys]\nlr: 7.0\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "latin.yaml").write_bytes(b"\xff\xfe")
    for name, text in OWN.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)


def starts(line: str, expected: str) -> bool:
    head, _, tail = expected.partition("*")
    return line.startswith(head) and tail.replace("*", "") in line


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_word_of_a_sweep_is_one_line(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(Submission, "freeze", launched)
    given = shlex.split(words)
    seed = [] if words.startswith("seed") else ["seed=0"]
    line = answer(["mask_criterion=random", *seed, *given], capsys)
    assert starts(line, WRONG[words]), line


def test_a_key_that_one_cell_of_a_sweep_reads_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    words = "plan method=magnitude mask_criterion=random seed=0 method.to=2ep schedule.levels=1"
    assert main([*shlex.split(words), "method.protocol=prune,ticket"]) == 0
    assert "cells      2" in capsys.readouterr().out


@pytest.mark.parametrize("words", WRONG_OF_A_VERB)
def test_a_wrong_word_of_a_verb_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = answer(shlex.split(words), capsys)
    assert starts(line, WRONG_OF_A_VERB[words]), line


def test_a_typed_number_with_an_exponent_is_a_number() -> None:
    assert yaml_value("alpha", "1e-1") == 0.1
    assert yaml_value("ylim", "[1e-1,1]") == [0.1, 1]


def test_memory_that_is_not_there_is_one_line() -> None:
    torchs = (
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    )
    line = complaint(RuntimeError(torchs))
    assert line == "memory: can't allocate memory: you tried to allocate 9 bytes."
    assert complaint(MemoryError("an array")) == (
        "memory: an array; there is not enough on this machine"
    )
