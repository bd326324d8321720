"""Analysis of records: curves over seeds, tests, endpoints and costs.

Start at `sweep_analysis.analyses`; `results.read_results` reads the results that it analyses.
This package does not need torch.
"""
