"""Sparsifiers: how sparsity acts inside a training, one file each.

To add your own, subclass `Sparsifier` or `LearnedSparsifier` in any module, override the methods
that you need, and write a method (`plan/methods/`) that passes the sparsifier to a training.
"""

from lt_sweeps.sparsity.sparsifiers.amc import Amc as Amc
from lt_sweeps.sparsity.sparsifiers.continuous import Continuous as Continuous
from lt_sweeps.sparsity.sparsifiers.gradual import Gradual as Gradual
from lt_sweeps.sparsity.sparsifiers.hard_concrete import HardConcrete as HardConcrete
from lt_sweeps.sparsity.sparsifiers.rigl import RigL as RigL
from lt_sweeps.sparsity.sparsifiers.slimming import Slimming as Slimming
from lt_sweeps.sparsity.sparsifiers.soft_threshold import SoftThreshold as SoftThreshold
from lt_sweeps.sparsity.sparsifiers.sparsifier import FIXED as FIXED
from lt_sweeps.sparsity.sparsifiers.sparsifier import Free as Free
from lt_sweeps.sparsity.sparsifiers.sparsifier import LearnedSparsifier as LearnedSparsifier
from lt_sweeps.sparsity.sparsifiers.sparsifier import Sparsifier as Sparsifier
from lt_sweeps.sparsity.sparsifiers.sparsifier import TrainingState as TrainingState
from lt_sweeps.sparsity.sparsifiers.sparsifier import When as When
from lt_sweeps.sparsity.sparsifiers.sparsifier import overrides as overrides
from lt_sweeps.sparsity.sparsifiers.straight_through import StraightThrough as StraightThrough
from lt_sweeps.sparsity.sparsifiers.supermask import Supermask as Supermask

FAMILY = "sparsifiers"  # the first part of these names in stage keys; never changes
