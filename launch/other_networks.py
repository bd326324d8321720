"""Prune four networks that are in no paper, and print the results, in Markdown.

The networks are a small language model, a recurrent net, a regression of a table, and a net of
torchvision that starts from weights of another task. Each is pruned to three sparsities, with five
seeds, by two criteria.

    python launch/other_networks.py             # some ten minutes on two cores
    python launch/other_networks.py --quick     # a few steps and two seeds, to see that it runs

The output of the sweeps goes to stderr, the table to stdout. Stored results are used again.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import pandas as pd
from safetensors.torch import save_file

import lt_sweeps as lt

SHARED = (
    "mask_criterion=large_final,random",
    "schedule=sparsities",
    "schedule.sparsity=[0.5,0.8,0.95]",
    "device=cpu",
)
TORCHVISION = "model=torchvision model.net.name=shufflenet_v2_x0_5"
IMAGES = "dataset=synthetic dataset.shape=[3,32,32] dataset.noise=1"
QUICK = ("recipe.length=2it", "recipe.evaluate_every=2it", "report.figures=[curves]")
HEAD = """| network | words | test | criterion | dense | 50 % left | 20 % | 5 % |
|---|---|---|---|---|---|---|---|"""
SHORT = "recipe.batch_size=32 recipe.lr=3e-3"
WORDS = {
    "transformer": f"dataset=text model=transformer {SHORT} recipe.length=200it",
    "recurrent": "dataset=digits model=recurrent recipe.lr=3e-3",
    "table": "dataset=diabetes model=fc",
    "pretrained": f"{TORCHVISION} model.weights={{weights}} {IMAGES} dataset.classes=6 "
    f"dataset.seed=1 {SHORT} recipe.length=6ep",
}


def pretrained(root: Path, more: tuple[str, ...]) -> Path:
    """Train on ten classes of other images, and return a file of the weights."""
    words = f"{TORCHVISION} {IMAGES} {SHORT} recipe.length=6ep method=dense seed=0 device=cpu"
    sweep = lt.run(*words.split(), "name=before", f"root={root}", *more)
    file = root / "shufflenet.safetensors"
    save_file(sweep.ticket(level=0).module().state_dict(), file)
    return file


def rows(name: str, words: str, frame: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    """A line for each criterion: means, ranges over the seeds, and the marks of the tests."""
    metric = frame["metric"].iloc[0]
    unit = 100 if metric == "accuracy" else 1
    lower = " (lower is better)" if frame["lower_is_better"].iloc[0] else ""
    marks = dict(zip(tests["level"], tests["mark"], strict=True))
    facts, lines = f"{name} | `{words}` | {metric}{lower} |", []
    for criterion, part in frame.groupby("mask_criterion"):
        cells = []
        for level, values in part.groupby("level")[f"test_{metric}"]:
            low, mean, high = (unit * v for v in (values.min(), values.mean(), values.max()))
            mark = marks.get(level, "") if criterion == "large_final" else ""
            cells.append(f"{mean:.3g} [{low:.3g}, {high:.3g}] {mark}".strip())
        lines.append(f"| {facts} {criterion} | {' | '.join(cells)} |")
        facts = "| | |"
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="few steps and two seeds")
    given = parser.parse_args()
    more = QUICK if given.quick else ()
    seeds = "seed=range(2)" if given.quick else "seed=range(5)"
    with contextlib.redirect_stdout(sys.stderr):
        weights, lines = pretrained(given.root, more), []
        for name, words in WORDS.items():
            words = words.format(weights=weights)
            kept = (*SHARED, seeds, f"name={name}", f"root={given.root}")
            sweep = lt.run(*words.split(), *kept, *more)
            lines += rows(name, words, sweep.frame(), sweep.tests(baseline="random"))
    print(HEAD, *lines, sep="\n")


if __name__ == "__main__":
    main()
