"""Masks in a ticket's file: eight weights to a byte, and their shapes in the metadata (no torch).

`mask/<name>` holds the bits of the flattened mask, the first weight in the highest bit of the first
byte, and `mask_shapes` in the metadata is a JSON object of shapes by name. With numpy alone:

    kept = numpy.unpackbits(tensors["mask/fc1.weight"], count=300 * 784).reshape(300, 784)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_sweeps.storage.ticket_file import MASK, MASK_SHAPES, mask_shapes

Arrays = Mapping[str, NDArray[Any]]


def packed(tensors: Arrays) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors of a file with masks as bits, and the metadata with the masks' shapes."""
    masks = {n: t for n, t in tensors.items() if n.startswith(MASK) and t.dtype == np.bool_}
    bits = {name: np.packbits(mask.reshape(-1)) for name, mask in masks.items()}
    shapes = {name.removeprefix(MASK): mask.shape for name, mask in sorted(masks.items())}
    return {**tensors, **bits}, {MASK_SHAPES: json.dumps(shapes)} if masks else {}


def unpacked(tensors: Arrays, metadata: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file with masks as bool arrays."""
    shapes = {MASK + name: shape for name, shape in mask_shapes(metadata).items()}
    masks = {name: _unpacked(tensors[name], s) for name, s in shapes.items() if name in tensors}
    return {**tensors, **masks}


def _unpacked(bits: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.bool_]:
    return np.unpackbits(bits, count=math.prod(shape)).view(np.bool_).reshape(shape)
