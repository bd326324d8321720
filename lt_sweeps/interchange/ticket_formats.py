"""Convert tickets for other code: plain weights, torch's pruning masks, sparse tensors."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.option_files import read_option
from lt_sweeps.config.spelling import listed, unknown
from lt_sweeps.models.module_state import state_of
from lt_sweeps.models.network import Network
from lt_sweeps.storage.atomic_write import write_whole
from lt_sweeps.storage.ticket import Ticket

State = dict[str, Tensor]


def state_dict(ticket: Ticket, network: Network | None = None) -> State:
    """Return the weights for `load_state_dict`; a pruned one has the value it is pinned to.

    A tied weight, which a ticket holds once, is returned under all of its names. The order is that
    of the module's own `state_dict`, or without a `network` that of the names.
    """
    return _with_all_names({n: tensor[0].clone() for n, tensor in ticket.state.items()}, network)


def torch_pruned(ticket: Ticket, network: Network | None = None) -> State:
    """Return `<name>_orig` and `<name>_mask`, as in the `state_dict` of a torch-pruned module."""
    masks = _with_all_names(_zero_where_pruned(ticket, "prune"), network)
    pruned: State = {}
    for name, tensor in state_dict(ticket, network).items():
        if name in masks:
            pruned |= {f"{name}_orig": tensor, f"{name}_mask": masks[name].to(tensor.dtype)}
        else:
            pruned[name] = tensor
    return pruned


def sparse_tensors(ticket: Ticket, network: Network | None = None) -> State:
    """Return prunable weights as sparse COO tensors of the kept entries, others unchanged."""
    state = state_dict(ticket, network)
    masks = _zero_where_pruned(ticket, "sparse")
    for name, mask in _with_all_names(masks, network).items():
        index = mask.nonzero().T
        values = state[name][mask]
        state[name] = torch.sparse_coo_tensor(
            index, values, mask.shape, is_coalesced=True, check_invariants=True
        )
    return state


def write_ticket(
    ticket: Ticket,
    form: str,
    out: Path,
    *,
    network: Callable[[], Network] | None = None,
    config_dir: str | None = None,
    **keys: Any,
) -> None:
    """Write a ticket in a form; the suffix of `out` selects torch's or safetensors' file format.

    `form` is an option of `conf/export_form`, or of that folder in `config_dir`: a function of
    `ticket`, and of the `network` if it names it, that returns tensors by name, or the bytes of
    the file. If the network cannot be planned, a form with a default for `network` uses it.
    `keys` are the form's arguments.

    Raises: ValueError: the form or suffix is unknown, or the form cannot hold this ticket.
    """
    where = "export: form"
    config = read_option("export_form", form, where=where, config_dir=config_dir)
    own = set(config) - {"_target_"}
    if wrong := [key for key in keys if key not in own]:
        raise ValueError(unknown(f"{where} {form}", wrong[0], own, what="keys"))
    made = Call.of({**config, **keys}, where=where, supplied=("ticket", "network"))
    if not ticket.state or made.target.startswith("lt_sweeps."):
        check_computes(ticket, where=f"export: form {form}")
    state = made(ticket=ticket, **_known(made, network))
    if isinstance(state, bytes):
        write_whole(out, state)
        return
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(
            f"export: form {form}: `{made.target}` returned {type(state).__name__}; give a dict of "
            "tensors by name, or bytes"
        )
    dense = all(tensor.layout == torch.strided for tensor in state.values())
    if out.suffix == ".safetensors" and dense:
        # safetensors refuses shared tensors, so a tied weight is copied for each of its names.
        content = safetensors.torch.save({name: t.clone() for name, t in state.items()})
    elif out.suffix in (".pt", ".pth"):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
    else:
        suffixes = [".pt", ".pth", *([".safetensors"] if dense else [])]
        raise ValueError(f"export: {out} with form {form}; a suffix is one of {listed(suffixes)}")
    write_whole(out, content)


def check_computes(ticket: Ticket, *, where: str) -> None:
    """Raises: ValueError: the ticket has no weights, or does not compute with them as stored."""
    if not ticket.state:
        raise ValueError(f"{where}: the ticket is a mask without weights")
    if ticket.learned:
        raise ValueError(
            f"{where}: the mask of this ticket is learned, so these are not the weights it "
            "computes with; hint: export a ticket of the training under its hard mask"
        )


def check_names(state: Mapping[str, Tensor], module: nn.Module, *, where: str) -> None:
    """Check that a module can load these tensors; a tied one may appear under all of its names.

    Raises: ValueError: a tensor is missing, or the module has no such tensor.
    """
    missing = sorted(state_of(module).keys() - state.keys())
    surplus = sorted(state.keys() - module.state_dict().keys())
    if wrong := missing or surplus:
        how = "the file has no" if missing else "the module has no"
        raise ValueError(
            f"{where}: {how} {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}; give the "
            "module that was trained, and the file of its ticket"
        )


def _known(form: Call, network: Callable[[], Network] | None) -> Mapping[str, Network]:
    """Return the network as an argument, if the form has a parameter for it."""
    if network is None or "network" not in form.names:
        return {}
    try:
        return {"network": network()}
    except (ValueError, OSError) as error:
        default = inspect.signature(form.function).parameters["network"].default
        if default is inspect.Parameter.empty:
            raise
        print(f"written as it is stored, a tied weight under one name: {error}")
        return {}


def _with_all_names(state: Mapping[str, Tensor], network: Network | None) -> State:
    """Return the tensors in the network's order, a tied one under each of its names."""
    if network is None:
        return dict(state)
    named = {**state, **{name: state[own] for name, own in network.tied.items() if own in state}}
    order = [name for name in network.module().state_dict() if name in named]
    return {name: named[name] for name in (*order, *sorted(named.keys() - {*order}))}


def _zero_where_pruned(ticket: Ticket, form: str) -> dict[str, Tensor]:
    """Return the masks of a ticket after checking that all its pruned weights are 0.

    Torch multiplies by the mask, and a sparse tensor leaves out pruned weights, so neither can
    hold another value.
    """
    masks = {name: mask[0] for name, mask in ticket.mask.items()}
    for name, mask in masks.items():
        if ticket.state[name][0][~mask].count_nonzero():
            raise ValueError(
                f"export: form {form}: pruned weights of {name} are pinned to values other than 0, "
                "which it cannot hold; hint: form=state_dict"
            )
    return masks
