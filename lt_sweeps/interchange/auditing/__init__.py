"""Checks of stored results against what can be computed from them again."""
