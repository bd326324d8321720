"""Noise is uniform, independent for every key and position, and the same on every device."""

from typing import Any

import numpy as np
import pytest
import torch

from lt_sweeps.config.seeds import draw, draws
from lt_sweeps.sparsity import counter_noise
from lt_sweeps.sparsity.counter_noise import Noise, StepKeys


def drawn(*keys: int, size: int = 100_000) -> torch.Tensor:
    noise = Noise(len(keys), size)
    noise.seed(keys)
    return noise.draw()


def test_the_noise_is_uniform() -> None:
    numbers = drawn(3, 2**40 + 7, 0)
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    # 300,000 numbers in 100 bins: chi squared of 99 degrees of freedom, 148 at 0.1 %
    assert float(((counts - 3000) ** 2 / 3000).sum()) < 148


def test_keys_and_positions_are_independent() -> None:
    first, second = drawn(1, 2)
    for a, b in ((first, second), (first[:-1], first[1:]), (first[:-64], second[64:])):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.012  # 3.8 sigma


def test_a_replicate_draws_the_same_whoever_stands_beside_it() -> None:
    assert torch.equal(drawn(5, 6, 7)[1], drawn(6)[0])


def test_the_keys_of_the_steps_are_drawn_once_for_many_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[range] = []

    def counted(*index: Any, last: range) -> np.ndarray:
        drawn.append(last)
        return draws(*index, last=last)

    monkeypatch.setattr(counter_noise, "draws", counted)
    streams = [(3, "sample", 1), (5, "sample", 0)]
    keys, noise = StepKeys(streams), Noise(2, 1)
    for step in (0, 1, 1023, 1024, 1500, 2**20 + 7, 4):
        noise.seed([draw(*stream, step) for stream in streams])
        expected = noise.keys.clone()
        noise.seed(keys.at(step))
        assert torch.equal(noise.keys, expected), step
    assert len(drawn) == 4 * 2, "and not for each of 1500 steps"


def test_the_bits_are_pinned() -> None:
    """A change here changes every learned mask of every user."""
    assert [round(n * 2**24) for n in drawn(1, size=3)[0].tolist()] == PINNED


PINNED = [6956344, 3156086, 2737722]
