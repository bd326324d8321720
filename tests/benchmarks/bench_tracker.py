"""The cost of mirroring in W&B: for 50 and 500 runs, and for the training that runs meanwhile.

    PYTHONPATH=tests python tests/benchmarks/bench_tracker.py [--runs 50 500] [--training]

The server is on loopback. A real network adds its delay to each of the twelve or so requests per
run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from fixtures.wandb_server import WandbServer

HERE = Path(__file__).parent

WORDS = [
    *("dataset=synthetic", "dataset.shape=[1,4,4]", "dataset.classes=4", "dataset.train=64"),
    *("dataset.validation=32", "dataset.test=32", "model.net.hidden=[12,8]", "schedule.levels=2"),
    *("recipe.batch_size=16", "recipe.length=20ep", "mask_criterion=large_final"),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, nargs="*", default=[50, 500])
    parser.add_argument("--training", action="store_true")
    asked = parser.parse_args()
    server = WandbServer()
    os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40, "OMP_NUM_THREADS": "1"}
    os.environ["PYTHONPATH"] = str(HERE.parent.parent)
    for runs in asked.runs:
        mirrored(runs, server)
    if asked.training:
        trained(server)


def mirrored(runs: int, server: WandbServer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "results"
        command(*WORDS, f"seed=range({runs})", f"root={root}", "name=bench")
        for mode in ("offline", "online"):
            server.runs.clear()
            began, peak, used = time.monotonic(), 0.0, cpu()
            words = ["sync", "bench", f"root={root}", f"mode={mode}", "per_minute=100000"]
            process = subprocess.Popen([sys.executable, "-m", "lt_sweeps", *words])
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.2)
            took = time.monotonic() - began
            rows = sum(len(run["history"]) for run in server.runs.values())
            lines = f"{rows / len(server.runs):.0f} rows each, " if server.runs else ""
            each, burnt = 1000 * took / (runs + 1), 1000 * (cpu() - used) / (runs + 1)
            print(
                f"{mode}: {runs + 1} runs, {lines}{took:.1f} s, {each:.0f} ms a run ({burnt:.0f} "
                f"of CPU), {peak:.0f} MiB with W&B's service; exit status {process.returncode}",
                flush=True,
            )
            shutil.rmtree(root / "wandb", ignore_errors=True)


def trained(server: WandbServer, rounds: int = 3) -> None:
    """The seconds of training in the records, with and without a tracker, in turn."""
    for number in range(rounds):
        for tracker in ("none", "wandb"):
            with tempfile.TemporaryDirectory() as folder:
                more = [] if tracker == "none" else ["tracker.every=1"]
                words = [*WORDS, "recipe.length=300ep", "recipe.evaluate_every=20ep", "workers=1"]
                words += [f"tracker={tracker}", *more, "checkpoint_every=1", "seed=range(5)"]
                began, used = time.monotonic(), cpu()
                command(*words, f"root={folder}", "name=bench")
                took = time.monotonic() - began

                rows = [
                    json.loads(line)
                    for path in Path(folder).glob("runs/*/*/records.jsonl")
                    for line in path.read_text().splitlines()
                ]
                seconds = sum(row["seconds"] for row in rows)
                steps = sum(row["train_steps"] for row in rows)
                each = 1e6 * seconds / steps
                print(
                    f"{number} {tracker}: {each:.1f} us a step, {took:.1f} s in all, "
                    f"{cpu() - used:.1f} s of CPU",
                    flush=True,
                )


def command(*words: str) -> None:

    subprocess.run([sys.executable, "-m", "lt_sweeps", *words], check=True, capture_output=True)


def cpu() -> float:
    """The CPU seconds of all processes started here, once they have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid: int) -> float:
    """The resident memory of a process and its children, in MiB."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in [process, *process.children(True)]) / 2**20
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    main()
