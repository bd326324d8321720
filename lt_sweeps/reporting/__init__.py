"""Tables, figures and the HTML page of a sweep, made from its records.

`analysis` computes the numbers and decides which conclusions they allow; this package only shows
them. Start at `sweep_report.report` and `sweep_comparison.compare_sweeps`.
"""
