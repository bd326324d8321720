"""Figure 3's FC panel on a GPU, as far as the time allows: seconds per level, and in total.

    python tests/benchmarks/gpu_panel.py --device cuda --data .gpu/data --limit 300
    python tests/benchmarks/gpu_panel.py --device cpu --size tiny --limit 60     # a rehearsal

It runs the sweep as a user does, including evaluations and tickets: nine criteria, five seeds, 24
levels of 50,380 steps. It first runs one level of a short training, which always ends, and then the
whole sweep for the remaining time. A level is done when every cell has its record.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

FULL = ["experiment=deconstructing/criteria", "model=fc"]
TINY = ["dataset=synthetic", "mask_criterion=large_final,random", "seed=0,1", "recipe.length=16it"]


@dataclass
class Panel:
    """One sweep, with the time at which each level was done, in seconds from its start."""

    words: list[str]
    levels: int
    cells: int
    done: dict[int, float] = field(default_factory=dict)
    status: int | None = None  # of the command; None where it was stopped for time

    @property
    def each(self) -> list[float]:
        """The seconds of every level except the dense one, which has one replicate per seed."""
        times = [self.done[level] for level in sorted(self.done)]
        return [after - before for before, after in pairwise(times)]

    def __str__(self) -> str:
        if 0 not in self.done:
            return "not even the dense networks were done"
        said = f"dense after {self.done[0]:.1f} s, start-up included"
        if not self.each:
            return f"{said}; no further level was done"
        level = median(self.each)
        return (
            f"{said}; {len(self.each)} levels of {self.cells} replicates took {level:.2f} s each "
            f"(median; {min(self.each):.2f} to {max(self.each):.2f}), so all 24 would end after "
            f"{self.done[0] + 24 * level:.0f} s"
        )


def main() -> int:
    options = _options()
    deadline = time.monotonic() + options.limit
    tiny = options.size == "tiny"
    words = [*(TINY if tiny else FULL), *options.words, f"device={options.device}"]
    words += ["report.figures=[]", f"data_dir={options.data}"]
    # With workers=2 one half of the replicates trains while the host saves and starts the other.
    if not any(word.startswith("workers=") for word in words):
        words.append("workers=1")
    cells = 4 if tiny else 45
    sweeps = [Panel([*words, "schedule.levels=2"], 2, cells)]
    if not tiny:
        short = [*words, "schedule.levels=1", "recipe.length=2ep"]
        sweeps = [Panel(short, 1, cells), Panel([*words, "schedule.levels=24"], 24, cells)]

    def write() -> None:
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            content = [{**asdict(each), "each": each.each} for each in sweeps]
            (options.out / "panel.json").write_text(json.dumps(content, indent=1))

    for sweep in sweeps:
        print(f"python -m lt_sweeps {' '.join(sweep.words)}", flush=True)
        with tempfile.TemporaryDirectory() as root:
            run(sweep, Path(root), deadline, write)
        print(f"{sweep} (exit status {sweep.status})", flush=True)
    return 0 if all(0 in sweep.done for sweep in sweeps) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of MNIST/raw")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--limit", type=float, default=300, help="seconds in all")
    parser.add_argument("words", nargs="*", help="more overrides, such as workers=2")
    return parser.parse_args()


def run(sweep: Panel, root: Path, deadline: float, write: Callable[[], None]) -> None:
    """Run a sweep until it ends or the time is over; write down when each level is done."""
    began = time.monotonic()
    command = [sys.executable, "-m", "lt_sweeps", *sweep.words, f"root={root}"]
    with open(root / "log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if note(sweep, root, time.monotonic() - began):
                write()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        else:
            sweep.status = process.returncode
        note(sweep, root, time.monotonic() - began)
        write()
        log.seek(0)
        print("".join(f"  | {line}" for line in log.readlines()[-8:]), flush=True)


def note(sweep: Panel, root: Path, seconds: float) -> bool:
    """Note the levels that all cells have finished since the last call; return if there are any."""
    before = len(sweep.done)
    counts = Counter[int]()
    for path in root.glob("runs/*/*/records.jsonl"):
        try:
            counts.update({json.loads(line)["level"] for line in path.read_text().splitlines()})
        except (OSError, ValueError, KeyError):
            continue  # it is being written
    for level in range(sweep.levels + 1):
        if counts[level] >= sweep.cells and level not in sweep.done:
            sweep.done[level] = seconds
            print(f"  level {level} done after {seconds:.1f} s", flush=True)
    return len(sweep.done) > before


if __name__ == "__main__":
    sys.exit(main())
