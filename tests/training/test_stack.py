"""Every backend of `Stack` equals the plain `nn.Module`, and every row equals that row alone."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_sweeps.config.keys import Precision
from lt_sweeps.models import FC, Conv, ResNet
from lt_sweeps.training.arithmetic import Arithmetic
from lt_sweeps.training.backends.backend import choose_backend
from lt_sweeps.training.cuda_graph import graphed
from lt_sweeps.training.optimizers import Optimizer
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss

R, B, K = 3, 8, 5
IMAGE = (3, 8, 8)
NETS: dict[str, Callable[[], nn.Module]] = {
    "fc": lambda: FC(IMAGE, K, hidden=(20, 12)),
    "conv": lambda: Conv(IMAGE, K, blocks=((4, 4), (6, 6)), hidden=(16,)),
    "resnet": lambda: ResNet(IMAGE, K, depth=8, width=8),
}
WAYS = [
    (net, how)
    for net in NETS
    for how in ("loop", "chain", "stacked", "grouped", "vmap")
    if how != "chain" or net == "fc"
]


class Bare(nn.Module):
    """A parameter and a buffer outside any layer; the buffer is replaced instead of written to."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3 * 8 * 8))
        self.register_buffer("mean", torch.zeros(3 * 8 * 8))
        self.output = nn.Linear(3 * 8 * 8, K)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.output((x - self.mean) * self.scale)


class Viewed(nn.Module):
    """A forward pass that works only with images in the default memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.conv(x)).view(len(x), -1))


class Mixed(nn.Module):
    """A forward pass in which examples affect each other, outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3 * 8 * 8, K)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.output(5 * x.mean(0) - x)


class Tied(nn.Module):
    """One weight in two layers, a frozen layer, and a layer that the forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 192), nn.Linear(192, 192)
        self.second.weight = self.first.weight
        self.unused, self.output = nn.Linear(4, 4), nn.Linear(192, K)
        self.output.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


def noisy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, K))


class Plain:
    """The reference: one ordinary module per replicate with torch's own default optimizer."""

    def __init__(self, net: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.modules = [net().to(dtype) for _ in range(R)]
        self.optimizers = [
            torch.optim.Adam(module.parameters(), lr=0.01) for module in self.modules
        ]

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        losses = []
        for r, (module, optimizer) in enumerate(zip(self.modules, self.optimizers, strict=True)):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(module(x[r]), y[r]))
            losses[-1].backward()
            optimizer.step()
        return torch.stack(losses).detach()

    def state(self) -> dict[str, Tensor]:
        states = [module.state_dict() for module in self.modules]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}


@pytest.mark.parametrize(("net", "how"), WAYS)
def test_a_stack_trains_as_the_plain_modules_do(net, how):
    plain = Plain(NETS[net])
    stack = _stack_of(plain, how)
    optimizer = Optimizer(stack.weights, stack.grads, optimizer="adam")
    for step in range(4):
        x, y = _batch(step, torch.float64)
        _close(stack.loss(x, y), plain.step(x, y))
        optimizer.step(0.01)
    assert stack.backend == how
    assert list(stack.state()) == list(plain.modules[0].state_dict())
    for name, value in plain.state().items():
        _close(stack.state()[name], value)
    x = _batch(9, torch.float64)[0][0]
    _close(stack.logits(x), torch.stack([module.eval()(x) for module in plain.modules]))


@pytest.mark.parametrize("net", ["fc", "conv", "resnet"])
def test_the_loop_is_the_plain_module_bit_for_bit(net):
    plain = Plain(NETS[net], torch.float32)
    stack = _stack_of(plain, "loop")
    for step in range(3):
        x, y = _batch(step)
        stack.load(plain.state())  # the optimizers alone round differently, by a tensor's end
        loss, statistics = stack.loss(x, y), stack.buffers
        # the order of memory in which the loop gives images to convolutions, which round by it
        last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        assert torch.equal(loss, plain.step(last.unflatten(0, (R, B)), y))
        for name, grads in stack.views(stack.grads).items():
            theirs = [module.get_parameter(name).grad for module in plain.modules]
            assert torch.equal(grads, torch.stack([grad for grad in theirs if grad is not None]))
        assert all(torch.equal(plain.state()[name], value) for name, value in statistics.items())


