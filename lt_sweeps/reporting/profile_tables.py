"""The table of how the profiled packs of a sweep spent their time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lt_sweeps.storage.pack_profile import PARTS, PackProfile


def seconds_by_part(profiles: Sequence[PackProfile]) -> dict[str, float]:
    """Return the seconds of each part, summed over all packs."""
    return {part: sum(pack.seconds.get(part, 0.0) for pack in profiles) for part in PARTS}


def profile_title(profiles: Sequence[PackProfile]) -> str:
    steps = sum(pack.steps * pack.stack_size for pack in profiles)
    return f"profile of {len(profiles)} packs, {steps:,} replicate-steps"


def profile_table(profiles: Sequence[PackProfile]) -> Table | None:
    """Return the table of seconds by part; None if no pack was profiled."""
    if not profiles:
        return None
    totals = seconds_by_part(profiles)
    whole = sum(totals.values()) or 1.0
    table = Table("part", title=profile_title(profiles))
    for column in ("seconds", "share"):
        table.add_column(column, justify="right")
    for part, seconds in totals.items():
        table.add_row(part, f"{seconds:.2f}", f"{seconds / whole:.1%}")
    table.add_row("all", f"{sum(totals.values()):.2f}", "")
    return table
