"""Whole files on disk: tickets with their checksums, records of cells, and the folder of a sweep.

Start at `store.Store`, `run_folder.RunFolder` and `sweep_folder.SweepFolder`.
"""
