"""Words and yaml become checked values: cells, recipes, durations, seeds, the config of a report.

Door: `call.Call`, a function with its arguments as a value, and `cells.multirun`.
"""
