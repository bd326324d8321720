"""Tickets are whole or absent, checked, and readable by anyone."""

import json
import multiprocessing
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from lt_sweeps.storage.store import CorruptTicket, Store, UnitCost
from lt_sweeps.storage.ticket import Ticket

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


def test_it_loads_with_safetensors_alone(store: Store) -> None:
    store.write("key", 3, TICKET, ABOUT)
    path = store.path("key", 3)
    tensors = safetensors.torch.load_file(path)
    assert tensors["mask/layer.weight"].dtype == torch.bool
    module = torch.nn.ModuleDict({"layer": torch.nn.Linear(3, 2)})
    module.load_state_dict({n: t for n, t in tensors.items() if "/" not in n})
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
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
        (lambda blob: blob.replace(b'"F32"', b'"G32"', 1), "what cannot be"),
        (lambda blob: blob.replace(b'"F32"', b'"F64"', 1), "what cannot be"),
        (lambda blob: blob.replace(b'"shape": [2]', b'"shape": [1]', 1), "what cannot be"),
        (lambda blob: blob.replace(b'"layer.bias"', b'"layex.bias"', 1), "as they were written"),
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
    assert ready.get(timeout=60)
    assert store.claim("key", 3) is None
    assert store.claim("key", 4) is not None
    process.kill()
    process.join()
    assert store.claim("key", 3) is not None


def test_what_a_computation_took_is_kept_beside_the_ticket(store: Store) -> None:
    store.write_cost("key", 3, {"seconds": 1.5})
    assert store.cost("key", 3) == UnitCost(seconds=1.5)
    assert store.cost("key", 4) == UnitCost()
    assert json.loads((store.path("key", 3).parent / "3.cost.json").read_text()) == {"seconds": 1.5}


def test_a_folder_in_the_place_of_a_lock_is_set_aside(store: Store) -> None:
    lock = store.path("key", 3).with_suffix(".lock")
    lock.mkdir(parents=True)
    assert store.claim("key", 3) is not None
    assert lock.is_file() and (lock.parent / f"{lock.name}.corrupt-0").is_dir()
