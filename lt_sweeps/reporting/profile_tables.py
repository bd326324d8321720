"""The table that says where the time of a sweep's packs went."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from lt_sweeps.storage.pack_profile import PARTS, read_profiles


def profile_table(logs: Path) -> Table | None:
    """Seconds of all packs by part, from the profiles beside their logs; None without any."""
    profiles = list(read_profiles(logs))
    if not profiles:
        return None
    totals = {part: sum(each.seconds.get(part, 0.0) for each in profiles) for part in PARTS}
    whole = sum(totals.values()) or 1.0
    steps = sum(each.steps * each.stack_size for each in profiles)
    table = Table("part", title=f"profile of {len(profiles)} packs, {steps:,} replicate-steps")
    for column in ("seconds", "share"):
        table.add_column(column, justify="right")
    for part, seconds in totals.items():
        table.add_row(part, f"{seconds:.2f}", f"{seconds / whole:.1%}")
    table.add_row("all", f"{sum(totals.values()):.2f}", "")
    return table
