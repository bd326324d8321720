"""TensorBoard and MLflow: their files on disk, read back by their own readers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.prune_store import drop_unneeded
from lt_sweeps.tracking import tensorboard_tracker
from lt_sweeps.tracking.mean_runs import runs_over_seeds
from lt_sweeps.tracking.mirror import sync
from lt_sweeps.tracking.mirror_process import mirrored
from lt_sweeps.tracking.tracked_runs import AXES, Run, axis
from lt_sweeps.tracking.tracked_sweep import tracked_cells

Make = Callable[..., Cell]
Swept = Callable[..., Path]
Point = tuple[int, float]


def points(run: Run) -> dict[str, list[Point]]:
    """The points that a tracker must have: by name, steps and values in the order of the rows."""
    found: dict[str, list[Point]] = {}
    for row in run.rows:
        for name, value in row.items():
            if name not in AXES:
                found.setdefault(name, []).append((axis(row), float(value)))
    return found


def runs_of(folder: Path) -> list[Run]:
    cells = tracked_cells(folder)
    return [*(cell.run for cell in cells), *runs_over_seeds(cells)]


def tensorboard(folder: Path) -> dict[str, Any]:
    """The runs in a root's TensorBoard folder, by subfolder, as TensorBoard reads them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    root, found = folder.parent.parent / "tensorboard", {}
    for file in sorted(root.rglob("events.*")):
        found[str(file.parent.relative_to(root))] = reader.EventAccumulator(
            str(file.parent), size_guidance={"scalars": 0}
        ).Reload()
    return found


