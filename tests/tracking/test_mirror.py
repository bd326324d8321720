"""A sweep in W&B has every row once, whatever faults occur, and training never waits for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from fixtures.command_line import kill, until
from fixtures.wandb_server import WandbServer, sync

from lt_sweeps.config.cells import Cell
from lt_sweeps.tracking.mirror import Mirror
from lt_sweeps.tracking.mirror_process import Deadline
from lt_sweeps.tracking.tracked_runs import Run
from lt_sweeps.tracking.tracked_sweep import tracked_cells
from lt_sweeps.tracking.tracker import Arrived, Unreachable
from lt_sweeps.tracking.wandb_tracker import Wandb

REPOSITORY = Path(__file__).parents[2]
DENSE = {"_target_": "lt_sweeps.plan.methods.dense"}
Make = Callable[..., Cell]
Swept = Callable[..., Path]


def once(server: WandbServer, folder: Path) -> None:
    """Check that the server has each run once, with its rows in order, each once."""
    runs = {source.run.key: source.run for source in tracked_cells(folder)}
    assert set(runs) <= set(server.runs)
    for key, run in runs.items():
        assert [row["_step"] for row in server.rows(key)] == list(range(len(run.rows)))
        sent = [
            {k: row.get(k) for k in want}
            for row, want in zip(server.rows(key), run.rows, strict=True)
        ]
        assert sent == [dict(row) for row in run.rows]


def test_a_sweep_is_mirrored_with_names_groups_and_axes(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell(seed=0), cell(seed=1))
    assert sync(folder) == 0
    once(wandb_server, folder)
    first, second, mean = wandb_server.runs.values()
    assert first["about"] == {
        "project": "lt-sweeps",
        "displayName": f"mask_criterion-model-dataset-{first['name'][:6]}-s0",
        "groupName": "tiny",
        "jobType": "method",
        "tags": ["mask_criterion", "method", "model", "dataset"],
    }
    assert first["state"] == second["state"] == mean["state"] == "finished"
    assert first["config"]["recipe"]["value"]["lr"] == 0.01
    assert first["config"]["seed"]["value"] == 0
    about = {name: value["value"] for name, value in first["config"].items()}
    assert (about["sweep"], about["line"]) == ("tiny", "mask_criterion")
    assert about["panel"] == "model on dataset"
    assert (about["device"], about["stack_size"], about["code_version"]) == ("cpu", 2, "")
    assert first["summary"]["levels"] == 3
    rows = wandb_server.rows(first["name"])
    began = [row for row in rows if row["level_step"] == 0]
    assert len(began) == 3 and not any("train/loss" in row for row in began), (
        "no loss before a step"
    )
    assert all(row["train/loss"] > 0 for row in rows if "val/loss" in row and row["level_step"])


def test_a_cell_over_its_seeds_is_a_run_with_mean_and_interval(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(*(cell(seed=seed) for seed in range(3)))
    assert sync(folder) == 0
    (mean,) = (run for run in wandb_server.runs.values() if "-mean-" in run["name"])
    last = wandb_server.rows(mean["name"])[-1]
    values = [source.levels[-1].result["ticket/test_accuracy"] for source in tracked_cells(folder)]
    assert last["mean/ticket/test_accuracy"] == pytest.approx(sum(values) / 3)
    assert last["ci_low/ticket/test_accuracy"] < min(values)
    assert (last["ticket/seeds"], last["ticket/finite_seeds"]) == (3, 3)
    assert mean["about"]["jobType"] == "mean over seeds"


def test_a_second_sync_sends_nothing(cell: Make, swept: Swept, wandb_server: WandbServer) -> None:
    folder = swept(cell(seed=0), cell(seed=1))
    assert sync(folder) == 0
    wandb_server.requests.clear()
    assert sync(folder) == 0
    assert not {"UpsertBucket", "file_stream"} & set(wandb_server.requests)
    once(wandb_server, folder)


def test_a_run_that_grew_is_the_same_run_and_gets_the_rest(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell())
    (path,) = folder.parent.parent.glob("runs/*/0")
    whole, done = (path / "records.jsonl").read_text(), (path / "DONE").read_text()
    (path / "DONE").unlink()
    (path / "records.jsonl").write_text(whole.splitlines(keepends=True)[0])
    assert sync(folder) == 0
    (run,) = wandb_server.runs.values()
    assert run["state"] == "running", "a cell that is not done is not finished"
    begun = len(run["history"])
    (path / "records.jsonl").write_text(whole)
    (path / "DONE").write_text(done)
    assert sync(folder) == 0
    assert list(wandb_server.runs.values()) == [run] and run["state"] == "finished"
    assert 0 < begun < len(run["history"])
    once(wandb_server, folder)


def test_rows_that_a_server_dropped_without_a_word_are_noticed_and_sent_again(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lt_sweeps.tracking.mirror._AGAIN", (0.1, 0.1))
    folder = swept(cell())
    # W&B's client takes a 404 for final, drops the rows and finishes as if all were well
    wandb_server.fault = lambda path: 404 if "file_stream" in path else None
    assert sync(folder) == 1
    assert "1 of 1 runs have not arrived; results are kept, and `lt-sweeps sync" in (
        capsys.readouterr().err
    )
    wandb_server.fault = None
    assert sync(folder) == 0
    once(wandb_server, folder)


def refuse(status: int) -> Callable[[str], int]:
    return lambda path: status


def delay(path: str) -> None:
    time.sleep(3)


@pytest.mark.parametrize(
    ("fault", "timeout", "says"),
    [
        (refuse(401), "300", "401"),
        (refuse(403), "300", "403"),
        (refuse(429), "2", "429|did not respond"),
        (refuse(503), "2", "503|did not respond"),
        (delay, "2", "did not respond|timed out"),
    ],
    ids=["wrong key", "forbidden", "rate limit", "down", "slow"],
)
def test_a_server_that_refuses_delays_or_fails_is_one_line_and_later_all_is_sent(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[str], int | None],
    timeout: str,
    says: str,
) -> None:
    folder = swept(cell())
    wandb_server.fault = fault
    assert sync(folder, timeout=timeout) == 1
    err = capsys.readouterr().err
    assert err.startswith("tracker: ") and err.count("\n") == 1
    assert re.search(says, err, re.IGNORECASE), err
    wandb_server.fault = None
    assert sync(folder) == 0
    once(wandb_server, folder)


def test_an_address_where_nobody_answers_is_one_line(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert sync(swept(cell()), timeout="2") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_without_a_key_nobody_is_asked_for_one(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    assert sync(swept(cell())) == 1
    assert "no API key; run `wandb login`, or set WANDB_API_KEY" in capsys.readouterr().err


def test_environment_variables_of_wandb_change_no_run(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = swept(cell())
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(ValueError, match="WANDB_MODE is disabled; unset it, or give the key"):
        Wandb()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Wandb().mode == "offline", "a sweep follows it; `sync` is online unless it is told"
    assert sync(folder) == 1 and not wandb_server.requests
    assert (
        "WANDB_MODE is offline; unset it, or give the key mode=offline" in capsys.readouterr().err
    )
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_SWEEP_ID", "an agent's")
    assert sync(folder) == 0
    assert len(wandb_server.runs) == 1
    once(wandb_server, folder)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"mod": "offline"}, "sync: mod; did you mean `mode`? keys: artifacts, entity, *"),
        ({"mode": "onlin"}, "tracker.mode: got 'onlin'; give one of online, offline"),
        ({"per_minute": "0"}, "tracker.per_minute: 0; give a number above 0"),
        ({"tags": "paper"}, "tracker.tags: got 'paper'; give a list *; did you mean [paper]?"),
        ({"timeout": "soon"}, "tracker.timeout: got 'soon'; give a number"),
        ({"project": "a/b"}, "tracker.project: 'a/b'; W&B allows none of *"),
        ({"artifacts": "weights"}, "*give one of none, masks, tickets"),
    ],
)
def test_a_wrong_key_or_value_is_refused(
    cell: Make, swept: Swept, given: dict[str, str], line: str
) -> None:
    expected = ".*".join(map(re.escape, line.split("*")))
    with pytest.raises(ValueError, match=f"^{expected}"):
        sync(swept(cell(), computed=False), **given)


@pytest.mark.slow
def test_a_sync_killed_at_any_moment_goes_on_from_what_arrived(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(*(cell(seed=seed, recipe__length="40ep") for seed in range(4)))
    for killed_after in (1, 3, 5):
        asked = Counter[str]()

        def slowly(path: str, asked: Counter[str] = asked, most: int = killed_after) -> None:
            asked["stream"] += "file_stream" in path
            if asked["stream"] > most:
                time.sleep(30)  # the rows are on their way when the kill comes

        wandb_server.fault = slowly
        words = [sys.executable, "-m", "lt_sweeps", "sync", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(words, env=environment, start_new_session=True)
        until(lambda asked=asked, most=killed_after: asked["stream"] > most, process)
        kill(process)
    wandb_server.fault = None
    assert sync(folder) == 0
    assert len(wandb_server.runs) == 5
    once(wandb_server, folder)


@pytest.mark.parametrize("kind", ["mask", "ticket"])
def test_artifacts_are_a_collection_per_cell_and_seed_with_levels_facts_and_parents(
    cell: Make,
    swept: Swept,
    wandb_server: WandbServer,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    folder = swept(*(cell(seed=seed) for seed in range(2)))
    assert sync(folder) == 0 and not wandb_server.artifacts
    assert sync(folder, artifacts=f"{kind}s") == 0
    versions = list(wandb_server.artifacts.items())
    cells = tracked_cells(folder)
    names = [f"{kind}-{tracked.run.key}" for tracked in cells for _ in range(3)]
    assert [version["artifactCollectionName"] for _, version in versions] == names
    for tracked, mine in zip(cells, (versions[:3], versions[3:]), strict=True):
        for number, (name, version) in enumerate(mine):
            aliases = sorted(each["alias"] for each in version["aliases"])
            assert aliases == ["latest", f"level-{number}"]
            facts, result = json.loads(version["metadata"]), tracked.levels[number].result
            assert facts["test_accuracy"] == result["ticket/test_accuracy"]
            assert (facts["sparsity"], facts["level"]) == (result["sparsity"], number)
            assert (facts["line"], facts["seed"]) == ("mask_criterion", tracked.seed)
            assert facts["parent"] == (f"level-{number - 1}" if number else None)
            stage = tracked.levels[number].record
            assert stage is not None and facts["stage"] == stage.stage
            # the level that prunes it has used it; nothing is pruned from the last
            used = {who for who, what in wandb_server.used if what == name}
            assert used == ({tracked.run.key} if number < 2 else set())
    wandb_server.requests.clear()
    assert sync(folder, artifacts=f"{kind}s") == 0
    assert "CreateArtifact" not in wandb_server.requests
    once(wandb_server, folder)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()], "small, or full"


def test_an_artifact_of_a_level_that_diverged_says_so_and_has_no_accuracy(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell(method=DENSE, recipe__optimizer="sgd", recipe__lr=1e20))
    assert sync(folder, artifacts="masks") == 0
    (version,) = wandb_server.artifacts.values()
    facts = json.loads(version["metadata"])
    assert facts["finite"] is False and "test_accuracy" not in facts
    (run,) = wandb_server.runs
    assert "ticket/test_accuracy" not in wandb_server.rows(run)[-1]


def test_a_running_sweep_leaves_its_end_half_of_the_runs_that_a_minute_may_have(
    cell: Make, swept: Swept
) -> None:
    """Otherwise the end of a large sweep would wait for a minute, which is all the time it has."""
    waits: list[float] = []

    class Clock(Deadline):
        def wait(self, seconds: float) -> None:
            waits.append(seconds)

    @dataclass
    class Taking:
        """A tracker that has no runs yet, and accepts each."""

        taken: list[str] = field(default_factory=list[str])
        every, per_minute, linger, whole = 30.0, 4, 60.0, False

        def has(self, runs: Sequence[Run]) -> dict[str, Arrived]:
            return {}

        def send(self, run: Run) -> None:
            self.taken.append(run.key)

    folder, tracker = swept(*(cell(seed=seed, method=DENSE) for seed in range(3))), Taking()
    mirror = Mirror(folder, tracker, Clock())  # pyright: ignore[reportArgumentType]
    runs = 3 + 1  # with the mean
    mirror._pass(tracker)
    assert len(tracker.taken) == runs and len([w for w in waits if w > 50]) == 2
    waits.clear()
    mirror._sent = mirror._sent[:2]  # what may be sent while the sweep runs
    mirror._pass(tracker, last=True)
    assert len(tracker.taken) == 2 * runs and len([w for w in waits if w > 50]) == 2


@dataclass
class Refusing:
    """A tracker that accepts all runs except some, and notes the order of its calls."""

    refuses: set[str]
    asked: list[str] = field(default_factory=list[str])
    taken: dict[str, Arrived] = field(default_factory=dict[str, Arrived])
    every, per_minute, linger, whole = 30.0, 1000, 60.0, False

    @contextmanager
    def session(self, root: Path, *, job: str | None = None) -> Iterator[Refusing]:
        yield self

    def has(self, runs: Sequence[Run]) -> dict[str, Arrived]:
        return self.taken

    def send(self, run: Run) -> None:
        self.asked.append(run.key)
        if run.key in self.refuses:
            raise Unreachable("HTTP 409: it was deleted")
        self.taken[run.key] = Arrived(len(run.rows), run.done)


def test_runs_that_a_tracker_refuses_do_not_keep_the_others_back(
    cell: Make,
    swept: Swept,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user has deleted these runs in W&B, which then refuses any new run of the same name."""
    monkeypatch.setattr("lt_sweeps.tracking.mirror._AGAIN", (0.0, 0.0))
    folder = swept(*(cell(seed=seed, method=DENSE) for seed in range(6)))
    keys = [tracked.run.key for tracked in tracked_cells(folder)]
    gone = {keys[0], keys[2]}
    assert Mirror(folder, tracker := Refusing(gone), Deadline()).once() == 1
    assert set(tracker.taken) == {*keys[1:2], *keys[3:]} | {m for m in tracker.taken if "mean" in m}
    assert len(tracker.asked) == 7, "each once"
    said = capsys.readouterr()
    assert said.out == f"{folder.name}: 5 of 7 runs mirrored\n"
    assert said.err.startswith("tracker: HTTP 409: it was deleted; ") and said.err.count("\n") == 1
    mirror = Mirror(folder, tracker := Refusing(set(keys[:4])), Deadline())
    for last, asked in ((False, keys[:3]), (False, keys[3:]), (False, []), (True, keys[:3])):
        tracker.asked.clear()
        mirror._pass(tracker, last=last)
        # Three in a row: the tracker may refuse all. Later the others come first.
        assert [key for key in tracker.asked if "mean" not in key] == asked


