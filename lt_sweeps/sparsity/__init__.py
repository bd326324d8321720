"""The science, a function each: scores, masks, resets, freezes, schedules, sparsifiers.

Door: `pruning.prune`, which turns the scores of a criterion (`criteria`) into a mask.
"""
