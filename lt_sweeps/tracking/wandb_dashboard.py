"""A sweep's W&B workspace and report (`lt-sweeps dashboard`), both made from the same plots.

`sections` lists these plots. Workspace and report group runs by their line in the sweep's report.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lt_sweeps.analysis.curve import Curve
from lt_sweeps.analysis.sweep_analysis import Analysis, check_typed, read_analyses
from lt_sweeps.config.errors import yaml_value
from lt_sweeps.config.quantities import TEST_ACCURACY, Quantity
from lt_sweeps.config.report_config import BANDS, KEYS
from lt_sweeps.config.spelling import unknown
from lt_sweeps.reporting.result_tables import percent_text
from lt_sweeps.reporting.terminal_tables import p_text
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.checked_read import read_json
from lt_sweeps.storage.sweep_folder import SweepFolder
from lt_sweeps.tracking.mean_runs import runs_over_seeds
from lt_sweeps.tracking.tracked_runs import TrackedCell
from lt_sweeps.tracking.tracked_sweep import tracked_cells

_NAMES = ("project", "entity")


@dataclass(frozen=True)
class Plot:
    """A plot of `y`, or of names that match `pattern`, against `x`; one line per report line."""

    title: str
    x: str
    y: str = ""
    pattern: str | None = None


_LEFT = "percent_remaining"


def sections(metrics: Iterable[Quantity]) -> dict[str, tuple[Plot, ...]]:
    """The plots of each section; sections of the metrics by which tasks are judged come first."""
    judged = {metric.kind: metric for metric in metrics}
    judged = judged or {TEST_ACCURACY.kind: TEST_ACCURACY}
    return {
        **{_capital(metric.kind_words): tuple(_test_plots(metric)) for metric in judged.values()},
        "Convergence": (
            Plot("Step of the lowest validation loss", _LEFT, "ticket/best_step"),
            *(
                Plot(f"Validation {metric.kind_words}", "step", f"val/{kind}")
                for kind, metric in judged.items()
            ),
            Plot("Validation loss", "step", "val/loss"),
            Plot("Training loss", "step", "train/loss"),
        ),
        "Layers": (Plot("Sparsity of each layer", "level", pattern="^layers/.*"),),
        "Supermasks": tuple(_mask_plots(judged.values())),
    }


def _test_plots(metric: Quantity) -> Iterator[Plot]:
    for x, said in {_LEFT: "percent remaining", "sparsity": "sparsity"}.items():
        title = f"Test {metric.kind_words} against {said}{_better(metric)}"
        yield Plot(title, x, f"ticket/{metric.name}")


def _mask_plots(metrics: Iterable[Quantity]) -> Iterator[Plot]:
    for metric in metrics:
        words = _capital(metric.kind_words)
        yield Plot(f"{words} before training", _LEFT, f"ticket/untrained_val_{metric.kind}")
        hard = f"ticket/hard_test_{metric.kind}"
        yield Plot(f"{words} of the learned mask made hard", _LEFT, hard)
    yield Plot("The search for a mask", "step", pattern="^search/.*")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _better(metric: Quantity) -> str:
    return " (lower is better)" if metric.lower_is_better else ""


@dataclass(frozen=True)
class Place:
    """The W&B project and entity of a sweep's runs."""

    project: str
    entity: str


@dataclass(frozen=True)
class Saved:
    """A saved dashboard: its place, the workspace's URL, the report's id and URL."""

    place: Place
    workspace: str
    report: str
    report_url: str


def dashboard(sweep: Path, **keys: str) -> None:
    """Save a sweep's workspace and report in W&B, replacing those that were saved before.

    `keys` are `project` and `entity`, which replace the sweep's, and keys of the report
    (`baseline=random`).

    Raises: ValueError: a key or value is wrong, W&B's library is missing, or W&B cannot be reached.
    """
    place = _place(sweep, keys)
    layout = {k: yaml_value(k, v) for k, v in keys.items() if k not in _NAMES}
    drawn = read_analyses(sweep, layout)
    check_typed(drawn.values(), layout)
    verdicts = "\n\n".join(map(verdict_table, drawn.values()))
    band = next(iter(drawn.values())).layout.band
    workspace, report = definition(sweep.name, tracked_cells(sweep), place, verdicts, band=band)
    path = sweep / "dashboard.json"
    saved = _save(workspace, report, place, _saved(path, place))
    write_whole(path, json.dumps(asdict(saved)).encode())
    print(f"{saved.workspace}\n{saved.report_url}")


