"""The sentences of a caption: everything that a reader needs in order to judge a figure.

A caption is often read without its report, next to a picture that was copied into a paper or chat.
It therefore repeats the number of seeds, the tests that were used and what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lt_sweeps.analysis.curve import Curve, by_panel
from lt_sweeps.analysis.endpoint import Endpoint, why_failed
from lt_sweeps.analysis.labels import group_by, usual_settings
from lt_sweeps.analysis.significance import Verdict, winning
from lt_sweeps.analysis.sweep_analysis import Analysis
from lt_sweeps.analysis.verdict_sentences import caveats
from lt_sweeps.config.quantities import OWN, Quantity, kind_of
from lt_sweeps.config.report_config import BANDS, ReportConfig

_NAMED = 6  # a sentence names up to this many lines, and counts more
_MOMENTS = {"best": "at the lowest validation loss", "end": "at the end of training"}


def caption(analysis: Analysis, *sentences: str) -> str:
    """Join the report's title, the sentences of a figure, and those that all figures have."""
    title = (analysis.layout.title or "").rstrip(".")
    unfinished = analysis.results.unfinished
    whole = [
        title if title.endswith("?") else f"{title}." if title else "",
        *sentences,
        names_sentence(analysis),
        f"Unfinished: {unfinished}." if unfinished else "",
        versions_sentence(analysis.results.versions),
    ]
    return " ".join(filter(None, whole))


def versions_sentence(versions: Sequence[str]) -> str:
    """A warning if the records come from more than one version of the code; otherwise empty."""
    several = f"Made by {len(versions)} versions of the code: {', '.join(versions)}."
    return several if len(versions) > 1 else ""


def names_sentence(analysis: Analysis) -> str:
    """Name the settings that are left out of the names of lines, if any are."""
    usual = ", ".join(usual_settings([curve.name for curve in analysis.curves]))
    automatic = [c for c in analysis.curves if c.name not in analysis.layout.labels]
    shortened = usual and any(curve.label != curve.name for curve in automatic)
    return f"Names of lines omit what most of them share: {usual}." if shortened else ""


def seeds_sentence(curves: Sequence[Curve], layout: ReportConfig) -> str:
    """Say how many seeds the means are taken over, and what the band shows."""
    points = [point for curve in curves for point in curve.points if point.n_finite]
    if not points:
        return ""
    counts = {point.n_finite for point in points}
    if counts == {1}:
        return "One seed, no band."
    which = dict.fromkeys(
        curve.label for name in layout.highlight or () for curve in curves if curve.called(name)
    )
    only = f" (of {', '.join(which)})" if which else ""
    equal = any(point.n_finite > 1 and math.isnan(point.band(layout.band)[0]) for point in points)
    gaps = " (no band if all seeds are equal)" if equal else ""
    return f"Mean over seeds, n = {span_text(counts)}; band{only}: {BANDS[layout.band]}{gaps}."


def span_text(counts: Iterable[int]) -> str:
    """Format counts as `5`, or as `3 to 5` if they differ."""
    several = sorted(set(counts))
    return " to ".join(str(count) for count in dict.fromkeys((several[0], several[-1])))


def marker_sentence(curves: Sequence[Curve]) -> str:
    """Explain open and faint markers, if the figure has any."""
    points = [(curve, point) for curve in curves for point in curve.points]
    distinct = {p.stages: p for _, p in points}.values()  # lines may share their dense networks
    n_lost = sum(p.n_collapsed for p in distinct), sum(p.n - p.n_finite for p in distinct)
    n_missing = sum(len(curve.seeds) - point.n for curve, point in points)
    sentences = []
    if any(n_lost):
        sentences.append(
            f"Open marker: a replicate collapsed ({n_lost[0]} in all), or diverged and is left out "
            f"of the mean ({n_lost[1]} in all)."
        )
    if n_missing:
        sentences.append(f"Faint marker: seeds are missing there ({n_missing} in all).")
    return " ".join(sentences)


def report_at_sentence(curves: Sequence[Curve], metric: str) -> str:
    """Say when in the training the metric was evaluated, by line if the lines differ."""
    return f"Evaluated {moment}." if (moment := report_moment(curves, metric)) else ""


def report_moment(curves: Sequence[Curve], metric: str) -> str:
    """`at the lowest validation loss`; empty for a metric that is not from an evaluation."""
    when = metric.split("_")[0]
    if when in _MOMENTS:
        return _MOMENTS[when]
    if when not in ("test", "val"):
        return ""
    by_moment = group_by(curves, lambda curve: _MOMENTS.get(str(curve.settings.get("report_at"))))
    if len(by_moment) == 1:
        return next(iter(by_moment)) or ""
    return "; ".join(f"{at} ({_names_or_count(same)})" for at, same in by_moment.items() if at)


def _names_or_count(curves: Sequence[Curve]) -> str:
    """Name a few lines, or count many: the dozens of names in a whole root would fill a page."""
    labels = list(dict.fromkeys(curve.label for curve in curves))
    return ", ".join(labels) if len(labels) <= _NAMED else f"{len(labels)} lines"


