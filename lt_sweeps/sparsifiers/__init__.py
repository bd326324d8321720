"""Sparsifiers: how sparsity acts inside a training; a family with one file each."""

from lt_sweeps.sparsifiers.sparsifier import FIXED, Free, Learned, Live, Sparsifier
from lt_sweeps.sparsifiers.supermask import Supermask

__all__ = ["FIXED", "Free", "Learned", "Live", "Sparsifier", "Supermask"]
