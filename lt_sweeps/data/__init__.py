"""Data sets and batches: examples as tensors, in splits train, val and test.

The seed of a run does not change the splits. A data set is a function that returns a `Dataset`: its
shape and sizes are known at once, its content is read by `load`. To add a data set, write such a
function and a yaml in `conf/dataset`.
"""

from lt_sweeps.data.bundled import digits as digits
from lt_sweeps.data.bundled import synthetic as synthetic
from lt_sweeps.data.bundled_tasks import diabetes as diabetes
from lt_sweeps.data.bundled_tasks import text as text
from lt_sweeps.data.dataset import Dataset as Dataset
from lt_sweeps.data.dataset import Split as Split
from lt_sweeps.data.dataset import content_hash as content_hash
from lt_sweeps.data.downloaded import cifar10 as cifar10
from lt_sweeps.data.downloaded import cifar100 as cifar100
from lt_sweeps.data.downloaded import fashion_mnist as fashion_mnist
from lt_sweeps.data.downloaded import mnist as mnist
from lt_sweeps.data.folders import image_folder as image_folder

FAMILY = "datasets"  # the first part of these functions' names in stage keys; must never change
