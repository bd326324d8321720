"""CPU seconds of whole commands, including start and end, against goals, a base and open_lth.

    python tests/benchmarks/whole_commands.py --rounds 3
    python tests/benchmarks/whole_commands.py --base FOLDER --out table.json plan again
    python tests/benchmarks/whole_commands.py --open-lth FOLDER --data FOLDER lenet lenet_stacked

`--base` is another checkout of this repository, and `--open-lth` one of facebookresearch/open_lth
that runs with the installed torch; `--data` holds MNIST. Each command runs in an empty folder. All
of its processes count, also those that it does not wait for. Commands of the two checkouts take
turns, round by round, because the speed of machines drifts; the table has medians. `units` are
multiples of `import torch` in the same round. On a loaded machine, clock time and memory mean
little.

This works on Linux only: processes that a command leaves behind are adopted with
PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[2]
TEN = "mask_criterion=large_final,random seed=0,1 schedule.levels=2 recipe.length=20it root=results"
LENET = (
    "dataset=mnist recipe=deconstructing_fc recipe.length=3ep recipe.evaluate_every=1ep "
    "schedule.levels=2 mask_criterion=large_final workers=1 root=results data_dir={data}"
)
OPEN_LTH = (
    "lottery --default_hparams=mnist_lenet_300_100 --levels=2 --training_steps=3ep "
    "--num_workers=0 --batch_size=60 --optimizer_name=adam --lr=0.0012"
)


@dataclass(frozen=True)
class Cost:
    """The cost of one command: seconds of all its processes, seconds of the clock, and peak MiB.

    The memory is that of the largest process, not of all together.
    """

    cpu: float
    wall: float
    memory: float


@dataclass(frozen=True)
class Command:
    """A command of lt_sweeps: its words, the command that must run before it, and its goal.

    `before` are the words of a command that runs first in the same folder. `goal` is in multiples
    of `import torch`, or in seconds of the clock or of CPU, as `unit` says.
    """

    words: str
    goal: float
    unit: str = "units"
    before: str = ""
    prepare: Callable[[Path], None] | None = None
    replicates: int = 1


def _many_runs(folder: Path) -> None:
    """The records of 5,000 runs of three lines, 13 levels each."""
    sys.path.insert(0, str(HERE / "tests"))
    from fixtures.fake_results import FakeSweep

    sweep = FakeSweep(folder / "results", "many")
    names = ["dense", *(f"level{level}" for level in range(1, 13))]
    for number in range(5_000):
        line, seed = number % 3, number // 3
        # Some spread, and not two lines alike.
        accuracies = [0.95 - 0.001 * (line + 1) * n + (seed * 31 + n) % 97 / 1e4 for n in range(13)]
        sweep.cell(
            f"{line:016}",
            seed,
            accuracies=list(accuracies),
            stages=["dense", *(f"{line}-{name}" for name in names[1:])],
            choices={"mask_criterion": f"criterion{line}"},
            freeze=False,
        )
    sweep.freeze()


COMMANDS = {
    "plan": Command("plan root=results", 1.3),
    "ten": Command(TEN, 4),
    "again": Command(TEN, 1.3, before=TEN),
    "default": Command("root=results", 25, "wall"),
    "report": Command("report results/sweeps/many", 20, "cpu", prepare=_many_runs),
    "lenet": Command(f"{LENET} seed=0", 5, "open_lth"),
    "lenet_stacked": Command(f"{LENET} seed=0,1,2,3,4", 10, "open_lth", replicates=5),
}


def measure(argv: Sequence[str], folder: Path, code: Path, **environment: str) -> Cost:
    """Run a command to the end of its last process; raises if it fails."""
    # In a process of its own, because what the system counts of descendants only grows.
    words = [sys.executable, __file__, "--child", *argv]
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Cost(**json.loads(done.stdout))


def _child(argv: Sequence[str]) -> None:
    """Run a command, adopt the processes that it leaves behind, and print the cost of all."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    begun = time.monotonic()
    with open("output.txt", "ab") as output:
        first = subprocess.Popen(argv, stdout=output, stderr=output)
    status, wall = 0, 0.0
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, ended = os.wait()
            if pid == first.pid:
                status, wall = os.waitstatus_to_exitcode(ended), time.monotonic() - begun
    first.returncode = status
    if status:
        sys.exit(f"{' '.join(argv)}: status {status}; see {Path('output.txt').absolute()}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps(asdict(Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024))))


def _run(command: Command, code: Path, data: Path) -> Cost:
    with tempfile.TemporaryDirectory() as made:
        folder, module = Path(made), [sys.executable, "-m", "lt_sweeps"]
        if command.prepare is not None:
            command.prepare(folder)
        if command.before:
            measure([*module, *command.before.split()], folder, code)
        return measure([*module, *command.words.format(data=data).split()], folder, code)


def _open_lth(code: Path, data: Path) -> Cost:
    with tempfile.TemporaryDirectory() as made:
        datasets = Path(made, "open_lth_datasets")  # it looks there, in a person's home
        datasets.mkdir()
        (datasets / "mnist").symlink_to(data)
        words = [sys.executable, str(code / "open_lth.py"), *OPEN_LTH.split()]
        return measure(words, Path(made), code, HOME=made)


Measured = dict[str, dict[str, list[Cost]]]
"""By command and checkout, the cost in each round."""


def _table(measured: Measured) -> str:
    torch = median(cost.cpu for cost in measured["import torch"]["now"])
    lines = ["| command | goal | checkout | CPU s | units | clock s | MiB | n |", "|---" * 8 + "|"]
    for name, checkouts in measured.items():
        command = COMMANDS.get(name)
        goal = f"{command.goal:g} {command.unit}" if command else ""
        for checkout, costs in checkouts.items():
            cpu, wall = (median(getattr(c, key) for c in costs) for key in ("cpu", "wall"))
            memory = median(cost.memory for cost in costs)
            cells = f"{cpu:.2f} | {cpu / torch:.2f} | {wall:.1f} | {memory:.0f} | {len(costs)}"
            lines.append(f"| {name} | {goal} | {checkout} | {cells} |")
            if command and command.unit == "open_lth" and "open_lth" in measured:
                theirs = median(cost.cpu for cost in measured["open_lth"]["open_lth"])
                times = theirs * command.replicates / cpu
                lines.append(f"| {name}: per replicate | {goal} | {checkout} | {times:.1f}x |||||")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU seconds of whole commands")
    parser.add_argument("commands", nargs="*", metavar="command", help=", ".join(COMMANDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--open-lth", type=Path, help="a checkout of open_lth")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of MNIST")
    parser.add_argument("--out", type=Path, help="a file for all costs, as JSON")
    options = parser.parse_args()
    chosen = options.commands or [name for name in COMMANDS if not name.startswith("lenet")]
    if unknown := [name for name in chosen if name not in COMMANDS]:
        parser.error(f"got {unknown[0]}; commands are {', '.join(COMMANDS)}")
    checkouts = {"now": HERE} | ({"before": options.base.resolve()} if options.base else {})
    measured: Measured = {"import torch": {"now": []}}
    measured |= {name: {checkout: [] for checkout in checkouts} for name in chosen}
    if options.open_lth:
        measured["open_lth"] = {"open_lth": []}
    for _ in range(options.rounds):
        torch = [sys.executable, "-c", "import torch"]
        with tempfile.TemporaryDirectory() as folder:
            measured["import torch"]["now"].append(measure(torch, Path(folder), HERE))
        for name in chosen:
            for checkout, code in checkouts.items():
                cost = _run(COMMANDS[name], code, options.data.resolve())
                measured[name][checkout].append(cost)
                print(f"{name}, {checkout}: {cost}", file=sys.stderr, flush=True)
        if options.open_lth:
            measured["open_lth"]["open_lth"].append(
                _open_lth(options.open_lth.resolve(), options.data.resolve())
            )
        if options.out:
            found = {n: {c: [*map(asdict, v)] for c, v in m.items()} for n, m in measured.items()}
            options.out.write_text(json.dumps(found, indent=1))
    print(_table(measured))


if __name__ == "__main__":
    _child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
