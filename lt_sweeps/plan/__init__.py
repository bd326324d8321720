"""What to do, as values: stages, the methods that chain them, and the plan of all cells.

The door is `planning.plan`: from the cells of a multirun to a `Plan` of units and packs.
"""
