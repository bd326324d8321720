"""The report's page: complete in itself, readable as text, and drawn by a real browser."""

from __future__ import annotations

import base64
import html.parser
import io
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.fake_results import FakeSweep
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Sheet
from PIL import Image
from rich.console import Console

from lt_sweeps.analysis.record_audit import is_clean
from lt_sweeps.reporting.figures.figure import Figure
from lt_sweeps.reporting.figures.style import COLOURS, GREY, PALE
from lt_sweeps.reporting.html_page import figure_on_page, heading
from lt_sweeps.reporting.svg_on_page import DARK, LARGEST, ZOOM
from lt_sweeps.reporting.sweep_report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an unfinished sweep with two lines, whose name contains HTML markup."""
    sweep = FakeSweep(tmp_path_factory.mktemp("root"), "a<b>&c")
    for criterion, accuracy in (("large_final", 0.9), ("random", 0.8)):
        for seed in range(3):
            sweep.cell(
                criterion,
                seed,
                accuracies=[0.9, accuracy + 0.01 * seed, accuracy - 0.01 * seed],
                choices={"mask_criterion": criterion},
            )
    sweep.cell("large_final", 9)
    asked = {"figures": ["curves", "cost"], "baseline": "large_final"}
    return report(sweep.folder, console=Console(file=io.StringIO()), **asked) / "index.html"


class _Read(html.parser.HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.tips: list[str] = []
        self.text = ""
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe", "object") and not (tag == "script" and attrs)
        self.tags[tag] += 1
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.tips += [value for name, value in attrs if name == "data-tip" and value]
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_from_outside(page: Path) -> None:
    links = _Read(page).links
    assert links and all(link.startswith(("data:", "#")) for link in links)


def test_the_pictures_and_numbers_of_the_page_are_those_of_its_files(page: Path) -> None:
    inside = [base64.b64decode(x.split(",")[1]) for x in _Read(page).links if x[0] != "#"]
    for name in ("accuracy.pdf", "accuracy.csv", "cost.pdf"):
        assert (page.parent / name).read_bytes() in inside
    drawn, shown = (page.parent / "accuracy.svg").read_text(), page.read_text()
    for path in re.findall(r'<path d="[^"]{40,}"', drawn):
        assert "\n".join(line.strip() for line in path.splitlines()) in shown


def test_each_figure_has_a_heading_and_every_id_is_its_own(page: Path) -> None:
    read = _Read(page)
    assert read.tags["figure"] == read.tags["svg"] == 2 and read.tags["img"] == 0
    assert [name for name in read.ids if name.endswith("-heading")] == [
        *("accuracy-heading", "cost-heading")
    ]
    assert len(read.ids) == len(set(read.ids))
    used = re.findall(r"url\(#([^)]*)\)", page.read_text())
    used += [link[1:] for link in read.links if link[0] == "#"]
    assert used and set(used) <= set(read.ids)


def test_a_single_verdict_is_large_and_several_have_one_size(page: Path, tmp_path: Path) -> None:
    assert page.read_text().count('<p class="answer">') == 1
    sweep = FakeSweep(tmp_path)
    for criterion, spread in (("large_final", 0.01), ("random", 0.01), ("movement", 0.02)):
        for seed in range(3):
            chosen = {"mask_criterion": criterion}
            sweep.cell(criterion, seed, accuracies=[0.9, 0.8 + spread * seed], choices=chosen)
    console = Console(file=io.StringIO())
    folder = report(sweep.folder, console=console, figures=["curves"], baseline="random")
    text = (folder / "index.html").read_text()
    assert (text.count('<p class="pair">'), text.count('<p class="answer">')) == (2, 0)


def test_a_heading_writes_a_metric_as_the_axis_does() -> None:
    names = ["test_r2", "test_r2_by_sparsity", "accuracy", "val_bits_per_token", "signs"]
    assert [heading(name) for name in names] == [
        *("Test R2", "Test R2 by sparsity", "Accuracy", "Val bits per token"),
        "Weights that changed their sign",
    ]


def test_the_page_follows_dark_mode_with_all_of_its_colours(page: Path) -> None:
    text = page.read_text()
    assert "prefers-color-scheme: dark" in text
    svgs = "".join(re.findall("<svg.*?</svg>", text, flags=re.DOTALL))
    assert "var(--0072b2)" in svgs and "#0072b2" not in svgs
    assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]{3,8}", svgs), "no dark colour for it"
    # matplotlib writes no `fill` for black: on a dark page these markers would look open.
    assert re.search(r"svg {[^}]*fill: var\(--000000\)", text)
    assert {colour.lower() for colour in (*COLOURS, GREY, PALE)} <= set(DARK)


def test_the_main_figure_has_the_values_of_each_seed_at_each_marker(page: Path) -> None:
    tips = _Read(page).tips
    assert len(tips) == 6  # two lines, three levels
    wanted = "large_final, 80.0% left (level 1)\ntest accuracy (%) 91.00 [90.00, 92.00], n = 3"
    assert f"{wanted}\nby seed: 0: 90.00, 1: 91.00, 2: 92.00" in tips


def test_a_page_does_not_repeat_text_that_its_figures_share(page: Path) -> None:
    read, text = _Read(page), page.read_text()
    svgs = "".join(re.findall("<svg.*?</svg>", text, flags=re.DOTALL))
    elements = sum(read.tags[tag] for tag in ("use", "path", "text", "g"))
    assert len(svgs) < 250 * elements, "fonts or ids in every element"


def test_a_figure_of_too_many_marks_is_shown_as_pixels() -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(8) + (975).to_bytes(4, "big")
    figure = Figure("cost", "", pd.DataFrame(), (), Sheet)
    files = {"cost.png": png, "cost.svg": bytes(LARGEST + 1), "cost.pdf": b"", "cost.csv": b""}
    shown = figure_on_page(figure, files)
    assert not shown["svg"] and shown["png"] and shown["width"] == round(975 / 300 * 96 * ZOOM)


def test_an_audit_warns_on_the_page_only_if_it_found_a_fault(page: Path) -> None:
    found = "audit of records and headers: 1 failed; the first of 1: a"
    assert is_clean("audit of records and headers: 10 checks passed") and not is_clean(found)
    assert '<p class="warn">audit of records and headers: ' in page.read_text()  # of made-up files


def test_caveats_are_small_also_below_lines_that_share_a_sentence(tmp_path: Path) -> None:
    sweep = FakeSweep(tmp_path)
    for criterion in ("random", "movement", "large_final"):
        for seed in range(2):
            level = 0.8 + seed * (0.01 if criterion == "random" else 0.02)
            chosen = {"mask_criterion": criterion}
            sweep.cell(criterion, seed, accuracies=[0.9, level], choices=chosen)
    folder = report(sweep.folder, console=Console(file=io.StringIO()), baseline="random")
    text = (folder / "index.html").read_text()
    (shared,) = re.findall(r'<p class="answer">(.*)</p>', text)
    assert "movement, large_final, each against random" in shared
    assert '<p class="facts">Tests against random' in text


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian's package is `chromium`")
def test_a_browser_draws_it(page: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    home = f"--user-data-dir={tmp_path / 'browser'}"
    size = [f"--window-size={width},3000", f"--screenshot={shot}"]
    subprocess.run([CHROMIUM, *flags, home, *size, page.as_uri()], capture_output=True, check=True)
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert seen.shape[1] == width
    for colour in COLOURS[:2]:  # the two lines of the figure, loaded and in view
        near = np.abs(seen - np.array([round(255 * part) for part in to_rgb(colour)])).max(-1) < 12
        assert near.sum() > 100
    # A table scrolls in its own frame: the page itself is not wider than the window. A pointer at
    # a marker shows its values.
    dom = subprocess.run(
        [CHROMIUM, *flags, home, size[0], "--dump-dom", _measured(page, tmp_path).as_uri()],
        capture_output=True,
        check=True,
    )
    assert b'<body data-beyond="0"' in dom.stdout
    # A figure of one column does not leave half of a wide window blank.
    assert b'data-caption="' + (b"beside" if width == 1200 else b"below") in dom.stdout
    said = b"large_final, 80.0% left (level 1)\ntest accuracy (%) 91.00 [90.00, 92.00], n = 3"
    assert b'data-pointed="' + said in dom.stdout and b'data-left="hidden"' in dom.stdout
    rows = np.flatnonzero((seen < 128).all(-1).sum(-1))  # dark text
    assert rows.max() > 1000  # down to the tables, below two figures


def _measured(page: Path, folder: Path) -> Path:
    """The page with a script that prints what overflows the window, and what a pointer reveals."""
    copy = folder / "measured.html"
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    pointed = """
        const point = [...document.querySelectorAll(".point")].find(
            (each) => each.dataset.tip.startsWith("large_final, 80.0%"));
        const box = point.getBoundingClientRect(), svg = point.closest("svg");
        const tip = [...document.querySelectorAll(".tip")][0];
        const at = { clientX: box.left + 5, clientY: box.top + 5, pointerType: "mouse" };
        svg.dispatchEvent(new PointerEvent("pointermove", at));
        document.body.dataset.pointed = tip.hidden ? "" : tip.textContent;
        svg.dispatchEvent(new PointerEvent("pointerleave", at));
        document.body.dataset.left = tip.hidden ? "hidden" : "shown";
        const caption = document.querySelector("figcaption").getBoundingClientRect();
        document.body.dataset.caption =
            caption.top < svg.getBoundingClientRect().bottom ? "beside" : "below";"""
    script = f"<script>document.body.dataset.beyond = {beyond};{pointed}</script>"
    copy.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    return copy


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian's package is `chromium`")
@pytest.mark.parametrize("medium", ["screen", "print"])
def test_every_column_of_a_wide_table_can_be_reached(tmp_path: Path, medium: str) -> None:
    """It scrolls on a screen, and is wrapped on paper, where its last columns used to be cut."""
    sweep = FakeSweep(tmp_path)
    for n in range(10):
        chosen = {"mask_criterion": f"a_criterion_of_a_long_name_{n}"}
        sweep.cell(f"c{n}", accuracies=[0.9, 0.8], choices=chosen)
        sweep.cell(f"c{n}", 1, accuracies=[0.9, 0.7], choices=chosen)
    folder = report(sweep.folder, console=Console(file=io.StringIO()), figures=["curves"])
    text = (folder / "index.html").read_text()
    assert CHROMIUM is not None and "@media print" in text
    if medium == "print":
        text = text.replace("@media print", "@media all")
    script = """<script>const table = document.querySelector(".table");
        document.body.dataset.cut = table.scrollWidth - table.clientWidth;
        document.body.dataset.scrolls = getComputedStyle(table).overflowX;</script>"""
    copy = tmp_path / "wide.html"
    copy.write_text(text.replace("</body>", f"{script}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'b'}"]
    dump = [CHROMIUM, *flags, "--window-size=720,1000", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(dump, capture_output=True, check=True, text=True).stdout
    cut, scrolls = re.findall(r'data-(?:cut|scrolls)="([^"]*)"', dom)
    assert (int(cut) > 0, scrolls) == ((True, "auto") if medium == "screen" else (False, "visible"))
