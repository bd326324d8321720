"""Sweeps under random faults: no result may be lost, doubled, different, or silently wrong.

    python tests/campaign/campaign.py --minutes 30
    python tests/campaign/campaign.py --faults 40 --seed 3 --kinds kill,truncate --folder /tmp/f
    python tests/campaign/campaign.py --slurm --minutes 30    # after launch/slurm/cluster.sh up

Each round runs a small sweep of another method in its own folder, and injects faults at random
moments: it kills, stops or interrupts any of the processes, fills the disk, sets the clock, starts
a second launcher on the same root, and truncates, flips, empties, deletes or swaps files of every
kind. A stopped launcher is started again with the same command line, as a user would. At the end
of a round

- the same command ends with exit status 0 (otherwise the round is *unfinished*);
- every unit exists (otherwise *lost*), and none was computed twice unless its file had been damaged
  (otherwise *doubled*);
- tickets, records and configs equal those of an undisturbed run byte for byte (otherwise
  *different*);
- no process wrote a traceback, and none hung;
- `audit` of a finished root names each file that was damaged since (otherwise *silent*).

With `--slurm` the sweeps are submitted to a real Slurm, with the faults of clusters: requeue,
preemption, a time limit, scancel, a lost node, a killed batch shell, supervisor or worker, a full
disk.

Everything is drawn from `--seed`, but the moment of a fault depends on the machine. The table and
`campaign.json` in the folder list the faults and their effects; the exit status is 1 if any round
failed, and the folder of such a round is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HOW_COMPUTED = {"seconds", "stack_size", "device", "code_version"}
"""What a record says of the computer and not of the result."""

SMALL = [
    *("dataset=synthetic", "dataset.shape=[1,4,4]", "dataset.classes=4", "dataset.train=64"),
    *(
        "dataset.validation=32",
        "dataset.test=32",
        "model.net.hidden=[12,8]",
        "recipe.batch_size=16",
    ),
    *("recipe.length=20ep", "seed=0,1,2", "checkpoint_every=0.5", "workers=2", "tracker=none"),
]
SWEEPS = [
    ["mask_criterion=large_final,magnitude_increase,random", "schedule.levels=3"],
    ["method=continuous_sparsification", "method.rounds=2"],
    ["method=renda,imp", "schedule.levels=2"],
    ["method=gmp,magnitude", "schedule=one_shot", "schedule.sparsity=0.5,0.8"],
    ["method=learned_supermask"],
    ["method=rigl,str", "schedule=one_shot", "schedule.sparsity=0.5"],
]
PATIENT = """
import time

from lt_sweeps.models import FC


class Patient(FC):
    def forward(self, x):
        time.sleep(0.004)
        return super().forward(x)
