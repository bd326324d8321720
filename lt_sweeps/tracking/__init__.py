"""Mirror a sweep in a tracker such as Weights & Biases, in a process separate from the training.

Start at `mirror.sync`. A custom tracker is a class that follows the protocol `tracker.Tracker`.
"""
