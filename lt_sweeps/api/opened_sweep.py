"""`Sweep`: the results of a sweep in Python, as tables, figures and tickets."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Sheet

from lt_sweeps.analysis.results import CellResults, Results, read_results
from lt_sweeps.analysis.sweep_analysis import Analysis, analyses, check_typed
from lt_sweeps.api.saved_ticket import SavedTicket
from lt_sweeps.config.option_files import option_names
from lt_sweeps.config.quantities import ACCURACY
from lt_sweeps.config.report_config import named_figures
from lt_sweeps.config.spelling import listed, nearest, unknown
from lt_sweeps.config.trust import check_trusted, trusted_modules
from lt_sweeps.interchange.exported_tables import evaluations_table
from lt_sweeps.interchange.stored_plan import planned_run
from lt_sweeps.reporting.csv_tables import records_table, verdicts_table
from lt_sweeps.reporting.figures import FIGURES, Figure, NotDrawn, draw_own
from lt_sweeps.storage.sweep_folder import sweep_path

_LISTED = 12  # the most tickets or values that an error lists


def open_sweep(
    name: str | Path, *, root: str | Path = "results", trust: tuple[str, ...] | str = ()
) -> Sweep:
    """Open a sweep by its name or folder, a cell by its folder, or a whole root.

    Args:
        root: the folder that holds `sweeps/NAME`.
        trust: your own modules whose functions may be called to build a ticket, as
            `"mylab.nets,mylab.data"` or a tuple.

    Raises: ValueError: the sweep does not exist, or `trust` does not name modules.
    """
    folder = sweep_path(str(name), Path(root), where="open")
    return Sweep(folder, trusted_modules(trust))


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep, a cell or a root, read once; open it again to see newer results."""

    folder: Path
    trust: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """A row for each cell, seed and level; every key that was swept is a column.

        The columns are those of records.jsonl (`lt_sweeps.storage.record.Record` explains them),
        plus `curve` and `panel`, the line and the panel of a report that show the row. The column
        `criterion` of the records is called `mask_criterion`. `metric` is the main metric of the
        task; a null in the records becomes `accuracy`. Accuracies and sparsities are fractions in
        [0, 1].
        """
        return self._frame.copy()

    def ticket(self, **selection: Any) -> SavedTicket:
        """Return the one ticket that matches values of columns: `ticket(level=8, seed=0)`.

        Pass a key with a dot as `ticket(**{"recipe.lr": 0.1})`. None selects the rows without a
        value.

        Raises: ValueError: the frame has no such column, no ticket matches, or several tickets
            match; the error lists the possible columns, values or tickets.
        """
        rows = self._frame
        for key, value in selection.items():
            if key not in rows:
                raise ValueError(unknown("ticket", key, list(rows.columns), what="columns"))
            matching = rows.loc[_is_value(rows[key], value)]
            if matching.empty:
                raise ValueError(_absent(key, value, rows[key]))
            rows = matching
        distinct = rows.drop_duplicates(["stage", "seed"])
        if len(distinct) != 1:
            given = ", ".join(f"{k}={v}" for k, v in selection.items()) or "no selection"
            columns = _distinguishing(distinct, ["level", "seed", *self._swept, "curve"])
            listed = distinct[columns].head(_LISTED).to_string(index=False)
            raise ValueError(
                f"ticket: {len(distinct)} match {given}; say which by "
                f"{' and '.join(columns)}:\n{listed}"
            )
        row = distinct.iloc[0]
        run = planned_run(self._results.root, row["cell"], str(row["seed"]), self.trust)
        return SavedTicket(self._results.root, run, str(row["stage"]))

    def curves(self) -> pd.DataFrame:
        """Training curves: a row for each evaluation of each training, read from its ticket."""
        return _with_numbers(evaluations_table(self._records, self._results.root))

    def tests(self, **report_keys: Any) -> pd.DataFrame:
        """The report's significance tests, a row each: `tests(baseline="random")`.

        `report_keys` are the keys of a report (`conf/report/_keys.yaml`). The table is empty if
        neither they nor the sweep name a baseline.
        """
        by_experiment = analyses(self._results, report_keys).values()
        check_typed(by_experiment, report_keys)
        return pd.concat(map(verdicts_table, by_experiment), ignore_index=True)

    def figure(
        self,
        name: str | Mapping[str, Any] = "curves",
        *,
        config_dir: str | Path | None = None,
        **report_keys: Any,
    ) -> Sheet:
        """Draw a figure of the report with matplotlib: `figure("curves", band="sd")`.

        `name` is a name under `figures` of a report (its first picture is drawn) or the file name
        of a picture. Your own figure is `figure/NAME.yaml` in `config_dir`, a mapping with a
        `name`, a `_target_` and arguments, or a figure in the sweep's config whose module is in
        `trust`.

        Raises: ValueError: there is no such figure, its module is not trusted, or the data that it
            needs are missing.
        """
        folders = [] if config_dir is None else [Path(config_dir)]
        requested = named_figures([name], folders)[0]
        wanted = str(requested["name"] if isinstance(requested, Mapping) else requested)
        known = [*FIGURES, *(n for folder in folders for n in option_names("figure", str(folder)))]
        reasons: list[str] = []
        by_experiment = analyses(self._results, report_keys).values()
        check_typed(by_experiment, report_keys)
        for analysis in by_experiment:
            own = {f["name"]: f for f in analysis.layout.figures or () if isinstance(f, Mapping)}
            if isinstance(requested, Mapping):
                own[wanted] = requested
            elif wanted in own and "figures" not in report_keys:
                check_trusted(own[wanted], where=f"figure: {self.folder}", trust=self.trust)
            known += own
            try:
                for picture in _pictures(wanted, own, analysis):
                    if wanted in (picture.name, *FIGURES, *own):
                        return _shown_in_notebooks(picture.draw())
                    known.append(picture.name)
            except NotDrawn as reason:
                reasons.append(f"{wanted} is not drawn: {reason}")
        if reasons:
            raise ValueError(f"figure: {reasons[0]}")
        known = list(dict.fromkeys(known))
        near = nearest(wanted, known)
        raise ValueError(f"figure: no `{wanted}`; there are {listed(known)}{near}")

    def __repr__(self) -> str:
        cells, unfinished = len(self._results.cells), self._results.unfinished
        state = f"; {unfinished}" if unfinished else ""
        return f"Sweep({str(self.folder)!r}: {cells} cells{state})"

    @cached_property
    def _results(self) -> Results:
        return read_results(self.folder, metrics=())

    @cached_property
    def _records(self) -> pd.DataFrame:
        every = analyses(self._results, {}).values()
        return records_table([curve for analysis in every for curve in analysis.every_curve])

    @cached_property
    def _swept(self) -> list[str]:
        """The keys and groups, besides the seed, in which cells differ."""
        values = [_chosen(cell) for cell in self._results.cells if cell.choices]
        keys = dict.fromkeys(key for chosen in values for key in chosen)
        return [k for k in keys if len({repr(chosen.get(k)) for chosen in values}) > 1]

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows = self._records.rename(columns={"criterion": "mask_criterion"})
        by_cell = {(c.signature, c.seed): _chosen(c) for c in self._results.cells}
        cells = list(zip(rows["cell"], rows["seed"], strict=True)) if len(rows) else []
        for key in self._swept:
            if key not in rows:
                rows[key] = [by_cell[cell].get(key) for cell in cells]
        if len(rows):  # a null in the records means accuracy
            rows = rows.assign(
                metric=rows["metric"].fillna(ACCURACY),
                lower_is_better=[bool(lower) for lower in rows["lower_is_better"]],
            )
        return _with_numbers(rows)


