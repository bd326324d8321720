"""Run a sweep on Slurm, as job arrays that survive preemption, time limits and dead nodes.

Door: `slurm_launcher.submit_cells`.
"""
