"""Choose the backend for a network's stacks in a sweep: on a GPU it is timed once and then reused.

Backends differ by rounding. To compute the same bytes in every pack and after every resume, the
first pack of a network times the backends and stores its choice, and all other packs read it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from lt_sweeps.config.identity import digest
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.locks import locked
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.sweep_folder import BackendChoice, SweepFolder
from lt_sweeps.training.backend_timing import time_backends
from lt_sweeps.training.backends.backend import timed_backends

_log = logging.getLogger("lt_sweeps")
_WAIT = 120.0  # seconds to wait for another process's measurement before measuring here


def with_backend(sweep: SweepFolder, units: Sequence[Unit], machine: Machine) -> Machine:
    """Return the machine of a pack, with the measured backend if `auto` needs a measurement here.

    A single replicate is not measured: it always follows the fixed rule of `auto`.

    Raises:
        torch.OutOfMemoryError: the stack does not fit into memory with any backend.
    """
    if machine.backend != "auto" or len(units) == 1:
        return machine
    stage = units[0].stage
    names = timed_backends(stage.network.module(), torch.device(machine.device))
    if not names:
        return machine
    network = digest([stage.network.identity(), stage.training.precision])
    if (known := sweep.backend(network, names)) is None:
        # Two measurements at the same time on one device would disturb each other.
        with locked(sweep.folder / "backends" / f".{network}.lock", wait=_WAIT):
            known = sweep.backend(network, names) or _measured(
                sweep, network, names, units, machine
            )
    return replace(machine, backend=known)


def _measured(
    sweep: SweepFolder, network: str, names: Sequence[str], units: Sequence[Unit], machine: Machine
) -> str:
    """Time the backends, and store and return the fastest: `names[0]` if none can be timed."""
    seconds = time_backends(names, units, Store(sweep.root), machine)
    fastest = min(seconds, key=lambda name: seconds[name], default=names[0])
    kind = torch.cuda.get_device_name if machine.device.startswith("cuda") else str
    choice = BackendChoice(fastest, seconds, len(units), kind(machine.device))
    chosen = sweep.choose_backend(network, choice)
    times = ", ".join(f"{name} {1e3 * taken:.3g} ms" for name, taken in seconds.items())
    # A warning, so that it is printed and not only logged.
    _log.warning(
        "backend: %s for %s in this sweep; a step of %d replicates took %s",
        *(chosen, units[0].stage.network.net, len(units), times or "an unknown time with any"),
    )
    return chosen
