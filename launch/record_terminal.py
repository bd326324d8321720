"""Record the terminal of the default experiment: an asciicast to play, and a picture of it.

    python launch/record_terminal.py

writes launch/figures/terminal.cast (`asciinema play` shows it) and launch/figures/terminal.svg.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import pty
import re
import shlex
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

FIGURES = Path(__file__).parent / "figures"
COLUMNS, ROWS = 84, 30
COMMAND = "python -m lt_sweeps name=first"
_STEP = 1.0  # output within so many seconds is one event, which keeps only its last panel
# The control codes by which rich erases a panel before it draws the next one.
_WIPED = re.compile(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*")
# All other control codes that rich writes, except colours.
_CONTROL = re.compile(r"\r?\n|\r|\x1b\[\d*A|\x1b\[2K|\x1b\[\?25[lh]|\x1b\]8;[^\x1b]*\x1b\\")

Event = tuple[float, str]


def main() -> None:
    """Run the command in an empty folder and in its own terminal; write both files."""
    with tempfile.TemporaryDirectory() as folder:
        events = [
            (at, text.replace(folder, "/home/me")) for at, text in _merged(_output(Path(folder)))
        ]
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": COMMAND}
    typed = [(0.0, f"$ {COMMAND}\r\n"), *((at + 0.5, text) for at, text in events)]
    lines = [json.dumps(header), *(json.dumps([round(at, 2), "o", text]) for at, text in typed)]
    FIGURES.joinpath("terminal.cast").write_text("\n".join(lines) + "\n")
    FIGURES.joinpath("terminal.svg").write_text(_picture(typed))


def _output(folder: Path) -> Iterator[Event]:
    package = str(Path(__file__).parents[1])
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", PYTHONPATH=paths)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.execv(sys.executable, [sys.executable, *shlex.split(COMMAND)[1:]])
    began, rest = time.monotonic(), b""
    while True:
        try:
            rest += os.read(terminal, 65536)
        except OSError:  # Linux reports a closed terminal like this
            break
        whole = rest.decode(errors="ignore")  # a character may be cut in two
        rest = rest[len(whole.encode()) :]
        yield time.monotonic() - began, whole
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(f"{COMMAND}: it failed")


def _merged(events: Iterable[Event]) -> Iterator[Event]:
    """Merge the output within a step into one event."""
    began, texts = 0.0, ""
    for at, text in events:
        if texts and at - began > _STEP:
            yield began, _with_last_panel(texts)
            texts = ""
        began, texts = (began if texts else at), texts + text
    yield began, _with_last_panel(texts)


def _with_last_panel(text: str) -> str:
    wiped = list(_WIPED.finditer(text))
    between = [text[one.end() : next_one.start()] for one, next_one in itertools.pairwise(wiped)]
    if between and all("trainings, " in panel for panel in between):
        return text[: wiped[0].end()] + text[wiped[-1].end() :]
    return text


def _picture(events: list[Event]) -> str:
    """Draw the command and its plan, the panel at about half time, and the end."""
    text = "".join(text for _, text in events)
    *_, middle = re.finditer(r" 5\d% ", text)
    half, end = _screen(text[: text.index("\r\x1b[2K", middle.end())]), _screen(text)
    panel = next(n for n, line in enumerate(half) if "trainings, " in line and "left" in line)
    table = next(n for n, line in enumerate(end) if "highest sparsity" in line)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    for line in [*half[: panel + 9], "...", *end[table:]]:
        if Text.from_ansi(line).plain.strip():
            console.print(Text.from_ansi(line), overflow="fold")  # fold long lines like a terminal
    svg = console.export_svg(title=COMMAND)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from the web


def _screen(text: str) -> list[str]:
    """The lines that the terminal shows after this output, with their colours."""
    lines, row, at = [""], 0, 0
    for control in _CONTROL.finditer(text):
        lines[row] += text[at : control.start()]
        at = control.end()
        if control[0].endswith("\n"):
            row += 1
            lines += [""] * (row == len(lines))
        elif control[0].endswith("A"):
            row -= int(control[0][2:-1] or 1)
        elif control[0].endswith("K"):
            lines[row] = ""
    lines[row] += text[at:]
    return lines


if __name__ == "__main__":
    main()
