"""Turn overrides and yaml into checked values: cells, recipes, durations, seeds, report configs.

Start at `call.Call`, which holds a function and its arguments as a value, and at `cells.multirun`.
"""
