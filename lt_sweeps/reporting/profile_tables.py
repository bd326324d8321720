"""The table that says where the time of a sweep's packs went."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lt_sweeps.storage.pack_profile import PARTS, PackProfile


def seconds_by_part(profiles: Sequence[PackProfile]) -> dict[str, float]:
    """Seconds of all packs together."""
    return {part: sum(pack.seconds.get(part, 0.0) for pack in profiles) for part in PARTS}


def profile_title(profiles: Sequence[PackProfile]) -> str:
    steps = sum(pack.steps * pack.stack_size for pack in profiles)
    return f"profile of {len(profiles)} packs, {steps:,} replicate-steps"


def profile_table(profiles: Sequence[PackProfile]) -> Table | None:
    """Seconds of all packs by part; None without any."""
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