@pytest.mark.parametrize(("net", "how"), [("fc", "chain"), ("fc", "loop"), ("resnet", "loop")])
def test_a_row_trains_as_it_does_alone_bit_for_bit(net, how):
    plain = Plain(NETS[net], torch.float32)
    together = _train(_stack_of(plain, how), slice(None))
    for r in range(R):
        row = slice(r, r + 1)
        alone = _train(_stack_of(plain, how, row), row)
        for name, value in alone.items():
            assert torch.equal(value, together[name][row]), name


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("how", ["chain", "loop"])
def test_a_row_of_any_size_is_computed_as_it_is_alone(how: str, precision: Precision) -> None:
    """At these sizes only the first replicate would start at a multiple of 64 bytes."""
    sizes = [(17, 33, 2), (47, 10, 2), (29, 10, 3), (3, 33, 10), (57, 7, 4), (32, 1, 2), (7, 8, 4)]
    sizes += [(34, 14, 7), (41, 16, 4)]  # whose small products count as a large one in a stack
    for number, (batch, hidden, classes) in enumerate(sizes):
        torch.manual_seed(number)
        net, arithmetic = FC((10,), classes, hidden=(hidden, 9)), Arithmetic(precision)
        whole, alone = (Stack(net, r, backend=how, arithmetic=arithmetic) for r in (R, 1))
        whole.load({name: torch.randn_like(value) for name, value in whole.state().items()})
        x, y = torch.randn(R, batch, 10), torch.randint(classes, (R, batch))
        losses, logits = whole.loss(x, y), whole.logits(x[0])
        for row in range(R):
            alone.load({name: value[row : row + 1] for name, value in whole.state().items()})
            assert torch.equal(alone.loss(x[row, None], y[row, None])[0], losses[row])
            assert torch.equal(alone.grads[0], whole.grads[row])
            assert torch.equal(alone.logits(x[0])[0], logits[row])


@pytest.mark.parametrize(("net", "how"), WAYS)
def test_smoothed_labels_are_those_of_torch(net, how):
    plain = Plain(NETS[net])
    stack = Stack(plain.modules[0], R, backend=how, task_loss=TaskLoss(smoothing=0.1))
    stack.load(plain.state())
    x, y = _batch(0, torch.float64)
    losses = torch.stack(
        [F.cross_entropy(m(x[r]), y[r], label_smoothing=0.1) for r, m in enumerate(plain.modules)]
    )
    _close(stack.loss(x, y), losses.detach())
    names = list(stack.views(stack.grads))
    weights = [[m.get_parameter(name) for name in names] for m in plain.modules]
    pairs = zip(losses, weights, strict=True)
    grads = [torch.autograd.grad(loss, parameters) for loss, parameters in pairs]
    for name, *theirs in zip(names, *grads, strict=True):
        _close(stack.views(stack.grads)[name], torch.stack(theirs))


def test_a_chain_smooths_labels_bit_for_bit_as_autograd_does() -> None:
    plain = Plain(NETS["fc"], torch.float32)
    made = []
    for how in ("chain", "loop"):
        stack = Stack(plain.modules[0], R, backend=how, task_loss=TaskLoss(smoothing=0.1))
        stack.load(plain.state())
        made.append((stack.loss(*_batch(0)), stack.grads.clone()))
    for chain, loop in zip(*made, strict=True):
        assert torch.equal(chain, loop)


@pytest.mark.parametrize(("net", "how"), WAYS)
def test_a_diverged_replicate_leaves_the_others_bit_identical(net, how):
    results = []
    for value in (1.0, torch.nan):
        stack = _stack_of(Plain(NETS[net], torch.float32), how)
        stack.weights[1].fill_(value)
        losses = stack.loss(*_batch(0))
        results.append((losses, stack.grads.clone(), stack.logits(_batch(0)[0][0])))
    for finite, diverged in zip(*results, strict=True):
        assert torch.equal(finite[[0, 2]], diverged[[0, 2]])
    assert results[1][0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("how", ["loop", "stacked", "grouped", "vmap"])
def test_evaluating_logits_changes_nothing(how):
    stack = _stack_of(Plain(NETS["resnet"], torch.float32), how)
    stack.loss(*_batch(0))
    before, grads = stack.state(), stack.grads.clone()
    stack.logits(_batch(1)[0][0])
    assert all(torch.equal(value, before[name]) for name, value in stack.state().items())
    assert torch.equal(stack.grads, grads)
    stack.loss(*_batch(0))  # and the next step trains: its statistics move
    assert stack.state()["norm.num_batches_tracked"].tolist() == [2] * R


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("net", [Bare, Tied, Mixed, Viewed])
def test_unusual_modules_train_as_they_do_alone(net, how):
    plain = Plain(net)
    stack = _stack_of(plain, how)
    for step in range(3):
        x, y = _batch(step, torch.float64)
        _close(stack.loss(x, y), plain.step(x, y))
        stack.load({name: plain.state()[name] for name in stack.state()})
    grads = stack.views(stack.grads)
    for name, parameter in plain.modules[-1].named_parameters():
        want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        _close(grads[name][-1], want)


def test_dropout_is_a_function_of_the_replicates_own_seed():
    plain = Plain(noisy, torch.float32)
    stack, (x, y) = _stack_of(plain, "auto"), _batch(0)
    assert stack.stochastic
    before = torch.get_rng_state()
    first = stack.loss(x, y, [4, 5, 6])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(stack.loss(x, y, [4, 5, 6]), first)
    assert (stack.loss(x, y, [7, 8, 9]) != first).all()
    alone = _stack_of(plain, "auto", slice(2, 3))
    assert torch.equal(alone.loss(x[2:], y[2:], [6]), first[2:])


def test_noise_needs_seeds_and_the_loop():
    plain = Plain(noisy, torch.float32)
    with pytest.raises(ValueError, match="needs 3 seeds per step, got None"):
        _stack_of(plain, "auto").loss(*_batch(0))
    with pytest.raises(ValueError, match="`vmap` cannot draw each replicate's own noise"):
        _stack_of(plain, "vmap")


def test_noise_that_no_layer_declares_is_refused():
    class Hidden(FC):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.dropout(x, training=self.training))

    stack = _stack_of(Plain(lambda: Hidden(IMAGE, K)), "loop")
    with pytest.raises(ValueError, match="set `stochastic = True`"):
        stack.loss(*_batch(0, torch.float64))


