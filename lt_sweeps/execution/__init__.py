"""Do the plan, on this machine or on a cluster, and go on after whatever happens.

Door: `submission`, which freezes what is to do; `local_launcher` and `slurm` run it.
"""