"""
LIMIT = 300.0  # seconds; a command that takes longer hangs


@dataclass
class Round:
    """The faults that one sweep had, and their effects."""

    words: Sequence[str]
    number: int
    faults: list[str] = field(default_factory=list)
    restarts: int = 0
    failures: list[str] = field(default_factory=list)


class DisturbedSweep:
    """A small sweep in its own folder, and every fault that can be injected into it."""

    def __init__(self, folder: Path, words: Sequence[str], draws: random.Random) -> None:
        self.folder, self.words, self.draws = folder, words, draws
        folder.mkdir(parents=True, exist_ok=True)
        self.root, self.outputs = folder / "results", folder / "outputs"
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.damaged: set[Path] = set()
        self.stopped: list[tuple[float, int]] = []
        self.clock = 0  # days by which the next launcher's clock is wrong
        self.full_until = 0.0

    def start(self) -> None:
        """Start one more launcher with the same command line."""
        self.launchers.append(self._process("", *self.all_words()))

    def command(self, *words: str) -> tuple[int, str]:
        """Run a command to its end; return its exit status and its output."""
        process = self._process("-command", *words)
        self.wait([process])
        return process.returncode, self._output(process)

    def wait(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        limit = time.monotonic() + LIMIT
        for process in processes:
            try:
                process.wait(limit - time.monotonic())
            except subprocess.TimeoutExpired:
                self.kill_all()
                raise Hung(f"no end after {LIMIT:.0f} s: {process.args}") from None

    def finish(self) -> int:
        """Wait for the launchers; if none succeeded, start one more. Return the exit status."""
        self.restore(now=True)
        self.wait(self.launchers)
        done = [launcher.returncode for launcher in self.launchers]
        self.launchers = []
        return min(done, key=abs)

    def kill_all(self) -> None:
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def restore(self, *, now: bool = False) -> None:
        """Continue stopped processes, and make room again on a full disk."""
        for due, pid in list(self.stopped):
            if now or due < time.monotonic():
                self.stopped.remove((due, pid))
                with suppress(OSError):
                    os.kill(pid, signal.SIGCONT)
        if self.full_until and (now or self.full_until < time.monotonic()):
            self.full_until = 0.0
            (self.folder / "filler").unlink(missing_ok=True)

    def processes(self) -> dict[int, str]:
        """All living processes of this sweep by pid, with their command lines."""
        mark, found = f"CAMPAIGN={self.folder}\0".encode(), {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes():
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if words:  # a zombie has none
                        found[int(folder.name)] = words
        return found

    def all_words(self) -> list[str]:
        """The command line that a user types to compute the sweep."""
        return [*SMALL, *self._patient(), *self.words]

    def results(self) -> dict[str, object]:
        """Every ticket's bytes, record and config, without what says how it was computed."""
        results: dict[str, object] = {}
        for path in self.root.glob("tickets/*/*.safetensors"):
            if ".partial-" not in path.name:
                results[str(path.relative_to(self.root))] = path.read_bytes()
        for path in self.root.glob("runs/*/*/records.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            results[str(path.relative_to(self.root))] = [
                {k: v for k, v in row.items() if k not in HOW_COMPUTED} for row in rows
            ]
        return results

    def names(self) -> set[str]:
        """The names of files that only a computing command may add, rename or remove."""
        return {
            str(path.relative_to(self.root))
            for folder in ("tickets", "runs")
            for path in (self.root / folder).rglob("*")
        }

    def computed(self) -> Counter[str]:
        """How often each unit was computed, by the logs of the workers."""
        lines = [
            line
            for path in self.root.glob("sweeps/*/logs/*.log")
            if path.is_file()
            for line in path.read_text(errors="replace").splitlines()
        ]
        matches = [re.search(r" computed ((?:\w+/\S+ ?)+)$", line) for line in lines]
        return Counter(unit for match in matches if match for unit in match[1].split())

    def tracebacks(self) -> list[str]:
        return [
            f"traceback in {path.name}"
            for path in self.outputs.glob("*")
            if "Traceback" in path.read_text(errors="replace")
        ]

    def kill(self) -> str:
        return self._signal(signal.SIGKILL)

    def terminate(self) -> str:
        return self._signal(signal.SIGTERM)

    def interrupt(self) -> str:
        return self._signal(signal.SIGINT)

    def hang_up(self) -> str:
        return self._signal(signal.SIGHUP)

    def stop(self) -> str:
        """Stop a process for a while, as a debugger or a suspended laptop does."""
        if what := self._signal(signal.SIGSTOP):
            self.stopped.append((time.monotonic() + self.draws.uniform(1, 8), self.hit))
        return what

    def kill_everything(self) -> str:
        self.kill_all()
        return "all processes"

    def fill_disk(self) -> str:
        if self.full_until or not os.path.ismount(self.folder):
            return ""
        with suppress(OSError), (self.folder / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        seconds = self.draws.choice((1.0, 3.0, 10.0, 30.0))
        self.full_until = time.monotonic() + seconds
        return f"for {seconds:.0f} s"

    def second_launcher(self) -> str:
        if len(self.launchers) > 2:
            return ""
        self.start()
        return f"{len(self.launchers)} at once"

    def clock_jump(self) -> str:
        """Set the clock of the next launchers to another year."""
        if not _faketime():
            return ""
        self.clock = self.draws.choice((-7000, -2, 3, 4000))
        self.start()
        return f"{self.clock:+} days"

    def truncate(self) -> str:
        def cut(path: Path) -> None:
            content = path.read_bytes()
            path.write_bytes(content[: self.draws.randrange(max(1, len(content)))])

        return self._damage(cut)

    def flip(self) -> str:
        def change(path: Path) -> None:
            content = bytearray(path.read_bytes())
            if content:
                content[self.draws.randrange(len(content))] ^= 1 << self.draws.randrange(8)
            path.write_bytes(content)

        return self._damage(change)

    def empty(self) -> str:
        return self._damage(lambda path: path.write_bytes(b""))

    def delete(self) -> str:
        return self._damage(Path.unlink)

    def swap(self) -> str:
        """Swap two files of one kind."""
        first = self._file()
        likes = [p for p in self._files() if first and p != first and _kind(p) == _kind(first)]
        if first is None or not likes:
            return ""
        second = self.draws.choice(sorted(likes))
        with suppress(FileNotFoundError):
            one, two = first.read_bytes(), second.read_bytes()
            if one == two:
                return ""
            _replace(first, two)
            _replace(second, one)
            self.damaged |= {first, second}
            return f"{first.relative_to(self.root)} and {second.relative_to(self.root)}"
        return ""

    def put_folder(self) -> str:
        """Put a folder in the place of a file."""

        def to_folder(path: Path) -> None:
            path.unlink()
            path.mkdir()

        return self._damage(to_folder)

    def put_pipe(self) -> str:
        def to_pipe(path: Path) -> None:
            path.unlink()
            os.mkfifo(path)

        return self._damage(to_pipe)

    def _signal(self, number: signal.Signals) -> str:
        living = self.processes()
        if not living:
            return ""
        self.hit = self.draws.choice(sorted(living))
        with suppress(OSError):
            os.kill(self.hit, number)
            return living[self.hit][-80:]
        return ""

    def _damage(self, change: Callable[[Path], object]) -> str:
        path = self._file()
        if path is None:
            return ""
        with suppress(OSError):
            change(path)
            self.damaged.add(path)
            return str(path.relative_to(self.root))
        return ""

    def _file(self) -> Path | None:
        """Draw a file of a random kind, because most files are tickets."""
        by_kind: dict[str, list[Path]] = {}
        for path in self._files():
            by_kind.setdefault(_kind(path), []).append(path)
        if not by_kind:
            return None
        return self.draws.choice(sorted(by_kind[self.draws.choice(sorted(by_kind))]))

    def _files(self) -> list[Path]:
        """The files that were not damaged since they were written."""
        files = []
        for path in self.root.rglob("*"):
            with suppress(OSError):
                if path.is_file() and ".corrupt-" not in path.name and path.suffix != ".png":
                    files.append(path)
        return files

    def _process(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        self.outputs.mkdir(exist_ok=True)
        output = self.outputs / f"{len(list(self.outputs.iterdir()))}{kind}"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{self.folder}",
            "CAMPAIGN": str(self.folder),
            "COLUMNS": "150",
        }
        before = ["faketime", "-f", f"{self.clock:+}d"] if self.clock else []
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "lt_sweeps", *words, f"root={self.root}"],
                cwd=self.folder,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.clock = 0
        self._out = {**getattr(self, "_out", {}), process.pid: output}
        return process

    def _output(self, process: subprocess.Popen[bytes]) -> str:
        return self._out[process.pid].read_text(errors="replace")

    def _patient(self) -> list[str]:
        (self.folder / "patient.py").write_text(PATIENT)
        folder = self.folder / "patient_conf" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "patient.yaml").write_text("net: {_target_: patient.Patient, hidden: [300, 100]}")
        return [f"--config-dir={folder.parent}", "model=patient", "backend=loop"]


