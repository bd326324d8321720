"""Tickets are whole or absent, checked, and readable without the framework."""

import fcntl
import json
import math
import multiprocessing
import os
from pathlib import Path
from random import Random

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from filelock import BaseFileLock
from hypothesis import given
from hypothesis import strategies as st

from lt_sweeps.storage import store as store_module
from lt_sweeps.storage import unit_costs
from lt_sweeps.storage.atomic_write import set_aside, write_whole
from lt_sweeps.storage.locks import lock, locked
from lt_sweeps.storage.mask_bits import packed, unpacked
from lt_sweeps.storage.store import CorruptTicket, Store, UnitCost
from lt_sweeps.storage.ticket import Ticket
from lt_sweeps.storage.ticket_facts import TicketFacts
from lt_sweeps.storage.ticket_file import metadata_checksum, read_content

TICKET = Ticket(
    {"layer.weight": torch.arange(6.0).view(1, 2, 3), "layer.bias": torch.zeros(1, 2)},
    {"layer.weight": torch.arange(6).view(1, 2, 3) > 2},
    step=7,
    optimizer={"exp_avg/layer.weight": torch.ones(1, 2, 3)},
)
ABOUT = {"sparsity": 0.5, "level": 1, "metrics": {"loss": 0.25}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_ticket_comes_back_as_it_was(store: Store) -> None:
    store.write("key", 3, TICKET, ABOUT)
    read = store.read("key", 3)
    assert read.step == 7
    for mine, theirs in (
        (TICKET.state, read.state),
        (TICKET.mask, read.mask),
        (TICKET.optimizer, read.optimizer),
    ):
        assert sorted(mine) == sorted(theirs)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_tensors_are_in_one_order_in_every_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("key", 3, TICKET, ABOUT)
    load = safetensors.torch.load

    def shuffled(content: bytes) -> dict[str, torch.Tensor]:
        return dict(sorted(load(content).items(), reverse=True))

    monkeypatch.setattr(safetensors.torch, "load", shuffled)
    read = store.read("key", 3)
    assert [*read.state] == sorted(read.state) and [*read.mask] == sorted(read.mask)


def test_it_loads_with_safetensors_alone(store: Store) -> None:
    store.write("key", 3, TICKET, ABOUT)
    path = store.path("key", 3)
    tensors = safetensors.torch.load_file(path)
    bits = tensors["mask/layer.weight"].numpy()
    module = torch.nn.ModuleDict({"layer": torch.nn.Linear(3, 2)})
    module.load_state_dict({n: t for n, t in tensors.items() if "/" not in n})
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    shape = json.loads(about["mask_shapes"])["layer.weight"]
    kept = np.unpackbits(bits, count=6).reshape(shape)
    assert bits.nbytes == 1 and kept.tolist() == TICKET.mask["layer.weight"][0].tolist()
    assert {k: about[k] for k in ("stage", "seed", "sparsity", "level", "step")} == {
        "stage": "key",
        "seed": "3",
        "sparsity": "0.5",
        "level": "1",
        "step": "7",
    }


def test_equal_content_gives_equal_bytes(store: Store) -> None:
    store.write("one", 3, TICKET, ABOUT)
    store.write("two", 3, TICKET, dict(reversed(ABOUT.items())))
    first, second = (store.path(key, 3).read_bytes() for key in ("one", "two"))
    assert first.replace(b"one", b"two")[-100:] == second[-100:]
    again = Store(store.root / "again")
    again.write("one", 3, TICKET, ABOUT)
    assert again.path("one", 3).read_bytes() == first


def test_the_first_writer_wins(store: Store) -> None:
    store.write("key", 3, TICKET, ABOUT)
    before = store.path("key", 3).read_bytes()
    store.write("key", 3, TICKET, {**ABOUT, "level": 9})
    assert store.path("key", 3).read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda blob: blob[:-1], "bytes where"),
        (lambda blob: blob[:5], "cut short"),
        (lambda blob: b"", "cut short"),
        (lambda blob: blob[:9] + b"#" + blob[10:], "unreadable"),
        (lambda blob: blob.replace(b'"level": "1"', b'"level": "2"'), "metadata does not match"),
        (lambda blob: blob.replace(b'"F32"', b'"G32"', 1), "has an impossible type, shape"),
        (lambda blob: blob.replace(b'"F32"', b'"F64"', 1), "has an impossible type, shape"),
        (
            lambda blob: blob.replace(b'"shape": [2]', b'"shape": [1]', 1),
            "has an impossible type, shape",
        ),
        (lambda blob: blob.replace(b'"layer.bias"', b'"layex.bias"', 1), "which they were written"),
    ],
)
def test_a_corrupt_file_is_named_and_not_used(store: Store, caplog, harm, reason) -> None:
    store.write("key", 3, TICKET, ABOUT)
    path = store.path("key", 3)
    path.write_bytes(harm(path.read_bytes()))
    assert not store.has("key", 3)
    assert reason in caplog.text and str(path) in caplog.text
    assert path.exists(), "who only looks renames nothing"
    with pytest.raises(CorruptTicket, match=reason):
        store.read("key", 3)


