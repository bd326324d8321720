"""Exit statuses of a pack's process for endings that are not the fault of the pack."""

STOPPED = 75  # told to stop; it has saved a checkpoint
AGAIN = 76  # a ticket that it needs is missing, or was corrupt and set aside: make a new plan
STORAGE = 78  # the file system is full, read-only or stale: wait and try again
