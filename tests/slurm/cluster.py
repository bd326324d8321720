"""Sweeps on the Slurm of launch/slurm/cluster.sh, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from lt_sweeps.storage.atomic_write import write_whole

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "launch" / "slurm" / "cluster.sh"
SMALL = [
    *("dataset=synthetic", "dataset.shape=[1,4,4]", "dataset.classes=4", "dataset.train=64"),
    *("dataset.validation=32", "dataset.test=32", "model.net.hidden=[12,8]", "schedule.levels=2"),
    *("recipe.batch_size=16", "recipe.length=30ep"),
]
JOB = ["device=cpu", "hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.memory=0.5"]


PATIENT = """
import time
from pathlib import Path

from lt_sweeps.models import FC


class Patient(FC):
    def forward(self, x):
        time.sleep(float(Path("patience").read_text()))  # in the folder of the command
        return super().forward(x)
"""


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


class Run:
    """A folder of results, and the command line that works on it.

    Args:
        folder: the current folder of the commands.
        code: the folder that holds the package; None: the current folder of the commands.
    """

    def __init__(self, folder: Path, code: Path | None = REPOSITORY) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root, self.code = folder, folder / "results", code

    def __call__(self, *words: str, status: int | None = 0) -> str:
        """Run a command and return its output; check its exit status, unless that is None."""
        if words[0] == "resume":  # the modules of these tests
            words = (*words, "trust=patient,mylab")
        done = subprocess.run(
            [sys.executable, "-m", "lt_sweeps", *words, f"root={self.root}"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.code or ""), "COLUMNS": "150"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.status = done.returncode
        assert status in (None, done.returncode), done.stdout + done.stderr
        return done.stdout + done.stderr

    def patient(self, seconds: float) -> list[str]:
        """Overrides for a network whose forward pass takes at least `seconds`, on any machine.

        Faults that need a running job, or a time limit that must be reached, then do not depend on
        the speed of the machine. The loop backend runs a forward pass for every replicate. When the
        delay is no longer needed, `be_patient(0)` lets the remaining steps end at once.
        """
        self.be_patient(seconds)
        (self.folder / "patient.py").write_text(PATIENT)
        folder = self.folder / "patient_conf" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "patient.yaml").write_text("net: {_target_: patient.Patient, hidden: [300, 100]}")
        return [f"--config-dir={folder.parent}", "model=patient", "backend=loop"]

    def be_patient(self, seconds: float) -> None:
        """Set the duration of every forward pass of a patient network from now on."""
        write_whole(self.folder / "patience", str(seconds).encode())

    @property
    def sweep(self) -> Path:
        (folder,) = (self.root / "sweeps").iterdir()
        return folder

    def wait(self, *, limit: float = 300) -> int:
        """Wait until none of its jobs is in the queue; return the exit status of `status`.

        The queue is asked because `status` takes a second of CPU, which the jobs need, and says
        that all is done as soon as the last ticket exists, while its job is still ending.
        """
        end = time.monotonic() + limit
        while time.monotonic() < end:
            queued = slurm("squeue", "--noheader", "--format=%F").split()
            # By their numbers: two roots may have a sweep of the same name.
            batches = [json.loads(path.read_text()) for path in self.sweep.glob("jobs/*.json")]
            if not {str(batch["id"]) for batch in batches}.intersection(queued):
                self("status", str(self.sweep), status=None)
                if self.status != 3:
                    return self.status
            time.sleep(0.5)
        raise AssertionError(self("status", str(self.sweep), status=None) + slurm("squeue"))

    def results(self) -> dict[str, object]:
        """Every ticket's bytes and every record, without the columns that say how it was computed.

        These are `seconds`, which a clock measures, and `stack_size`: a pack whose worker was
        killed twice trains as two halves.
        """
        found: dict[str, object] = {
            str(p.relative_to(self.root)): p.read_bytes()
            for p in self.root.glob("tickets/*/*.safetensors")
        }
        for path in self.root.glob("runs/*/*/records.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[str(path.relative_to(self.root))] = [
                {k: v for k, v in row.items() if k not in ("seconds", "stack_size")} for row in rows
            ]
        return found

    def computed(self) -> Counter[str]:
        """Count how often each unit was computed, by the logs of the workers."""
        lines = [
            line for path in self.sweep.glob("logs/*.log") for line in path.read_text().splitlines()
        ]
        # Not the code in the traceback of an error, which a log may have too.
        found = [re.search(r" computed ((?:\w+/\S+ ?)+)$", line) for line in lines]
        return Counter(unit for match in found if match for unit in match[1].split())

    def jobs(self) -> list[str]:
        """The ids of this sweep's running tasks; `%A` names a whole array for its last task."""
        name = self.sweep.name
        lines = slurm("squeue", "--noheader", "--states=R", "--format=%F_%K %j").splitlines()
        return [line.split()[0] for line in lines if f"lt-{name}-" in line]
