"""Methods: functions of (init, recipe, schedule, ...) that return the last stage of a cell.

A method returns stages and computes nothing, so its plan can be printed, hashed, tested and
resumed. It receives the arguments that it names. To add a method, write a function and a yaml in
`conf/method`.
"""

from lt_sweeps.plan.methods.dense_training import dense as dense
from lt_sweeps.plan.methods.density_search import amc as amc
from lt_sweeps.plan.methods.discovered_wirings import dnw as dnw
from lt_sweeps.plan.methods.drop_and_grow import rigl as rigl
from lt_sweeps.plan.methods.gradual_pruning import gmp as gmp
from lt_sweeps.plan.methods.iterative_pruning import imp as imp
from lt_sweeps.plan.methods.iterative_pruning import imp_continued as imp_continued
from lt_sweeps.plan.methods.iterative_pruning import one_shot as one_shot
from lt_sweeps.plan.methods.l0_gates import l0 as l0
from lt_sweeps.plan.methods.learning_rate_rewinding import renda as renda
from lt_sweeps.plan.methods.magnitude_pruning import magnitude as magnitude
from lt_sweeps.plan.methods.network_slimming import slimming as slimming
from lt_sweeps.plan.methods.pruning_at_init import at_init as at_init
from lt_sweeps.plan.methods.soft_masks import continuous_sparsification as continuous_sparsification
from lt_sweeps.plan.methods.soft_masks import (
    exact_continuous_sparsification as exact_continuous_sparsification,
)
from lt_sweeps.plan.methods.soft_thresholds import soft_threshold as soft_threshold
from lt_sweeps.plan.methods.supermasks import learned_supermask as learned_supermask
from lt_sweeps.plan.methods.supermasks import learned_supermask_from as learned_supermask_from
from lt_sweeps.plan.methods.supermasks import supermask as supermask
from lt_sweeps.plan.methods.supermasks import supermask_ticket as supermask_ticket
from lt_sweeps.plan.methods.ticket_transfer import transfer as transfer