def scalars(events: Any) -> dict[str, list[Point]]:
    return {
        name: [(at.step, at.value) for at in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def mlflow(folder: Path) -> dict[str, tuple[Any, dict[str, list[Point]]]]:
    """The runs in a root's MLflow database, by our key, with the history of each metric."""
    client = pytest.importorskip("mlflow").MlflowClient(
        f"sqlite:///{folder.parent.parent / 'mlflow.db'}"
    )
    found = {}
    for run in client.search_runs([each.experiment_id for each in client.search_experiments()]):
        key, key_of_run = run.info.run_id, run.data.tags["lt_sweeps.run"]
        assert key_of_run not in found, "no run is there twice"
        history = {
            name: [
                (at.step, at.value)
                for at in sorted(client.get_metric_history(key, name), key=lambda at: at.timestamp)
            ]
            for name in run.data.metrics
        }
        found[key_of_run] = run, history
    return found


def whole_in_tensorboard(folder: Path) -> dict[str, Any]:
    """Check that every row of every run is there once, in order; return the runs."""
    found = tensorboard(folder)
    for run in runs_of(folder):
        (place,) = (place for place in found if place.endswith(f"/{run.key}"))
        about = run.about
        assert place == "/".join(map(str, (about["sweep"], about["panel"], about["line"], run.key)))
        had = scalars(found[place])
        want = points(run)
        summary = {name: had.pop(name) for name in list(had) if name.startswith("summary/")}
        assert had.keys() == want.keys()
        for name, expected in want.items():
            assert had[name] == [(step, pytest.approx(value)) for step, value in expected]
        shown = {name: value for name, value in run.summary.items() if name not in AXES}
        numbers = {f"summary/{name}": value for name, value in shown.items()} if run.done else {}
        assert {n: v for n, [(_, v)] in summary.items()} == pytest.approx(numbers)
    return found


def whole_in_mlflow(folder: Path) -> dict[str, tuple[Any, dict[str, list[Point]]]]:
    found = mlflow(folder)
    runs = runs_of(folder)
    assert found.keys() == {run.key for run in runs}
    for run in runs:
        stored, had = found[run.key]
        assert {name: had[name] for name in points(run)} == points(run)
        assert stored.info.status == ("FINISHED" if run.done else "RUNNING")
    return found


def cut(folder: Path) -> Callable[[], None]:
    """Take a finished sweep back to its first level; the returned function completes it again."""
    before = {path: path.read_bytes() for path in folder.parent.parent.glob("runs/*/*/*")}
    for path in before:
        if path.name == "DONE":
            path.unlink()
        elif path.name == "records.jsonl":
            path.write_bytes(before[path].splitlines(keepends=True)[0])

    def end() -> None:
        for path, content in before.items():
            path.write_bytes(content)

    return end


def test_tensorboard_has_every_row_once_with_settings_and_summary(
    cell: Make, swept: Swept, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = swept(cell(seed=0), cell(seed=1))
    end = cut(folder)
    assert sync(folder, tracker="tensorboard") == 0
    whole_in_tensorboard(folder)
    end()
    assert sync(folder, tracker="tensorboard") == 0
    found = whole_in_tensorboard(folder)
    files = {f: f.read_bytes() for f in (folder.parent.parent / "tensorboard").rglob("events.*")}
    assert sync(folder, tracker="tensorboard") == 0
    assert all(file.read_bytes() == content for file, content in files.items()), "nothing doubled"
    assert capfd.readouterr().err == ""
    table = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    first = next(iter(found.values()))
    start = first.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    told = table.HParamsPluginData.FromString(start).session_start_info.hparams
    assert told["recipe.lr"].number_value == 0.01
    assert told["sweep"].string_value == "tiny" and told["line"].string_value == "mask_criterion"
    assert told["device"].string_value == "cpu" and told["stack_size"].number_value == 2


def test_a_tensorboard_file_that_is_cut_off_anywhere_is_completed(cell: Make, swept: Swept) -> None:
    pytest.importorskip("tensorboard")
    folder = swept(cell())
    assert sync(folder, tracker="tensorboard") == 0
    (file,) = (folder.parent.parent / "tensorboard").rglob("events.*")
    content = file.read_bytes()
    rows = [tensorboard_tracker._read(file)[0]]
    for size in (0, 5, 30, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        rows.append(tensorboard_tracker._read(file)[0])
        assert sync(folder, tracker="tensorboard") == 0
        whole_in_tensorboard(folder)
    assert [each.rows for each in rows[:4]] == [15, 0, 0, 0] and not rows[-1].closed


def test_rows_without_their_dropped_curves_are_not_taken_for_rows_that_have_arrived(
    cell: Make, swept: Swept, capfd: pytest.CaptureFixture[str]
) -> None:
    # A mirror that failed has sent the first level only, and the sweep has dropped its tickets.
    pytest.importorskip("tensorboard")
    folder = swept(cell(seed=0), cell(seed=1))
    end = cut(folder)
    assert sync(folder, tracker="tensorboard") == 0
    end()
    drop_unneeded(folder, keep="records", apply=True)
    assert sync(folder, tracker="tensorboard") == 1
    assert "the tickets of others were dropped; `sync` to another" in capfd.readouterr().err
    # Another folder is as empty as this one.
    shutil.rmtree(folder.parent.parent / "tensorboard")
    assert sync(folder, tracker="tensorboard") == 0
    whole_in_tensorboard(folder)


def test_a_run_in_tensorboard_moves_when_its_line_is_called_otherwise(
    cell: Make, swept: Swept
) -> None:
    pytest.importorskip("tensorboard")
    folder = swept(cell())
    assert sync(folder, tracker="tensorboard") == 0
    shutil.rmtree(folder)
    swept(cell(), cell(recipe__lr=0.1))
    assert sync(folder, tracker="tensorboard") == 0
    assert len(whole_in_tensorboard(folder)) == 2


def test_mlflow_has_every_row_once_with_parameters_tags_and_summary_though_it_was_killed(
    cell: Make, swept: Swept, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The mirror is killed after rows have arrived, but before the tag that says so."""
    library = pytest.importorskip("mlflow").MlflowClient
    folder = swept(cell(seed=0), cell(seed=1))
    end, log = cut(folder), library.log_batch

    def killed(client: Any, key: str, **sent: Any) -> None:
        if "tags" in sent:
            raise KeyboardInterrupt
        log(client, key, **sent)

    with monkeypatch.context() as patch:
        patch.setattr(library, "log_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            sync(folder, tracker="mlflow")
    assert sync(folder, tracker="mlflow") == 0
    database = f"sqlite:///{(folder.parent.parent / 'mlflow.db').resolve()}"
    said = capfd.readouterr()
    assert f"runs mirrored in {database}\n" in said.out and said.err == ""
    first = whole_in_mlflow(folder)
    end()
    assert sync(folder, tracker="mlflow") == 0
    found = whole_in_mlflow(folder)
    for key, (run, _) in first.items():
        assert found[key][0].info.run_id == run.info.run_id, "the run goes on"
    for run in runs_of(folder):
        stored, had = found[run.key]
        assert {n: had[f"summary/{n}"] for n in ("levels", "seeds") if n in run.summary} == {
            n: [(0, run.summary[n])] for n in ("levels", "seeds") if n in run.summary
        }
        assert stored.data.params["recipe.lr"] == "0.01"
        tags = stored.data.tags
        assert (tags["sweep"], tags["line"]) == ("tiny", "mask_criterion")
    stored, _ = found[tracked_cells(folder)[0].run.key]
    assert (stored.data.tags["device"], stored.data.params["seed"]) == ("cpu", "0")
    assert stored.info.run_name.endswith("-s0")
    monkeypatch.setattr(library, "log_batch", killed)
    assert sync(folder, tracker="mlflow") == 0, "nothing is left to send"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_a_missing_package_is_one_line_with_the_command_that_brings_it(
    cell: Make, swept: Swept, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = f"tracker: {tracker} is not installed; hint: pip install 'lt-sweeps[{tracker}]'"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        sync(swept(cell(), computed=False), tracker=tracker)


def test_a_value_that_is_no_yaml_is_named_by_its_key(cell: Make, swept: Swept) -> None:
    with pytest.raises(ValueError, match=r"^tags: got \[x; close the brackets"):
        sync(swept(cell(), computed=False), tracker="wandb", tags="[x")


def test_an_unknown_tracker_lists_ours(cell: Make, swept: Swept) -> None:
    with pytest.raises(ValueError, match="tensorbord; did you mean `tensorboard`"):
        sync(swept(cell(), computed=False), tracker="tensorbord")


LAB = """
import json
from contextlib import contextmanager
from pathlib import Path

from lt_sweeps.tracking.tracker import Arrived


class JsonLines:
    every, per_minute, linger, whole = 0.2, 600, 30.0, False

    def __init__(self, *, folder: str, broken: bool = False):
        self.folder, self.broken = Path(folder), broken

    @contextmanager
    def session(self, root, *, job=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        yield self

    def has(self, runs):
        known = {run.key: self._lines(run) for run in runs}
        return {key: Arrived(len(lines), True) for key, lines in known.items() if lines}

    def send(self, run):
        if self.broken:
            raise KeyError("nothing")
        rows = [json.dumps(dict(row)) for row in run.rows[len(self._lines(run)) :]]
        with (self.folder / run.key).open("a") as file:
            file.writelines(line + chr(10) for line in rows)

    def _lines(self, run):
        path = self.folder / run.key
        return path.read_text().splitlines() if path.exists() else []
"""


def test_a_stranger_s_tracker_is_a_class_and_a_yaml(
    cell: Make,
    swept: Swept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "stranger_lab.py").write_text(LAB)
    (tmp_path / "conf" / "tracker").mkdir(parents=True)
    keys = {"_target_": "stranger_lab.JsonLines", "folder": str(tmp_path / "lines")}
    (tmp_path / "conf" / "tracker" / "lines.yaml").write_text(yaml.safe_dump(keys))
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--config-dir", str(tmp_path / "conf"), "tracker=lines", f"root={tmp_path / 'plan'}"]
    assert main(["plan", *words]) == 0
    assert main(["plan", *words, "tracker.foldr=x"]) == 1
    assert "tracker.foldr: unknown key" in capfd.readouterr().err
    folder = swept(*(cell(seed=seed, tracker={**keys, "broken": False}) for seed in range(2)))
    with mirrored(folder, keys):
        pass
    for run in runs_of(folder):
        lines = (tmp_path / "lines" / run.key).read_text().splitlines()
        assert [json.loads(line) for line in lines] == [dict(row) for row in run.rows]
    assert capfd.readouterr().err == ""
    shutil.rmtree(tmp_path / "lines")
    assert sync(folder, trust="stranger_lab", broken="true") == 1
    err = capfd.readouterr().err
    assert err.startswith("tracker: KeyError: 'nothing' (") and err.count("\n") == 1
