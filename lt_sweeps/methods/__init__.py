"""Methods: functions of (init, recipe, schedule, ...) that return the last stage of a cell.

A method holds no tensors, so it can be printed, hashed, tested and resumed. It receives the
arguments that it names.
"""
