"""Networks for sequences: which inputs they see, and that a stack equals each network alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lt_sweeps.models import Recurrent, Transformer
from lt_sweeps.models.functional import called_with
from lt_sweeps.models.network import Network
from lt_sweeps.plan.cost import shape
from lt_sweeps.plan.stages.task_kind import CLASSIFICATION, TaskKind
from lt_sweeps.training.stack import Stack
from lt_sweeps.training.task_loss import TaskLoss

CONF = Path(__file__).parents[2] / "conf" / "model"
TOKENS = TaskKind.of(
    {
        "loss": {"_target_": "lt_sweeps.training.losses.token_cross_entropy"},
        "metrics": {"perplexity": {"_target_": "lt_sweeps.training.metrics.perplexity"}},
    }
)
SMALL: dict[str, Any] = {"width": 8, "heads": 2, "depth": 2}
NETS = {
    "transformer": lambda: Transformer((6,), 11, **SMALL),
    "tied": lambda: Transformer((6,), 11, **SMALL, tied=True),
    "lstm of tokens": lambda: Recurrent((6,), 11, width=5, vocabulary=11),
    "gru of rows": lambda: Recurrent((2, 6, 4), 11, cell="gru", width=5, depth=2),
}


def inputs(net: nn.Module, *shape: int) -> torch.Tensor:
    tokens = isinstance(net, Transformer) or net.tokens is not None
    return torch.randint(11, (*shape, 6)) if tokens else torch.randn(*shape, 2, 6, 4).double()


class Fused(nn.Module):
    """Returns whether attention may be computed by a fused kernel."""

    def forward(self, x: torch.Tensor) -> bool:
        kernels = torch.backends.cuda
        return kernels.flash_sdp_enabled() or kernels.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("device", ["cpu", "meta"])  # which stands for one with such kernels
def test_attention_is_plain_where_its_backward_pass_is_mapped(device: str) -> None:
    assert Fused()(torch.zeros(1)) and not called_with(Fused(), {}, torch.zeros(1, device=device))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("backend", ["auto", "vmap"])
def test_a_stack_equals_each_replicate_alone(name: str, backend: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]().double()
    if backend == "vmap" and not isinstance(net, Transformer):
        pytest.skip("it has no rule for recurrent layers")
    kind = TOKENS if isinstance(net, Transformer) else CLASSIFICATION
    loss = TaskLoss(kind)
    stack = Stack(net, 3, backend=backend, task_loss=loss)
    stack.weights += 0.1 * torch.randn_like(stack.weights)
    x = inputs(net, 3, 4)
    y = torch.randint(11, (3, 4, 6) if isinstance(net, Transformer) else (3, 4))
    losses, outputs = stack.loss(x, y), stack.logits(x[0])
    for r in range(3):
        alone = copy.deepcopy(net)
        alone.load_state_dict({n: t[r] for n, t in stack.state().items()}, strict=False)
        value = loss.mean(alone(x[r]), y[r])
        grads = torch.autograd.grad(value, list(alone.parameters()))
        torch.testing.assert_close(losses[r], value.detach())
        torch.testing.assert_close(outputs[r], alone.eval()(x[0]).detach())
        named = zip(dict(alone.named_parameters()), grads, strict=True)
        for parameter, grad in named:
            torch.testing.assert_close(stack.views(stack.grads)[parameter][r], grad)


def test_a_token_is_predicted_from_those_before_it() -> None:
    net = Transformer((6,), 11, **SMALL).eval()
    x = torch.randint(11, (2, 6))
    other = x.clone()
    other[:, 4] = (x[:, 4] + 1) % 11
    first, second = net(x), net(other)
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert not torch.allclose(first[:, 4:], second[:, 4:])


def test_rows_of_an_image_are_read_from_the_top() -> None:
    net = Recurrent((2, 6, 4), 3, width=5).eval()
    image = torch.randn(1, 2, 6, 4)
    rows = torch.stack([image[:, :, row].flatten(1) for row in range(6)], 1)
    torch.testing.assert_close(net(image), net.output(net.cells(rows)[0][:, -1]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Transformer((1, 8, 8), 10), r"inputs of \[1, 8, 8\]; .*: dataset=text"),
        (lambda: Transformer((8,), 10, heads=5), "width=64 is not a multiple of heads=5"),
        (lambda: Recurrent((8,), 10), r"\[8\] and vocabulary=None; give \[T\] tokens with"),
        (
            lambda: Recurrent((1, 8, 8), 10, vocabulary=9),
            r"vocabulary=9; .* images \[C, H, W\] without it",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_products_of_sequences_are_counted() -> None:
    """The expected count is a sum by hand.

    A count ten times too low would shorten the promised time.
    """

    def of(name: str, *where: int, classes: int = 10) -> Network:
        config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        return Network.of(config, where, classes)

    attention = 4 * 64 * 64 * 32 + 2 * 32 * 32 * 64
    block = attention + 2 * 4 * 64 * 64 * 32
    tokens = shape(of("transformer", 32, classes=256), torch.int64)
    assert tokens.multiply_adds == 2 * block + 64 * 256 * 32
    rows = shape(of("recurrent", 1, 8, 8))
    assert rows.multiply_adds == 8 * 4 * 64 * (8 + 64) + 64 * 10
