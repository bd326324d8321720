"""What records say: curves over seeds, tests, endpoints, costs.

Door: `sweep_analysis.analyses`, over what `results.read_results` reads. No torch is needed here.
"""
