"""Tables, figures and the page of a sweep, from its records: everything that a reader is shown.

What may be said of the numbers is decided in `analysis`; nothing here computes a result.
Start at `sweep_report.report` and `sweep_comparison.compare_sweeps`.
"""