KINDS: dict[str, Callable[[DisturbedSweep], str]] = {
    function.__name__: function
    for function in (
        *(DisturbedSweep.kill, DisturbedSweep.terminate, DisturbedSweep.interrupt),
        *(DisturbedSweep.hang_up, DisturbedSweep.stop, DisturbedSweep.kill_everything),
        *(DisturbedSweep.fill_disk, DisturbedSweep.second_launcher, DisturbedSweep.clock_jump),
        *(DisturbedSweep.truncate, DisturbedSweep.flip, DisturbedSweep.empty),
        *(DisturbedSweep.delete, DisturbedSweep.swap, DisturbedSweep.put_folder),
        DisturbedSweep.put_pipe,
    )
}
"""A fault by name: does it to a sweep, and says what was hit; "" if there was nothing to hit."""
FILE_KINDS = ("truncate", "flip", "empty", "delete", "swap", "put_folder", "put_pipe")


class Hung(Exception):
    """Raised if a command does not end."""


class Campaign:
    """Rounds of disturbed sweeps, each compared with an undisturbed sweep of the same command."""

    def __init__(self, folder: Path, kinds: Sequence[str], seed: int) -> None:
        self.folder, self.kinds, self.seed = folder, kinds, seed
        self.rounds: list[Round] = []
        self._references: dict[int, dict[str, object]] = {}

    @property
    def faults(self) -> int:
        return sum(len(done.faults) for done in self.rounds)

    def round(self, faults: int) -> Round:
        """Inject this many faults into one sweep, half of them while it runs; judge the result."""
        number = len(self.rounds)
        draws = random.Random(f"{self.seed} {number}")
        words = SWEEPS[number % len(SWEEPS)]
        outcome = Round(words, number)
        self.rounds.append(outcome)
        reference = self._reference(number % len(SWEEPS))
        with _disk(self.folder / f"round-{number}") as folder:
            sweep = DisturbedSweep(folder, words, draws)
            try:
                self._while_it_runs(sweep, outcome, faults - faults // 2)
                self._judge(sweep, outcome, reference)
                if kinds := [kind for kind in FILE_KINDS if kind in self.kinds]:
                    self._at_rest(sweep, outcome, reference, kinds, faults // 2)
            except Hung as error:
                outcome.failures.append(f"hung: {error}")
            finally:
                sweep.kill_all()
            outcome.failures += sweep.tracebacks()
            if outcome.failures:
                shutil.copytree(folder, self.folder / f"failed-{number}", ignore=_no_pipes)
        return outcome

    def _while_it_runs(self, sweep: DisturbedSweep, outcome: Round, faults: int) -> None:
        sweep.start()
        limit = time.monotonic() + LIMIT
        while len(outcome.faults) < faults and time.monotonic() < limit:
            time.sleep(sweep.draws.uniform(0.2, 2.5))
            sweep.restore()
            if all(launcher.poll() is not None for launcher in sweep.launchers):
                if any(launcher.returncode == 0 for launcher in sweep.launchers):
                    break
                sweep.launchers = []
                sweep.start()
                outcome.restarts += 1
            self._hit(sweep, outcome, self.kinds)
        self._same_words(sweep, outcome)

    def _at_rest(
        self,
        sweep: DisturbedSweep,
        outcome: Round,
        reference: dict[str, object],
        kinds: Sequence[str],
        faults: int,
    ) -> None:
        """Damage a finished sweep; `audit` must name any damage that the same command leaves."""
        before = set(sweep.damaged)
        sweep.damaged = set()
        for _ in range(faults):
            self._hit(sweep, outcome, kinds)
        hit, sweep.damaged = sweep.damaged, sweep.damaged | before
        names = sweep.names()
        found = sweep.folder / "audit.json"  # with every fault, where the terminal shows the first
        status, _ = sweep.command("audit", str(sweep.root), f"out={found}", "trust=patient")
        told = found.read_text() if status and found.exists() else ""
        sweep.command("report", str(sweep.root), f"out={sweep.folder / 'report'}")
        sweep.command("status", *(str(path) for path in sweep.root.glob("sweeps/*")))
        sweep.command("plan", *sweep.all_words())
        if touched := sorted(names ^ sweep.names()):
            outcome.failures.append(f"touched by a command that only reads: {touched}")
        for path in hit:
            name = path.relative_to(sweep.root)
            # A cell is named by its folder, because audit cannot know which of its files is wrong.
            said = str(name.parent if name.parts[0] == "runs" else name)
            # Without DONE a cell counts as unfinished, even if its records are damaged.
            open_cell = name.parts[0] == "runs" and not (path.parent / "DONE").exists()
            # A config is compared with the manifest's, and a damaged manifest fails the audit.
            unknown = name.name == "config.yaml" and "manifest.json: " in told
            kept = path.exists() and not open_cell and not unknown
            if _kind(path) in NAMED and kept and said not in told:
                outcome.failures.append(f"silent: audit does not name {name}")
        self._same_words(sweep, outcome)
        self._judge(sweep, outcome, reference)

    def _same_words(self, sweep: DisturbedSweep, outcome: Round) -> None:
        """Repeat the same command until it succeeds, as a user would."""
        for _ in range(6):
            if sweep.launchers:
                if sweep.finish() == 0:
                    break
                outcome.restarts += 1
            sweep.start()
        if not sweep.launchers:
            sweep.start()
        # Once more, to find a file that was damaged after the last run had read it.
        sweep.finish()
        sweep.start()
        if sweep.finish() != 0:
            outcome.failures.append("unfinished: the same words fail")

    def _hit(self, sweep: DisturbedSweep, outcome: Round, kinds: Sequence[str]) -> None:
        kind = sweep.draws.choice(list(kinds))
        if what := KINDS[kind](sweep):
            outcome.faults.append(f"{kind}: {what}")

    def _judge(self, sweep: DisturbedSweep, outcome: Round, reference: dict[str, object]) -> None:
        try:
            results = sweep.results()
        except (OSError, ValueError) as error:
            outcome.failures.append(f"different: {error}")
            return
        for name in sorted(reference.keys() - results.keys()):
            outcome.failures.append(f"lost: {name}")
        for name in sorted(reference.keys() & results.keys()):
            if reference[name] != results[name]:
                outcome.failures.append(f"different: {name}")
        damaged = Counter(
            f"{path.parent.name}/{re.split(r'[.@]', path.name)[0]}" for path in sweep.damaged
        )
        for unit, count in sweep.computed().items():
            if count > 1 + damaged[unit]:
                outcome.failures.append(f"doubled: {unit} computed {count} times")

    def _reference(self, kind: int) -> dict[str, object]:
        if kind not in self._references:
            sweep = DisturbedSweep(
                self.folder / f"undisturbed-{kind}", SWEEPS[kind], random.Random(0)
            )
            sweep.start()
            if sweep.finish() != 0:
                sys.exit(f"the undisturbed sweep failed: see {sweep.outputs}")
            self._references[kind] = sweep.results()
        return self._references[kind]


NAMED = ("ticket", "records.jsonl", "DONE", "config.yaml", "manifest.json")
"""Kinds of files whose damage `audit` has to name."""


def _kind(path: Path) -> str:
    """The kind of a file: files of one kind can be mistaken for each other."""
    if path.suffix == ".safetensors":
        return "checkpoint" if ".partial-" in path.name else "ticket"
    if path.parent.name in ("logs", "failed", "halved", "running", "jobs"):
        return path.parent.name
    return path.name.lstrip("0123456789.")


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _faketime() -> bool:
    return shutil.which("faketime") is not None


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_fifo()]


@contextmanager
def _disk(folder: Path, size: str = "64m") -> Iterator[Path]:
    """Make a folder; for root it is a file system of its own, which can be filled."""
    folder.mkdir(parents=True)
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
        ).returncode
    )
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


