"""Analysis of records: curves over seeds, tests, endpoints and costs.

Start at `sweep_analysis.analyses`, which analyses the `Results` that `results.read_results` reads.
This package does not need torch.
"""
