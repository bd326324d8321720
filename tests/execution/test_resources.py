"""A wrong cluster profile is refused, with the key at fault, before anything is submitted."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from lt_sweeps.config.errors import CONF
from lt_sweeps.execution.slurm.resources import SlurmResources


def test_the_yaml_lists_every_key_at_its_default() -> None:
    given = yaml.safe_load((CONF / "hydra" / "launcher" / "slurm.yaml").read_text())
    del given["_target_"]
    assert SlurmResources.of(given) == SlurmResources()
    assert list(given) != [] and set(given) == {each.name for each in fields(SlurmResources)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpuz": 1}, r"hydra.launcher: gpuz; did you mean `gpus`\? keys: account, "),
        ({"gpus": "many"}, "gpus: got 'many'; give a number, or TYPE:NUMBER"),
        ({"time": "4 hours"}, "time: got '4 hours'; give minutes, or D-HH:MM:SS"),
        ({"time": 2}, "time: got 2; give more than signal_delay=120 seconds"),
        ({"time": "0:02:00"}, "give more than signal_delay=120 seconds"),
        (yaml.safe_load("time: 12:00:00"), "got 43200 minutes, 30.0 days; .* in quotes"),
        ({"cpus": 0}, "cpus: got 0; give a whole number from 1 up"),
        ({"memory": -1}, "memory: got -1; give a number above 0"),
        ({"jobs": 2, "hours_per_job": 3.0}, "got jobs=2 and hours_per_job=3; give one of them"),
        ({"sbatch": {"signal": "USR1"}}, "sbatch: got 'signal'; this launcher sets it itself"),
        ({"sbatch": {"time": 5}}, "sbatch: got 'time'; give hydra.launcher.time"),
        ({"sbatch": {"gpus_per_node": 2}}, "got 'gpus_per_node'; give hydra.launcher.gpus"),
        ({"sbatch": {"nodes": 2}}, "sbatch: got 'nodes'; this launcher sets it itself"),
        ({"environment": {"A-B": 1}}, "environment: got 'A-B': 1; give a variable's name"),
        ({"environment": {"A": None}}, "environment: got 'A': None; give a variable's name"),
        ({"signal_delay": -5}, "signal_delay: got -5; give a whole number from 0 up"),
        ({"canary": "no"}, "canary: got 'no'; give true or false"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlurmResources.of(given)


def test_an_environment_variable_has_the_value_of_the_yaml() -> None:
    profile = SlurmResources.of({"environment": {"A": True, "B": "a b", "C": 1.5}})
    setup = profile.parameters(job_name="x", tasks=1, chdir="/")["setup"]
    assert setup == ["export A=true", "export B='a b'", "export C=1.5"]


def test_a_type_of_gpu_is_asked_for_by_name() -> None:
    profile = SlurmResources.of({"gpus": "a100:2"})
    words = profile.parameters(job_name="x", tasks=3, chdir="/")
    assert words["gpus_per_node"] == "a100:2" and profile.gpu_count == 2


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (150, "2.5 h"),
        ("3:20", "3 min"),
        ("1:45:00", "1.8 h"),
        ("1-12", "36.0 h"),
        ("1-12:30", "36.5 h"),
        ("1-00:06:00", "24.1 h"),
    ],
)
def test_a_time_is_read_as_slurm_reads_it(time: int | str, words: str) -> None:
    assert SlurmResources.of({"time": time}).words == f"1 GPU for {words} at most"


def test_a_profile_of_ones_own_says_only_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lt_sweeps.cli.command_line import main

    folder = tmp_path / "hydra" / "launcher"
    folder.mkdir(parents=True)
    (folder / "lab.yaml").write_text("defaults: [slurm, _self_]\npartition: a100\njobs: 3\n")
    words = [f"--config-dir={tmp_path}", "hydra/launcher=lab", "--cfg", "hydra"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "partition: a100" in said and "max_requeues: 20" in said
