"""launch/other_networks.py: the networks that it names train, and the table in it is right."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.command_line import REPOSITORY
from fixtures.tiny_cell import compute_cells, settings
from safetensors.torch import load_file

import lt_sweeps as lt
from lt_sweeps.api.opened_sweep import Sweep
from lt_sweeps.execution.submission import Submission

NETWORKS = ["transformer", "recurrent", "table", "pretrained"]


@pytest.mark.slow
def test_the_script_of_other_networks_prints_each_with_its_metric_at_each_level(
    cells: Callable[..., list],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    opened: dict[str, Sweep] = {}

    def run(*words: str) -> Sweep:
        """Take the place of `lt.run`: in this process, without reports, with final weights only."""
        root = tmp_path / dict(word.split("=", 1) for word in words)["name"]
        made, _ = compute_cells(*cells(*words, "report_at=end"), root=root)
        folder = Submission(made, settings(root, "tiny")).freeze([]).folder
        return opened.setdefault(root.name, lt.open(folder))

    monkeypatch.setattr(lt, "run", run)
    monkeypatch.setattr("sys.argv", ["other_networks.py", "--quick", f"--root={tmp_path}"])
    runpy.run_path(str(REPOSITORY / "launch" / "other_networks.py"), run_name="__main__")
    head, _, *lines = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {head.count("|") - 1}
    assert [row[0] for row in rows[::2]] == NETWORKS
    assert [row[3] for row in rows] == ["large_final", "random"] * 4
    metrics = ["perplexity (lower is better)", "accuracy", "r2", "accuracy"]
    assert [row[2] for row in rows[::2]] == metrics
    for number, name in enumerate(NETWORKS):
        frame = opened[name].frame()
        metric = frame["metric"].iloc[0]
        at_end = frame[(frame.mask_criterion == "random") & (frame.level == 3)][f"test_{metric}"]
        assert len(at_end) == 2
        shown = float(rows[2 * number + 1][-1].split()[0])
        assert shown == pytest.approx(
            at_end.mean() * (100 if metric == "accuracy" else 1), rel=6e-3
        )
    ticket = opened["pretrained"].ticket(level=0, seed=1, mask_criterion="random")
    begun = load_file(tmp_path / "shufflenet.safetensors")
    state = ticket.module().state_dict()
    # Two steps move no weight far from the file's, and the head has another number of classes.
    assert (state["conv5.0.weight"] - begun["conv5.0.weight"]).abs().max() < 0.01
    assert (len(begun["fc.weight"]), len(state["fc.weight"])) == (10, 6)
