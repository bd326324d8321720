"""Sparsifiers: how sparsity acts inside a training; a family with one file each.

One of your own is a subclass of `Sparsifier` or `LearnedSparsifier` in any module, which overrides
the methods it needs, and a method (`plan/methods/`) that passes it to a training.
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

FAMILY = "sparsifiers"  # the first part of these names in stage keys, for ever