def test_the_end_of_a_sweep_waits_for_the_mirror_of_another_in_its_root(
    cell: Make, swept: Swept
) -> None:
    folder = swept(cell(method=DENSE))
    lock = FileLock(folder.parent.parent / ".mirror.lock")
    mirror = Mirror(folder, tracker := Refusing(set()), Deadline())
    with lock:
        mirror._pass(tracker)
        assert not tracker.asked
        waiting = threading.Thread(target=mirror._pass, args=[tracker], kwargs={"last": True})
        waiting.start()
        time.sleep(0.1)
        assert not tracker.asked
    waiting.join()
    assert len(tracker.asked) == 1


def test_a_sync_says_that_it_waits_for_another_mirror_and_gives_up_after_one_wait(
    cell: Make,
    swept: Swept,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lt_sweeps.tracking.mirror._LONGEST", 0.1)
    folder, tracker = swept(cell(method=DENSE)), Refusing(set())
    with FileLock(folder.parent.parent / ".mirror.lock"):
        assert Mirror(folder, tracker, Deadline()).once() == 1
    first, last = capsys.readouterr().err.splitlines()
    root = folder.parent.parent
    assert first.startswith(
        f"tracker: another process sends rows of {root} (a running sweep or another"
    )
    assert last.startswith("tracker: the other process was not done after ")
    assert "`lt-sweeps sync " in last and not tracker.asked
    assert Mirror(folder, tracker, Deadline()).once() == 0
    with FileLock(root / ".mirror.lock"):  # all has arrived: there is nothing to send
        assert Mirror(folder, tracker, Deadline()).once() == 0
    assert not capsys.readouterr().err


def test_files_are_written_at_once_because_no_server_counts_them() -> None:
    class Clock(Deadline):
        def wait(self, seconds: float) -> None:
            raise AssertionError(f"waited for {seconds} seconds")

    mirror = Mirror(Path("sweep"), Wandb(mode="offline", per_minute=1), Clock())
    for last in (False, True) * 5:
        mirror._pace(last=last)
    assert Wandb(mode="online", per_minute=1).per_minute == 1


def test_a_sweep_that_shares_cells_takes_over_their_group_and_line_and_no_row(
    cell: Make, swept: Swept, wandb_server: WandbServer
) -> None:
    folder = swept(cell())
    assert sync(folder) == 0
    (run,) = wandb_server.runs.values()
    assert (run["config"]["line"]["value"], run["about"]["groupName"]) == ("mask_criterion", "tiny")
    shutil.rmtree(folder)
    swept(cell(), cell(recipe__lr=0.1))
    assert sync(folder) == 0
    assert run["config"]["line"]["value"] == "lr=0.01"
    once(wandb_server, folder)
    wandb_server.requests.clear()
    assert sync(folder) == 0
    assert not {"UpsertBucket", "file_stream"} & set(wandb_server.requests)
