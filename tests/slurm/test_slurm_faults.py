"""Random faults of a cluster change no byte of a sweep's results, and no work is done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import JOB, SMALL, Run
from fixtures.small_disk import SmallDisk, mounted
from slurm_faults import WORDS, Faults, disturb

FAULTS = 24


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", "300m") as disk:
        yield disk


@pytest.mark.slow
def test_a_sweep_with_two_dozen_faults_equals_one_on_this_machine(
    disk: SmallDisk, run: Run
) -> None:
    here, run = run, Run(disk.folder)
    words = [word for word in WORDS if "launcher" not in word]
    faults = Faults(run, disk, random.Random(0))
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        undisturbed = pool.submit(here, *here.patient(0), *words, "workers=1")
        resumed = disturb(run, faults, WORDS, count=FAULTS, limit=1500)
        undisturbed.result()
    counts = dict(faults.counts)
    print(f"{time.monotonic() - began:.0f} s with {sum(counts.values())} faults: {counts}")
    computed = run.computed()
    twice = [unit for unit, count in computed.items() if count > 1]
    print(f"resumed {resumed} times; {len(computed)} units computed, {len(twice)} of them twice")
    assert run.status == 0, run("status", str(run.sweep), status=None)
    assert sum(counts.values()) >= 20
    assert not twice
    assert len(computed) == 5 + 5 * 3 * 8
    assert run.results() == here.results()


def test_a_disk_that_is_full_for_more_than_a_minute_is_waited_for(
    disk: SmallDisk, run: Run
) -> None:
    words = [*SMALL, *JOB, "mask_criterion=large_final", "seed=0,1", "hydra.launcher.jobs=1"]
    long = ["recipe.length=100ep", "checkpoint_every=1", "hydra.launcher.canary=false"]
    undisturbed, disturbed = run, Run(disk.folder)
    for each in (undisturbed, disturbed):
        each(*each.patient(0.01), *words, *long)
    while not list(disturbed.root.glob("tickets/*/*.partial-*")):
        time.sleep(0.2)
    disk.fill()
    time.sleep(70)
    disk.make_room()
    assert disturbed.wait() == 0, disturbed("status", str(disturbed.sweep), status=None)
    said = "".join(path.read_text() for path in disturbed.sweep.glob("slurm/*.out"))
    assert "Traceback" not in said and "halved" not in said
    assert set(disturbed.computed().values()) == {1}
    assert undisturbed.wait() == 0
    assert disturbed.results() == undisturbed.results()
