"""Networks have the papers' numbers of weights, and initializers follow their formulas."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from lt_sweeps import models
from lt_sweeps.models import (
    FC,
    VGG,
    Conv,
    ResNet,
    WideResNet,
    glorot_normal,
    signed_constant,
    xavier_normal,
)
from lt_sweeps.models.network import Network

CONF = Path(__file__).parents[2] / "conf" / "model"
MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)
NAMES = ["fc", "conv2", "conv4", "conv6", "resnet20", "vgg16", "wrn28_10", "wrn22_2"]


def build(name, input_shape, *, device="meta"):
    net = yaml.safe_load((CONF / f"{name}.yaml").read_text())["net"]
    kind = getattr(models, net.pop("_target_").removeprefix("lt_sweeps.models."))
    with torch.device(device):
        return kind(input_shape=input_shape, classes=10, **net)


def prunable(name, module):
    patterns = yaml.safe_load((CONF / f"{name}.yaml").read_text())["prunable"]
    return [
        part.weight
        for path, part in module.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear))
        and any(fnmatchcase(f"{path}.weight", p) for p in patterns["include"])
        and not any(fnmatchcase(f"{path}.weight", p) for p in patterns["exclude"])
    ]


@pytest.mark.parametrize(
    ("name", "input_shape", "tensors", "weights", "others"),
    [
        ("fc", MNIST, 3, 266_200, 410),
        ("conv2", CIFAR, 5, 4_300_992, 650),
        ("conv4", CIFAR, 7, 2_425_024, 906),
        ("conv6", CIFAR, 9, 2_261_184, 1_418),
        ("resnet20", CIFAR, 19, 267_696, 272_282 - 267_696),
        ("vgg16", CIFAR, 13, 14_710_464, 5_130 + 2 * 4_224),
        ("resnet50", CIFAR, 53, 23_454_912, 20_480 + 10 + 2 * 26_560),
        ("wrn28_10", CIFAR, 25, 36_196_272, 36_479_194 - 36_196_272),
        ("wrn22_2", CIFAR, 19, 1_064_880, 1_079_642 - 1_064_880),
    ],
)
def test_counts_are_those_of_the_papers(name, input_shape, tensors, weights, others):
    module = build(name, input_shape)
    found = [weight.numel() for weight in prunable(name, module)]
    assert (len(found), sum(found)) == (tensors, weights)
    assert sum(p.numel() for p in module.parameters()) - weights == others


def test_vgg19_has_the_weights_of_frankle_and_carbin():
    with torch.device("meta"):
        module = VGG(CIFAR, 10, depth=19)
    assert sum(weight.numel() for weight in prunable("vgg16", module)) == 20_018_880


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("input_shape", [MNIST, CIFAR, DIGITS], ids=["28", "32", "8"])
def test_every_network_takes_every_dataset(name, input_shape):
    module = build(name, input_shape)
    assert module(torch.zeros(2, *input_shape, device="meta")).shape == (2, 10)


def test_fc_is_two_relu_layers_and_an_output():
    torch.manual_seed(0)
    module = FC(DIGITS, 10, hidden=[5, 4])
    a, b, c = (weight for name, weight in module.named_parameters() if name.endswith("weight"))
    x = torch.randn(3, *DIGITS)
    with torch.no_grad():
        for bias in (p for name, p in module.named_parameters() if name.endswith("bias")):
            bias.zero_()
        expected = ((x.flatten(1) @ a.T).relu() @ b.T).relu() @ c.T
    torch.testing.assert_close(module(x), expected)


def test_conv_halves_an_odd_side_downwards():
    module = Conv((1, 7, 5), 10, blocks=[[2], [3]], hidden=[4])
    assert module.head.hidden[0].in_features == 3 * 1 * 1


def test_conv_refuses_an_image_that_cannot_be_halved_once_per_block():
    with pytest.raises(ValueError, match=r"Conv: 3 blocks on 7x32 images; .* must be at least 8$"):
        Conv((3, 7, 32), 10, blocks=[[4], [4], [4]])


def test_resnet_pools_a_32_pixel_image_by_8x8():
    torch.manual_seed(0)
    module = ResNet(CIFAR, 10, depth=8, width=4).eval()
    x = torch.randn(2, *CIFAR)
    features = module.stages(torch.relu(module.norm(module.stem(x))))
    assert features.shape == (2, 16, 8, 8)
    expected = module.output(F.avg_pool2d(features, 8).flatten(1))
    torch.testing.assert_close(module(x), expected)


def test_resnet_shortcuts_are_plain_convolutions_where_the_shape_changes():
    with torch.device("meta"):
        module = ResNet(CIFAR, 10, depth=20)
    shapes = {n: tuple(p.shape) for n, p in module.named_parameters() if "shortcut" in n}
    assert shapes == {
        "stages.1.0.shortcut.weight": (32, 16, 1, 1),
        "stages.2.0.shortcut.weight": (64, 32, 1, 1),
    }


def test_resnet_refuses_a_depth_that_is_not_6n_plus_2():
    with pytest.raises(ValueError, match=r"ResNet: depth=18; allowed are 8, 14, 20"):
        ResNet(CIFAR, 10, depth=18)


def test_wide_resnet_normalises_before_its_convolutions_and_adds_the_input():
    """If the last convolution of a block is 0, a block of equal widths passes its input on."""
    torch.manual_seed(0)
    module = WideResNet(CIFAR, 10, depth=16, widen=1).eval()
    block, x = module.get_submodule("stages.1.1"), torch.randn(2, 32, 8, 8)
    with torch.no_grad():
        block.get_parameter("conv2.weight").zero_()
    assert torch.equal(block(x), x)
    shapes = {n: tuple(p.shape) for n, p in module.named_parameters() if "shortcut" in n}
    assert shapes == {
        "stages.1.0.shortcut.weight": (32, 16, 1, 1),
        "stages.2.0.shortcut.weight": (64, 32, 1, 1),
    }


def test_wide_resnet_refuses_a_depth_that_is_not_6n_plus_4():
    with pytest.raises(ValueError, match=r"WideResNet: depth=20; allowed are 10, 16, 22"):
        WideResNet(CIFAR, 10, depth=20)


def test_resnet50_counts_the_weights_of_arxiv_2002_03231():
    """Its convolutions and, with an option, the last layer for ImageNet's classes."""
    config = yaml.safe_load((CONF / "resnet50.yaml").read_text())
    network = Network.of(config, (3, 224, 224), 1000)
    assert len(network.layers) == 53
    config["prunable"]["exclude"] = []
    network = Network.of(config, (3, 224, 224), 1000)
    assert sum(layer.size for layer in network.layers) == 25_502_912
    assert network.layers[-1].kind == "output" and network.parameters == 25_557_032


