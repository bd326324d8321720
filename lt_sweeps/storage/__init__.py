"""Whole files on disk: tickets with their checksums, records of cells, and the folder of a sweep.

Door: `store.Store`, `record.RunFolder` and `sweep_folder.SweepFolder`.
"""
