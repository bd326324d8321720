"""The report's page: complete in itself, readable as text, and drawn by a real browser."""

from __future__ import annotations

import base64
import html.parser
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fixtures.fake_results import FakeSweep
from matplotlib.colors import to_rgb
from PIL import Image
from rich.console import Console

from lt_sweeps.reporting.figures.style import COLOURS
from lt_sweeps.reporting.sweep_report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a sweep of two lines, unfinished, with a name that is markup."""
    sweep = FakeSweep(tmp_path, "a<b>&c")
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
        self.text = ""
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_of_the_page_lies_outside_it(page: Path) -> None:
    links = _Read(page).links
    assert links and all(link.startswith(("data:", "#")) for link in links)


def test_its_pictures_and_numbers_are_the_files_beside_it(page: Path) -> None:
    inside = [base64.b64decode(x.split(",")[1]) for x in _Read(page).links if x[0] != "#"]
    for name in ("accuracy.png", "accuracy.pdf", "accuracy.csv", "cost.png"):
        assert (page.parent / name).read_bytes() in inside


def test_it_says_what_the_terminal_says(page: Path) -> None:
    text = _Read(page).text
    assert "a<b>&c" in text  # and not as markup
    assert "Unfinished: 1 of 7 cells unfinished" in text
    assert "never reaches 0.05" in text and "random minus large_final" in text
    assert "large_final-1" in text  # the ids of the stages


@pytest.mark.parametrize("width", [1200, 420])
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian's package is `chromium`")
def test_a_browser_draws_it(page: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    home = f"--user-data-dir={tmp_path / 'browser'}"
    size = [f"--window-size={width},3000", f"--screenshot={shot}"]
    subprocess.run(
        [CHROMIUM, *flags, home, *size, page.as_uri()], capture_output=True, timeout=120, check=True
    )
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert seen.shape[1] == width
    for colour in COLOURS[:2]:  # the two lines of the figure, loaded and in view
        near = np.abs(seen - np.array([round(255 * part) for part in to_rgb(colour)])).max(-1) < 12
        assert near.sum() > 100
    rows = np.flatnonzero((seen < 128).all(-1).sum(-1))  # dark text
    assert rows.max() > 1000  # down to the tables, below two figures
