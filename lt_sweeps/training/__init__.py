"""One stacked training: R replicates through one recipe on one device.

Door: `training_loop.TrainingLoop`. Only this room mentions R.
"""
