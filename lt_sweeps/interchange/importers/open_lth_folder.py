"""Read the results folder of open_lth (github.com/facebookresearch/open_lth).

`lottery_<hash>/replicate_<n>/level_<k>/main/` holds `mask.pth`, `model_ep<e>_it<i>.pth` and
`logger`, with lines `name,iteration,value`; a branch of a lottery is a folder next to `main`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lt_sweeps.config.spelling import listed
from lt_sweeps.interchange.importers.imported_level import ImportedLevel, binary, masked
from lt_sweeps.storage.checked_read import read_file, shortened
from lt_sweeps.storage.foreign_file import read_pickle

_MODEL = re.compile(r"model_ep(\d+)_it(\d+)\.pth")


def read_open_lth(path: Path) -> tuple[list[ImportedLevel], list[str]]:
    """Read every trained level; returns the levels and a line for each untrained one.

    `path` is a folder of lotteries, or one lottery.

    Raises: ValueError: `path` holds no lottery, or a file cannot be read.
    """
    found = lotteries(path)
    folders = [f for lottery in found for f in sorted(lottery.glob("replicate_*/level_*/*"))]
    runs = [folder for folder in folders if folder.is_dir()]
    if not runs:
        raise ValueError(
            f"import: {path} is not an open_lth folder; one has lottery_*/replicate_*/level_*"
        )
    complete = [r for r in runs if (r / "logger").exists() and (r / "mask.pth").exists()]
    notes = [
        f"{r}: left out, because its training is unfinished" for r in runs if r not in complete
    ]
    return [_level(run) for run in complete], notes


def lotteries(path: Path) -> list[Path]:
    """Return the lotteries in a folder, or the folder if it is one, recognised by replicates."""
    if any(path.glob("replicate_*/level_*")):
        return [path]
    return sorted({replicate.parent for replicate in path.glob("*/replicate_*")})


def stored_models(run: Path) -> list[Path]:
    """Return the weight files of a level, from its first step to its last."""
    models = {match: path for path in run.iterdir() if (match := _MODEL.fullmatch(path.name))}
    return [models[m] for m in sorted(models, key=lambda match: (int(match[1]), int(match[2])))]


def logged(path: Path) -> dict[int, dict[str, float]]:
    """Return the metrics by iteration, such as `test_accuracy`.

    Raises: OSError, ValueError: the logger cannot be read.
    """
    steps: dict[int, dict[str, float]] = {}
    for number, line in enumerate(_text(path).split(), start=1):
        try:
            name, iteration, value = line.split(",")
            at, measured = steps.setdefault(_count(iteration), {}), float(value)
        except ValueError:
            raise ValueError(
                f"{path}: line {number}: {shortened(line)} is not `name,iteration,value`"
            ) from None
        if not name.endswith("_examples"):
            at[name] = measured
    return steps


def settings_of(replicate: Path) -> dict[str, Any]:
    """Read lines `    * lr => 0.1`; open_lth prints each setting that is not 0, False or None.

    Raises: OSError, ValueError: the settings file is missing or cannot be read.
    """
    path = replicate / "level_0" / "main" / "hparams.log"
    if not path.exists():
        raise ValueError(f"{path}: missing; it lists the settings of the experiment")
    return dict(re.findall(r"^\s+\* (\w+) => (.*)$", _text(path), re.MULTILINE))


def pruning_fraction(settings: Mapping[str, Any], replicate: Path) -> float | None:
    """Return the fraction that each level prunes; None if the strategy has no such setting.

    Raises: ValueError: the setting is not a fraction in [0, 1).
    """
    text = settings.get("pruning_fraction")
    if text is None:
        return None
    try:
        fraction = float(text)
    except ValueError:
        fraction = math.nan
    if not 0 <= fraction < 1:
        raise ValueError(f"{replicate}: pruning_fraction {shortened(text)}; it lies in [0, 1)")
    return fraction


def _level(run: Path) -> ImportedLevel:
    level, replicate, lottery, *_ = run.parents
    config = settings_of(replicate)
    steps = logged(run / "logger")
    _check_logged(steps, run / "logger")
    last = max(steps)
    mask = binary(_load(run / "mask.pth"), str(run / "mask.pth"))
    fraction = pruning_fraction(config, replicate)
    number = _number(level)
    metrics = {f"test_{what}": steps[last].get(f"test_{what}") for what in ("accuracy", "loss")}
    return ImportedLevel(
        choices={
            "model": str(config.get("model_name", "unknown")),
            "dataset": str(config.get("dataset_name", "unknown")),
            "method": "imp" if run.name == "main" else run.name.rpartition("_")[0],
            "mask_criterion": str(config.get("pruning_strategy", "unknown")),
        },
        config={"open_lth": lottery.name, "branch": run.name, **config},
        seed=_number(replicate),
        level=number,
        mask=mask,
        state=_state(run, mask),
        metrics={name: value for name, value in metrics.items() if value is not None},
        history=tuple({"step": step, **steps[step]} for step in sorted(steps)),
        step=last,
        target_sparsity=1 - (1 - fraction) ** number if fraction and number else None,
    )


def _state(run: Path, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the final weights, with the mask applied; empty if no weights were stored."""
    models = stored_models(run)
    if not models:
        return {}
    last = models[-1]
    state = {n.removeprefix("module."): t for n, t in _load(last).items()}
    if missing := sorted(set(mask) - set(state)):
        raise ValueError(f"{last}: no weights {listed(missing)}, though mask.pth has masks of them")
    return masked(state, mask, str(last))


def _load(path: Path) -> dict[str, Tensor]:
    """Read the tensors in a torch file, by name.

    Raises: ValueError: the file is not a dict of tensors by name.
    """
    tensors = read_pickle(path)
    named = isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
    if not named or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: not tensors by name; open_lth writes a `state_dict`")
    return dict(tensors)


def _check_logged(steps: Mapping[int, Mapping[str, float]], path: Path) -> None:
    if not steps:
        raise ValueError(f"{path}: empty; it has lines `name,iteration,value`")
    for step, measured in steps.items():
        for name, value in measured.items():
            if name.endswith("_accuracy") and not 0 <= value <= 1:
                raise ValueError(
                    f"{path}: {name} {value} at iteration {step}; an accuracy lies in [0, 1]"
                )


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text") from None


def _count(text: str) -> int:
    """Parse the number of a step, a level or a replicate.

    Raises: ValueError: the text is not a count.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{shortened(text)} is not a count")
    return int(text)


def _number(folder: Path) -> int:
    _, _, number = folder.name.rpartition("_")
    try:
        return _count(number)
    except ValueError:
        raise ValueError(
            f"import: {folder} has no number; open_lth calls it replicate_N or level_N"
        ) from None