def chosen_text(layout: ReportConfig, metric: str) -> str:
    """Say how the best ticket is chosen: `by validation accuracy; test accuracy shown`."""
    chooser, shown = layout.chooser(metric), _words_of(metric)
    if chooser == metric:
        return f"by {shown} itself"
    return f"by {_words_of(chooser)}; {shown} shown"


def _words_of(metric: str) -> str:
    """`validation accuracy`, or `test metric of each task` if the metric depends on the task."""
    words = Quantity.of(metric).words.replace("val ", "validation ")
    return f"{words} of each task" if kind_of(metric) == OWN else words


def winning_sentences(analysis: Analysis) -> list[str]:
    """Say how many winning tickets each line has, if the layout names a control."""
    if not analysis.controlled:
        return []
    wins = [
        (curve, f"{sum(won)} of {len(won)}")
        for curve in analysis.curves
        if not curve.called(analysis.layout.control or "")
        and any(won := winning(curve, analysis.controlled, analysis.layout).values())
    ]
    control = analysis.controlled[0].baseline.label
    return [
        f"Levels with a winning ticket (not inferior to dense, and better than {control}): "
        f"{_listed(analysis, wins) or 'none'}."
    ]


def tests_sentence(verdicts: Sequence[Verdict], layout: ReportConfig) -> str:
    """Explain stars and crosses if there are any, the tests, and the limits of the tests."""
    if not verdicts:
        return ""
    # A figure shows one metric, so its first verdict tells the direction of all.
    lower = verdicts[0].curve.metric.lower_is_better
    better, worse = ("below", "above") if lower else ("above", "below")
    against = list(dict.fromkeys(v.against for v in verdicts))
    named = f" ({'; '.join(against)})" if len(against) <= _NAMED else ""
    marks = (
        f"Star: {better} the baseline{named}{', which is better' * lower}; cross: {worse} it. "
        "Filled: significant after Holm's correction; "
        "open: only by Student's test, uncorrected."
    )
    drawn = any(v.mark(layout.alpha) for v in verdicts)
    return " ".join([*([marks] if drawn else []), *caveats(verdicts, layout)])


def not_inferior_sentence(analysis: Analysis) -> str:
    """Say how far each line can be pruned without being inferior to dense; name test and margin."""
    reached = [
        (curve, _reached_text(curve, end, analysis.layout))
        for curve, endpoints in analysis.endpoints
        if not math.isnan((end := endpoints["sparsest_tested"]).sparsity)
    ]
    # A t-test needs two seeds. With one seed, "at no level" for every line would read as a result.
    if not reached or max(len(curve.seeds) for curve in analysis.curves) < 2:
        return ""
    return (
        f"Not inferior to dense by {margin_text(analysis)} (one-sided paired t-test, level "
        f"after level, α = {analysis.layout.alpha:g}) down to these weights remaining: "
        f"{_listed(analysis, reached)}."
    )


def _reached_text(curve: Curve, tested: Endpoint, layout: ReportConfig) -> str:
    """Format as `64% (at 51.2% left: why that level failed)`, if its mean alone does not tell."""
    # "100%" would read as a perfect score.
    text = f"{100 * (1 - tested.sparsity):.3g}%" if tested.sparsity else "at no level"
    if (failed := tested.failed) is None:
        return f"{text} (its last level)"
    why = why_failed(failed, curve, layout)
    return f"{text} (at {failed.percent:.3g}%: {why})" if why else text


def _listed(analysis: Analysis, texts: Sequence[tuple[Curve, str]]) -> str:
    """Format as `random 26.8%, movement 41%`, panel by panel if the sweep has several.

    Lines of a panel with one text share it: `random and movement at no level`.
    """
    # A line may be in several panels, with a different result in each.
    several = len(by_panel(analysis.curves)) > 1
    commas = any("," in curve.label for curve, _ in texts)
    panels = []
    for panel, members in group_by(texts, lambda pair: pair[0].panel).items():
        lines = group_by(members, lambda pair: pair[1])
        names = {text: _joined([c.label for c, _ in each], commas) for text, each in lines.items()}
        between = "; " if commas or len(lines) < len(members) else ", "
        shown = between.join(f"{names[text]} {text}" for text in lines)
        panels.append((f"{panel}: " if several else "") + shown)
    return "; ".join(panels)


def _joined(labels: Sequence[str], commas: bool) -> str:
    """Join labels as `a, b and c`, or as `a and b and c` if they contain commas themselves."""
    *first, last = labels
    return " and ".join([*(first if commas else filter(None, [", ".join(first)])), last])


def margin_text(analysis: Analysis) -> str:
    """The margin around dense that still counts as equal, in words."""
    metrics = [c.metric for c in analysis.curves_of(analysis.accuracy)]
    metrics = metrics or [Quantity.of(analysis.accuracy)]
    texts = (m.margin_text(analysis.layout.margin) for m in metrics)
    return " and ".join(dict.fromkeys(texts))
