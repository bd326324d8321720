"""Mirror a sweep to a tracker such as Weights & Biases, beside the training and never in it.

Door: `mirror.sync`; a tracker of your own is a class as in `tracker.Tracker`.
"""
