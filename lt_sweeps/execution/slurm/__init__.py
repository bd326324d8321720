"""Slurm: a sweep as arrays of jobs that survive preemption, time limits and dead nodes.

Door: `slurm_launcher.submit_cells`.
"""
