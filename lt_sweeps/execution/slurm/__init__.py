"""Run a sweep on Slurm, as job arrays that survive preemption, time limits and dead nodes.

Start at `slurm_launcher.submit_cells`.
"""