def test_a_flipped_bit_in_a_weight_is_noticed_before_it_is_used(store: Store) -> None:
    store.write("key", 3, TICKET, ABOUT)
    path = store.path("key", 3)
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(CorruptTicket, match="tensors do not match"):
        store.read("key", 3)


def test_nothing_but_whole_files_is_left_behind(store: Store) -> None:
    store.write("key", 3, TICKET, ABOUT)
    store.write_checkpoint("key", 3, 5, {"weights": torch.ones(2)}, {})
    store.write_checkpoint("key", 3, 9, {"weights": torch.ones(2)}, {})
    assert store.checkpoints("key", 3) == [5, 9]
    store.drop_checkpoints("key", 3, before=9)
    assert store.checkpoints("key", 3) == [9]
    store.drop_checkpoints("key", 3)
    assert [path.name for path in store.path("key", 3).parent.iterdir()] == ["3.safetensors"]


def _hold(root: Path, ready, leave) -> None:
    claim = Store(root).claim("key", 3)
    ready.put(claim is not None)
    leave.get()


def test_a_unit_has_one_holder_and_a_killed_one_lets_go(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Queue(), context.Queue()
    process = context.Process(target=_hold, args=(store.root, ready, leave))
    process.start()
    assert ready.get()
    assert store.claim("key", 3) is None
    assert store.claim("key", 4) is not None
    process.kill()
    process.join()
    assert store.claim("key", 3) is not None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_mask_of_any_shape_comes_back_from_its_bits(shape: list[int], draws: Random) -> None:
    kept = np.array([draws.random() < 0.5 for _ in range(math.prod(shape))], dtype=bool)
    tensors = {"mask/w": kept.reshape(shape), "w": np.ones(shape, np.float32)}
    bits, metadata = packed(tensors)
    again = unpacked(bits, metadata)
    assert bits["mask/w"].nbytes == -(-kept.size // 8)
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("shape", [[1, 3], [4, 3], [-1, 3], ["a"], "a", None, "none"])
def test_a_mask_of_another_shape_than_its_header_says_is_not_read(store: Store, shape) -> None:
    store.write("key", 3, TICKET, ABOUT)
    path = store.path("key", 3)
    metadata, content = read_content(path)
    tensors = store_module.tensors_in(content)
    kept = {name: text for name, text in metadata.items() if not name.endswith("_sha256")}
    blob = store_module._pack(tensors, kept)
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    about = header["__metadata__"]
    about["mask_shapes"] = json.dumps({} if shape == "none" else {"layer.weight": shape})
    about["metadata_sha256"] = metadata_checksum(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob[8 + size :])
    with pytest.raises(CorruptTicket):
        store.read("key", 3)


def test_what_a_computation_took_is_kept_beside_the_tickets_of_a_stage(store: Store) -> None:
    store.write_costs("key", [3, 5], UnitCost(seconds=1.5))
    store.write_costs("key", [5, 6], UnitCost(seconds=2.5))  # the first counts
    folder = store.path("key", 3).parent
    assert [store.cost("key", seed).seconds for seed in (3, 4, 5, 6)] == [1.5, None, 1.5, 2.5]
    assert [path.name for path in folder.iterdir()] == ["costs.jsonl"]
    # A line that a kill has cut short does not count, and does not damage the other lines.
    path = folder / "costs.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [store.cost("key", seed).seconds for seed in (3, 5, 6)] == [1.5, 1.5, None]
    store.write_costs("key", [6], UnitCost(seconds=3.5))
    assert [store.cost("key", seed).seconds for seed in (3, 5, 6)] == [1.5, 1.5, 3.5]


def test_a_cost_is_not_appended_while_another_process_holds_the_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_costs, "_WAIT", 0.0)
    path = store.path("key", 3).parent / "costs.jsonl"
    other = held(path.with_name(".costs.lock"))
    store.write_costs("key", [3], UnitCost(seconds=1.5))
    assert not path.exists(), "a network file system could mix the lines of two machines"
    other.release()
    store.write_costs("key", [3], UnitCost(seconds=1.5))
    assert store.cost("key", 3).seconds == 1.5


def _count(root: Path, times: int) -> None:
    counter = root / "counter"
    for _ in range(times):
        with locked(root / "x.lock"):
            counter.write_text(str(int(counter.read_text()) + 1))


def held(path: Path) -> BaseFileLock:
    taken = lock(path)
    assert taken is not None
    return taken


def test_a_lock_that_leaves_no_file_has_one_holder_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(tmp_path, 60)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter").read_text() == "240"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_a_lock_whose_file_was_removed_before_it_was_got_is_got_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process released it between this one's open and its lock, so the file has no name."""
    path, flock, removed = tmp_path / "x.lock", fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not removed and operation & fcntl.LOCK_EX:
            removed.append(path.unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    taken = lock(path)
    assert removed and path.exists(), "it holds the file of that name"
    assert lock(path, wait=0) is None
    assert taken is not None
    taken.release()
    assert not path.exists()


def test_a_lock_is_free_behind_its_block(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with locked(path) as mine:
        with locked(path, wait=0) as again:
            assert (mine, again) == (True, False)
        assert path.exists(), "a holder that did not get it frees nothing"
    other = lock(path, wait=0)
    assert other is not None, "it was taken once, and freed once"
    other.release()


def test_a_lock_does_not_remove_the_file_of_another_holder(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first = held(path)
    path.unlink()  # a person has tidied up
    second = lock(path, wait=9)
    assert second is not None
    first.release()
    assert path.exists() and lock(path, wait=0) is None
    second.release()


def test_a_write_follows_the_umask_and_never_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the umask sets it for a moment, in which another thread may create a file."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("it is of the whole process"))
            write_whole(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_in_the_place_of_a_lock_is_set_aside(store: Store) -> None:
    path = store.path("key", 3).with_suffix(".lock")
    path.mkdir(parents=True)
    claim = store.claim("key", 3)
    assert claim is not None
    assert path.is_file() and (path.parent / f"{path.name}.corrupt-0").is_dir()
    claim.release()
    assert not path.exists()


def test_a_file_that_is_set_aside_replaces_no_earlier_one(tmp_path: Path) -> None:
    file, first, second = (tmp_path / name for name in ("file", "file.corrupt-0", "file.corrupt-1"))
    for content in ("a", "b"):
        file.write_text(content)
        set_aside(file, "damaged")
    first.unlink()
    for content in ("c", "d"):
        file.write_text(content)
        set_aside(file, "damaged")
    third = tmp_path / "file.corrupt-2"
    assert [path.read_text() for path in (first, second, third)] == ["c", "b", "d"]


def test_a_history_is_parsed_once_and_one_with_other_numbers_is_checked_anew() -> None:
    rows = [{"step": step, "val_loss": 0.5, "val_accuracy": 0.25} for step in range(3)]
    about = {"step": "2", "history": json.dumps(rows)}
    assert TicketFacts.of(about).history is TicketFacts.of({**about}).history
    for wrong, said in (("[", "not JSON"), ('[{"step": "2"}]', "not a number"), ("[1]", "header")):
        with pytest.raises(ValueError, match=said):
            TicketFacts.of({**about, "history": wrong})
