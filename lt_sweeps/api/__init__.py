"""The Python interface for notebooks: a sweep as tables, a ticket as a network, a plan, a run.

Modules are imported on first use: `import lt_sweeps` does not import torch.
Start at `opened_sweep.open_sweep`, `typed_words.plan_words` and `typed_words.run_words`.
"""
