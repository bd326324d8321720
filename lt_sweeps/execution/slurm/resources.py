"""The profile of a Slurm cluster: the resources of each job, from `hydra/launcher/*.yaml`."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lt_sweeps.config.call import made
from lt_sweeps.config.durations import readable
from lt_sweeps.config.spelling import listed, nearest

WHERE = "hydra.launcher"
_OURS = ("array", "dependency", "job-name", "output", "error", "signal", "requeue", "wait")
_OURS += ("chdir", "nodes", "ntasks", "ntasks-per-node")
# The profile's key for each sbatch option that must not be given under `sbatch`: there it would
# silently replace the value of the key.
_KEYS = {name: name for name in ("partition", "account", "qos", "constraint", "time", "gpus")}
_KEYS |= {"mem": "memory", "cpus-per-task": "cpus", "gpus-per-node": "gpus"}
_KEYS |= {"mail-user": "mail", "mail-type": "mail_type"}
_LONGEST = 7 * 24 * 60  # minutes; yaml reads 3:00:00 as 10800


@dataclass(frozen=True)
class SlurmResources:
    """The keys of conf/hydra/launcher/slurm.yaml, where a comment explains each key."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | str = 1
    gpu_memory: float = 24.0
    cpus: int = 4
    memory: float = 16.0
    time: int | str = 240
    setup: list[str] = field(default_factory=list)
    environment: dict[str, Any] | None = None
    container: str | None = None
    python: str | None = None
    mail: str | None = None
    mail_type: str | None = None
    sbatch: dict[str, Any] | None = None
    jobs: int | None = None
    hours_per_job: float | None = None
    pack: bool = True
    processes: int = 1
    parallel: int = 256
    canary: bool = True
    max_requeues: int = 20
    signal_delay: int = 120

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SlurmResources:
        """Make a profile from the keys of a yaml.

        Raises: ValueError: a key is unknown, or a value is not allowed.
        """
        profile = made(cls, values, where=WHERE)
        profile._check()
        return profile

    @property
    def gpu_count(self) -> int:
        """The number of GPUs of a job; `gpus` is a number, or a type and a number (`a100:2`)."""
        return int(str(self.gpus).rpartition(":")[2])

    @property
    def words(self) -> str:
        """The resources that a job requests, in the words of a printed plan."""
        number = self.gpu_count or self.cpus
        noun = "GPU" if self.gpu_count else "CPU"
        what = f"{self.gpus if self.gpu_count else number} {noun}{'s' if number > 1 else ''}"
        seconds = _seconds(str(self.time))
        return f"{what} for {readable(seconds)} at most" if seconds else what

    def parameters(self, *, job_name: str, tasks: int, chdir: str) -> dict[str, Any]:
        """The profile as submitit's parameters, for an array of `tasks` jobs."""
        variables = (self.environment or {}).items()
        exports = [f"export {name}={shlex.quote(_exported(value))}" for name, value in variables]
        setup = [*exports, *(["set -e", *self.setup, "set +e"] if self.setup else [])]
        same = ("partition", "account", "qos", "constraint", "time", "mail_type")
        parameters = {
            **{name: getattr(self, name) for name in same},
            "job_name": job_name,
            "gpus_per_node": self.gpus if self.gpu_count else None,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.memory * 1024)}M",
            "nodes": 1,
            "ntasks_per_node": 1,
            "mail_user": self.mail,
            "setup": setup or None,
            "array_parallelism": min(self.parallel, tasks),
            "stderr_to_stdout": True,
            "use_srun": False,
        }
        # B: Slurm signals only the batch shell; job.sh passes the signal on to the one process that
        # saves.
        additional = {"signal": f"B:USR2@{self.signal_delay}", "requeue": True, "chdir": chdir}
        return {
            **{name: value for name, value in parameters.items() if value is not None},
            "additional_parameters": {**additional, **(self.sbatch or {})},
        }

    def _check(self) -> None:
        if not re.fullmatch(r"(\w[\w.-]*:)?\d+", str(self.gpus)):
            raise ValueError(f"{WHERE}.gpus: got {self.gpus!r}; give a number, or TYPE:NUMBER")
        if not re.fullmatch(r"\d+|(\d+-)?\d+(:\d+){0,2}", str(self.time)):
            raise ValueError(f"{WHERE}.time: got {self.time!r}; give minutes, or D-HH:MM:SS")
        if isinstance(self.time, int) and self.time > _LONGEST:
            raise ValueError(
                f"{WHERE}.time: got {self.time} minutes, {self.time / 1440:.1f} days; write more "
                "than a week as D-HH:MM:SS, and a time with colons in quotes: yaml reads 12:00:00 "
                "as a number"
            )
        if 0 < _seconds(str(self.time)) <= self.signal_delay:  # 0: Slurm's word for no limit
            raise ValueError(
                f"{WHERE}.time: got {self.time!r}; give more than signal_delay={self.signal_delay} "
                "seconds, because a job stops and saves a checkpoint that long before its end"
            )
        for name in ("cpus", "processes", "parallel", "jobs", "max_requeues", "signal_delay"):
            value, least = getattr(self, name), int(name not in ("max_requeues", "signal_delay"))
            if value is not None and value < least:
                allowed = f"a whole number from {least} up"
                raise ValueError(f"{WHERE}.{name}: got {value!r}; give {allowed}")
        for name in ("memory", "gpu_memory", "hours_per_job"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{WHERE}.{name}: got {value!r}; give a number above 0")
        if self.jobs is not None and self.hours_per_job is not None:
            both = f"jobs={self.jobs} and hours_per_job={self.hours_per_job:g}"
            raise ValueError(f"{WHERE}: got {both}; give one of them")
        self._check_sbatch()
        self._check_environment()

    def _check_sbatch(self) -> None:
        for key in self.sbatch or {}:
            if (option := key.replace("_", "-")) in _OURS:
                raise ValueError(f"{WHERE}.sbatch: got {key!r}; this launcher sets it itself")
            if option in _KEYS:
                raise ValueError(f"{WHERE}.sbatch: got {key!r}; give {WHERE}.{_KEYS[option]}")

    def _check_environment(self) -> None:
        for name, value in (self.environment or {}).items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or not isinstance(value, str | int | float):
                raise ValueError(
                    f"{WHERE}.environment: got {name!r}: {value!r}; give a variable's name and a "
                    "string, a number, true or false"
                )


def _exported(value: Any) -> str:
    """The value of an environment variable as yaml writes it: `true` instead of Python's True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _seconds(time: str) -> int:
    """Convert a Slurm time to seconds: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    # After days, the first part is hours. Without days, a time of one or two parts starts with
    # minutes.
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    clocked = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return int(days or 0) * 86400 + clocked


def check_options(profile: SlurmResources) -> None:
    """Compare the options under `sbatch` with those that `sbatch --help` lists on this cluster.

    Raises:
        ValueError: an option is unknown; the message lists the valid options.
    """
    if not profile.sbatch:
        return
    text = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, check=True).stdout
    known = sorted(set(re.findall(r"--([a-z][\w-]+)", text)))
    unknown = [key for key in profile.sbatch if key.replace("_", "-") not in known]
    if unknown:
        near = nearest(unknown[0], known) or ";"
        raise ValueError(
            f"{WHERE}.sbatch: got {listed(unknown)}{near} sbatch takes {listed(known)}"
        )
