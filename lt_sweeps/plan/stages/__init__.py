"""Stages: frozen values that say what to compute, and from which other stages' tickets.

A stage's `key` is the hash of its kind, its version, its fields and its inputs' keys. Two stages
with the same key compute the same thing. The seed is not part of the key, because tickets are
stored by key and seed. Device, stack size and paths are not part of it either, because they change
only the speed.
"""

from lt_sweeps.plan.stages.prune import EXAMPLES as EXAMPLES
from lt_sweeps.plan.stages.prune import Logits as Logits
from lt_sweeps.plan.stages.prune import Prune as Prune
from lt_sweeps.plan.stages.reset import Reset as Reset
from lt_sweeps.plan.stages.reset import retrain as retrain
from lt_sweeps.plan.stages.stage import Init as Init
from lt_sweeps.plan.stages.stage import Moment as Moment
from lt_sweeps.plan.stages.stage import Snapshot as Snapshot
from lt_sweeps.plan.stages.stage import Stage as Stage
from lt_sweeps.plan.stages.stage import ancestors as ancestors
from lt_sweeps.plan.stages.task import Changes as Changes
from lt_sweeps.plan.stages.task import Task as Task
from lt_sweeps.plan.stages.task import Training as Training
from lt_sweeps.plan.stages.transfer import Transfer as Transfer
from lt_sweeps.plan.stages.work import Evaluate as Evaluate
from lt_sweeps.plan.stages.work import Search as Search
from lt_sweeps.plan.stages.work import Train as Train
from lt_sweeps.plan.stages.work import Work as Work
from lt_sweeps.plan.stages.work import needs as needs
from lt_sweeps.plan.stages.work import trainings as trainings
