"""The command line answers a mistake in one line, and prints help without importing torch."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import yaml

from lt_sweeps import __version__
from lt_sweeps.__main__ import run
from lt_sweeps.cli.arguments import USAGE
from lt_sweeps.cli.command_line import main
from lt_sweeps.cli.commands import VERBS
from lt_sweeps.cli.completion import SHELLS
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF, complaint, groups, options
from lt_sweeps.execution import local_launcher

CRITERIA = ", ".join(sorted(options("mask_criterion")))
GROUPS = groups()
TOP = {*GROUPS, *yaml.safe_load((CONF / "config.yaml").read_text())}
TOP -= {"hydra", "defaults", "experiment"}
KEYS = ", ".join(sorted(TOP))

Answer = Callable[..., tuple[int, str]]


@pytest.fixture
def answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Answer]:
    """Run words that must not reach the launcher; return the exit status and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_launcher, "launch", _raising(AssertionError("launched")))

    def run(*words: str) -> tuple[int, str]:
        return main(words), capsys.readouterr().err

    level = logging.getLogger().level
    yield run
    logging.getLogger().setLevel(level)  # hydra.verbose sets it for the whole process


def _raising(error: BaseException) -> Callable[..., NoReturn]:
    def launch(cells: list[Cell], **_: object) -> NoReturn:
        raise error

    return launch


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["hydra/sweeper=optuna"],
            "hydra/sweeper: optuna is not installed; pip install hydra-optuna-sweeper",
        ),
        (
            ["hydra/launcher=ray"],
            "hydra/launcher: ray is not installed; pip install hydra-ray-launcher",
        ),
        (
            ["experiment=criteria"],
            "experiment: criteria; did you mean `deconstructing/criteria`? *",
        ),
        (["~tracker"], "~tracker: cannot be removed, since every sweep has one; set tracker=VALUE"),
        (["report", "x", "band=std"], "report.band: got 'std'; *"),
        (["report", "x", "figures=[curvs]"], "report.figures: *did you mean `curves`*"),
        (["compare", "x", "y", "metrics=[acc]"], "report.metrics: *"),
        (
            ["mask_criterion=magnitud"],
            f"mask_criterion: magnitud; did you mean `magnitude_increase`? options: {CRITERIA}",
        ),
        (
            ["mask_criterion=random,magnitud"],
            f"mask_criterion: magnitud; did you mean `magnitude_increase`? options: {CRITERIA}",
        ),
        (["mask_criterion=0.8"], f"mask_criterion: 0.8; options: {CRITERIA}"),
        (
            ["mask_criterio=random"],
            f"mask_criterio: unknown key; did you mean `mask_criterion`? keys: {KEYS}",
        ),
        (
            ["recipe.lrr=1"],
            "recipe.lrr: digits takes no lrr; did you mean `lr`? it takes *length, lr, *",
        ),
        (
            ["recipe.lrr=1,2"],
            "recipe.lrr: digits takes no lrr; did you mean `lr`? it takes *length, lr, *",
        ),
        (
            ["seed=0,1", "recipe.lrr=1"],
            "recipe.lrr: digits takes no lrr; did you mean `lr`? it takes *length, lr, *",
        ),
        (
            ["method=gmp,rigl", "method.evry=1it"],
            "method.evry: gmp takes no evry; did you mean `every`? it takes begin, end, every, "
            "finetune, power, protocol; rigl takes no evry; did you mean `every`? it takes *",
        ),
        (
            ["method=imp,one_shot", "method.finetune=null"],
            "method.finetune: imp takes no finetune; it has no keys; "
            "one_shot takes no finetune; it has no keys",
        ),
        (
            ["mask_criterion=random,movement", "mask_criterion.examples=64"],
            "mask_criterion.examples: random takes no examples; it takes *; movement takes no *",
        ),
        (
            ["method=gmp", "mask_criterion=random"],
            "mask_criterion: gmp takes no mask_criterion; it takes model, dataset, method, "
            "schedule, recipe",
        ),
        (
            ["method=gmp,dense", "reset=rewind,keep"],
            "reset: gmp takes no reset; it takes model, dataset, method, schedule, recipe; "
            "dense takes no reset; it takes model, dataset, method, recipe",
        ),
        *(
            ([f"hydra.{key}"], f"hydra.{key.split('=')[0]}: *; {instead}*")
            for key, instead in {
                "sweep.dir=out": "root=DIR says where",
                "run.dir=out": "root=DIR says where",
                "sweep.subdir=mine": "name=NAME says",
                "job.name=mine": "name=NAME says",
                "job.chdir=true": "the work stays in this folder; give root=",
                "output_subdir=.hydra": "each cell's config is in ROOT/runs/",
                "verbose=true": "`lt-sweeps logs SWEEP CELL` prints the logs",
            }.items()
        ),
        (
            ["+hydra.job.env_set.A=1"],
            "hydra.job.env_set: {'A': *} has no *; export it in the shell*",
        ),
        (
            ["hydra/job_logging=default"],
            "hydra/job_logging: default has no effect with this launcher; `lt-sweeps logs *",
        ),
        (
            ["+hydra.callbacks.mine={_target_:fixtures.job_callback.JobCallback}"],
            "hydra.callbacks.mine: `JobCallback.on_job_end` is not called by this *",
        ),
        (["lr=1"], f"lr: unknown key; did you mean `recipe.lr`? keys: {KEYS}"),
        (["sed=1"], f"sed: unknown key; did you mean `seed`? keys: {KEYS}"),
        (["seed.x=1"], "seed.x: unknown key; seed has no keys"),
        (["seed=3,3"], "seed: 3 given twice; give each seed once"),
        (["plan", "seed=0,3,1,3"], "seed: 3 given twice; give each seed once"),
        (["reset=keep,keep"], "reset: keep given twice; give each value once"),
        (
            ["dataset=synthetic", "dataset.noise=0.5,1,1.0"],
            "dataset.noise: 1 and 1.0 are the same number; give each value once",
        ),
        (
            ["seed=interval(0,1)"],
            "seed: got interval(0,1), a continuous range; list the values as a,b,c or range(n)",
        ),
        (["seed=range(0)"], "seed: range(0) is empty; give at least one value"),
        (
            ["seed=[1,2"],
            "seed=[1,2: not of the form key=value; a value with special characters needs quotes: "
            "key='\"a value\"'",
        ),
        (["name=???"], "name: no value given; write name=VALUE"),
        (["name=${foo}"], "name: Interpolation key 'foo' not found"),
        (
            ["+freeze=zero"],
            "freeze: already has an option; replace it without a plus: freeze=OPTION",
        ),
        (
            ["+freeze=init"],
            "freeze: already has an option; replace it without a plus: freeze=OPTION",
        ),
        (["hydra/launcher=locl"], "hydra/launcher: locl; did you mean `local`? options: *"),
        (
            ["--config-dir=nowhere"],
            "--config-dir: got nowhere; give a folder that holds GROUP/NAME.yaml of your own",
        ),
        (["--cfg", "job", "seed=1,2"], "seed=1,2: several values; this command takes one"),
        (
            ["report", "none_such"],
            "report: none_such; sweeps in results: none, because there is no such folder; "
            "give root=DIR",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_1(answer: Answer, words: list[str], line: str) -> None:
    status, text = answer(*words)
    assert status == 1
    # `*` stands for text that depends on the folder or on installed packages
    expected = ".*".join(map(re.escape, f"error: {line}\n".split("*")))
    assert re.fullmatch(expected, text), text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pln", "seed=1"], "command: pln; did you mean `plan`? commands: *"),
        (["seed="], "seed: no value given; write seed=VALUE"),
        (["seed=1", "recipe"], "recipe: no value given; write recipe=VALUE"),
        (["report", ".", "--chek"], "report: flag: --chek; did you mean `--check`? flags: *"),
        (["report"], "report: got no name; write lt-sweeps report PATH|SWEEP; *"),
        (["paper"], "paper: got no name; write lt-sweeps paper NAME; lt-sweeps paper --help *"),
        (["import", "x"], "import: got x; write lt-sweeps import KIND PATH; *"),
        (
            ["mask_criterion=large_final,", "movement"],
            "mask_criterion: got 'large_final,' and a space, which ends the value; "
            "write mask_criterion=large_final,movement",
        ),
        (
            ["plan", "seed=range(0,", "5)", "reset=keep"],
            "seed: got 'range(0,' and a space, which ends the value; write 'seed=range(0,5)'",
        ),
        (
            ["report", "x", "figures=[curves", ",", "overlap]"],
            "figures: got '[curves' and a space, *; write 'figures=[curves,overlap]'",
        ),
        (["report", ".", "bnd=sd"], "report: bnd; did you mean `band`? keys: *"),
        (["--cofig", "job"], "flag: --cofig; did you mean `--cfg`? flags: --cfg, *"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_line_that_is_no_command_is_status_2(answer: Answer, words: list[str], line: str) -> None:
    status, text = answer(*words)
    assert status == 2
    assert re.fullmatch(".*".join(map(re.escape, f"error: {line}\n".split("*"))), text), text


@pytest.mark.parametrize("key", ["sweep: {dir: out}", "job: {chdir: true}"])
def test_a_key_of_hydra_in_an_experiment_is_refused_too(
    answer: Answer, tmp_path: Path, key: str
) -> None:
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\nhydra: {{{key}}}\n")
    status, text = answer("--config-dir=own", "experiment=mine")
    assert status == 1 and re.fullmatch(r"error: hydra\.(sweep\.dir|job\.chdir): .*\n", text)


def test_a_job_of_hydras_own_obeys_its_folder(answer: Answer, tmp_path: Path) -> None:
    out = f"hydra.run.dir={tmp_path}/there"
    assert "launched" in answer("hydra.mode=RUN", out, "hydra.output_subdir=.hydra")[1]
    assert (tmp_path / "there" / ".hydra" / "config.yaml").exists()


def test_a_mistake_in_an_experiment_is_answered_like_one_in_a_word(
    answer: Answer, tmp_path: Path
) -> None:
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ndefaults: [{override /reset: rewnd}]\n")
    allowed = ", ".join(sorted(options("reset")))
    line = f"reset: rewnd; did you mean `rewind`? options: {allowed}"
    assert answer("--config-dir=own", "experiment=mine") == (1, f"error: {line}\n")


def test_an_experiment_that_is_no_yaml_is_one_line(answer: Answer, tmp_path: Path) -> None:
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("seed: [1\n")
    status, text = answer("--config-dir=own", "experiment=mine")
    assert (status, text.count("\n")) == (1, 1)
    assert "mine.yaml" in text


def test_our_own_value_errors_are_one_line(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    # range checks of a plan are raised inside the package
    source = (
        "def launch(cells, **_): raise ValueError('schedule: sparsity is 80; it lies in [0, 1)')"
    )
    scope: dict[str, Callable[[list[Cell]], int]] = {"__name__": "lt_sweeps.sparsity.schedules"}  # type: ignore
    exec(source, scope)
    monkeypatch.setattr(local_launcher, "launch", scope["launch"])
    assert answer("hydra.mode=RUN") == (1, "error: schedule: sparsity is 80; it lies in [0, 1)\n")


@pytest.mark.parametrize("words", [["mask_criterion=random"], ["hydra.mode=RUN"]])
def test_a_bug_keeps_its_traceback(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    wrong = local_launcher.check_writable  # which takes a path
    monkeypatch.setattr(local_launcher, "launch", lambda cells, **_: wrong(cells))
    status, text = answer(*words)
    assert status == 1
    assert text.startswith("Traceback")
    assert text.endswith("AttributeError: 'list' object has no attribute 'absolute'\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["mask_criterion=no_target"],
            "mask_criterion: mask_criterion/no_target.yaml has no `_target_`, *",
        ),
        (
            ["mask_criterion=empty"],
            "mask_criterion: mask_criterion/empty.yaml has no `_target_`, *",
        ),
        (["model=bare"], "model.net: model/bare.yaml has no `_target_`, *; hint: net: *"),
        (
            ["mask_criterion=absent"],
            "mask_criterion._target_: mask_criterion/absent.yaml: `absent_lab.f` cannot be "
            "imported: No module named 'absent_lab'",
        ),
        (
            ["mask_criterion=unread"],
            "mask_criterion._target_: mask_criterion/unread.yaml: `unread_lab.f` cannot be "
            "imported: unread_lab.py:1: SyntaxError: *",
        ),
        (
            ["method=divides"],
            "method._target_: method/divides.yaml: `divides_lab.f` cannot be imported: "
            "divides_lab.py:2: ZeroDivisionError: division by zero",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_persons_own_code_names_key_yaml_and_line(
    answer: Answer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    line: str,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unread_lab.py").write_text("def f(:\n")
    (tmp_path / "divides_lab.py").write_text("one = 1\none / 0\n")
    for option, text in {
        "mask_criterion/no_target": "norm: true\n",
        "mask_criterion/empty": "",
        "mask_criterion/absent": "_target_: absent_lab.f\n",
        "mask_criterion/unread": "_target_: unread_lab.f\n",
        "method/divides": "_target_: divides_lab.f\n",
        "model/bare": "net: {hidden: [3]}\n",
    }.items():
        path = tmp_path / "own" / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    status, text = answer("--config-dir=own", "seed=0", *words)
    assert status == 1
    assert re.fullmatch(".*".join(map(re.escape, f"error: {line}\n".split("*"))), text), text


def test_a_plugin_of_hydra_that_cannot_be_imported_is_one_line() -> None:
    # Those of Ax and Nevergrad have a mutable default, which Python 3.11 refuses: every command
    # fails, since Hydra imports all plugins that are installed.
    scope = {"__name__": "hydra_plugins.hydra_lab_sweeper.config"}
    with pytest.raises(ValueError) as raised:
        exec(compile("raise ValueError('mutable default')", "config.py", "exec"), scope)
    assert complaint(raised.value) == (
        "hydra-lab-sweeper: this plugin of Hydra cannot be imported: mutable default; "
        "pip uninstall hydra-lab-sweeper"
    )


def test_an_error_in_a_persons_own_function_is_its_line(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_launcher, "launch", lambda cells, **_: json.loads("{"))
    status, text = answer("seed=0")
    assert status == 1
    assert re.fullmatch(r"error: \S+test_command_line\.py:\d+: JSONDecodeError: .*\n", text), text


@pytest.mark.parametrize("words", [["mask_criterion=random"], ["hydra.mode=RUN"]])
def test_the_launchers_status_is_the_exit_status(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(local_launcher, "launch", lambda cells, **_: 75)
    assert answer(*words) == (75, "")


def test_a_persons_code_that_exits_with_a_sentence_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_launcher, "launch", lambda *_, **__: sys.exit("no licence here"))
    assert main(["seed=0"]) == 1
    assert capsys.readouterr().err == "no licence here\n"


def test_an_interrupt_says_how_to_go_on(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_launcher, "launch", _raising(KeyboardInterrupt()))
    assert answer("mask_criterion=random") == (
        130,
        "interrupted; the same command continues from here\n",
    )


@pytest.mark.parametrize("words", ["--help", "plan --help", "--cfg job", "report --help"])
def test_commands_that_only_print_need_no_torch(words: str, tmp_path: Path) -> None:
    code = (
        "import sys; from lt_sweeps.cli.command_line import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules); sys.exit(status)"
    )
    package = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": package},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    "words", [["seed=0"], ["experiment=continuous_sparsification/exact"]], ids=["digits", "cifar10"]
)
def test_a_plan_and_its_data_import_torch_and_no_other_large_library(
    tmp_path: Path, words: list[str]
) -> None:
    code = (
        "import gc, sys; from lt_sweeps.__main__ import run; status = run()\n"
        "from lt_sweeps.data import digits; digits().load()\n"
        "large = {'matplotlib', 'pandas', 'scipy', 'sklearn', 'statsmodels', 'sympy'}\n"
        "assert 'torch' in sys.modules\n"
        "assert not {*large, 'torchvision', 'wandb'} & set(sys.modules)\n"
        "assert gc.get_threshold()[0] > 10_000, 'while 400,000 objects are imported that stay'\n"
        "from lt_sweeps.config.garbage_collection import collect_as_usual; collect_as_usual()\n"
        "assert gc.get_threshold()[0] < 10_000 and gc.get_freeze_count() > 100_000\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", *words, f"root={tmp_path}"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert " distinct" in done.stdout


def test_an_interrupt_while_the_process_ends_is_no_traceback() -> None:
    program = (
        "import atexit, sys, time; from lt_sweeps.__main__ import run\n"
        "atexit.register(lambda: (print('ends', flush=True), time.sleep(60)))\n"
        "sys.argv[1:] = ['--version']; sys.exit(run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background processes with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("lt-sweeps ") and process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (-signal.SIGINT, "")


def test_output_that_nobody_reads_on_is_no_error() -> None:
    command = [sys.executable, "-m", "lt_sweeps", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == b"" and process.returncode == 128 + signal.SIGPIPE


def test_a_narrow_terminal_shows_the_whole_name_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["plan", "seed=0", "mask_criterion=random", f"name={'long' * 20}"]) == 0
    assert "long" * 20 in re.sub(r"\s+", "", capsys.readouterr().out)


def test_a_folder_that_was_removed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert run() == 1
    assert capsys.readouterr().err == "error: the current folder has been removed; cd to another\n"


def test_help_lists_every_option_of_every_group(
    answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = dict(re.findall(r"^([\w/]+): (.+)$", text, re.MULTILINE))
    for group in GROUPS - {"hydra"}:
        for option in options(group):
            folder, _, name = f"{group}/{option}".rpartition("/")
            assert name in listed[folder].split(", "), f"{group}={option}"
    assert not re.search(r"\b_\w+", " ".join(listed.values()))  # fragments are no options


def test_help_names_every_verb_and_the_launchers(
    answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("plan", *VERBS):
        assert re.search(rf"^python -m lt_sweeps {verb} [A-Z\[ ]+\S* +\w+ \w+", text, re.M), verb
    for launcher in options("hydra/launcher"):
        assert f"hydra/launcher={launcher} " in text
    for shell in SHELLS:
        assert f"install={shell}" in text


@pytest.mark.parametrize("verb", ["plan", *VERBS])
def test_help_of_a_verb_is_a_sentence_and_an_example(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(USAGE) == {"plan", *VERBS}
    for words in ([verb, "--help"], ["--help", verb]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: lt-sweeps {verb} ")
        assert re.search(r"^[A-Z][^.:]+[.:;]", text, re.MULTILINE)
        assert re.search(rf"^example: lt-sweeps {verb} \S+", text, re.MULTILINE)
        assert max(map(len, text.splitlines())) <= 100


def test_a_shell_reads_the_example_of_every_verb() -> None:
    lines = re.findall("^example: (.+)$", "\n".join(USAGE.values()), re.MULTILINE)
    assert len(lines) == len(USAGE)
    done = subprocess.run(["bash", "-n"], input="\n".join(lines), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ["recipe.lr=1e-3", "plan"],
        ["--config-dir", "own", "plan", "model=mine"],
        ["-m", "plan", "seed=3"],
        ["seed=0,1", "--multirun", "plan", "--config-dir=own"],
    ],
    ids=" ".join,
)
def test_verbs_flags_and_overrides_go_in_any_order(
    words: list[str], answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    net = "defaults: [fc]\n"
    (tmp_path / "own" / "model" / "mine.yaml").write_text(net)
    launched = list[Cell]()
    monkeypatch.setattr(local_launcher, "launch", lambda cells, **_: launched.extend(cells) or 0)
    assert answer(*words) == (0, "")
    assert launched and all(cell.config["dry_run"] is True for cell in launched)


def test_a_value_of_a_flag_is_no_verb(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = answer("--config-dir", "plan", "seed=0")
    assert status == 1 and "plan" in text
    status, text = answer("root=x", "status", "no_such_sweep")
    assert status == 1 and text.startswith("error: status: ")


def test_the_installed_command_finds_modules_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mylab.py").write_text("def scores(weight, mask):\n    return weight.abs()\n")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script = bin_folder / "lt-sweeps"
    script.write_text("from lt_sweeps.__main__ import run\nrun()\nimport mylab\n")
    done = subprocess.run(
        [sys.executable, str(script), "--version"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_explains_every_key_with_the_comment_of_config_yaml(
    answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    explained = set(re.findall(r"^(\w+)  +\S", capsys.readouterr().out, re.MULTILINE))
    assert explained >= TOP - GROUPS


def test_help_lists_the_options_of_a_persons_own_folder(
    answer: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("net: {_target_: mine.Net}\n")
    assert main(["--help", "--config-dir=own", "seed=1,2"]) == 0
    assert re.search(r"^model: .*\bmine\b", capsys.readouterr().out, re.MULTILINE)


def test_cfg_job_shows_the_config(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seed=7", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["seed"], "hydra" in shown) == (7, False)


def test_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lt-sweeps {__version__}\n"
