"""Draw a whole paper from the sweeps that exist: its figures, its table, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from rich.console import Console
from rich.text import Text

from lt_sweeps.analysis.curve import curves
from lt_sweeps.analysis.endpoint import endpoints
from lt_sweeps.analysis.labels import value_of
from lt_sweeps.analysis.results import CellResults, Results, read_results
from lt_sweeps.analysis.stats import spread
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.config.paper import Paper, PaperItem, TableColumn
from lt_sweeps.config.report_config import ReportConfig, layout
from lt_sweeps.reporting.figures.style import csv_bytes
from lt_sweeps.reporting.report_files import print_lines, write_report
from lt_sweeps.reporting.result_tables import new_table
from lt_sweeps.reporting.terminal_tables import endpoint_tables, verdict_tables
from lt_sweeps.storage.atomic_write import write_whole

QUICK = "_quick"
_PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ name }}</title>
<style>body { font: 15px/1.45 Georgia, serif; max-width: 62rem; margin: 2rem auto; }
.warn { border-left: 4px solid #d55e00; padding: .3rem .8rem; background: #fdf3ec; }
img { max-width: 100%; } td, th { padding: .2rem .6rem; text-align: right; }</style>
<h1>{{ name }}</h1>
{% for item in items %}<h2>{{ item.title }}</h2>
{% for line in item.missing %}<p class="warn">{{ line }}</p>{% endfor %}
{% for picture in item.pictures %}<p><a href="{{ item.folder }}/index.html">
<img alt="{{ item.title }}" src="{{ item.folder }}/{{ picture }}"></a></p>{% endfor %}
{% for line in item.says %}<p>{{ line }}</p>{% endfor %}{% endfor %}
<h2>table</h2><table><tr><th></th>{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for net, cells in rows.items() %}<tr><th>{{ net }}</th>
{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></html>
"""


@dataclass(frozen=True)
class DrawnItem:
    """A figure of the paper as it was drawn, with a line for each net that it lacks."""

    title: str
    folder: str
    pictures: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    says: tuple[str, ...] = ()


def draw_paper(
    name: str, root: Path, *, quick: bool = False, console: Console | None = None
) -> Path:
    """Draw the figures and the table of a paper below `root/papers/`; returns the folder.

    `quick` takes the quick variants of its experiments, whatever their nets are.

    Raises: ValueError: an unknown paper, or no sweep of any of its experiments.
    """
    paper, console = Paper.named(name), console or Console()
    sweeps = _sweeps(root)
    suffix = QUICK if quick else ""
    folder = root / "papers" / f"{name}{suffix}"
    items = [_draw(t, item, sweeps, folder, suffix) for t, item in paper.items.items()]
    if not any(item.pictures for item in items):
        raise ValueError(
            f"paper: {root} has no sweep of an experiment of {name}; {items[0].missing[0]}"
        )
    table = _table(paper, sweeps, suffix)
    write_whole(folder / "table.csv", csv_bytes(table))
    heads = list(paper.table)
    rows = {str(net): _row(numbers, heads) for net, numbers in table.groupby("net", sort=False)}
    page = Environment(autoescape=True).from_string(_PAGE)
    html = page.render(name=name, items=items, heads=heads, rows=rows)
    write_whole(folder / "index.html", html.encode())
    _print(items, heads, rows, console)
    print_lines(console, [f"{folder}: index.html, table.csv and a folder for each figure"])
    return folder


def _sweeps(root: Path) -> list[Results]:
    folders = sorted(path.parent for path in (root / "sweeps").glob("*/manifest.json"))
    return [read_results(folder, metrics=["test_accuracy"]) for folder in folders]


def _cells(
    sweeps: Sequence[Results], experiments: Sequence[str], nets: Mapping[str, str | None]
) -> list[CellResults]:
    """The started cells of these experiments on these nets and their data, each once."""
    cells: dict[tuple[str, str], CellResults] = {}
    for cell in (cell for sweep in sweeps for cell in sweep.cells):
        net, data = cell.choices.get("model"), cell.choices.get("dataset")
        fits = not nets or (net is not None and net in nets and nets[net] in (None, data))
        if cell.choices and cell.experiment in experiments and fits:
            cells.setdefault((cell.signature, cell.seed), cell)
    return list(cells.values())


