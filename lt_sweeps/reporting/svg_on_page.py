"""A figure as inline SVG in the HTML page, in the page's colours and with tooltips at its markers.

Text stays text, so that it is sharp at any size and can be searched. If DejaVu Sans is not
installed, Verdana replaces it, which has the same widths.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

FONTS = "'DejaVu Sans', Verdana, sans-serif"
LARGEST = 600_000  # bytes; a larger SVG, such as one of thousands of runs, is shown as PNG
LEAST = 0.7  # the fraction of its width to which a figure shrinks at most
ZOOM = 1.35  # on the page relative to paper: 6.5 points are hard to read on a screen

# Each colour of the figures in dark mode: black and white are swapped, and line colours become
# light enough to be read on a dark page (a contrast of at least 4.5 to 1).
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
    "#4b2dbf": "#9d8bff",
    "#66c266": "#7fe07f",
    "#7a0026": "#e0527a",
    "#9a7bff": "#cbbcff",
}
_COLOUR = re.compile("|".join(DARK))
_ID = re.compile(r' id="([^"]*)"')
_USED = re.compile(r'(?:href="#|url\(#)([^")]*)')
_FONT = re.compile(r"font-family: ?[^;\"]*")


def colour_rules(*, dark: bool) -> str:
    """Return CSS variables for all colours that a figure uses."""
    return "".join(f"--{c[1:]}:{DARK[c] if dark else c};" for c in DARK)


def inline_svg(svg: bytes, name: str, caption: str, tips: Mapping[str, str]) -> str:
    """Return the `<svg>` element of a file that matplotlib wrote, ready to be used in a page.

    `tips` holds the tooltip texts by the id of their marker.
    """
    text = svg.decode()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"\s*<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Its CSS rule selects `*`, which is the whole page; the page's own style has the rule for svg.
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(_USED.findall(body))
    # Ids such as `axes_1` occur in every figure of the page. So ids that are not used are removed,
    # and the others get the figure's name as a prefix.
    body = _ID.sub(lambda match: _prefixed_id(match[1], name, used, tips), body)
    body = _USED.sub(lambda match: match[0].replace("#", f"#{name}-"), body)
    body = _FONT.sub(f"font-family: {FONTS}", body)
    body = _COLOUR.sub(lambda match: f"var(--{match[0][1:]})", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = map(float, re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    pixels = round(width * 96 / 72 * ZOOM)
    # On a phone a figure of two panels scrolls: shrunk to the screen, its letters have 3 pixels.
    min_pixels = round(pixels * LEAST)
    focusable = ' tabindex="0"' if tips else ""
    return (
        f'<svg role="img" aria-label="{html.escape(caption)}" width="{pixels}"{focusable} '
        f'style="min-width:{min_pixels}px" '
        f'viewBox="0 0 {width:g} {height:g}">{body}</svg>'
    )


def _prefixed_id(element_id: str, name: str, used: set[str], tips: Mapping[str, str]) -> str:
    if element_id in tips:
        return f' class="point" data-tip="{html.escape(tips[element_id])}"'
    return f' id="{name}-{element_id}"' if element_id in used else ""
