"""Seeds and draws: randomness as a pure function of (seed, purpose, index).

Nothing random is saved or restored. A draw is computed again from its seed, purpose and index, so
it does not depend on the pack, on a resume or on the device.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lt_sweeps.config.spelling import listed

ROLES = ("init", "order", "augment", "noise")


@dataclass(frozen=True, order=True)
class Seed:
    """One replicate's seed; `apart` has the roles that use another seed.

    `init` draws the weights, `order` the batches, `augment` the augmentation; `noise` is for
    criteria, ties and masks.
    """

    value: int
    apart: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, value: Any, apart: Mapping[str, Any] | None = None) -> Seed:
        """Raises: ValueError: a seed is not a whole number from 0 up, or a role is unknown."""
        if not isinstance(apart, Mapping | None):
            raise ValueError(
                f"seeds: got {apart!r}; give a role its own seed, such as seeds.init=7 "
                f"(roles: {', '.join(ROLES)}); several replicates are 'seed=range(5)'"
            )
        roles = {role: seed for role, seed in (apart or {}).items() if seed is not None}
        for role, seed in {"seed": value, **roles}.items():
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                several = "; several are seed=0,1,2" if isinstance(seed, list | str) else ""
                raise ValueError(f"{role}: got {seed!r}; give a whole number from 0 up{several}")
        if unknown := sorted(set(roles) - set(ROLES)):
            raise ValueError(f"seeds: no role {listed(unknown)}; roles are {', '.join(ROLES)}")
        return cls(value, tuple(sorted((r, s) for r, s in roles.items() if s != value)))

    def role(self, role: str) -> int:
        assert role in ROLES, role
        return dict(self.apart).get(role, self.value)

    def __str__(self) -> str:
        return "-".join([str(self.value), *(f"{role}{seed}" for role, seed in self.apart)])


def draw(seed: int, purpose: str, *index: int | str) -> int:
    """Return a 63-bit number that depends only on the arguments."""
    text = "/".join(map(str, (seed, purpose, *index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def draws(seed: int, purpose: str, *index: int | str, last: Iterable[int]) -> np.ndarray:
    """Return `draw(seed, purpose, *index, i)` for each `i` in `last`, in a third of the time.

    Shape `[N]`.
    """
    start = "/".join(map(str, (seed, purpose, *index)))
    digests = b"".join([hashlib.sha256(f"{start}/{i}".encode()).digest() for i in last])
    return (np.frombuffer(digests, ">u8")[::4] >> 1).astype(np.int64)


def generator(seed: int, purpose: str, *index: int | str) -> torch.Generator:
    """Return a CPU generator whose stream depends only on the arguments."""
    return torch.Generator().manual_seed(draw(seed, purpose, *index))


def repeated(compute: Callable[[], Mapping[str, Tensor]], where: str) -> Mapping[str, Tensor]:
    """Call `compute` twice, and return its result if both calls give the same tensors.

    A user-defined function that draws from a global generator, or counts its calls, is not a
    function of the seed. The global generators start from different seeds in the two calls, which
    reveals such a function.

    Raises:
        ValueError: the second call returns something else, or the tensors are not dense.
    """
    with one_thread(), global_draws(1):
        first = compute()
    with one_thread(), global_draws(2):
        second = compute()
    for name, tensor in first.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            raise ValueError(f"{where} gives a {kind} tensor for {name}; give a dense tensor")
    if other := [n for n in second if n not in first or not _same(first[n], second[n])]:
        raise ValueError(
            f"{where} gives other values for {other[0]} when it is called again with the same "
            "arguments; a result depends on its seed alone, so draw from what is passed "
            "(`noise`), or in a model's initialisation from torch's global generator"
        )
    return second


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body in one thread, as every worker does.

    With another number of threads, sums are rounded differently, and so are orthogonal matrices. An
    audit or a notebook must recompute exactly the values that the training began with.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seed_torch(number: int) -> None:
    """Do the same as `torch.manual_seed`, but only for the devices in use.

    `torch.manual_seed` also formats the whole call stack for each kind of device that is not in
    use, which takes half a millisecond: longer than a reset of a small network, or a step with
    dropout.
    """
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


@contextmanager
def global_draws(number: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python; restore their states afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_torch(number)
        np.random.seed(number)
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())
