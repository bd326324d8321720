"""Carry out a plan on this machine or on a cluster, and resume it after any interruption.

Start at `submission`, which freezes the work; `local_launcher` and `slurm` run it.
"""
