"""Properties of the store for any writers and any order of concurrent writes."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket


def a_ticket(value: float) -> Ticket:
    weights = torch.full((1, 2, 3), value)
    return Ticket({"w": weights}, {"w": torch.ones(1, 2, 3, dtype=torch.bool)}, 1)


class ConcurrentStore(RuleBasedStateMachine):
    """Several writers of one store, which come and go: the first to write a unit wins."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.writers = [Store(self.root) for _ in range(3)]
        self.first: dict[tuple[str, int], float] = {}
        self.steps: dict[tuple[str, int], set[int]] = {}
        self.claims: dict[tuple[str, int], tuple[int, object]] = {}

    @rule(
        writer=st.integers(0, 2),
        key=st.sampled_from("ab"),
        seed=st.integers(0, 1),
        value=st.floats(-1, 1, width=32),
    )
    def write(self, writer: int, key: str, seed: int, value: float) -> None:
        self.writers[writer].write(key, seed, a_ticket(value), {"sparsity": 0.0})
        self.first.setdefault((key, seed), value)

    @rule(writer=st.integers(0, 2), key=st.sampled_from("ab"), step=st.integers(1, 5))
    def checkpoint(self, writer: int, key: str, step: int) -> None:
        self.writers[writer].write_checkpoint(key, 0, step, {"w": torch.zeros(2)}, {})
        self.steps.setdefault((key, 0), set()).add(step)

    @rule(writer=st.integers(0, 2), key=st.sampled_from("ab"))
    def drop(self, writer: int, key: str) -> None:
        self.writers[writer].drop_checkpoints(key, 0)
        self.steps.pop((key, 0), None)

    @rule(writer=st.integers(0, 2), key=st.sampled_from("ab"), seed=st.integers(0, 1))
    def claim(self, writer: int, key: str, seed: int) -> None:
        lock = self.writers[writer].claim(key, seed)
        assert (lock is None) == ((key, seed) in self.claims)
        if lock is not None:
            self.claims[key, seed] = writer, lock

    @rule(key=st.sampled_from("ab"), seed=st.integers(0, 1))
    def release(self, key: str, seed: int) -> None:
        if (key, seed) in self.claims:
            self.claims.pop((key, seed))[1].release()  # type: ignore[attr-defined]

    @invariant()
    def every_reader_sees_the_first_ticket_and_the_living_checkpoints(self) -> None:
        for store in self.writers:
            for (key, seed), value in self.first.items():
                assert store.read(key, seed).state["w"][0, 0, 0] == value
            for key in "ab":
                assert set(store.checkpoints(key, 0)) == self.steps.get((key, 0), set())
                assert store.has(key, 0) == ((key, 0) in self.first)

    def teardown(self) -> None:
        for _, lock in self.claims.values():
            lock.release()  # type: ignore[attr-defined]
        shutil.rmtree(self.root)


ConcurrentStore.TestCase.settings = settings(max_examples=15, stateful_step_count=20)
test_writers_who_come_and_go = ConcurrentStore.TestCase


@settings(max_examples=10)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=6, unique=True))
def test_of_writers_at_the_same_moment_one_wins_whole(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, start = Store(Path(folder)), threading.Barrier(len(values))

        def write(value: float) -> None:
            start.wait()
            store.write("key", 0, a_ticket(value), {"sparsity": 0.0})

        threads = [threading.Thread(target=write, args=(value,)) for value in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        weights = store.read("key", 0).state["w"]
        assert float(weights[0, 0, 0]) in values and (weights == weights[0, 0, 0]).all()
        assert [path.name for path in store.path("key", 0).parent.iterdir()] == ["0.safetensors"]
