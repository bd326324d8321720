"""`Arithmetic`: the precision of a stack's products, and whether its kernels are deterministic.

`float32`  products and convolutions in IEEE float32
`tf32`     float32, but products round their inputs to ten bits of fraction (GPUs only)
`bf16`     autocast: products in bfloat16; weights, gradients, moments and losses stay float32

Torch's own defaults differ by operation (TF32 in convolutions, IEEE in products). So every forward
and backward pass sets its precision, including those of evaluations.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils import deterministic as torch_deterministic

from lt_sweeps.config.keys import PRECISIONS, Precision


@dataclass(frozen=True)
class Arithmetic:
    """A precision, and whether equal computations on a GPU must give equal bytes.

    Raises:
        ValueError: the name of the precision is unknown.
    """

    precision: Precision = "float32"
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision: got {self.precision!r}; give one of {', '.join(PRECISIONS)}"
            )

    def check(self, device: torch.device) -> None:
        """Raises: ValueError: this device does not support the precision."""
        if self.precision == "float32":
            return
        if device.type != "cuda":
            if self.precision == "tf32":
                raise ValueError(
                    f"precision: got tf32 on a {device.type}, which has no tf32; give float32 or "
                    "bf16, or a GPU (device=cuda)"
                )
            return
        # With the value 0 this variable overrides the program's setting: the training would run in
        # float32 and be recorded as tf32.
        if self.precision == "tf32" and os.environ.get(_NO_TF32) == "0":
            raise ValueError(
                f"precision: got tf32, and {_NO_TF32}=0 in the environment turns it off; unset "
                "it, or give float32"
            )
        if torch.cuda.get_device_capability(device) < (8, 0):
            name = torch.cuda.get_device_name(device)
            raise ValueError(f"precision: got {self.precision} on {name}, which has only float32")

    @contextmanager
    def set(self, device: torch.device) -> Iterator[None]:
        """A context with this precision and, on a GPU, with deterministic kernels or without.

        Afterwards the process's choice of kernels is restored, but not its precision.

        Raises:
            ValueError: an operation of the body has no deterministic kernel.
        """
        # The precision need not be restored, because all our computations set their own.
        rounds = self.precision == "tf32"
        torch.set_float32_matmul_precision("high" if rounds else "highest")
        torch.backends.cudnn.allow_tf32 = rounds
        # Since torch 2.9, `allow_tf32 = False` falls back to `torch.backends.fp32_precision`, which
        # a user-defined module may have set. So the new settings are set too. They must agree with
        # the old ones: otherwise torch raises when the old ones are read.
        for part in _OF_CPUS if device.type == "cpu" else _OF_GPUS:
            part.fp32_precision = "tf32" if rounds else "ieee"
        if device.type != "cuda":
            yield  # a CPU is deterministic in any case
            return
        # Set even if kernels need not be deterministic. Torch reads this variable only once, at the
        # first product of a process on a GPU, and without it refuses deterministic products for the
        # rest of the process. cuBLAS reads it equally early.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        before = _Kernels.now()
        strict = 2 if self.deterministic else 0
        _Kernels(strict, False, self.deterministic, not self.deterministic).use()
        try:
            yield
        except RuntimeError as error:
            if not (missing := re.match(r"(\S+) does not have a deterministic", str(error))):
                raise
            raise ValueError(
                f"deterministic: the model uses `{missing[1]}`, which has no deterministic kernel "
                "on a GPU; give deterministic=false"
            ) from None
        finally:
            before.use()

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A context for a forward pass; the backward pass then uses the same types by itself."""
        if self.precision != "bf16":
            return nullcontext()
        # A cache of casts saves nothing, because a pass casts every weight only once. And it would
        # outlive a functional call, whose weights are temporary.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    def dtype(self, weights: torch.dtype) -> torch.dtype:
        """The type of products with weights of type `weights`, for code that is not autocast."""
        return torch.bfloat16 if self.precision == "bf16" else weights

    @property
    def rounding(self) -> float:
        """The largest relative change of an output that another batch size may cause."""
        return {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}[self.precision]


def _parts(library: Any) -> list[Any]:
    """The parts of a library, besides products, that have the new setting `fp32_precision`."""
    parts = [getattr(library, name, None) for name in ("conv", "rnn")]
    return [part for part in parts if hasattr(part, "fp32_precision")]


_OF_GPUS, _OF_CPUS = _parts(torch.backends.cudnn), _parts(torch.backends.mkldnn)

_NO_TF32 = "NVIDIA_TF32_OVERRIDE"  # an environment variable that NVIDIA's libraries read
FLOAT32 = Arithmetic()
"""The default arithmetic."""


class _Kernels(NamedTuple):
    """The settings of a process by which torch chooses kernels on a GPU."""

    strict: int  # for kernels that are not deterministic: 2 refuses, 1 warns, 0 allows them
    fills: bool  # whether torch fills uninitialised memory; not needed here, and takes time
    cudnn: bool  # whether cuDNN is deterministic
    autotunes: bool

    @classmethod
    def now(cls) -> _Kernels:
        return cls(
            torch.get_deterministic_debug_mode(),
            torch_deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue]
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        )

    def use(self) -> None:
        # `torch.use_deterministic_algorithms` sets the same flag, but imports torch's compiler: 900
        # modules and a second of CPU in every process (torch 2.14).
        torch.set_deterministic_debug_mode(self.strict)
        torch_deterministic.fill_uninitialized_memory = self.fills  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.deterministic = self.cudnn
        torch.backends.cudnn.benchmark = self.autotunes
