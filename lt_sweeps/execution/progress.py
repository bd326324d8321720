"""Progress: one live panel while a sweep runs on this machine, shown only in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lt_sweeps.storage.manifest import FrozenPack, FrozenStage
from lt_sweeps.storage.sweep_folder import SweepFolder

_DRAW = 0.25  # seconds between two pictures of the panel, at least


class ProgressPanel:
    """The step of each worker, the share of the work that is done, and the time that is left."""

    def __init__(self, sweep: SweepFolder, packs: Sequence[FrozenPack], console: Console) -> None:
        self._stages = sweep.manifest.stages
        self._total = sum(map(self._work, packs)) or 1  # without packs, all is done
        self._steps: dict[str, int] = {}
        self._running: dict[str, FrozenPack] = {}
        self._done = 0.0
        self._began = self._drawn = time.monotonic()
        # It is drawn when something is told, and not by a thread, because the pool's process forks.
        self._live = Live(
            get_renderable=self._render, console=console, auto_refresh=False, transient=True
        )
        self._shown = console.is_terminal and bool(packs)

    def __enter__(self) -> ProgressPanel:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._live.stop()

    def start(self, pack: FrozenPack) -> None:
        self._running[pack.name] = pack
        self._steps[pack.name] = self._stage(pack).start
        self._draw()

    def step(self, pack: FrozenPack, step: int) -> None:
        self._steps[pack.name] = step
        if time.monotonic() - self._drawn > _DRAW:
            self._draw()

    def stop(self, pack: FrozenPack, *, done: bool) -> None:
        self._running.pop(pack.name, None)
        self._done += self._work(pack) * done
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._shown:
            self._live.refresh()

    def _stage(self, pack: FrozenPack) -> FrozenStage:
        return self._stages[pack.units[0][0]]

    def _work(self, pack: FrozenPack) -> int:
        stage = self._stage(pack)
        return len(pack.units) * (stage.end - stage.start)

    def _render(self) -> Group:
        done = self._done + sum(
            len(pack.units) * (self._steps[name] - self._stage(pack).start)
            for name, pack in self._running.items()
        )
        elapsed = time.monotonic() - self._began
        remaining = elapsed * (self._total - done) / done if done else None
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._total, completed=done, width=40),
            f"{done / self._total:4.0%}",
            f"{done / max(elapsed, 1e-9):,.0f} replicate-steps/s",
            f"{_clock(elapsed)} elapsed, {'?' if remaining is None else _clock(remaining)} left",
        )
        return Group(bar, *(self._line(pack) for pack in self._running.values()))

    def _line(self, pack: FrozenPack) -> Text:
        return Text(
            f"  {pack.name}: level {pack.level}, {len(pack.units)} stacked, "
            f"step {self._steps[pack.name]:,} of {self._stage(pack).end:,}",
            style="dim",
        )


def _clock(seconds: float) -> str:
    """`h:mm:ss`, or `m:ss` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
