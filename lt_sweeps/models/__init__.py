"""The networks of the two papers, as ordinary modules that know nothing of replicates or masks."""

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
