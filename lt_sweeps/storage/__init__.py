"""Whole files on disk: tickets with their checksums, and the folder of a sweep.

Door: `store.Store` and `sweep_folder.SweepFolder`.
"""
