"""Tables, page and figures of a sweep, from its records.

Door: `sweep_report.report` and `sweep_comparison.compare`.
"""
