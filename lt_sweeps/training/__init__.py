"""One stacked training: R replicates trained with one recipe on one device.

Start at `training_loop.TrainingLoop`. Only this room knows that trainings are stacked.
"""
