"""Progress: one live panel while a sweep runs on this machine, and nothing where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lt_sweeps.plan import Pack


class Panel:
    """What every worker is at, how much of the work is done, and when it will be."""

    def __init__(self, packs: Sequence[Pack], console: Console) -> None:
        self._work = {pack.name: pack.steps * len(pack.units) for pack in packs}
        self._steps = {pack.name: pack.units[0].stage.start.step for pack in packs}
        self._running: dict[str, Pack] = {}
        self._done = 0.0
        self._began = time.monotonic()
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._shown = console.is_terminal and bool(packs)

    def __enter__(self) -> Panel:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._live.stop()

    def start(self, pack: Pack) -> None:
        self._running[pack.name] = pack

    def step(self, pack: Pack, step: int) -> None:
        self._steps[pack.name] = step

    def stop(self, pack: Pack) -> None:
        self._running.pop(pack.name, None)
        self._done += self._work[pack.name]

    def _render(self) -> Group:
        total = sum(self._work.values())
        done = self._done + sum(
            len(pack.units) * (self._steps[name] - pack.units[0].stage.start.step)
            for name, pack in self._running.items()
        )
        elapsed = time.monotonic() - self._began
        left = elapsed * (total - done) / done if done else None
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=total, completed=done, width=40),
            f"{done / total:4.0%}",
            f"{done / max(elapsed, 1e-9):,.0f} replicate-steps/s",
            f"{_clock(elapsed)} gone, {'?' if left is None else _clock(left)} to go",
        )
        lines = [self._line(pack) for pack in self._running.values()]
        return Group(bar, *lines)

    def _line(self, pack: Pack) -> Text:
        first = pack.units[0].stage
        return Text(
            f"  {pack.name}: level {first.level}, {len(pack.units)} stacked, "
            f"step {self._steps[pack.name]:,} of {first.step:,}",
            style="dim",
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
