"""ResNet-50, as torchvision has it."""

from collections.abc import Sequence

from torch import nn


def resnet50(input_shape: Sequence[int], classes: int) -> nn.Module:
    """The bottleneck network for large images, its strides in the 3x3 convolutions.

    Names of weights and their initial distribution are torchvision's.

    Raises:
        ValueError: the images do not have three channels.
    """
    # Imported here, because it takes a second and no other model needs it.
    from torchvision import models

    if input_shape[0] != 3:
        raise ValueError(f"resnet50: images of {input_shape[0]} channels; it takes 3")
    return models.resnet50(num_classes=classes)