def definition(
    name: str, cells: Sequence[TrackedCell], place: Place, verdicts: str, *, band: str
) -> tuple[Any, Any]:
    """The workspace and the report as objects of `wandb_workspaces`, built without the server."""
    library, workspaces, expr = _library()
    # A line may be in several panels of the report, for several networks or data sets.
    one_panel = len({cell.place["panel"] for cell in cells}) == 1
    line = "line" if one_panel else "panel_and_line"
    if len({cell.seed for cell in cells}) == 1:
        band = "range"  # other bands need mean runs, which need several seeds
    panels = {
        section: [_panel(library, plot, line, band) for plot in plots]
        for section, plots in sections(cell.metric for cell in cells).items()
    }
    # Filter runs by their ids, because other sweeps may share the group, or cells with other seeds.
    runs = (*(cell.run for cell in cells), *runs_over_seeds(cells))
    mine = expr.And(expr.Metric("ID").isin(sorted(run.key for run in runs)))
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
        # A run set without a project uses the project of its report.
        shown = library.Runset(name=name, filters=mine, groupby=[f"config.{line}"])
        blocks += [library.H1(title), library.PanelGrid(runsets=[shown], panels=drawn)]
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
        test = verdict.comparison
        known = not math.isnan(test.ci_low)  # no interval without spread
        interval = f" [{test.ci_low:+.4f}, {test.ci_high:+.4f}]" if known else ""
        rows.append(
            f"| {_line(verdict.curve, analysis)} | {percent_text(verdict.point.percent)} "
            f"| {test.difference:+.4f}{interval} | {p_text(test.p)} ({test.test}) "
            f"| {p_text(verdict.p_holm)} | {p_text(test.p_exact, digits=4)} "
            f"| {verdict.mark(analysis.layout.alpha)} |"
        )
    baseline = analysis.verdicts[0].baseline.label
    return "\n".join([f"{_metric(analysis)} against {baseline}", "", *rows])


def _metric(analysis: Analysis) -> str:
    """The metrics that a table's numbers show, in the unit of the records."""
    metrics = dict.fromkeys(curve.metric for curve in analysis.curves)
    return " and ".join(f"{metric.name}{_better(metric)}" for metric in metrics)


def _means(analysis: Analysis) -> str:
    points = [(curve, point) for curve in analysis.curves for point in curve.points]
    if not points:
        return "no records yet"
    rows = [f"{_metric(analysis)}; no tests, because the report has no baseline", ""]
    rows += ["| line | % remaining | mean | range | finite |", "|---|---|---|---|---|"]
    for curve, point in points:
        rows.append(
            f"| {_line(curve, analysis)} | {percent_text(point.percent)} | {point.mean:.4f} "
            f"| [{point.min:.4f}, {point.max:.4f}] | {point.n_finite} of {len(curve.seeds)} |"
        )
    return "\n".join(rows)


def _line(curve: Curve, analysis: Analysis) -> str:
    """A line's label; with its panel if there are several, which may have lines of equal names."""
    several = len({curve.panel for curve in analysis.curves}) > 1
    name = f"{curve.label}, {curve.panel}" if several else curve.label
    return name.replace("|", "\\|")


def _panel(library: Any, plot: Plot, line: str, band: str) -> Any:
    """A line plot with the report's band.

    W&B draws a range over runs as the report does. It has no t interval, and its standard deviation
    may use another divisor. So the edges of these bands are drawn as lines from the mean runs.
    """
    remain, edged = plot.x == _LEFT, band != "range" and plot.pattern is None
    kinds = ("mean", f"{band}_low", f"{band}_high") if edged else ()
    return library.LinePlot(
        title=plot.title if plot.pattern else f"{plot.title}: mean and {BANDS[band]}",
        x=plot.x,
        y=[f"{kind}/{plot.y}" for kind in kinds] or ([plot.y] if plot.y else []),
        metric_regex=plot.pattern,
        log_x=remain,
        title_x="percent of weights remaining" if remain else plot.x,
        groupby=library.Config(line),
        groupby_aggfunc="mean",
        groupby_rangefunc="none" if edged or plot.pattern else "minmax",
    )


def _place(sweep: Path, keys: dict[str, str]) -> Place:
    for key in keys:
        if key not in (*_NAMES, *KEYS):
            raise ValueError(unknown("dashboard", key, [*_NAMES, *KEYS], what="keys"))
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
            "dashboard: wandb-workspaces is not installed; hint: pip install 'lt-sweeps[wandb]'"
        ) from None
    return v2, workspaces, expr


def _saved(path: Path, place: Place) -> Saved | None:
    """The dashboard that an earlier call saved at this place, to be replaced; None if unknown."""
    try:
        before = read_json(path, Saved)
    except (FileNotFoundError, ValueError):  # nothing was saved, or the file is damaged
        return None
    return before if before.place == place else None


def _save(workspace: Any, report: Any, place: Place, before: Saved | None) -> Saved:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError("dashboard: no API key; run `wandb login`, or set WANDB_API_KEY")
    try:
        entity = workspace.entity or wandb.Api().default_entity
        workspace.entity = report.entity = entity
        if before is not None:
            kept = type(workspace).from_url(before.workspace)
            for name in ("name", "sections", "runset_settings"):
                setattr(kept, name, getattr(workspace, name))
            workspace, report.id = kept, before.report
        workspace.save()
        report.save()
        return Saved(place, workspace.url, report.id, report.url)
    except (wandb.Error, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"dashboard: {' '.join(str(error).split())}") from None
