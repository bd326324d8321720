"""Triton's interpreter, which runs our kernels without a GPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

KERNELS = ("lt_sweeps.training.kept_update", "lt_sweeps.training.backends.chain_kernels")


@pytest.fixture
def interpreted_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when a kernel is defined
    _forget()
    for name in KERNELS:
        importlib.import_module(name)
    yield
    _forget()  # another test may want them compiled


def _forget() -> None:
    """Remove the kernel modules, also from their package, so that an import defines them again."""
    for name in KERNELS:
        sys.modules.pop(name, None)
        package, _, leaf = name.rpartition(".")
        vars(sys.modules.get(package, sys)).pop(leaf, None)
