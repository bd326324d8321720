"""A figure inside the page: its SVG in the page's colours, with values under the pointer.

Text stays text, so that it is sharp at any size and can be searched; where DejaVu Sans is missing,
Verdana has the same widths.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

FONTS = "'DejaVu Sans', Verdana, sans-serif"
LARGEST = 600_000  # bytes: beyond, as with a tick for each of thousands of runs, the PNG is shown
LEAST = 0.7  # of its width, below which a figure is not made smaller
ZOOM = 1.35  # larger than on paper: 6.5 points are hard to read on a screen

# What a colour of the figures becomes in dark mode: black and white change places, and the lines
# become light enough to be read on a dark page (at least 4.5 to 1 against it).
DARK = {
    "#000000": "#e8e8e8",
    "#ffffff": "#14171a",
    "#555555": "#a8adb3",
    "#e5e5e5": "#32373c",
    "#0072b2": "#4fb0ec",
    "#d55e00": "#f0813a",
    "#009e73": "#2dc79b",
    "#cc79a7": "#dd93bb",
    "#e69f00": "#f0b030",
    "#56b4e9": "#8fd0f5",
    "#7a4a12": "#c89258",
    "#7f7f00": "#b9b93c",
}
_COLOUR = re.compile("|".join(DARK))
_ID = re.compile(r' id="([^"]*)"')
_USED = re.compile(r'(?:href="#|url\(#)([^")]*)')
_FONT = re.compile(r"font-family: ?[^;\"]*")


def colour_rules(*, dark: bool) -> str:
    """The CSS variables of all colours that a figure uses."""
    return "".join(f"--{c[1:]}:{DARK[c] if dark else c};" for c in DARK)


def inline_svg(svg: bytes, name: str, caption: str, tips: Mapping[str, str]) -> str:
    """The `<svg>` element of a file that matplotlib wrote, made to stand with others in a page.

    `tips` are texts by the id of the mark that they stand at.
    """
    text = svg.decode()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"\s*<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Its rule is for `*`, which in a page is everything; the page's own style has it for figures.
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(_USED.findall(body))
    # Figures of one page repeat ids such as `axes_1`: only those that are used stay, under names
    # that hold the figure's.
    body = _ID.sub(lambda match: _kept_id(match[1], name, used, tips), body)
    body = _USED.sub(lambda match: match[0].replace("#", f"#{name}-"), body)
    body = _FONT.sub(f"font-family: {FONTS}", body)
    body = _COLOUR.sub(lambda match: f"var(--{match[0][1:]})", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = map(float, re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    pixels = round(width * 96 / 72 * ZOOM)
    # On a phone a figure of two panels scrolls: at its width, letters of 3 pixels remain of it.
    least = round(pixels * LEAST)
    keys = ' tabindex="0"' if tips else ""
    return (
        f'<svg role="img" aria-label="{html.escape(caption)}" width="{pixels}"{keys} '
        f'style="min-width:{least}px" '
        f'viewBox="0 0 {width:g} {height:g}">{body}</svg>'
    )


def _kept_id(found: str, name: str, used: set[str], tips: Mapping[str, str]) -> str:
    if found in tips:
        return f' class="point" data-tip="{html.escape(tips[found])}"'
    return f' id="{name}-{found}"' if found in used else ""
