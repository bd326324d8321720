"""What to do, as values: stages, the methods that chain them, and the plan of all cells.

Door: `planning.plan`, from the cells of a multirun to a plan of units and packs.
"""
