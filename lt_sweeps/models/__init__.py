"""Networks: ordinary `nn.Module`s, without replicates or masks, and `Network`, which describes one.

Start at `network.Network`. To add a model, write a module and a yaml in `conf/model`.
"""

from lt_sweeps.models.conv import Conv as Conv
from lt_sweeps.models.fc import FC as FC
from lt_sweeps.models.initializers import glorot_normal as glorot_normal
from lt_sweeps.models.initializers import signed_constant as signed_constant
from lt_sweeps.models.initializers import xavier_normal as xavier_normal
from lt_sweeps.models.libraries import resnet50 as resnet50
from lt_sweeps.models.libraries import timm as timm
from lt_sweeps.models.libraries import torchvision as torchvision
from lt_sweeps.models.resnet import ResNet as ResNet
from lt_sweeps.models.sequence import Recurrent as Recurrent
from lt_sweeps.models.sequence import Transformer as Transformer
from lt_sweeps.models.vgg import VGG as VGG
from lt_sweeps.models.wide_resnet import WideResNet as WideResNet

FAMILY = "models"  # the first part of these names in stage keys; never changes
