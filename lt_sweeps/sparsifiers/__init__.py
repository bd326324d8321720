"""Sparsifiers: how sparsity acts inside a training; a family with one file each."""

from lt_sweeps.sparsifiers.amc import Amc
from lt_sweeps.sparsifiers.continuous import Continuous
from lt_sweeps.sparsifiers.gradual import Gradual
from lt_sweeps.sparsifiers.hard_concrete import HardConcrete
from lt_sweeps.sparsifiers.rigl import RigL
from lt_sweeps.sparsifiers.slimming import Slimming
from lt_sweeps.sparsifiers.soft_threshold import SoftThreshold
from lt_sweeps.sparsifiers.sparsifier import FIXED, Free, Learned, Live, Sparsifier
from lt_sweeps.sparsifiers.straight_through import StraightThrough
from lt_sweeps.sparsifiers.supermask import Supermask

FAMILY = "sparsifiers"  # the first part of these names in stage keys, for ever

__all__ = [
    "FIXED",
    "Amc",
    "Continuous",
    "Free",
    "Gradual",
    "HardConcrete",
    "Learned",
    "Live",
    "RigL",
    "Slimming",
    "SoftThreshold",
    "Sparsifier",
    "StraightThrough",
    "Supermask",
]
