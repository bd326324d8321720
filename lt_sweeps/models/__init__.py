"""Networks: ordinary `nn.Module`s, without replicates or masks, and `Network`, which describes one.

The door is `Network.of` in `network`. To add a model, write a module and a yaml in `conf/model`.
"""

from lt_sweeps.models.conv import Conv
from lt_sweeps.models.fc import FC
from lt_sweeps.models.initializers import glorot_normal, signed_constant, xavier_normal
from lt_sweeps.models.resnet import ResNet
from lt_sweeps.models.torchvision_resnet import resnet50
from lt_sweeps.models.vgg import VGG
from lt_sweeps.models.wide_resnet import WideResNet

FAMILY = "models"  # the first part of these names in stage keys, for ever

__all__ = [
    "FC",
    "VGG",
    "Conv",
    "ResNet",
    "WideResNet",
    "glorot_normal",
    "resnet50",
    "signed_constant",
    "xavier_normal",
]
