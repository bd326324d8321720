"""Methods: functions of (init, recipe, schedule, ...) that return the last stage of a cell.

A method returns stages and computes nothing, so what it does can be printed, hashed, tested and
resumed. It receives the arguments that it names. To add one, write a function and a yaml in
`conf/method`.
"""

from lt_sweeps.plan.methods.continued_training import imp_continued
from lt_sweeps.plan.methods.dense_training import dense
from lt_sweeps.plan.methods.density_search import amc
from lt_sweeps.plan.methods.discovered_wirings import dnw
from lt_sweeps.plan.methods.drop_and_grow import rigl
from lt_sweeps.plan.methods.gradual_pruning import gmp
from lt_sweeps.plan.methods.iterative_pruning import imp
from lt_sweeps.plan.methods.l0_gates import l0
from lt_sweeps.plan.methods.learned_supermasks import (
    learned_supermask,
    learned_supermask_from,
    supermask_ticket,
)
from lt_sweeps.plan.methods.learning_rate_rewinding import renda
from lt_sweeps.plan.methods.magnitude_pruning import magnitude
from lt_sweeps.plan.methods.network_slimming import slimming
from lt_sweeps.plan.methods.one_shot_pruning import one_shot
from lt_sweeps.plan.methods.pruned_supermasks import supermask
from lt_sweeps.plan.methods.pruning_at_init import at_init
from lt_sweeps.plan.methods.soft_masks import (
    continuous_sparsification,
    exact_continuous_sparsification,
)
from lt_sweeps.plan.methods.soft_thresholds import soft_threshold
from lt_sweeps.plan.methods.ticket_transfer import transfer

__all__ = [
    "amc",
    "at_init",
    "continuous_sparsification",
    "dense",
    "dnw",
    "exact_continuous_sparsification",
    "gmp",
    "imp",
    "imp_continued",
    "l0",
    "learned_supermask",
    "learned_supermask_from",
    "magnitude",
    "one_shot",
    "renda",
    "rigl",
    "slimming",
    "soft_threshold",
    "supermask",
    "supermask_ticket",
    "transfer",
]
