"""The device of the `gpu` tests: `LT_TEST_DEVICE`, by default `cuda`.

`LT_TEST_DEVICE=cpu python -m pytest -m gpu tests/gpu` rehearses them without a GPU: claims that
hold on any device must pass on the CPU too.
"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    name = os.environ.get("LT_TEST_DEVICE", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    # Torch reads it once, at the first product of a process, which here may be a test's own.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return name
