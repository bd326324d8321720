"""What a sweep's folder says of the processes that are at work on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from lt_sweeps.config.call import Config
from lt_sweeps.storage.manifest import FrozenCell, Manifest
from lt_sweeps.storage.sweep_folder import STALE, Heartbeat, SweepFolder


@pytest.mark.parametrize(("ago", "alive"), [(0, True), (STALE + 9, False), (-STALE - 9, False)])
def test_a_heartbeat_of_another_time_is_of_a_dead_process(
    tmp_path: Path, ago: float, alive: bool
) -> None:
    """Also one of later: after a clock is set back, a killed worker would count for as long."""
    sweep = SweepFolder(tmp_path / "sweeps" / "mine")
    cell = FrozenCell("s", "0", {}, Config(), [], {})
    Manifest("mine", "default", "c", [cell]).write(sweep.path)
    beat = Heartbeat("here", {}, [])
    sweep.beat("me", replace(beat, time=beat.time - ago))
    assert bool(sweep.running()) is alive
