"""`Network`: a model as a hashable value, which builds modules and draws their weights."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import identity_of
from lt_sweeps.config.seeds import Seed, draw, global_draws, repeated, seed_torch
from lt_sweeps.config.spelling import listed
from lt_sweeps.config.users_mistakes import raised_in
from lt_sweeps.config.yaml_types import check_keys
from lt_sweeps.models import libraries
from lt_sweeps.models.functional import picked
from lt_sweeps.models.module_checks import (
    check_prunable,
    check_scripted,
    check_trainable,
    initialize,
)
from lt_sweeps.models.module_state import outside_state, state_of, tied_names
from lt_sweeps.models.norm_statistics import has_statistics, lingering_norms
from lt_sweeps.models.output_layer import head_of
from lt_sweeps.models.pretrained import FORMS, Pretrained
from lt_sweeps.models.pretrained_fit import check_fit, drawn_names
from lt_sweeps.models.prunable import Layer, Parameter, parameters_of, prunable_layers

_KINDS = "kinds (conv, hidden, output) by pattern of names"
# The keys of a model's yaml, with the types of their values.
_KEYS: Mapping[str, Any] = {
    "net": Mapping[str, Any] | None,
    "init": Any,  # checked by `Call.of`
    "prunable": Mapping[str, Any] | None,
    "kinds": Annotated[Mapping[str, Literal["conv", "hidden", "output"]] | None, _KINDS],
    "weights": Annotated[str | None, FORMS],
    "redraw": Sequence[str] | None,
    "head": str | None,
}
_PRUNABLE = {"include": Sequence[str], "exclude": Sequence[str]}
_SHAPES = ("input_shape", "classes", "outputs")  # passed to a net whose signature names them


@dataclass(frozen=True)
class Network:
    """A model as a value: it builds an ordinary `nn.Module` and has a list of prunable layers.

    A parameter is prunable if its name matches the patterns `include` and not `exclude`. `*` stands
    for the usual weights: those of convolutions, linear layers, attention and recurrent modules.
    Any other pattern also matches other parameters of two or more dimensions (embeddings), and a
    full name matches any parameter (a bias). A parameter with several names is pruned once.
    """

    net: Call
    input_shape: tuple[int, ...]
    classes: int
    init: Call | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()
    output: str | int | None = None  # the output that counts, if a net returns several
    weights: Pretrained | None = None
    redraw: tuple[str, ...] = ()  # patterns of the parameters that are drawn despite `weights`
    input_dtype: torch.dtype = torch.float32  # an integer type for tokens
    told_head: str | None = None  # the output layer, if it is not the last linear one

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        input_shape: tuple[int, ...],
        classes: int,
        output: str | int | None = None,
        input_dtype: torch.dtype = torch.float32,
    ) -> Network:
        """The network that a model yaml describes, for this input and number of outputs.

        Raises:
            ValueError: the yaml has an unknown key, or its net cannot be built, trained or pruned.
        """
        check_keys(config, _KEYS, where="model")
        if config.get("net") is None:
            raise ValueError("model: no `net`; give `net: {_target_: your.Module, ...}`")
        prunable = {"include": ["*"], "exclude": [], **(config.get("prunable") or {})}
        check_keys(prunable, _PRUNABLE, where="model.prunable")
        init, kinds = config.get("init"), config.get("kinds") or {}
        network = cls(
            Call.of(config["net"], where="model.net", supplied=_SHAPES),
            input_shape,
            classes,
            Call.of(init, where="model.init", supplied=("module",)) if init is not None else None,
            tuple(prunable["include"]),
            tuple(prunable["exclude"]),
            tuple(sorted(kinds.items())),
            output,
            None if config.get("weights") is None else Pretrained.of(config["weights"]),
            tuple(config.get("redraw") or ()),
            input_dtype,
            config.get("head"),
        )
        network._check()
        return network

    @functools.cache  # noqa: B019 (networks are few, and cells that have one are many)
    def _check(self) -> None:
        """Raises: ValueError: the network cannot be built, pruned or trained as described."""
        check_prunable(self.layers, self._parameters, self.untrained, self.net)
        check_trainable(self._outline, self.net)
        if self.weights is not None:
            check_fit(self._outline, self.weights, self.redraw, self.head, self.net)
        elif self.redraw:
            raise ValueError(
                f"model.redraw: got {listed(self.redraw)} without model.weights; give both"
            )

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _outline(self) -> nn.Module:
        """The module on the `meta` device, built once for inspection and never changed."""
        try:
            module = self.module()
        except Exception as error:
            unfit = isinstance(error, ValueError) and "to unpack" in str(error)
            usual = isinstance(error, TypeError | LookupError | RuntimeError | ArithmeticError)
            told = raised_in(error)
            if not (told or unfit or usual):
                raise  # our own nets say what is wrong
            shape = list(self.input_shape)
            fault = f"takes no inputs of {shape}" if unfit else "cannot be built"
            raise ValueError(f"model.net: {self.net} {fault}: {told or error}") from error
        check_scripted(module, self.net)
        parameters = module.named_parameters(remove_duplicate=False)
        if lazy := [name for name, value in parameters if nn.parameter.is_lazy(value)]:
            raise ValueError(
                f"model: {self.net}: lazy layers have no weights before a forward pass; give the "
                f"sizes of {listed(lazy)}"
            )
        return module

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _parameters(self) -> tuple[Parameter, ...]:
        """All parameters, each once, in the module's order."""
        return parameters_of(self._outline, self.head)

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def layers(self) -> tuple[Layer, ...]:
        """The prunable layers in the module's order."""
        return prunable_layers(self._parameters, self.include, self.exclude, dict(self.kinds))

    @property
    def told_kinds(self) -> dict[str, Any]:
        """The unusual kinds that `kinds` sets, for keys that need more than the schedule."""
        usual = dataclasses.replace(self, kinds=()).layers if self.kinds else self.layers
        pairs = zip(self.layers, usual, strict=True)
        kinds = {layer.name: layer.kind for layer, other in pairs if layer.kind != other.kind}
        return {"kinds": kinds} if kinds else {}

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each parameter, prunable or not; a parameter with two names counts once."""
        return {each.name: math.prod(each.shape) for each in self._parameters}

    @property
    def parameters(self) -> int:
        """The total size of all parameters, including biases and normalisation."""
        return sum(self.sizes.values())

    @property
    def untrained(self) -> tuple[str, ...]:
        """The parameters that the module itself does not train (`requires_grad=False`)."""
        named = self._outline.named_parameters()
        return tuple(name for name, parameter in named if not parameter.requires_grad)

    @property
    def head(self) -> str | None:
        """The name of the output layer."""
        return head_of(self._outline, self.told_head)

    @property
    def normalised(self) -> bool:
        """Whether the network has norms with running statistics."""
        return has_statistics(self._outline)

    def lingering(self, batches: int) -> dict[str, float | None]:
        """The norms, with their momentum, whose statistics hold old values after `batches`."""
        return lingering_norms(self._outline, batches)

    @property
    def tied(self) -> dict[str, str]:
        """The further names of tied tensors in the `state_dict`, each with its first name."""
        return tied_names(self._outline)

    def module(self, device: str = "meta") -> nn.Module:
        """Build a module; on `meta`, the tensors of its `state_dict` have shapes and no values."""
        module = self._built(device)
        if device == "meta":
            for owner, leaf, tensor in outside_state(module):
                if tensor.is_meta:
                    value = self._constants[owner, leaf].clone()
                    setattr(module.get_submodule(owner), leaf, value)
        if self.output is not None:
            module.register_forward_hook(functools.partial(_only, self.output))
        return module

    def _built(self, device: str) -> nn.Module:
        with torch.device(device):
            module = self.net(
                input_shape=self.input_shape, classes=self.classes, outputs=self.classes
            )
        if not isinstance(module, nn.Module):
            kind = "nothing" if module is None else f"a value of type {type(module).__name__}"
            raise ValueError(f"model: {self.net} returns {kind}; give a `torch.nn.Module`")
        return module

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _constants(self) -> dict[tuple[str, str], Tensor]:
        """The tensors outside the `state_dict`, such as position tables, as the net builds them.

        Random ones would differ in the next process; `training/rehearsal.py` refuses them.
        """
        with global_draws(0):
            outside = outside_state(self._built("cpu"))
        return {(owner, leaf): tensor.detach() for owner, leaf, tensor in outside}

    def example(self, count: int = 1) -> Tensor:
        """Inputs of the right shape and type to run the network on: zeros, or the first token."""
        return torch.zeros(count, *self.input_shape, dtype=self.input_dtype)

    def draw(self, seed: Seed, *index: int | str) -> dict[str, Tensor]:
        """Draw the initial `state_dict` on the CPU, from the seed's `init` role alone.

        Every `index` gives a different draw. Pretrained weights are used only without an `index`.
        """

        def drawn() -> dict[str, Tensor]:
            seed_torch(draw(seed.role("init"), "init", *index))
            module = self.module("cpu")
            if self.init is not None:
                initialize(module, self.init)
            return state_of(module)

        state = dict(repeated(drawn, f"model: {self.net}"))
        saved = state_of(self._outline)
        if other := sorted(state.keys() ^ saved.keys()):
            raise ValueError(
                f"model: {self.net} has {', '.join(other[:3])} only on the CPU or only on torch's "
                "device `meta`; build the same tensors on both (torch's `orthogonal` does with "
                "use_trivialization=False)"
            )
        if self.weights is not None and not index:  # an `index` draws everything
            given = self.weights.read()
            loaded = state.keys() & given.keys() - self.drawn
            state |= {name: given[name].to(state[name].dtype).clone() for name in loaded}
        return state

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def drawn(self) -> frozenset[str]:
        """The tensors that the seed draws: all, or those that pretrained weights do not give."""
        return drawn_names(self._outline, self.weights, self.redraw, self.head)

    def holding(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Build a module on the CPU with the weights and buffers of a ticket."""
        with torch.random.fork_rng(devices=[]):
            module = self.module("cpu")
        if set(state_of(module)) != set(state):
            raise ValueError(f"model: {self.net} has other parameters than this ticket")
        module.load_state_dict(dict(state), strict=False)  # a tied weight has one name in `state`
        return module

    def identity(self) -> dict[str, Any]:
        started: dict[str, Any] = {}
        if self.weights is not None:
            started = {"weights": self.weights.sha256, "drawn": sorted(self.drawn)}
        if self.head != head_of(self._outline):
            started["head"] = self.head
        release = {}
        if self.net.function is libraries.timm:  # another release may build another network
            release = {"timm": importlib.metadata.version("timm")}
        return {
            "net": self.net.identity(),
            "init": self.init.identity() if self.init else None,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "prunable": [layer.name for layer in self.layers],
            **started,
            **release,
            **identity_of(type(self)),
        }


def _only(output: str | int, module: nn.Module, args: object, outputs: object) -> Tensor:
    """A forward hook that replaces the outputs of a net by the one that counts."""
    return picked(outputs, output)
