"""`stacked` and `grouped` equal the loop, or refuse: a replicate never affects another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lt_sweeps import models
from lt_sweeps.training.backends import folding
from lt_sweeps.training.stack import Stack, _warn

K, C, SIDE = 4, 6, 8
IMAGE = (3, SIDE, SIDE)
Way = Callable[[Tensor], Tensor]
NETS: dict[str, Callable[[], nn.Module]] = {
    "fc": lambda: models.FC(IMAGE, K, hidden=(9, 7)),
    "conv2": lambda: models.Conv(IMAGE, K, blocks=[[6, 6]], hidden=[7]),
    "conv4": lambda: models.Conv(IMAGE, K, blocks=[[4, 4], [6, 6]], hidden=[7, 5]),
    "resnet": lambda: models.ResNet(IMAGE, K, depth=8, width=4),
    "wide": lambda: models.WideResNet(IMAGE, K, depth=10, widen=1),
    "groups": lambda: nn.Sequential(
        *(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False), nn.Flatten()),
        *(nn.Linear(6 * 36, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, K)),
    ),
    "filtered": lambda: nn.Sequential(nn.Conv2d(3, K, 3, stride=2, padding="valid", bias=False)),
}


def vgg() -> nn.Module:
    return models.VGG((3, 8, 8), K, depth=11)


class Between(nn.Module):
    """A convolution, the module `way`, another convolution, and a linear layer."""

    def __init__(self, way: Way, image: Way = lambda x: x, channels: int = C) -> None:
        super().__init__()
        self.way, self.image = way, image
        self.first, self.second = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(channels, C, 3)
        self.output = nn.Linear(C, K)

    def forward(self, x: Tensor) -> Tensor:
        between = self.way(torch.relu(self.first(self.image(x))))
        return self.output(torch.relu(self.second(between)).mean((2, 3)))


def of(net: Callable[[], nn.Module], how: str, count: int, *, spread: float = 1.0) -> Stack:
    """A stack whose replicates' weights are multiplied by 1 + `spread` times noise."""
    torch.manual_seed(0)
    stack = Stack(net().double(), count, backend=how)
    draws = torch.Generator().manual_seed(1)
    noise = torch.randn(stack.weights.shape, generator=draws, dtype=torch.float64)
    stack.weights.mul_(1 + spread * noise)
    return stack


def batch(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, *IMAGE, generator=draws, dtype=torch.float64)
    return x, torch.randint(K, (count, size), generator=draws)


