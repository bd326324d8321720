"""The modules of another lab: one file for each kind of thing that a lab can add."""