def _pictures(
    wanted: str, own: Mapping[str, Mapping[str, Any]], analysis: Analysis
) -> Iterator[Figure]:
    """The pictures of the figure `wanted`; if no figure has this name, those of all figures.

    Raises: NotDrawn: the data that the named figure needs are missing.
    """
    if wanted in own:
        yield from draw_own(own[wanted], analysis)
    elif wanted in FIGURES:
        yield from FIGURES[wanted](analysis)
    else:
        for draw in FIGURES.values():
            with suppress(NotDrawn):
                yield from draw(analysis)


def _absent(key: str, value: Any, column: pd.Series) -> str:
    """The error message if no row has a value; it lists the values of the column."""
    known = list(dict.fromkeys(column.astype(object).where(column.notna(), None)))
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    near = nearest(str(value), [text for text in known if isinstance(text, str)])
    return f"ticket: no {key}={value!r}; there are {listed(known[:_LISTED])}{more}{near}"


def _distinguishing(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """The columns that distinguish rows, without columns that earlier ones determine."""
    distinguishing, groups = list[str](), 1
    for column in dict.fromkeys(columns):
        finer = rows.groupby([*distinguishing, column], dropna=False).ngroups
        if finer > groups:
            distinguishing, groups = [*distinguishing, column], finer
    return distinguishing


def _is_value(column: pd.Series, value: Any) -> pd.Series:
    """Mark the rows with a value. The table holds lists, mappings and some seeds as text."""
    if value is None:
        return column.isna()
    if isinstance(value, list | tuple | dict):
        return column == str(list(value) if isinstance(value, tuple) else value)
    return column.astype(str) == str(value) if column.name == "seed" else column == value


def _shown_in_notebooks(sheet: Sheet) -> Sheet:
    """Let notebooks display a figure although it was drawn without pyplot."""

    def png() -> bytes:
        content = io.BytesIO()
        sheet.savefig(content, dpi=150)
        return content.getvalue()

    setattr(sheet, "_repr_png_", png)  # noqa: B010 (the name that IPython looks for)
    return sheet


def _chosen(cell: CellResults) -> dict[str, Any]:
    """The options of a cell by group, and the keys of its config except the seed."""
    keys = {k: v for k, v in cell.settings.items() if k.split(".")[0] not in ("seed", "seeds")}
    scalars = {k: str(v) if isinstance(v, list | dict) else v for k, v in keys.items()}
    return {**cell.choices, **{k: v for k, v in scalars.items() if not k.endswith("_target_")}}


def _with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Convert seeds to integers if all of them are numbers."""
    if len(rows) and all(str(seed).isdigit() for seed in rows["seed"]):
        return rows.assign(seed=rows["seed"].astype(int))
    return rows
