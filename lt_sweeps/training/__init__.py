"""One stacked training: R replicates through one recipe on one device.

Start at `training_loop.TrainingLoop`. Only this room knows that trainings are stacked.
"""
