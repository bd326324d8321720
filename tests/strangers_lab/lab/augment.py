"""An augmentation of one image on the scale from 0 to 1."""

import torch


def speckled(image, *, strength: float = 0.1):
    return image + strength * torch.rand_like(image)
