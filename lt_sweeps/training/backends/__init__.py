"""The backends, which compute a stack's losses, gradients and logits; each equals the plain module.

Start at `backend.make_backend`.
"""