def test_each_parameter_starts_at_a_multiple_of_64():
    layout = Stack(nn.Sequential(nn.Flatten(), nn.Linear(10, 7), nn.Linear(7, 2)), 2).layout
    assert dict(layout.slots) == {
        "1.weight": (0, (7, 10)),
        "1.bias": (128, (7,)),
        "2.weight": (192, (2, 7)),
        "2.bias": (256, (2,)),
    }
    assert layout.size == 320


def test_flat_and_views_are_inverse_and_fill_the_rest():
    stack = _stack_of(Plain(NETS["conv"]), "loop")
    assert torch.equal(stack.flat(stack.views(stack.weights)), stack.weights)
    mask = stack.flat({"blocks.0.0.weight": torch.zeros(R, 4, 3, 3, 3, dtype=torch.bool)}, fill=1)
    assert mask.dtype == stack.weights.dtype
    assert mask.sum() == mask.numel() - R * 4 * 3 * 3 * 3
    with pytest.raises(ValueError, match=r"no parameters typo"):
        stack.flat({"typo": torch.zeros(R)})


def test_the_state_goes_round_through_a_module_on_meta():
    stack = _stack_of(Plain(NETS["resnet"], torch.float32), "auto")
    with torch.device("meta"):
        copy = Stack(NETS["resnet"](), R)
    copy.load(stack.state())
    assert torch.equal(copy.weights, stack.weights)
    assert torch.equal(copy.loss(*_batch(0)), stack.loss(*_batch(0)))
    with pytest.raises(ValueError, match=r"state lacks norm.bias.* and has unknown typo"):
        copy.load({"typo": torch.zeros(R)})
    with pytest.raises(ValueError, match=r"`stem.weight` is \[1, 4, 3, 3, 3\]; it must be \[3, 8"):
        copy.load({**stack.state(), "stem.weight": torch.zeros(1, 4, 3, 3, 3)})


def test_auto_is_a_rule_on_device_and_layers():
    def rule(device: str) -> list[str]:
        nets = [*NETS.values(), Bare, noisy]
        return [choose_backend(net(), torch.device(device)) for net in nets]

    assert rule("cpu") == ["chain", "loop", "loop", "loop", "loop"]
    assert rule("cuda") == ["chain", "loop", "loop", "loop", "loop"]


@pytest.mark.parametrize(
    ("layers", "chained"),
    [
        ((nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, K)), True),
        ((nn.Flatten(), nn.Sequential(nn.Linear(192, K))), True),
        ((nn.Flatten(), nn.Linear(192, 9), nn.Tanh(), nn.Linear(9, K)), False),
        ((nn.Flatten(), nn.Linear(192, 9), nn.Linear(9, K)), False),
        ((nn.Flatten(), nn.Linear(192, K), nn.ReLU()), False),
        ((nn.Flatten(), nn.Linear(192, 9), nn.BatchNorm1d(9), nn.Linear(9, K)), False),
        ((nn.Linear(192, K),), False),
        ((Tied(),), False),
        ((Mixed(),), False),
    ],
)
def test_a_chain_is_flatten_and_linear_layers_with_relu_between(layers, chained):
    assert (choose_backend(nn.Sequential(*layers), torch.device("cpu")) == "chain") is chained


def test_a_module_with_a_hook_is_not_a_chain():
    net, calls = NETS["fc"](), []
    net.register_forward_hook(lambda *_: calls.append(1))
    stack = Stack(net, 2)
    stack.logits(_batch(0)[0][0])
    assert (stack.backend, len(calls)) == ("loop", 2)


