"""Ways to compute a stack's losses, gradients and logits; each equals the plain `nn.Module`.

Door: `backend.make_backend`.
"""
