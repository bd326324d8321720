"""Gradient clipping: every tensor by its own norm."""


def each(grads, *, limit: float = 1.0):
    for grad in grads.values():
        grad.mul_((limit / (grad.norm() + 1e-6)).clamp(max=1))
