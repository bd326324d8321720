"""Checks that recompute stored results and compare them with the files."""
