"""The keys of a cell's config by what they mean. Every other list of keys is made from these."""

GROUPS = ("model", "dataset", "method", "mask_criterion", "reset", "freeze", "schedule", "recipe")
"""The groups whose options make a result."""

SUPPLIED = ("init", "recipe", "schedule", "mask_criterion", "reset", "freeze")
"""What the framework passes to a method by name; no yaml of a method may set these."""

SHARED_KEYS = (
    *("root", "device", "workers", "stack_size", "backend", "checkpoint_every", "name"),
    *("dry_run", "budget", "tracker", "profile"),
)
"""Keys that have one value for all cells of a multirun."""

MACHINE_KEYS = (*SHARED_KEYS, "data_dir", "seed", "seeds")
"""Where, how fast and for which replicate; never what is computed, so no part of a stage key."""
