"""A sweep's W&B workspace and report (`lt-sweeps dashboard`), made from one list of plots.

`SECTIONS` is that list. Both are made without a network; only saving them asks the server.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.analysis.results import layouts, read_results
from lt_sweeps.analysis.sweep_analysis import Analysis, analyses
from lt_sweeps.config.report_config import KEYS
from lt_sweeps.reporting.csv_tables import summary_table
from lt_sweeps.reporting.result_tables import percent_text
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.checked_read import read_json, typed
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.tracking.tracked_runs import TrackedCell, tracked_cells

# W&B's name for each kind of band of our report.
_AREA = {"range": "minmax", "sd": "stddev", "ci": "stderr"}
_NAMES = ("project", "entity")


@dataclass(frozen=True)
class Plot:
    """Lines of `y` (names, or a pattern of names) against `x`, one per cell over its seeds."""

    title: str
    x: str
    y: tuple[str, ...] = ()
    pattern: str | None = None


_LEFT = "percent_remaining"
SECTIONS: dict[str, tuple[Plot, ...]] = {
    "Accuracy": (
        Plot("Test accuracy against percent remaining", _LEFT, ("ticket/test_accuracy",)),
        Plot(
            "Mean over seeds, 95 % interval",
            _LEFT,
            tuple(f"{kind}/ticket/test_accuracy" for kind in ("mean", "ci_low", "ci_high")),
        ),
        Plot("Test accuracy against sparsity", "sparsity", ("ticket/test_accuracy",)),
    ),
    "Convergence": (
        Plot("Step of the lowest validation loss", _LEFT, ("ticket/best_step",)),
        Plot("Validation accuracy", "step", ("val/accuracy",)),
        Plot("Validation and training loss", "step", ("val/loss", "train/loss")),
    ),
    "Layers": (Plot("Sparsity of each layer", "level", pattern="^layers/.*"),),
    "Supermasks": (
        Plot("Accuracy before training", _LEFT, ("ticket/untrained_val_accuracy",)),
        Plot("Accuracy of the learned mask made hard", _LEFT, ("ticket/hard_test_accuracy",)),
        Plot("The search for a mask", "step", pattern="^search/.*"),
    ),
}


@dataclass(frozen=True)
class Place:
    """Where a sweep's runs are in W&B."""

    project: str
    entity: str


def dashboard(sweep: Path, *, out: Path | None = None, save: str = "true", **keys: str) -> Path:
    """Write a sweep's workspace and report to a file, and save both in W&B.

    `keys` are `project` and `entity` in place of the sweep's, and keys of the report
    (`baseline=random`). Saving again replaces what was saved before.

    Raises: ValueError: a wrong key or value, W&B's library is missing, or W&B cannot be reached.
    """
    if save not in ("true", "false"):
        raise ValueError(f"dashboard: save={save}; give true or false")
    place = _place(sweep, keys)
    layout = {k: yaml.safe_load(v) for k, v in keys.items() if k not in _NAMES}
    metrics = {m for config in layouts(sweep).values() for m in config.get("metrics", ())}
    drawn = analyses(read_results(sweep, metrics={"test_accuracy", *metrics}), layout)
    verdicts = "\n\n".join(map(verdict_table, drawn.values()))
    band = next(iter(drawn.values())).layout.band
    workspace, report = definition(sweep.name, tracked_cells(sweep), place, verdicts, band=band)
    path = sweep / "dashboard.json" if out is None else Path(out)
    workspace._internal_name, workspace._internal_id, report.id = _saved(path, place)
    if save == "true":
        _save(workspace, report)
    specs = {
        "place": asdict(place),
        "saved": [workspace._internal_name, workspace._internal_id, report.id],
        "workspace": workspace._to_model().model_dump(mode="json", by_alias=True),
        "report": report._to_model().model_dump(mode="json", by_alias=True),
    }
    write_whole(path, json.dumps(specs, indent=1).encode())
    print(f"{path}: workspace and report" + ("" if save == "true" else ", not saved in W&B"))
    return path


def definition(
    name: str, cells: Sequence[TrackedCell], place: Place, verdicts: str, *, band: str
) -> tuple[Any, Any]:
    """The workspace and the report, as values of `wandb_workspaces`, made without the server."""
    library, workspaces, expr = _library()
    line = _line(cells)
    panels = {
        section: [_panel(library, plot, line, band) for plot in plots]
        for section, plots in SECTIONS.items()
    }
    # Choose runs by cell and not by group, because several sweeps may share a group.
    mine = expr.And(expr.Config("cell").isin(sorted({cell.signature for cell in cells})))
    text = library.MarkdownPanel(markdown=verdicts)
    workspace = workspaces.Workspace(
        entity=place.entity,
        project=place.project,
        name=name,
        sections=[
            workspaces.Section(name=title, panels=drawn, is_open=True)
            for title, drawn in {**panels, "Verdicts": [text]}.items()
        ],
        runset_settings=workspaces.RunsetSettings(filters=mine, groupby=[expr.Config(line)]),
    )
    blocks: list[Any] = [library.TableOfContents()]
    for title, drawn in panels.items():
        # A run set that names no project takes the project of its report.
        runs = library.Runset(name=name, filters=mine, groupby=[f"config.{line}"])
        blocks += [library.H1(title), library.PanelGrid(runsets=[runs], panels=drawn)]
    blocks += [library.H1("Verdicts"), library.MarkdownBlock(verdicts)]
    report = library.Report(
        project=place.project, entity=place.entity, title=name, blocks=blocks, width="fluid"
    )
    return workspace, report


