"""How a pack's process ends when nothing is wrong with the pack itself."""

STOPPED = 75  # it was asked to stop, and saved itself
AGAIN = 76  # a ticket it stands on is missing, or proved corrupt and was set aside: plan again
STORAGE = 78  # the file system is full, read-only or stale: try again in a while
