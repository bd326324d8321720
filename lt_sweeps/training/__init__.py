"""One stacked training: R replicates trained with one recipe on one device.

Start at `training_loop.TrainingLoop`. Models, methods and criteria do not know that
trainings are stacked.
"""
