"""Any classifier of torchvision or timm, by name."""

from collections.abc import Sequence

from torch import nn

from lt_sweeps.config.spelling import nearest


def torchvision(input_shape: Sequence[int], classes: int, *, name: str) -> nn.Module:
    """An architecture of torchvision: `resnet18`, `mobilenet_v3_small`, `vit_b_16`.

    Raises:
        ValueError: torchvision has no such architecture, or the images do not have three channels.
    """
    # Imported here, because it takes a second and no other model needs it.
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"torchvision has no model {name!r}{nearest(name, names)}")
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ValueError(f"{name}: inputs of {list(input_shape)}; torchvision takes [3, H, W]")
    vision = name.startswith("vit_")
    return models.get_model(
        name, num_classes=classes, **({"image_size": input_shape[1]} if vision else {})
    )


def resnet50(input_shape: Sequence[int], classes: int) -> nn.Module:
    """The bottleneck network for large images, with its strides in the 3x3 convolutions."""
    return torchvision(input_shape, classes, name="resnet50")


def timm(input_shape: Sequence[int], classes: int, *, name: str) -> nn.Module:
    """An architecture of timm, for images of any number of channels.

    Raises:
        ValueError: timm is not installed, or has no such architecture.
    """
    try:
        import timm as library  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("timm is not installed; pip install timm") from None
    if not library.is_model(name):
        raise ValueError(f"timm has no model {name!r}{nearest(name, library.list_models())}")
    return library.create_model(name, num_classes=classes, in_chans=input_shape[0])
