"""From rows to what may be said: curves over seeds, tests, endpoints, costs.

Door: `sweep_analysis`. Nothing here knows torch or the science.
"""
