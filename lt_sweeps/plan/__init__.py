"""What to do, as values: stages, the methods that chain them, and the plan of all cells.

Door: `planning.plan`.
"""