def test_resnet50_takes_colour_images():
    with pytest.raises(ValueError, match=r"resnet50: inputs of \[1, 8, 8\]; torchvision takes"):
        models.resnet50(DIGITS, 10)


def test_vgg_refuses_a_depth_that_does_not_exist():
    with pytest.raises(ValueError, match=r"VGG: depth=17; allowed are 11, 13, 16, 19"):
        VGG(CIFAR, 10, depth=17)


@pytest.mark.parametrize("initialize", [glorot_normal, xavier_normal])
@pytest.mark.parametrize(
    ("module", "fans"),
    [(nn.Linear(784, 300), 784 + 300), (nn.Conv2d(64, 128, 3), 9 * (64 + 128))],
    ids=["linear", "conv"],
)
def test_initializers_have_the_std_of_both_fans(initialize, module, fans):
    torch.manual_seed(0)
    initialize(module)
    # The standard error of a std over n draws is at most std / sqrt(2n): four of them.
    tolerance = 4 / (2 * module.weight.numel()) ** 0.5
    assert module.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=tolerance)
    assert module.bias.abs().max() == 0


def test_glorot_normal_is_cut_at_two_sigma_and_xavier_normal_is_not():
    torch.manual_seed(0)
    module, sigma = nn.Linear(784, 300), (2 / 1084) ** 0.5 / 0.8796256610342398
    glorot_normal(module)
    assert 1.99 * sigma < module.weight.abs().max() <= 2 * sigma * (1 + 1e-6)
    xavier_normal(module)
    assert module.weight.abs().max() > 3 * sigma


def test_glorot_normal_does_not_draw_as_the_installed_torch_does(monkeypatch):
    """torch's `trunc_normal_` draws other numbers in 2.11 than in 2.14."""
    monkeypatch.delattr(nn.init, "trunc_normal_")
    glorot_normal(nn.Linear(784, 300))


def test_initializers_reset_batch_norm():
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.weight.fill_(7)
        norm.bias.fill_(7)
    xavier_normal(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), norm))
    assert norm.weight.tolist() == [1, 1]
    assert norm.bias.tolist() == [0, 0]


def test_signed_constants_have_the_signs_of_glorots_draw_and_one_magnitude_a_layer() -> None:
    drawn, signed = (FC((1, 4, 4), 10, hidden=[20]) for _ in range(2))
    torch.manual_seed(3)
    glorot_normal(drawn)
    torch.manual_seed(3)
    signed_constant(signed)
    for one, other in zip(drawn.parameters(), signed.parameters(), strict=True):
        if one.ndim == 2:
            assert torch.equal(other, one.sign() * one.detach().std(correction=0))
        else:
            assert not other.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_before_relu_changes_no_byte(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = Conv((3, 8, 8), 4, blocks=[[4, 4], [6]], hidden=[5])
    images = torch.randn(16, 3, 8, 8).contiguous(memory_format=layout)
    images[:4] = 0.0  # every window of these is a tie, at most places below zero
    images[4] = torch.nan

    def as_written_down(x: torch.Tensor) -> torch.Tensor:
        for block in net.blocks:
            for conv in block.children():
                x = torch.relu(conv(x))
            x = torch.nn.functional.max_pool2d(x, 2)
        return net.head(x)

    ends = []
    for forward in (net, as_written_down):
        outputs = forward(images)
        grads = torch.autograd.grad(outputs[5:].square().sum(), list(net.parameters()))
        ends.append((outputs, *grads))
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*ends, strict=True))
