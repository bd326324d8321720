"""`Arithmetic`: in which precision a stack multiplies, and whether its kernels repeat their bytes.

`float32`  products and convolutions in IEEE float32
`tf32`     float32 whose products round their inputs to ten bits of fraction (GPUs only)
`bf16`     autocast: products in bfloat16; weights, gradients, moments and losses stay float32

Torch's own defaults differ by operation (TF32 in convolutions, IEEE in products). So every forward
and backward pass sets its precision, evaluations included.
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
    """A precision, and whether a GPU must repeat its bytes.

    Raises:
        ValueError: there is no such precision.
    """

    precision: Precision = "float32"
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision: got {self.precision!r}; give one of {', '.join(PRECISIONS)}"
            )

    def check(self, device: torch.device) -> None:
        """Raises: ValueError: this device does not have the precision."""
        if self.precision == "float32":
            return
        if device.type != "cuda":
            if self.precision == "tf32":
                raise ValueError(
                    f"precision: got tf32 on a {device.type}, which has none; give float32 or "
                    "bf16, or a GPU (device=cuda)"
                )
            return
        # Set to 0 it wins over what a program asks for: float32 would be recorded as tf32.
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
        """Compute the body so; other code of the process gets the process's settings back."""
        # The precision is only set, because whatever is computed here sets its own.
        rounds = self.precision == "tf32"
        torch.set_float32_matmul_precision("high" if rounds else "highest")
        torch.backends.cudnn.allow_tf32 = rounds
        # Since torch 2.9 a False leaves it to `torch.backends.fp32_precision`, which a user's
        # module may have set. Torch refuses to read old names that disagree with the new ones.
        for part in _OF_CPUS if device.type == "cpu" else _OF_GPUS:
            part.fp32_precision = "tf32" if rounds else "ieee"
        if device.type != "cuda":
            yield  # a CPU repeats its bytes by itself
            return
        # Also where bytes need not be repeated: torch looks once, at the first product of a process
        # on a GPU, and refuses from then on to repeat bytes without it. cuBLAS reads it as early.
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
                f"deterministic: `{missing[1]}` repeats its bytes on no GPU, and the model uses "
                "it; give deterministic=false"
            ) from None
        finally:
            before.use()

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Around a forward pass; the backward pass follows its types by itself."""
        if self.precision != "bf16":
            return nullcontext()
        # Every weight is cast once in a pass, and a cache of casts would outlive a functional one.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    def dtype(self, weights: torch.dtype) -> torch.dtype:
        """The type in which weights of this type are multiplied where autocast does not act."""
        return torch.bfloat16 if self.precision == "bf16" else weights

    @property
    def rounding(self) -> float:
        """The relative change of an output that another size of its batch may make."""
        return {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}[self.precision]


def _parts(library: Any) -> list[Any]:
    """What torch has new names for, beside products."""
    parts = [getattr(library, name, None) for name in ("conv", "rnn")]
    return [part for part in parts if hasattr(part, "fp32_precision")]


_OF_GPUS, _OF_CPUS = _parts(torch.backends.cudnn), _parts(torch.backends.mkldnn)

_NO_TF32 = "NVIDIA_TF32_OVERRIDE"  # read by NVIDIA's libraries
FLOAT32 = Arithmetic()
"""The arithmetic where no precision is given."""


class _Kernels(NamedTuple):
    """The settings of a process by which torch chooses kernels on a GPU."""

    strict: int  # about kernels that do not repeat their bytes: 2 refuses, 1 warns, 0 takes them
    fills: bool  # torch fills what it does not initialise, which only costs time here
    cudnn: bool
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
        # `use_deterministic_algorithms` sets the same, and imports torch's compiler for it: 900
        # modules and a second of CPU in every process (torch 2.14).
        torch.set_deterministic_debug_mode(self.strict)
        torch_deterministic.fill_uninitialized_memory = self.fills  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.deterministic = self.cudnn
        torch.backends.cudnn.benchmark = self.autotunes
