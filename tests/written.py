"""Sweeps as the framework writes them to disk, with numbers that a test chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

WEIGHTS = 1000


class Sweep:
    """Writes a sweep as the framework would, cell by cell."""

    def __init__(self, root: Path, name: str = "fig3") -> None:
        self.root = root
        self.folder = root / "sweeps" / name
        self.folder.mkdir(parents=True)
        self.cells: list[dict[str, Any]] = []
        self.reports: dict[str, dict[str, Any]] = {}

    def cell(
        self,
        signature: str,
        seed: int = 0,
        *,
        accuracies: list[float | None] | None = None,
        sparsities: list[float] | None = None,
        done: bool = True,
        more: dict[str, Any] | None = None,
        experiment: str | None = None,
        choices: dict[str, str | None] | None = None,
        collapsed: set[int] | None = None,
        stages: list[str] | None = None,
        val: list[float] | None = None,
        **settings: Any,
    ) -> Path:
        """One cell; `accuracies[level]` of None is a replicate that diverged at that level."""
        self.cells.append({"signature": signature, "seed": str(seed)})
        folder = self.root / "runs" / signature / str(seed)
        manifest = {"name": self.folder.name, "cells": self.cells, "reports": self.reports}
        (self.folder / "manifest.json").write_text(json.dumps(manifest))
        if accuracies is None:
            return folder
        folder.mkdir(parents=True)
        chosen: dict[str, Any] = {
            **({"experiment": experiment} if experiment else {}),
            "model": "fc",
            "dataset": "digits",
            "method": "imp",
            "mask_criterion": "large_final",
            "schedule": "iterative",
        } | (choices or {})
        config: dict[str, Any] = {
            "seed": seed,
            "report_at": "best",
            "root": str(self.root),
            "mask_criterion": {"_target_": chosen["mask_criterion"]},
            "model": {"net": {"_target_": chosen["model"]}},
            "schedule": {"levels": len(accuracies) - 1},
            "recipe": {"lr": 0.1},
        }
        for key, value in settings.items():
            group, name = key.split("__")
            config[group] = config.get(group, {}) | {name: value}
        text = {"signature": signature, "seed": str(seed), "choices": chosen, "config": config}
        (folder / "config.yaml").write_text(yaml.safe_dump(text))
        rows = []
        for level, accuracy in enumerate(accuracies):
            sparsity = sparsities[level] if sparsities else 1 - 0.8**level
            stage = stages[level] if stages else f"{signature}-{level}" if level else "dense"
            rows.append(
                _row(chosen, signature, seed, level, sparsity, accuracy)
                | {"stage": stage, "collapsed": level in (collapsed or set())}
                | ({"val_accuracy": val[level]} if val else {})
                | (more or {})
            )
        (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if done:
            (folder / "DONE").touch()
        return folder


def _row(
    chosen: dict[str, Any],
    signature: str,
    seed: int,
    level: int,
    sparsity: float,
    accuracy: float | None,
) -> dict[str, Any]:
    left = round(WEIGHTS * (1 - sparsity))
    return {
        "experiment": "none",
        "cell": signature,
        "seed": str(seed),
        "model": chosen["model"],
        "dataset": chosen["dataset"],
        "method": chosen["method"],
        "criterion": chosen["mask_criterion"],
        "level": level,
        "target_sparsity": sparsity if level else None,
        "sparsity": 1 - left / WEIGHTS,
        "weights_remaining": left,
        "weights_total": WEIGHTS,
        "layers_remaining": {"fc1": left},
        "layers_total": {"fc1": WEIGHTS},
        "best_step": 50 + level,
        "epochs": 2.0,
        "seconds": 0.5,
        "code_version": "0.1.0",
        "test_accuracy": accuracy,
        "val_accuracy": accuracy,
        "val_loss": None if accuracy is None else 1 - accuracy,
        "finite": accuracy is not None,
        "kind": "train",
        "step": 100,
    }