def verdict_table(analysis: Analysis) -> str:
    """The tests of each line at each level as a markdown table; without tests, the means."""
    if not analysis.verdicts:
        return _means(analysis)
    rows = [
        "| line | % remaining | difference | p | p after Holm | p exact | |",
        "|---|---|---|---|---|---|---|",
    ]
    for verdict in analysis.verdicts:
        test = verdict.found
        rows.append(
            f"| {verdict.curve.label} | {percent_text(verdict.point.percent)} "
            f"| {test.difference:+.4f} [{test.ci_low:+.4f}, {test.ci_high:+.4f}] "
            f"| {test.p:.3g} ({test.test}) | {verdict.p_holm:.3g} | {test.p_exact:.3g} "
            f"| {verdict.mark(analysis.layout.alpha)} |"
        )
    baseline = analysis.verdicts[0].baseline.label
    return "\n".join([f"{analysis.metric} against {baseline}", "", *rows])


def _means(analysis: Analysis) -> str:
    table = summary_table(analysis.curves, metric=analysis.metric)
    if not len(table):
        return "no records yet"
    rows = [f"{analysis.metric}; no tests, because the report has no baseline", ""]
    rows += ["| line | % remaining | mean | range | finite |", "|---|---|---|---|---|"]
    for row in table.to_dict("records"):
        rows.append(
            f"| {row['curve']} | {percent_text(row['percent_remaining'])} | {row['mean']:.4f} "
            f"| [{row['min']:.4f}, {row['max']:.4f}] | {row['n_finite']} of {row['n_seeds']} |"
        )
    return "\n".join(rows)


def _panel(library: Any, plot: Plot, line: str, band: str) -> Any:
    remain = plot.x == _LEFT
    return library.LinePlot(
        title=plot.title,
        x=plot.x,
        y=list(plot.y),
        metric_regex=plot.pattern,
        log_x=remain,
        title_x="percent of weights remaining" if remain else plot.x,
        groupby=library.Config(line),
        groupby_aggfunc="mean",
        groupby_rangefunc=_AREA[band],
    )


def _line(cells: Sequence[TrackedCell]) -> str:
    """The key that separates lines: the criterion, unless cells differ in something else too."""
    pairs = {(cell.labels.get("mask_criterion"), cell.signature) for cell in cells}
    return "criterion" if len({criterion for criterion, _ in pairs}) == len(pairs) else "cell"


def _place(sweep: Path, keys: dict[str, str]) -> Place:
    for key in keys:
        if key not in (*_NAMES, *KEYS):
            allowed = [*_NAMES, "out", "save", *KEYS]
            raise ValueError(f"dashboard: unknown key {key}; keys: {allowed}")
    config = {**(SweepFolder(sweep).manifest.cells[0].config.get("tracker") or {}), **keys}
    return Place(config.get("project") or "lt-sweeps", config.get("entity") or "")


def _library() -> tuple[Any, Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from wandb_workspaces import expr, workspaces
            from wandb_workspaces.reports import v2
    except ImportError:
        raise ValueError(
            "dashboard: wandb-workspaces is not installed; hint: pip install lt-sweeps[wandb]"
        ) from None
    return v2, workspaces, expr


def _saved(path: Path, place: Place) -> tuple[str, str, str]:
    """W&B's names of what an earlier call saved there, so that saving again replaces it."""
    try:
        before = read_json(path, dict[str, Any])
        name, view, report = typed(tuple[str, str, str], before.get("saved"))
    except (FileNotFoundError, ValueError):  # nothing was saved, or nobody knows where
        return "", "", ""
    return (name, view, report) if before.get("place") == asdict(place) else ("", "", "")


def _save(workspace: Any, report: Any) -> None:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError("dashboard: no API key; run `wandb login`, or set WANDB_API_KEY")
    try:
        entity = workspace.entity or wandb.Api().default_entity
        workspace.entity = report.entity = entity
        workspace.save()
        report.save()
    except (wandb.Error, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"dashboard: {reason}; save=false writes it without W&B") from None
