"""Python for notebooks and scripts: a sweep as tables, a ticket as a network, a plan, a run.

Nothing is imported before it is asked for: `import lt_sweeps` takes no torch.
Start at `opened_sweep.open_sweep`, `typed_words.plan_words` and `typed_words.run_words`.
"""
