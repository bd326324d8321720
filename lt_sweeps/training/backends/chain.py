"""`chain`: linear layers with ReLU between them, forward and backward written by hand.

In such a small step autograd would take a third of the time. Code written by hand also writes the
gradients directly into the stack's buffer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lt_sweeps.training.backends.stack_views import StackViews, is_plain

aten = torch.ops.aten
_LINE = 64  # bytes; the alignment of each replicate on a CPU (`_rows`)
_SMALL = 16**3  # multiplications; up to this many, torch multiplies bf16 itself (`_multiply`)


class ChainBackend:
    """Computes each layer of all replicates as one batched product on `[R, B, width]`.

    The kernels are the same that autograd would call for each replicate alone.
    """

    def __init__(self, layers: Sequence[str], views: StackViews) -> None:
        assert views.loss.kind.has_cross_entropy, "another loss has another gradient"
        self._smoothing, weights, grads = views.loss.smoothing, views.weights, views.grads
        self._weights = [weights[f"{layer}.weight"] for layer in layers]
        self._biases = [weights.get(f"{layer}.bias") for layer in layers]
        self._grads = [(grads[f"{layer}.weight"], grads.get(f"{layer}.bias")) for layer in layers]
        self._dtype = views.arithmetic.dtype(views.first.dtype)

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        weights = self._cast()
        *inputs, logits = self._forward(weights, x.flatten(2))
        losses, out_grad = self._smooth(logits, y) if self._smoothing else self._hard(logits, y)
        for i in reversed(range(len(inputs))):
            bias = self._grads[i][1]
            if bias is not None:
                torch.sum(out_grad, 1, out=bias, dtype=bias.dtype)
            out_grad = self._aligned(out_grad)
            self._write_grad(i, out_grad, inputs[i])
            if i:
                out_grad = _multiply(out_grad, weights[i], _rows(inputs[i]))
                aten.threshold_backward(out_grad, inputs[i], 0, grad_input=out_grad)
        return losses

    def logits(self, x: Tensor) -> Tensor:
        return self._forward(self._cast(), x.flatten(1).expand(len(self._weights[0]), -1, -1))[-1]

    def _cast(self) -> list[Tensor]:
        """The weights in the type of the products; in float32 the stack's own weights, no copies.

        On a CPU, weights that are not aligned are copied too (`_aligned`).
        """
        return [self._aligned(weight) for weight in self._weights]

    def _hard(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The losses `[R]`, and their gradients with respect to the logits."""
        logp = torch.log_softmax(logits, 2)
        y = y[..., None]
        out_grad = torch.zeros_like(logp).scatter_(2, y, -1 / y.shape[1])
        out_grad = aten._log_softmax_backward_data(out_grad, logp, 2, logp.dtype)
        return -logp.gather(2, y).mean((1, 2)), out_grad

    @torch.enable_grad()
    def _smooth(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `_hard` with label smoothing, for which torch has no backward kernel."""
        leaf = logits.detach().requires_grad_()
        pairs = zip(leaf, y, strict=True)
        smoothing = self._smoothing
        losses = torch.stack([F.cross_entropy(*pair, label_smoothing=smoothing) for pair in pairs])
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

    def _forward(self, weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
        """The input of each layer, followed by the logits in the type of the stack's weights."""
        inputs = self._inputs(weights, x)
        logits = self._layer(inputs[-1], weights[-1], self._biases[-1])
        return [*inputs, logits.to(self._weights[0].dtype)]

    def _inputs(self, weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
        """The input of each layer."""
        inputs = [self._aligned(x)]
        for weight, bias in zip(weights[:-1], self._biases[:-1], strict=True):
            inputs.append(self._hidden(inputs[-1], weight, bias))
        return inputs

    def _hidden(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._layer(x, weight, bias).relu_()

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added = None if bias is None else bias[:, None].to(self._dtype)
        return _multiply(x, weight.mT, _rows(x, weight.shape[1]), added)

    def _write_grad(self, i: int, out_grad: Tensor, x: Tensor) -> None:
        """Write the gradient of layer `i`'s weight, from its input and its output's gradient."""
        grad = self._grads[i][0]
        if grad.dtype == self._dtype:
            _multiply(out_grad.mT, x, grad)
        else:
            grad.copy_(_multiply(out_grad.mT, x, _rows(grad, dtype=self._dtype)))

    def _aligned(self, x: Tensor) -> Tensor:
        """`x` in the type of the products, each replicate aligned; a copy only if necessary."""
        aligned = x.device.type != "cpu" or x.stride(0) * x.element_size() % _LINE == 0
        matches = x.dtype == self._dtype and aligned
        return x if matches else _rows(x, dtype=self._dtype).copy_(x)


class FusedChainBackend(ChainBackend):
    """A `ChainBackend` for GPUs, with few kernels between the products (`chain_kernels`)."""

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor, seeds: Sequence[int] | None) -> Tensor:
        # Imported here, because only torch for Linux comes with triton.
        from lt_sweeps.training.backends import chain_kernels as kernels

        if self._smoothing or not kernels.fits(y.shape[1], self._weights[-1].shape[1]):
            return super().loss(x, y, seeds)
        weights = self._cast()
        inputs = self._inputs(weights, x.flatten(2))
        logits = torch.bmm(inputs[-1], weights[-1].mT)
        losses, out_grad = kernels.cross_entropy(logits, self._biases[-1], y, self._grads[-1][1])
        for i in reversed(range(len(inputs))):
            self._write_grad(i, out_grad, inputs[i])
            if i:
                out_grad = torch.bmm(out_grad, weights[i])
                kernels.relu_backward_(out_grad, inputs[i], self._grads[i - 1][1])
        return losses

    def _hidden(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        from lt_sweeps.training.backends import chain_kernels as kernels

        return kernels.bias_relu_(torch.bmm(x, weight.mT), bias)


# If a matrix does not begin at a multiple of 64 bytes, the CPU's multiplication library uses other
# instructions, which round differently. A replicate alone begins at such an address, because
# allocated memory does. The second replicate of a stack needs a gap before it: without one, with 47
# examples and 10 units, it would begin at byte 1880.
def _rows(like: Tensor, width: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Allocate `[R, B, width]`; on a CPU, each replicate begins at a multiple of 64 bytes."""
    replicates, batch, width = *like.shape[:2], width or like.shape[2]
    if like.device.type != "cpu":
        return like.new_empty(replicates, batch, width, dtype=dtype)
    line = _LINE // (dtype or like.dtype).itemsize
    # Always a gap, because replicates without one could be multiplied as a single matrix.
    apart = (batch * width // line + 1) * line
    return like.new_empty_strided((replicates, batch, width), (apart, width, 1), dtype=dtype)


def _multiply(x: Tensor, y: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `x @ y + bias` of every replicate, into `out`."""
    # On a CPU torch leaves larger products in bf16 to another library, which rounds differently. It
    # decides by the size of the whole batched product, so products that are small for one replicate
    # are computed one by one, as for a replicate alone.
    small = x.dtype == torch.bfloat16 and x[0].numel() * y.shape[2] <= _SMALL
    apart = small and x.device.type == "cpu"
    for row in [slice(r, r + 1) for r in range(len(x))] if apart else [slice(None)]:
        if bias is None:
            torch.bmm(x[row], y[row], out=out[row])
        else:
            torch.baddbmm(bias[row], x[row], y[row], out=out[row])
    return out


def chain_of(module: nn.Module) -> list[str]:
    """The names of the linear layers, if a module is flatten, linear, ReLU, linear, ...

    Empty for any other module.
    """
    linears = {name: part for name, part in module.named_modules() if type(part) is nn.Linear}
    chained = {
        f"{name}.{leaf}" for name, part in linears.items() for leaf, _ in part.named_parameters()
    }
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    if not linears or chained != trained or len(trained) != len(module.state_dict()):
        return []
    if not all(is_plain(part) for part in module.modules()):
        return []
    paths = [_steps(module, training=mode) for mode in (True, False)]
    if paths[0] != paths[1] or paths[0][:1] != ["flatten"]:
        return []
    layers, links = paths[0][1::2], paths[0][2::2]
    linked = sorted(layers) == sorted(linears) and len(layers) == len(links) + 1
    return layers if linked and set(links) <= {"relu"} else []


def _steps(module: nn.Module, *, training: bool) -> list[str]:
    """The steps of a forward pass in order; empty if it is not a chain from input to output."""
    module = copy.deepcopy(module).train(training)
    try:
        nodes = list(fx.Tracer().trace(module).nodes)
    except Exception:  # tracing runs the model's own code on proxies, which may raise anything
        return []
    if any(node.all_input_nodes != nodes[i : i + 1] for i, node in enumerate(nodes[1:])):
        return []
    if not isinstance(nodes[-1].args[0], fx.Node):  # a dict or a tuple of outputs
        return []
    return [_step(module, node) for node in nodes[1:-1]]


def _step(module: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if type(part) is nn.Linear:
            return str(node.target)
        if type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1):
            return "flatten"
        return "relu" if type(part) is nn.ReLU else "?"
    if node.target in ("relu", "relu_", torch.relu, F.relu):
        return "relu"
    if node.target in ("flatten", torch.flatten) and not node.kwargs:
        return "flatten" if node.args[1:] in ((1,), (1, -1)) else "?"
    return "?"
