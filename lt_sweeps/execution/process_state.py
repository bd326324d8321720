"""Restore the state of a process after each pack, so that no pack can affect a later one."""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lt_sweeps.execution.slurm.code_snapshot import unload_users_modules


@contextmanager
def as_before() -> Iterator[None]:
    """Restore, when the block ends, the process state that training a pack may change."""
    # User-defined code may switch flushing on, and torch cannot tell whether it is on now.
    torch.set_flush_denormal(False)
    switches = _switches()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        _switch_back(switches)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path
        forget_plans()
        gc.collect()


# Torch's global switches. A switch is set only if its value has changed: torch has an old and a new
# API for the precision of matrix products, and reading by one API raises an error if the precision
# was set by the other.
_FUNCTIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "device": (torch.get_default_device, torch.set_default_device),
    "grad": (torch.is_grad_enabled, torch.set_grad_enabled),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "deterministic": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
}
_OWNERS = {
    "": torch.backends,
    "cudnn": torch.backends.cudnn,
    "cudnn.conv": getattr(torch.backends.cudnn, "conv", None),
    "cudnn.rnn": getattr(torch.backends.cudnn, "rnn", None),
    "cuda.matmul": torch.backends.cuda.matmul,
    "mkldnn": torch.backends.mkldnn,
    "mkldnn.conv": getattr(torch.backends.mkldnn, "conv", None),
    "mkldnn.rnn": getattr(torch.backends.mkldnn, "rnn", None),
    "mkldnn.matmul": getattr(torch.backends.mkldnn, "matmul", None),
}
_ATTRIBUTES = ("allow_tf32", "benchmark", "deterministic", "enabled", "fp32_precision")


def _switches() -> dict[tuple[str, str], Any]:
    attributes = [(name, attribute) for name in _OWNERS for attribute in _ATTRIBUTES]
    switches = [*((name, "") for name in _FUNCTIONS), *attributes]
    return {switch: _value(*switch) for switch in switches}


def _value(name: str, attribute: str) -> Any:
    """The value of a switch; None if it does not exist, or was set by the other API."""
    try:
        return getattr(_OWNERS[name], attribute) if attribute else _FUNCTIONS[name][0]()
    except (RuntimeError, AttributeError):
        return None


def _switch_back(before: Mapping[tuple[str, str], Any]) -> None:
    for (name, attribute), value in before.items():
        if value is None or _value(name, attribute) in (value, None):
            continue
        if attribute:
            setattr(_OWNERS[name], attribute, value)
        else:
            _FUNCTIONS[name][1](value)


def forget_users_code() -> None:
    """Unload user-defined modules and clear cached plans, so that this process makes both again.

    A fork inherits the modules that were imported when the whole sweep was planned. A pack imports
    user-defined code itself and checks the data again, so that it notices later edits.
    """
    unload_users_modules()
    forget_plans()


def forget_plans() -> None:
    """Clear the caches of this package's functions and methods, except the cached images."""
    for name, module in list(sys.modules.items()):
        if name.startswith("lt_sweeps.") and name != "lt_sweeps.data.kept_images":
            for owner in (module, *(v for v in vars(module).values() if isinstance(v, type))):
                for value in list(vars(owner).values()):
                    if callable(clear := getattr(value, "cache_clear", None)):
                        clear()