class SlurmCampaign(Campaign):
    """A campaign with sweeps on a real Slurm, as `tests/slurm` submits them."""

    def round(self, faults: int) -> Round:
        sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "slurm")]
        from cluster import Run  # pyright: ignore[reportMissingImports]
        from fixtures.small_disk import SmallDisk
        from slurm_faults import KINDS as CLUSTER_KINDS  # pyright: ignore[reportMissingImports]
        from slurm_faults import WORDS, Faults, disturb  # pyright: ignore[reportMissingImports]

        number = len(self.rounds)
        outcome = Round(WORDS, number)
        self.rounds.append(outcome)
        undisturbed = Run(self.folder / "undisturbed")
        if not undisturbed.root.exists():
            undisturbed(*undisturbed.patient(0), *WORDS)
            if undisturbed.wait(limit=900) != 0:
                sys.exit(f"the undisturbed sweep failed: see {undisturbed.root}")
        with _disk(self.folder / f"round-{number}", "300m") as folder:
            run, draws = Run(folder), random.Random(f"{self.seed} {number}")
            injected = Faults(run, SmallDisk(folder), draws, (*CLUSTER_KINDS, "cancel"))
            outcome.restarts = disturb(run, injected, WORDS, count=faults, limit=1800)
            outcome.faults = [*injected.counts.elements()]
            if run.status != 0:
                outcome.failures.append(f"unfinished: status {run.status}")
            doubled = {unit for unit, count in run.computed().items() if count > 1}
            outcome.failures += [f"doubled: {unit}" for unit in sorted(doubled)]
            expected, results = undisturbed.results(), run.results()
            for name in sorted(expected):
                if name not in results:
                    outcome.failures.append(f"lost: {name}")
                elif expected[name] != results[name]:
                    outcome.failures.append(f"different: {name}")
            if outcome.failures:
                shutil.copytree(folder, self.folder / f"failed-{number}")
        return outcome


