"""A learning-rate schedule."""


def inverse_root(step, *, length, offset: float = 10.0):
    return (offset / (offset + step)) ** 0.5
