"""Ways to compute a stack's losses, gradients and logits; each equals the plain `nn.Module`.

Start at `backend.make_backend`.
"""
