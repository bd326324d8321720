"""`export TICKET`: write a ticket in a format that other code reads."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lt_sweeps.config.trust import trusted_modules
from lt_sweeps.interchange.stored_plan import CURE, planned_works
from lt_sweeps.interchange.ticket_formats import write_ticket
from lt_sweeps.models.network import Network
from lt_sweeps.storage.absent_tickets import why_file_absent
from lt_sweeps.storage.run_folder import RunFolder, is_run
from lt_sweeps.storage.store import CorruptTicket, Store


def export_ticket(
    path: Path,
    *,
    out: Path | None = None,
    form: str = "state_dict",
    at: str = "reported",
    trust: str | None = None,
    config_dir: str | None = None,
    **keys: Any,
) -> Path:
    """Write a ticket's file in a form, for torch or other code; returns the file.

    The weights are those that its record reports or, with at=end, those of the last step. `keys`
    are the form's arguments. The ticket's config may name only functions of ours and of the modules
    in `trust`.

    Raises: ValueError: an argument is wrong, there is no ticket, or the form cannot hold it.
    """
    seed, _, moment = path.stem.partition("@")
    key, root = path.absolute().parent.name, path.resolve().parent.parent.parent
    is_ticket = path.suffix == ".safetensors" and ".partial-" not in path.name
    if not is_ticket or path.absolute().parent.parent.name != "tickets":
        raise ValueError(
            f"export: {path} is not a ticket; a ticket is ROOT/tickets/STAGE/SEED.safetensors"
        )
    if at not in ("reported", "end"):
        raise ValueError(f"export: at={at}; give reported or end")
    if moment and at == "end":
        raise ValueError(f"export: at=end, but {path.name} names the moment {moment}")
    # The best weights are stored if a record reports them and they differ from the final weights.
    # They are also stored if a mask is made from them, even if the record reports the end.
    best = not moment and at == "reported" and Store(root).has(key, seed, "best")
    if best and _reported_at(root, key, seed) != {"end"}:
        moment = "best"
    place = Path(out) if out is not None else Path(f"{key}-{path.stem}-{form}.pt")
    try:
        ticket = Store(root).read(key, seed, moment or "end")
        network = functools.partial(_network_of, root, key, trusted_modules(trust))
        write_ticket(ticket, form, place, network=network, config_dir=config_dir, **keys)
    except FileNotFoundError:
        if path.exists():
            raise
        reason = why_file_absent(path.absolute()) or "there is no such ticket"
        raise ValueError(f"export: {path}: {reason}") from None
    except CorruptTicket as error:
        raise ValueError(f"{error}; {CURE}") from None
    weights = {"": "at the end", "best": "of the best evaluation"}.get(moment, f"at {moment}")
    print(f"{place}: {form}, the weights {weights}")
    return place


def _network_of(root: Path, stage: str, trust: tuple[str, ...]) -> Network:
    """Return the network of a stage, from the first run that plans it.

    Raises: ValueError: no run plans this stage.
    """
    for path in _records(root, "*"):
        planned = planned_works(root, path.parent.parent.name, trust) if _names(path, stage) else {}
        if stage in planned:
            return planned[stage].network
    raise ValueError(f"export: no run in {root / 'runs'} plans stage {stage}")


def _reported_at(root: Path, stage: str, seed: str) -> set[str]:
    """Return the evaluations that a ticket's records report: `best`, `end` or both."""
    paths = [path for path in _records(root, seed) if _names(path, stage)]
    rows = [row for path in paths for row in RunFolder(path.parent).read().records]
    return {row.report_at for row in rows if row.stage == stage}


def _records(root: Path, seed: str) -> list[Path]:
    paths = sorted(root.glob(f"runs/*/{seed}/records.jsonl"))
    return [path for path in paths if is_run(path.parent)]


def _names(path: Path, stage: str) -> bool:
    return stage in path.read_text(errors="replace")
