"""Sparsifiers: how sparsity acts inside a training; a family with one file each.

One of your own is a subclass of `Sparsifier` or `LearnedSparsifier` in any module, which overrides
the methods it needs, and a method (`plan/methods/`) that passes it to a training.
"""

from lt_sweeps.sparsity.sparsifiers.amc import Amc
from lt_sweeps.sparsity.sparsifiers.continuous import Continuous
from lt_sweeps.sparsity.sparsifiers.gradual import Gradual
from lt_sweeps.sparsity.sparsifiers.hard_concrete import HardConcrete
from lt_sweeps.sparsity.sparsifiers.rigl import RigL
from lt_sweeps.sparsity.sparsifiers.slimming import Slimming
from lt_sweeps.sparsity.sparsifiers.soft_threshold import SoftThreshold
from lt_sweeps.sparsity.sparsifiers.sparsifier import (
    FIXED,
    Free,
    LearnedSparsifier,
    Sparsifier,
    TrainingState,
    When,
    overrides,
)
from lt_sweeps.sparsity.sparsifiers.straight_through import StraightThrough
from lt_sweeps.sparsity.sparsifiers.supermask import Supermask

FAMILY = "sparsifiers"  # the first part of these names in stage keys, for ever

__all__ = [
    "FIXED",
    "Amc",
    "Continuous",
    "Free",
    "Gradual",
    "HardConcrete",
    "LearnedSparsifier",
    "RigL",
    "Slimming",
    "SoftThreshold",
    "Sparsifier",
    "StraightThrough",
    "Supermask",
    "TrainingState",
    "When",
    "overrides",
]
