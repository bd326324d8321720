"""The dense network: the baseline of every comparison."""

from lt_sweeps.plan.stages import Init, Train, Training


def dense(init: Init, recipe: Training) -> Train:
    """Train the whole network."""
    return Train(init, recipe)
