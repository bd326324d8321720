"""The keys of a cell's config, by meaning. All other lists of keys are derived from these."""

from typing import Literal, get_args

GROUPS = ("model", "dataset", "method", "mask_criterion", "reset", "freeze", "schedule", "recipe")
"""The groups whose options determine a result."""

SUPPLIED = ("init", "recipe", "schedule", "mask_criterion", "reset", "freeze")
"""What the framework passes to a method by name; no yaml of a method may set these."""

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""The precisions to compute a network in. Like the groups, the precision determines a result."""

SHARED_KEYS = (
    *("root", "device", "workers", "stack_size", "backend", "deterministic", "checkpoint_every"),
    *("name", "dry_run", "budget", "tracker", "keep", "profile"),
    *("objective", "search"),
)
"""Keys that have one value for all cells of a multirun."""

KEEPS = ("all", "reported", "records")
"""The values of `keep`: which tickets of a sweep are kept when the sweep is done."""

MACHINE_KEYS = (*SHARED_KEYS, "data_dir", "seed", "seeds")
"""Keys that say where, how fast and for which replicate to compute; they are in no stage key."""
