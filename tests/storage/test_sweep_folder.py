"""A sweep's folder shows which processes are working on the sweep."""

from dataclasses import replace
from pathlib import Path

import pytest

from lt_sweeps.config.call import Config
from lt_sweeps.storage.manifest import FrozenCell, Manifest
from lt_sweeps.storage.sweep_folder import STALE, Heartbeat, SweepFolder, sweep_path


@pytest.mark.parametrize("given", [".", "../mine", "link"])
def test_the_root_of_a_folder_is_known_however_its_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """Otherwise `status .` found no records of a finished sweep, and said that nothing was done."""
    folder = tmp_path / "sweeps" / "mine"
    (folder / "logs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "link").symlink_to(folder)
    found = SweepFolder(sweep_path(given, Path("elsewhere"), where="status"))
    assert found.root.resolve() == tmp_path.resolve()


def test_a_path_that_shows_its_root_stays_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "sweeps").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "results/sweeps/mine"):
        assert sweep_path(name, Path("results"), where="status") == Path("results/sweeps/mine")


@pytest.mark.parametrize(("ago", "alive"), [(0, True), (STALE + 9, False), (-STALE - 9, False)])
def test_a_heartbeat_of_another_time_is_of_a_dead_process(
    tmp_path: Path, ago: float, alive: bool
) -> None:
    """Also a later time: if a clock is set back, a killed worker would otherwise count as alive."""
    sweep = SweepFolder(tmp_path / "sweeps" / "mine")
    cell = FrozenCell("s", "0", {}, Config(), [], {})
    Manifest("mine", "default", "c", [cell]).write(sweep.path)
    beat = Heartbeat("here", {}, [])
    sweep.beat("me", replace(beat, time=beat.time - ago))
    assert bool(sweep.running()) is alive
