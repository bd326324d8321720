"""Lottery-ticket and pruning experiments, from one Hydra multirun to a figure."""

__version__ = "0.1.0"