def _halved(*args: Any) -> tuple[Tensor | None, ...]:
    return tuple(None if grad is None else grad / 2 for grad in args[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.register_full_backward_hook(_halved),
        lambda layer: layer.register_full_backward_pre_hook(_halved),
        lambda layer: setattr(layer, "forward", MethodType(lambda me, x: x @ me.weight.T, layer)),
    ],
    ids=["backward hook", "backward pre-hook", "forward of its own"],
)
def test_what_a_subclass_adds_to_a_layer_is_computed(change):
    def net():
        layers = nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, K)
        change(layers[3])
        return nn.Sequential(*layers)

    plain, (x, y) = Plain(net), _batch(0, torch.float64)
    for how in ("chain", "stacked", "grouped"):
        with pytest.raises(ValueError, match=how):
            _stack_of(plain, how)
    stack = _stack_of(plain, "auto")
    _close(stack.loss(x, y), plain.step(x, y))
    for name, parameter in plain.modules[-1].named_parameters():
        want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        _close(stack.views(stack.grads)[name][-1], want)


@pytest.mark.parametrize("how", ["loop", "stacked", "grouped", "vmap"])
def test_a_layer_that_is_used_twice_has_the_gradients_of_both_uses(how):
    def net():
        shared = nn.Linear(8, 8)
        first, last = nn.Linear(192, 8), nn.Linear(8, K)
        return nn.Sequential(nn.Flatten(), first, shared, nn.ReLU(), shared, last)

    plain, (x, y) = Plain(net), _batch(0, torch.float64)
    stack = _stack_of(plain, how)
    _close(stack.loss(x, y), plain.step(x, y))
    for name, parameter in plain.modules[-1].named_parameters():
        assert parameter.grad is not None
        _close(stack.views(stack.grads)[name][-1], parameter.grad)


def test_a_chain_keeps_layers_without_bias():
    plain = Plain(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, K, bias=False)))
    x, y = _batch(0, torch.float64)
    stack = _stack_of(plain, "chain")
    _close(stack.loss(x, y), plain.step(x, y))


def test_a_backend_refuses_what_it_cannot_compute():
    for net, how, message in [
        (NETS["conv"], "chain", "`chain` has only flatten, linear layers and ReLU"),
        (Bare, "stacked", "`stacked` cannot compute tensors of Bare itself; `loop` and `vmap` can"),
        (NETS["fc"], "fast", "stack: backend `fast`; give one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            _stack_of(Plain(net), how)
    with pytest.raises(ValueError, match="treats every example by itself"):
        _stack_of(Plain(Mixed), "stacked").loss(*_batch(0, torch.float64))


def test_a_graph_is_the_step_itself_without_cuda():
    def step() -> None: ...

    assert graphed(step, "cpu") is step


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("net", "how"), WAYS)
def test_a_graph_replays_the_steps_that_eager_takes(net, how):
    results = []
    for capture in (False, True):
        stack = _stack_of(Plain(NETS[net], torch.float32), how, device="cuda")
        optimizer = Optimizer(stack.weights, stack.grads, optimizer="adam")
        x, y = (tensor.cuda() for tensor in _batch(0))
        lr, losses = torch.tensor(0.01, device="cuda"), torch.zeros(R, device="cuda")

        def step(stack=stack, optimizer=optimizer, x=x, y=y, lr=lr, losses=losses) -> None:
            losses.copy_(stack.loss(x, y))
            optimizer.step(lr)

        kept = [stack.weights, *stack.buffers.values(), *optimizer.tensors.values()]
        take = graphed(step, "cuda", restore=kept) if capture else step
        for seed in range(4):
            x.copy_(_batch(seed)[0])
            take()
        results.append((losses.clone(), stack.weights.clone()))
    for eager, replayed in zip(*results, strict=True):
        torch.testing.assert_close(eager, replayed, rtol=1e-3, atol=1e-4)


def _stack_of(plain: Plain, how: str, rows: slice = slice(None), device: str = "cpu") -> Stack:
    count = len(plain.modules[rows])
    stack = Stack(plain.modules[0], count, device=device, backend=how)
    stack.load({name: plain.state()[name][rows] for name in stack.state()})
    return stack


def _batch(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(R, B, *IMAGE, generator=generator, dtype=dtype)
    return x, torch.randint(0, K, (R, B), generator=generator)


def _train(stack: Stack, rows: slice) -> dict[str, Tensor]:
    optimizer = Optimizer(stack.weights, stack.grads, optimizer="sgd", momentum=0.9)
    for step in range(4):
        x, y = _batch(step)
        stack.loss(x[rows], y[rows])
        optimizer.step(0.05)
    return stack.state()


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
