"""Data sets and batches: images as tensors, in splits train, val and test that no seed changes.

A data set is a function that returns a `Dataset`: its shape and sizes are known at once, its
content is read by `load`. To add one, write such a function and a yaml in `conf/dataset`.
"""

from lt_sweeps.data.bundled import digits, synthetic
from lt_sweeps.data.dataset import Dataset, Split
from lt_sweeps.data.downloaded import cifar10, cifar100, fashion_mnist, mnist
from lt_sweeps.data.folders import image_folder

FAMILY = "datasets"  # the first part of these names in stage keys, for ever

__all__ = [
    "Dataset",
    "Split",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "image_folder",
    "mnist",
    "synthetic",
]
