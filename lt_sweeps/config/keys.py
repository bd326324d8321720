"""The keys of a cell's config by what they mean. Every other list of keys is made from these."""

from typing import Literal, get_args

GROUPS = ("model", "dataset", "method", "mask_criterion", "reset", "freeze", "schedule", "recipe")
"""The groups whose options make a result."""

SUPPLIED = ("init", "recipe", "schedule", "mask_criterion", "reset", "freeze")
"""What the framework passes to a method by name; no yaml of a method may set these."""

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""What a network can be computed in; it is part of a result, as the groups are."""

SHARED_KEYS = (
    *("root", "device", "workers", "stack_size", "backend", "deterministic", "checkpoint_every"),
    *("name", "dry_run", "budget", "tracker", "keep", "profile"),
    *("objective", "search"),
)
"""Keys that have one value for all cells of a multirun."""

KEEPS = ("all", "reported", "records")
"""The values of `keep`: which tickets of a sweep stay when it is done."""

MACHINE_KEYS = (*SHARED_KEYS, "data_dir", "seed", "seeds")
"""Where, how fast and for which replicate; never what is computed, so no part of a stage key."""
