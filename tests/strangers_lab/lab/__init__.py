"""A stranger's module: one file for each kind of thing that a lab brings."""