def _draw(
    title: str, item: PaperItem, sweeps: Sequence[Results], folder: Path, suffix: str
) -> DrawnItem:
    names = [f"{name}{suffix}" for name in item.experiments]
    nets = {} if suffix else item.nets
    place = title.replace(", ", " ").replace(" ", "_")
    cells = _cells(sweeps, names, nets)
    missing = tuple(_missing(names, nets, cells))
    if not cells:
        return DrawnItem(title, place, missing=missing)
    reports = [sweep.layouts[names[0]] for sweep in sweeps if names[0] in sweep.layouts]
    own = {**(reports[-1] if reports else {}), **item.report}
    # Where one of several experiments is missing, no cell has its keys.
    known = {key for cell in cells for key in (*cell.choices, *cell.settings)}
    for keys in ("panels", "lines", "along"):
        if own.get(keys):
            own[keys] = [key for key in own[keys] if key in known]
    reading = Results(title, tuple(cells), root=sweeps[0].root)
    analysis = Analysis(reading, layout(own))
    tables = [*endpoint_tables(analysis), *verdict_tables(analysis)]
    reasons, _ = write_report(analysis, folder / place, tables)
    pictures = sorted(path.name for path in (folder / place).glob("*.png"))
    left = [reading.unfinished] if reading.unfinished else []
    says = analysis.test_sentences
    return DrawnItem(title, place, tuple(pictures), (*missing, *left, *reasons), tuple(says))


def _missing(
    names: Sequence[str], nets: Mapping[str, str | None], cells: Sequence[CellResults]
) -> Iterator[str]:
    """The command that computes what an item lacks, for each experiment."""
    for name in names:
        here = {cell.choices.get("model") for cell in cells if cell.experiment == name}
        lacking = [net for net in nets if net not in here]
        if lacking:
            models = f" model={','.join(lacking)}"
            yield f"missing {', '.join(lacking)}: python -m lt_sweeps experiment={name}{models}"
        elif not here:
            yield f"missing: python -m lt_sweeps experiment={name}"


def _table(paper: Paper, sweeps: Sequence[Results], suffix: str) -> pd.DataFrame:
    """A row per net and column: the mean over runs, their spread, the published number."""
    nets: Mapping[str, str | None] = {"fc": None} if suffix else paper.nets
    rows = []
    for net, data in nets.items():
        for title, column in paper.table.items():
            cells = _cells(sweeps, [f"{column.experiment}{suffix}"], {net: data})
            chosen = [
                cell
                for cell in cells
                if all(value_of(cell, key) == value for key, value in column.choose.items())
            ]
            runs = _runs(chosen, column)
            numbers = spread(runs)
            rows.append(
                {
                    "net": net,
                    "column": title,
                    "n": len(runs),
                    "mean": numbers.mean,
                    "sd": numbers.sd,
                    "published": None if suffix else column.published[net],
                }
            )
    return pd.DataFrame(rows)


def _runs(cells: Sequence[CellResults], column: TableColumn) -> list[float]:
    """A number for each run: of the dense network, or of its best level."""
    if not cells:
        return []
    along = ["method.bias"] if any("method.bias" in cell.settings for cell in cells) else []
    config = replace(ReportConfig(), along=along)
    drawn = curves(cells, metric="test_accuracy", layout=config)
    if column.dense:
        return [*drawn[0].dense.values.values()] if drawn[0].dense else []
    ends = endpoints(drawn[0], "test_accuracy", config, least=100.0)
    return [*next(end for end in ends if end.name == "peak").values.values()]


def _row(numbers: pd.DataFrame, heads: Sequence[str]) -> list[str]:
    by_column = numbers.set_index("column").to_dict("index")
    return [_text(by_column[head]) for head in heads]


def _text(cell: Mapping[str, float]) -> str:
    """`95.3 ± 0.2 (95.1)`: ours, and what is published."""
    ours = "missing" if not cell["n"] else f"{100 * cell['mean']:.1f}"
    ours += "" if math.isnan(cell["sd"]) else f" ± {100 * cell['sd']:.1f}"
    published = cell["published"]
    known = published is not None and not math.isnan(published)
    return f"{ours} ({100 * published:.1f})" if known else ours


def _print(
    items: Sequence[DrawnItem],
    heads: Sequence[str],
    rows: Mapping[str, list[str]],
    console: Console,
) -> None:
    for item in items:
        print_lines(console, [f"{item.title}: {', '.join(item.pictures) or 'not drawn'}"])
        print_lines(console, [f"  {line}" for line in item.missing])
    table = new_table("test accuracy (%), mean ± sd over runs (published)", ["", *rows])
    for number, head in enumerate(heads):
        table.add_row(Text(head), *(Text(cells[number]) for cells in rows.values()))
    console.print(table)
