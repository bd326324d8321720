"""A ticket in another form still computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn.utils import prune

from lt_sweeps.config.cells import Cell
from lt_sweeps.interchange.exported_ticket import export_ticket
from lt_sweeps.interchange.ticket_formats import (
    sparse_tensors,
    state_dict,
    torch_pruned,
    write_ticket,
)
from lt_sweeps.models import FC
from lt_sweeps.plan.planning import Plan
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import Ticket


def net() -> FC:
    torch.manual_seed(0)
    return FC((1, 2, 3), 4, hidden=[5])


def a_ticket(pinned: float = 0.0) -> Ticket:
    state = {name: tensor.detach()[None].clone() for name, tensor in net().state_dict().items()}
    mask = {}
    for name in ("hidden.0.weight", "output.weight"):
        mask[name] = state[name] > 0
        state[name][~mask[name]] = pinned
    return Ticket(state, mask)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(7, 1, 2, 3, generator=torch.Generator().manual_seed(1))


def reference(images: torch.Tensor) -> torch.Tensor:
    ticket = a_ticket().state
    hidden = torch.relu(
        images.flatten(1) @ ticket["hidden.0.weight"][0].T + ticket["hidden.0.bias"]
    )
    return hidden @ ticket["output.weight"][0].T + ticket["output.bias"]


def test_a_state_dict_loads_into_the_plain_module(images: torch.Tensor) -> None:
    module = net()
    module.load_state_dict(state_dict(a_ticket()))
    torch.testing.assert_close(module(images), reference(images))


def test_pruned_loads_into_a_module_of_torch_and_its_masks_hold_while_it_trains(
    images: torch.Tensor,
) -> None:
    module = net()
    for part in (*module.hidden, module.output):
        prune.identity(part, "weight")
    module.load_state_dict(torch_pruned(a_ticket()))
    torch.testing.assert_close(module(images), reference(images))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(images).sum().backward()
    optimizer.step()
    kept = a_ticket().mask["output.weight"][0]
    weight = module.get_submodule("output").weight
    assert isinstance(weight, torch.Tensor) and (weight[~kept] == 0).all()


def test_sparse_holds_what_is_kept_and_nothing_else() -> None:
    found, ticket = sparse_tensors(a_ticket()), a_ticket()
    for name, mask in ticket.mask.items():
        assert found[name].is_sparse and found[name]._nnz() == int(mask.sum())
        torch.testing.assert_close(found[name].to_dense(), ticket.state[name][0])
    assert not found["output.bias"].is_sparse


def test_an_exported_file_has_the_order_of_the_module(
    cell: Callable[..., Cell], run: Callable[..., tuple[Plan, Store]], tmp_path: Path
) -> None:
    made, store = run(cell())
    unit = made.units[-1]
    path = store.path(unit.stage.key, unit.seed)
    module = unit.stage.network.module()
    plain = torch.load(export_ticket(path, out=tmp_path / "x.pt"))
    assert [*plain] == [*module.state_dict()] != sorted(plain)
    pruned = torch.load(export_ticket(path, out=tmp_path / "x.pt", form="prune"))
    names = {name.removesuffix("_orig").removesuffix("_mask"): None for name in pruned}
    assert [*names] == [*module.state_dict()]


@pytest.mark.parametrize("form", ["prune", "sparse"])
def test_a_pinned_value_that_a_form_cannot_hold_is_refused(form: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pinned to values other than 0"):
        write_ticket(a_ticket(pinned=0.5), form, tmp_path / "x.pt")
    write_ticket(a_ticket(pinned=0.5), "state_dict", tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_files_load_without_this_package(tmp_path: Path) -> None:
    write_ticket(a_ticket(), "sparse", tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded["output.weight"].is_sparse
    write_ticket(a_ticket(), "prune", tmp_path / "x.safetensors")
    assert "output.weight_mask" in safetensors.torch.load_file(tmp_path / "x.safetensors")


def listed(ticket: Ticket) -> list[int]:
    return [1]


def test_a_form_that_returns_no_tensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "export_form" / "listed.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"_target_: {__name__}.listed\n")
    with pytest.raises(
        ValueError, match=r"export: form listed: `.*listed` returned list; give a d"
    ):
        write_ticket(a_ticket(), "listed", tmp_path / "x.pt", config_dir=str(tmp_path / "conf"))


@pytest.mark.parametrize(
    ("form", "name", "line"),
    [
        ("spars", "x.pt", r"form: spars; did you mean `sparse`\?"),
        ("sparse", "x.safetensors", r"a suffix is one of .pt, .pth"),
        ("prune", "x", "a suffix is one of"),
    ],
)
def test_a_wrong_form_or_suffix_is_refused(tmp_path: Path, form: str, name: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        write_ticket(a_ticket(), form, tmp_path / name)
    assert not list(tmp_path.iterdir())
