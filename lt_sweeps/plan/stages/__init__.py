"""Stages: what to do, and to which stages' tickets, as frozen values.

A stage's `key` is the hash of its kind, its version, its fields and its inputs' keys. Two stages
with one key compute the same thing, whoever asks. Seeds, device, stack size and paths are not in
it: they change speed, never what is drawn or computed.
"""

from lt_sweeps.plan.stages.prune import EXAMPLES, Logits, Prune
from lt_sweeps.plan.stages.reset import Reset, retrain
from lt_sweeps.plan.stages.stage import Init, Moment, Snapshot, Stage, ancestors
from lt_sweeps.plan.stages.task import Changes, Task, Training
from lt_sweeps.plan.stages.transfer import Transfer
from lt_sweeps.plan.stages.work import Evaluate, Search, Train, Work

__all__ = [
    "EXAMPLES",
    "Changes",
    "Evaluate",
    "Init",
    "Logits",
    "Moment",
    "Prune",
    "Reset",
    "Search",
    "Snapshot",
    "Stage",
    "Task",
    "Train",
    "Training",
    "Transfer",
    "Work",
    "ancestors",
    "retrain",
]
