"""Randomly drawn cells: models, methods, criteria, resets, freezes, schedules, recipes, backends.

Other tests check each option alone; here options are combined. Each composition that can be planned
is computed as planned, stacked, with the same bytes as each seed alone, even if it was killed; its
records count what the masks keep; and its audit passes.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fixtures.command_line import tickets
from fixtures.method_cases import METHODS, MODELS
from fixtures.tiny_cell import compute_cells, settings, tiny_cell
from rich.console import Console

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF
from lt_sweeps.execution.submission import Submission
from lt_sweeps.interchange.audit_results import audit
from lt_sweeps.plan.planning import plan
from lt_sweeps.storage.store import Store

COMPOSITIONS = 20
SEEDS = (0, 1, 17)
CRITERIA = [path.stem for path in (CONF / "mask_criterion").glob("[a-z]*.yaml")]
RESETS: dict[str, tuple[dict[str, Any], ...]] = {
    "rewind": ({}, {"momentum": True}, {"restart": True}),
    "keep": ({}, {"momentum": True}, {"at": "2it"}),
    "reinit": ({"sign": True}, {"sign": False}),
    "reshuffle": ({"sign": True}, {"sign": False}),
    "constant": ({"sign": True}, {"sign": False}),
    "redraw": ({},),
    "transplant": ({},),
}
FREEZES = ("zero", "init", "final", "variant", "random_zeros")
SCHEDULES: tuple[dict[str, Any], ...] = (
    {"_target_": "schedules.sparsities", "sparsity": [0.9]},
    {"_target_": "schedules.sparsities", "sparsity": [0.2, 0.5]},
    {"_target_": "schedules.geometric", "levels": 2, "scope": "global"},
    {"_target_": "schedules.one_shot", "sparsity": 0.7},
    {"_target_": "densities.erk", "sparsity": 0.6},
    {"_target_": "densities.uniform", "sparsity": 0.6},
)
OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam"},
    {"optimizer": "adamw", "weight_decay": 0.01},
    {"optimizer": {"_target_": "torch.optim.RMSprop", "momentum": 0.5}},
    {"optimizer": {"_target_": "torch.optim.NAdam"}},
)
RECURRENT = {"net": {"_target_": "lt_sweeps.models.Recurrent", "cell": "gru", "width": 6}}
GROUPS = ("weight", "weight", "weight", "neuron", "filter", "channel", "2:4", "2x2")
HOW_COMPUTED = ("seconds", "stack_size")


class Killed(BaseException):
    pass


def drawn(draws: random.Random) -> list[Cell]:
    """Draw the cells of one composition, one per seed."""
    pick, length = draws.choice, draws.randint(5, 12)
    method, reset, criterion = pick([*METHODS]), pick([*RESETS]), pick(CRITERIA)
    net = {"_target_": "lt_sweeps.models.FC", "hidden": [draws.randint(5, 20), pick((7, 8, 10))]}
    recipe = {
        **pick(OPTIMIZERS),
        "lr": pick((0.01, 0.1)),
        "batch_size": pick((7, 10, 16, 30)),
        "length": f"{length}it",
        "evaluate_every": f"{draws.randint(1, 3)}it",
        "warmup": pick(("0it", "2it")),
        "decay": pick(("step", "cosine", "one_cycle")),
        "clip": pick((None, {"norm": 0.5}, {"value": 0.1})),
        "drop_last": pick((True, False)),
        "order": pick(("same", "fresh")),
        "augment": pick(("none", "none", "crop_flip")),
        "label_smoothing": pick((0.0, 0.1)),
    }
    to = {} if reset == "keep" else {"to": f"{pick((0, 0, length // 2))}it"}
    keys: dict[str, Any] = {"granularity": pick(GROUPS)}
    if criterion in ("snip", "grasp", "grad"):
        keys["examples"] = 16
    elif "final" in criterion:
        keys["final"] = pick(("end", "best", "2it"))
    schedule = pick(SCHEDULES)
    models = {**MODELS, "fc": {"net": net}, "recurrent": RECURRENT}
    changes: dict[str, Any] = {
        "model": pick([*models.values()]),
        "dataset__test": pick((32, 47)),
        "dataset__validation": pick((16, 33)),
        "method": {"_target_": f"lt_sweeps.plan.methods.{method}", **METHODS[method]},
        "mask_criterion": {"_target_": f"lt_sweeps.sparsity.criteria.{criterion}", **keys},
        "schedule": {**schedule, "_target_": f"lt_sweeps.sparsity.{schedule['_target_']}"},
        "recipe": {"_target_": "lt_sweeps.config.recipes.recipe", **recipe},
        "reset": {"_target_": f"lt_sweeps.sparsity.resets.{reset}", **to, **pick(RESETS[reset])},
        "freeze": {"_target_": f"lt_sweeps.sparsity.freezes.{pick(FREEZES)}"},
        "seeds": pick(({}, {}, {"init": 7}, {"noise": 2, "augment": 5})),
        "report_at": pick(("best", "end")),
        "precision": pick(("float32", "float32", "bf16")),
    }
    return [tiny_cell(seed=seed, **changes) for seed in SEEDS]


def planned(draws: random.Random) -> list[Cell]:
    """Plan the first composition that is not refused."""
    while True:
        cells = drawn(draws)
        try:
            plan(cells)
        except ValueError:
            continue
        return cells


def rows(root: Path, seeds: Sequence[int] = SEEDS) -> dict[str, list[dict[str, Any]]]:
    """The records of these seeds, without the columns that say how they were computed."""
    found = {}
    for path in root.glob("runs/*/*/records.jsonl"):
        if int(path.parent.name.partition("-")[0]) in seeds:  # `1-init7`
            lines = map(json.loads, path.read_text().splitlines())
            of_results = [{n: v for n, v in r.items() if n not in HOW_COMPUTED} for r in lines]
            found[str(path.relative_to(root))] = of_results
    return found


def compute_killed(cells: Sequence[Cell], root: Path, at: int, backend: str) -> None:
    """Compute, but kill the process before or after the write of this number."""
    written, link, replace = 0, os.link, os.replace

    def dying(function: Any) -> Any:
        def write(*given: Any) -> None:
            nonlocal written
            written += 1
            if written == at and at % 2:
                function(*given)
            if written >= at:
                raise Killed
            function(*given)

        return write

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "link", dying(link))
        patch.setattr(os, "replace", dying(replace))
        compute_cells(*cells, root=root, checkpoint_every=0.0, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COMPOSITIONS))
def test_random_combinations_of_options_keep_every_rule(number: int, tmp_path: Path) -> None:
    draws = random.Random(number)
    cells, backend = planned(draws), draws.choice(("auto", "auto", "loop"))
    made, store = compute_cells(*cells, root=tmp_path / "stack", backend=backend)
    assert not made.missing(Store(store.root), thorough=True)
    whole = rows(store.root)
    assert {len(each) for each in whole.values()} == {len(made.cells[0].trainings)}
    for path, records in whole.items():
        for row in records:
            _check_counts(store, Path(path).parent.name, row)
    sweep = Submission(made, settings(store.root, "drawn")).freeze([])
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert audit(sweep.folder, sample="all", repeat="2", console=console), said.getvalue()

    one = draws.choice(SEEDS)
    compute_cells(cells[SEEDS.index(one)], root=tmp_path / "alone", alone=True, backend=backend)
    assert rows(tmp_path / "alone") == rows(store.root, [one])

    compute_killed(cells, tmp_path / "killed", draws.randint(1, 8), backend)
    compute_cells(*cells, root=tmp_path / "killed", alone=draws.random() < 0.5, backend=backend)
    assert rows(tmp_path / "killed") == whole
    assert tickets(tmp_path / "killed") == tickets(store.root)


def _check_counts(store: Store, seed: str, row: dict[str, Any]) -> None:
    """Check that the counts of each record equal those of its ticket's mask."""
    assert row["weights_remaining"] == sum(row["layers_remaining"].values())
    assert row["sparsity"] == 1 - row["weights_remaining"] / row["weights_total"]
    if row["kind"] == "score":
        return
    ticket = store.read(row["stage"], seed)
    if not ticket.learned:
        assert {n: int(kept.sum()) for n, kept in ticket.mask.items()} == row["layers_remaining"]