def _table(campaign: Campaign) -> str:
    kinds = Counter(fault.split(":")[0] for done in campaign.rounds for fault in done.faults)
    fates = Counter(failure.split(":")[0] for done in campaign.rounds for failure in done.failures)
    restarts = sum(done.restarts for done in campaign.rounds)
    rows = [f"{kind:20}{count:6}" for kind, count in sorted(kinds.items())]
    verdict = ", ".join(f"{fates[fate]} {fate}" for fate in FATES) + "".join(
        f", {count} {fate}" for fate, count in fates.items() if fate not in FATES
    )
    return "\n".join(
        [
            *rows,
            f"{sum(kinds.values())} faults in {len(campaign.rounds)} sweeps, "
            f"which were started again {restarts} times: {verdict}",
        ]
    )


FATES = ("lost", "doubled", "different", "silent", "hung", "unfinished")


def main(words: Sequence[str] | None = None) -> int:
    """Run a campaign; return 1 if any round failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, help="go on for this long")
    parser.add_argument("--faults", type=int, default=100, help="or until this many (100)")
    parser.add_argument("--each", type=int, default=12, help="faults per sweep (12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--slurm", action="store_true", help="on the Slurm of launch/slurm")
    parser.add_argument("--folder", type=Path, help="where to work; kept (default: a new one)")
    asked = parser.parse_args(words)
    kinds = asked.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"--kinds: {','.join(unknown)}; choose among {', '.join(KINDS)}")
    folder = (asked.folder or Path(tempfile.mkdtemp(prefix="campaign-"))).resolve()
    campaign, end = (SlurmCampaign if asked.slurm else Campaign)(folder, kinds, asked.seed), None
    if asked.minutes is not None:
        end = time.monotonic() + 60 * asked.minutes
    while time.monotonic() < end if end is not None else campaign.faults < asked.faults:
        done = campaign.round(asked.each)
        fate = "; ".join(done.failures) or "equal"
        print(f"round {done.number}: {len(done.faults)} faults, {fate}", flush=True)
        report = json.dumps([asdict(done) for done in campaign.rounds], indent=1)
        (folder / "campaign.json").write_text(report)
    print(_table(campaign), f"in {folder}", sep="\n")
    return int(any(done.failures for done in campaign.rounds))


if __name__ == "__main__":
    sys.exit(main())