def classes(outputs: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A network for images that averages its feature maps to one number per class."""
    return lambda: nn.Sequential(outputs(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def assert_equal_to_the_loop(net: Callable[[], nn.Module], how: str, count: int) -> None:
    ours, loop = (of(net, each, count) for each in (how, "loop"))
    for step, size in enumerate((6, 6, 5)):  # the last batch of an epoch is shorter
        x, y = batch(count, size, step)
        torch.testing.assert_close(ours.loss(x, y), loop.loss(x, y), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.grads, loop.grads, rtol=1e-9, atol=1e-11)
        for stack in (ours, loop):
            stack.weights.sub_(stack.grads, alpha=0.1)
        ours.weights.copy_(loop.weights)
    for name, value in loop.state().items():  # the statistics of norms too
        torch.testing.assert_close(ours.state()[name], value, rtol=1e-9, atol=1e-12)
    x = batch(1, 7, 9)[0][0]
    torch.testing.assert_close(ours.logits(x), loop.logits(x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("how", ["stacked", "grouped"])
@pytest.mark.parametrize("net", NETS)
def test_it_equals_the_loop(net: str, how: str, count: int) -> None:
    made = classes(NETS[net]) if net == "filtered" else NETS[net]
    assert_equal_to_the_loop(made, how, count)


def test_vgg_in_channels_equals_the_loop() -> None:
    assert_equal_to_the_loop(vgg, "grouped", 2)


CHANNEL_BY_CHANNEL: dict[str, Way] = {
    "instance norm": F.instance_norm,
    "pool": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
    "pad pixels": lambda x: F.pad(x, (1, 1, 1, 1)),
    "own shape": lambda x: x.view(len(x), -1, SIDE, SIDE) * x.new_tensor(2.0),
    "sum of pixels": lambda x: x / (1 + x.sum((2, 3), keepdim=True)),
    "in place": lambda x: x.add(1).mul_(2).clamp_(max=3),
    "gates of one channel": lambda x: F.glu(torch.cat([x, x], 1), 1),
    "softmax over pixels": lambda x: x.flatten(2).softmax(2).view_as(x),
}


@pytest.mark.parametrize("way", CHANNEL_BY_CHANNEL)
def test_operations_that_treat_channels_one_by_one_are_computed(way: str) -> None:
    assert_equal_to_the_loop(lambda: Between(CHANNEL_BY_CHANNEL[way]), "grouped", 3)


MIXING: dict[str, Way] = {
    "softmax": lambda x: x.softmax(1),
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "little": lambda x: x + 1e-7 * x.mean(1, keepdim=True),
    "little, without a gradient": lambda x: x + 1e-6 * x.detach().mean(1, keepdim=True),
    "little, by place": lambda x: x * torch.linspace(1, 1 + 1e-6, x.shape[1])[:, None, None],
    "those behind": lambda x: x.flip(1).cumsum(1).flip(1),
    "those before": lambda x: x.cumsum(1),
    "roll": lambda x: x.roll(1, 1),
    "flip": lambda x: x.flip(1),
    "shuffle": lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "fixed view": lambda x: x + x.view(len(x), 3, -1).mean(1)[:, :1, None, None],
    "pad and crop": lambda x: F.pad(x, (0, 0, 0, 0, 2, 0))[:, :-2],
    "group norm": lambda x: F.group_norm(x, 2),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "normalize": F.normalize,
    "pool of channels": lambda x: F.avg_pool1d(x.flatten(2).mT, 3, 1, 1).mT.view_as(x),
    "first channel": lambda x: x * (torch.arange(x.shape[1]) > 0)[:, None, None],
    "last channel": lambda x: x * (torch.arange(x.shape[1]) < x.shape[1] - 1)[:, None, None],
    "place": lambda x: x * torch.linspace(1, 1.1, x.shape[1])[:, None, None],
    "shapes that do not fit": lambda x: x[:, :C].contiguous(),
    "number of channels": lambda x: x.view(len(x), C, SIDE, SIDE),
    "index": lambda x: x[:, [*range(C)]],
}


def cat(x: Tensor) -> Tensor:
    return torch.cat([x, x.square()], 1)


def padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 1, 1))


def gated(x: Tensor) -> Tensor:
    return F.glu(x, 1)


OTHER_WIDTHS: dict[str, tuple[Way, int]] = {
    "cat": (cat, 2 * C),
    "pad": (padded, C + 2),
    "glu": (gated, C // 2),
}


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("way", [*MIXING, *OTHER_WIDTHS])
def test_operations_that_mix_channels_are_refused_even_if_replicates_are_equal(
    way: str, count: int, spread: float
) -> None:
    change, channels = OTHER_WIDTHS.get(way) or (MIXING[way], C)
    stack = of(lambda: Between(change, channels=channels), "grouped", count, spread=spread)
    x, y = batch(count, 6)
    for _ in range(2):  # nor is it computed when it is asked again
        with pytest.raises(ValueError, match="^backend: `grouped` needs .* every channel by .*it$"):
            stack.loss(x, y)
        with pytest.raises(ValueError, match="^backend: `grouped` needs .*; `loop` can compute"):
            stack.logits(x[0])
    of(lambda: Between(change, channels=channels), "loop", count).loss(x, y)


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_operations_that_mix_only_in_training_are_refused(how: str) -> None:
    class Noted(Between):
        def forward(self, x: Tensor) -> Tensor:
            outputs = super().forward(x)
            return outputs + 1e-7 * outputs.mean() if self.training else outputs

    stack, (x, y) = of(lambda: Noted(torch.relu), how, 2), batch(2, 6)
    with pytest.raises(ValueError, match=f"^backend: `{how}` needs"):
        stack.logits(x[0])
    with pytest.raises(ValueError, match=f"^backend: `{how}` needs"):
        stack.loss(x, y)


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_gradients_that_mix_replicates_are_refused(how: str) -> None:
    def scaled(x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda grad: grad / grad.norm())
        return x

    stack, (x, y) = of(lambda: Between(scaled), how, 2), batch(2, 6)
    with pytest.raises(ValueError, match=f"^backend: `{how}` needs"):
        stack.logits(x[0])
    with pytest.raises(ValueError, match=f"^backend: `{how}` needs"):
        stack.loss(x, y)


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_a_model_with_a_type_of_its_own_is_tried_in_float64_too(how: str) -> None:
    net = Between(lambda x: x.to(torch.bfloat16).float(), lambda x: x.half().float())
    ours, loop = (Stack(net, 2, backend=name) for name in (how, "loop"))
    x, y = batch(2, 6)
    torch.testing.assert_close(ours.loss(x.float(), y), loop.loss(x.float(), y), rtol=0.01, atol=0)


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_a_checkpointed_block_is_tried_with_its_own_weights(
    how: str,
) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.output = nn.Conv2d(3, C, 3), nn.Linear(C, K)

        def forward(self, x: Tensor) -> Tensor:
            features = checkpoint(lambda x: torch.relu(self.conv(x)), x, use_reentrant=False)
            return self.output(features.mean((2, 3)))

    assert_equal_to_the_loop(Again, how, 3)


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_an_evaluation_of_one_example_is_no_reason_to_refuse(how: str) -> None:
    def net() -> nn.Module:
        layers = nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5), nn.Linear(5, K)
        return nn.Sequential(nn.Conv2d(3, 3, 1), *layers)

    ours, loop = (of(net, name, 3) for name in (how, "loop"))
    x = batch(1, 1)[0][0]
    torch.testing.assert_close(ours.logits(x), loop.logits(x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_a_model_that_cannot_be_tried_is_refused_with_its_own_error(how: str) -> None:
    def strict(x: Tensor) -> Tensor:
        assert x.dtype == torch.float32, "float32 only"
        return x

    x, y = batch(2, 6)
    wanted = rf"^backend: `{how}` tries .* float64 .*\(float32 only\); `loop` can compute it$"
    with pytest.raises(ValueError, match=wanted):
        Stack(Between(strict), 2, backend=how).loss(x.float(), y)


def test_auto_takes_the_loop_where_its_own_choice_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU, where `auto` chooses `stacked` for a network without convolutions."""

    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(3 * SIDE * SIDE, K)

        def forward(self, x: Tensor) -> Tensor:
            outputs = self.output(x.flatten(1))
            return outputs + 0.1 * outputs.mean() if self.training else outputs

    monkeypatch.setattr("lt_sweeps.training.stack.choose_backend", lambda *_: "stacked")
    _warn.cache_clear()
    (ours, loop), (x, y) = (of(Mixes, name, 2) for name in ("auto", "loop")), batch(2, 6)
    torch.testing.assert_close(ours.logits(x[0]), loop.logits(x[0]))
    torch.testing.assert_close(ours.loss(x, y), loop.loss(x, y))
    assert ours.backend == "loop" and len(caplog.messages) == 1
    assert caplog.messages[0].startswith("backend=auto uses `loop`: backend: `stacked` needs")


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_images_that_are_viewed_as_rows_keep_their_layout(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.output = nn.Conv2d(1, C, 3), nn.Linear(C, K)
            self.skip = nn.Linear(SIDE * SIDE, K)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.conv(x).mean((2, 3))) + self.skip(x.view(len(x), -1))

    monkeypatch.setattr("lt_sweeps.training.backends.stacked._LAID_OUT", ("cpu",))
    x, y = batch(3, 6)
    ours, loop = (of(Rows, name, 3) for name in (how, "loop"))
    torch.testing.assert_close(ours.loss(x[:, :, :1], y), loop.loss(x[:, :, :1], y))


@pytest.mark.parametrize("how", ["stacked", "grouped"])
def test_weights_of_zeros_hide_no_mistake(how: str) -> None:
    """For example those of pruned layers, or of an output layer that starts at 0."""
    change = MIXING["mean"] if how == "grouped" else lambda x: x - x.mean(0)
    stack = of(lambda: Between(change), how, 2)
    stack.weights.zero_()
    with pytest.raises(ValueError, match=f"^backend: `{how}` needs"):
        stack.loss(*batch(2, 6))


def test_inputs_of_another_replicate_are_seen_too() -> None:
    """With two replicates, the last one here has its own features, but the first one's images."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.output = nn.Conv2d(3, 3, 1), nn.Conv2d(6, K, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(torch.cat([self.first(x), x], 1)).mean((2, 3))

    with pytest.raises(ValueError, match="^backend: `grouped` needs"):
        of(Beside, "grouped", 2).loss(*batch(2, 6))


@pytest.mark.parametrize("count", [1, 2])
def test_a_linear_layer_of_more_than_one_row_is_refused_in_channels(count: int) -> None:
    net = nn.Sequential(nn.Flatten(2), nn.Linear(SIDE * SIDE, 5), nn.Flatten(), nn.Linear(15, K))
    with pytest.raises(ValueError, match="^backend: `grouped` needs"):
        of(lambda: net, "grouped", count).loss(*batch(count, 6))
    assert_equal_to_the_loop(lambda: net, "stacked", count)


def test_examples_that_see_each_other_are_refused_in_the_batch_alone() -> None:
    mixing = lambda x: x + 1e-7 * x.mean(0)  # noqa: E731
    with pytest.raises(ValueError, match="^backend: `stacked` needs .* every example by itself"):
        of(lambda: Between(mixing), "stacked", 3).loss(*batch(3, 6))
    assert_equal_to_the_loop(lambda: Between(mixing), "grouped", 3)


def test_too_little_memory_is_no_refusal() -> None:
    def short(x: Tensor) -> Tensor:
        if x.shape[1] > C or len(x) > 6:
            raise torch.OutOfMemoryError("no room")
        return x

    for how in ("stacked", "grouped"):
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            of(lambda: Between(short), how, 2).loss(*batch(2, 6))


def test_trying_a_forward_pass_changes_nothing() -> None:
    for how in ("stacked", "grouped"):
        stack, (x, _) = of(NETS["resnet"], how, 3), batch(3, 6)
        state, draws, kept = stack.state(), torch.get_rng_state(), x.clone()
        stack.logits(x[0])
        assert all(torch.equal(value, state[name]) for name, value in stack.state().items())
        assert torch.equal(draws, torch.get_rng_state()) and torch.equal(kept, x)
        assert not x.requires_grad and not stack.grads.any()


def test_trying_a_forward_pass_takes_kernels_that_do_not_repeat_their_bytes() -> None:
    modes: list[int] = []

    def noting(x: Tensor) -> Tensor:
        modes.append(torch.get_deterministic_debug_mode())
        return x

    stack, before = of(lambda: Between(noting), "grouped", 2), torch.get_deterministic_debug_mode()
    modes.clear()
    torch.set_deterministic_debug_mode("error")
    try:
        stack.logits(batch(1, 6)[0][0])
    finally:
        torch.set_deterministic_debug_mode(before)
    # Each replicate alone and both together, in two modes, and what was asked for.
    assert modes == [0, 0, 0, 0, 0, 0, 2]


def test_a_grouped_convolution_is_one_call_on_all_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lt_sweeps.training.backends.stacked._LAID_OUT", ("cpu",))
    stack, seen = of(NETS["conv4"], "grouped", 5), []
    stack.loss(*batch(5, 6))  # the first one tries the forward pass too
    convolve = F.conv2d

    def seeing(x: Tensor, *args: object, **options: object) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        seen.append((tuple(x.shape), options["groups"], last))
        return convolve(x, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folding.F, "conv2d", seeing)
    stack.loss(*batch(5, 6))
    assert seen == [
        ((6, 5 * 3, 8, 8), 5, True),
        ((6, 5 * 4, 8, 8), 5, True),
        ((6, 5 * 4, 4, 4), 5, True),
        ((6, 5 * 6, 4, 4), 5, True),
    ]


class Overflows(nn.Module):
    """Divides by the mean of exponentials, which random weights make infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        grown = torch.exp(100 * self.hidden(x))
        return self.output(grown / grown.mean())


@pytest.mark.parametrize("backend", ["stacked", "grouped"])
def test_a_model_whose_outputs_overflow_is_refused(backend: str) -> None:
    torch.manual_seed(0)
    stack = Stack(Overflows(), 3, backend=backend)
    with pytest.raises(ValueError, match=f"backend: `{backend}` needs"):
        stack.loss(torch.randn(3, 5, 6), torch.zeros(3, 5, dtype=torch.long))
