"""The science, a function each: scores, masks, resets, freezes, schedules, sparsifiers.

Start at `pruning.prune`, which turns the scores of a criterion (`criteria`) into a mask.
"""
