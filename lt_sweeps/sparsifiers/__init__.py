"""Sparsifiers: how sparsity acts inside a training; a family with one file each."""

from lt_sweeps.sparsifiers.gradual import Gradual
from lt_sweeps.sparsifiers.rigl import RigL
from lt_sweeps.sparsifiers.sparsifier import FIXED, Free, Learned, Live, Sparsifier
from lt_sweeps.sparsifiers.supermask import Supermask

__all__ = ["FIXED", "Free", "Gradual", "Learned", "Live", "RigL", "Sparsifier", "Supermask"]
